package guestdisk

import (
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/qcheck/qcheck/qcow2"
)

// Damage is something that happens to an image file.
type Damage struct {
	Name string
	// ranges gives what is overwritten.
	ranges func(img *qcow2.Image, rng *rand.Rand) []qcow2.Extent
	junk   bool // with random bytes, or else with zeros
}

// Damages are what a rescue is measured with.
var Damages = []Damage{
	{Name: "first sector junk", ranges: start(512), junk: true},
	{Name: "first cluster zeroed", ranges: firstCluster},
	{Name: "first cluster junk", ranges: firstCluster, junk: true},
	{Name: "first MiB zeroed", ranges: start(mib)},
	{Name: "header and refcounts zeroed", ranges: func(img *qcow2.Image, rng *rand.Rand) []qcow2.Extent {
		return append(firstCluster(img, rng), refcounts(img)...)
	}},
	{Name: "header and snapshot table zeroed", ranges: func(img *qcow2.Image, rng *rand.Rand) []qcow2.Extent {
		return append(firstCluster(img, rng), qcow2.Extent{Offset: img.Header.SnapshotsOffset, Length: img.Geometry.ClusterSize()})
	}},
	HeaderAndL1,
	{Name: "header, L1 and refcounts zeroed", ranges: func(img *qcow2.Image, rng *rand.Rand) []qcow2.Extent {
		return append(HeaderAndL1.ranges(img, rng), refcounts(img)...)
	}},
	L2Tables,
}

// HeaderAndL1 takes what leads to the L2 tables.
var HeaderAndL1 = Damage{Name: "header and L1 zeroed", ranges: func(img *qcow2.Image, rng *rand.Rand) []qcow2.Extent {
	return append(firstCluster(img, rng), qcow2.Extent{Offset: img.Header.L1TableOffset, Length: uint64(img.Header.L1Size) * 8})
}}

// L2Tables takes one L2 table of four, one at least.
var L2Tables = Damage{Name: "L2 tables zeroed", ranges: func(img *qcow2.Image, rng *rand.Rand) (list []qcow2.Extent) {
	var tables []qcow2.HostOffset
	for _, e := range qcow2.ReadL1(img, img.Header.L1TableOffset, uint64(img.Header.L1Size)).All() {
		if e.Offset() != 0 {
			tables = append(tables, e.Offset())
		}
	}
	rng.Shuffle(len(tables), func(i, j int) { tables[i], tables[j] = tables[j], tables[i] })
	for _, off := range tables[:(len(tables)+3)/4] {
		list = append(list, qcow2.Extent{Offset: off, Length: img.Geometry.ClusterSize()})
	}
	return list
}}

func start(n uint64) func(*qcow2.Image, *rand.Rand) []qcow2.Extent {
	return func(*qcow2.Image, *rand.Rand) []qcow2.Extent { return []qcow2.Extent{{Length: n}} }
}

func firstCluster(img *qcow2.Image, _ *rand.Rand) []qcow2.Extent {
	return []qcow2.Extent{{Length: img.Geometry.ClusterSize()}}
}

func refcounts(img *qcow2.Image) []qcow2.Extent {
	table := qcow2.Extent{Offset: img.Header.RefcountTableOffset, Length: uint64(img.Header.RefcountTableClusters) * img.Geometry.ClusterSize()}
	list := []qcow2.Extent{table}
	for _, e := range qcow2.ScanTable[qcow2.RefTableEntry](img, table.Offset, table.Length/8).All() {
		if e.Offset() != 0 {
			list = append(list, qcow2.Extent{Offset: e.Offset(), Length: img.Geometry.ClusterSize()})
		}
	}
	return list
}

// Do damages a copy of the disk's image, and gives what was overwritten.
func (d Damage) Do(t testing.TB, from *Disk, to string) []qcow2.Extent {
	t.Helper()
	info, err := os.Stat(from.Path)
	must(t, err)
	create(t, to, uint64(info.Size()))
	CopySparse(t, from.Path, 0, to, 0, uint64(info.Size()))
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	img, err := qcow2.Open(f, info.Size())
	must(t, err)
	rng := rand.New(rand.NewPCG(from.Seed, 5))
	list := d.ranges(img, rng)
	for _, x := range list {
		b := make([]byte, x.Length)
		for i := range b {
			if d.junk {
				b[i] = byte(rng.Uint32())
			}
		}
		_, err := f.WriteAt(b, int64(x.Offset))
		must(t, err)
	}
	return list
}

// Score is how much of a disk has come back, in bytes of blocks of 4 KiB that are not all
// zeros. What lay in bytes of the file that were overwritten is left out.
type Score struct {
	Right, Missed, Wrong uint64
	// Orphaned are those bytes that L2 tables mapped which were overwritten, and Found
	// those of them that are right. They count for Wrong, but not for Right and Missed.
	Orphaned, Found uint64
}

// Share is how much is right of what the L2 tables that are left map, in percent.
func (s Score) Share() float64 { return share(s.Right, s.Right+s.Missed) }

// FoundShare is how much is right of what L2 tables mapped that are gone, in percent.
func (s Score) FoundShare() float64 { return share(s.Found, s.Orphaned) }

func share(n, of uint64) float64 {
	if of == 0 {
		return 100
	}
	return 100 * float64(n) / float64(of)
}

// Compare compares a raw disk with the true one. Where it has zeros it misses what is
// there; anything else that differs is wrong.
func (d *Disk) Compare(t testing.TB, raw string, overwritten []qcow2.Extent) (s Score) {
	t.Helper()
	gone, orphans, window := d.lost(t, overwritten)
	truth, err := os.Open(d.Raw)
	must(t, err)
	defer truth.Close()
	got, err := os.Open(raw)
	must(t, err)
	defer got.Close()
	const unit = 4096
	a, b := make([]byte, mib), make([]byte, mib)
	for at := uint64(0); at < d.Size; at += mib {
		if !hasData(t, truth, at, mib) && !hasData(t, got, at, mib) {
			continue
		}
		read(t, truth, a, at)
		read(t, got, b, at)
		for o := uint64(0); o < mib; o += unit {
			x, y := a[o:o+unit], b[o:o+unit]
			if !gone[(at+o)/unit] {
				s.add(string(x) == string(y), zeros(x), zeros(y), orphans[(at+o)/window])
			}
		}
	}
	return s
}

func (s *Score) add(same, none, read0, orphan bool) {
	const unit = 4096
	switch {
	case !same && !read0:
		s.Wrong += unit
	case none:
	case orphan:
		s.Orphaned += unit
		if same {
			s.Found += unit
		}
	case same:
		s.Right += unit
	default:
		s.Missed += unit
	}
}

// lost gives the blocks of the disk that lay in what was overwritten, and the windows of so
// many bytes whose L2 tables did.
func (d *Disk) lost(t testing.TB, overwritten []qcow2.Extent) (gone, orphans map[uint64]bool, window uint64) {
	t.Helper()
	f, err := os.Open(d.Path)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	img, err := qcow2.Open(f, info.Size())
	must(t, err)
	disk, err := img.ActiveDisk(qcow2.DiskOptions{})
	must(t, err)
	gone, orphans, window = make(map[uint64]bool), make(map[uint64]bool), img.Geometry.L2Coverage()
	for i, e := range qcow2.ReadL1(img, img.Header.L1TableOffset, uint64(img.Header.L1Size)).All() {
		for _, o := range overwritten {
			if e.Offset() != 0 && e.Offset() >= o.Offset && uint64(e.Offset()) < uint64(o.Offset)+o.Length {
				orphans[i] = true
			}
		}
	}
	for x, err := range disk.Map(0, qcow2.GuestOffset(d.Size)) {
		must(t, err)
		if x.Kind != qcow2.GuestData && x.Kind != qcow2.GuestCompressed {
			continue
		}
		for _, o := range overwritten {
			for b := uint64(0); b < x.Length; b += 4096 {
				at, n := uint64(x.Host)+b, uint64(4096)
				if x.Kind == qcow2.GuestCompressed {
					at, n = uint64(x.Host), x.HostLength
				}
				if at < uint64(o.Offset)+o.Length && uint64(o.Offset) < at+n {
					gone[(uint64(x.Start)+b)/4096] = true
				}
			}
		}
	}
	return gone, orphans, window
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func hasData(t testing.TB, f *os.File, at uint64, n int) bool {
	t.Helper()
	data, err := f.Seek(int64(at), seekData)
	return err == nil && data < int64(at)+int64(n)
}

func read(t testing.TB, f *os.File, b []byte, at uint64) {
	t.Helper()
	clear(b)
	if _, err := f.ReadAt(b, int64(at)); err != nil && err != io.EOF {
		t.Fatal(err)
	}
}
