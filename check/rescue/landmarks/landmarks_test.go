package landmarks_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/rescue/landmarks"
	"github.com/qcheck/qcheck/corpus/guestdisk"
)

// pieces is a raw disk cut as L2 tables cut it. The numbers of the pieces tell nothing of
// their order.
type pieces struct {
	raw             *os.File
	size            uint64
	cluster, length uint64
	mapped          map[uint64]bool   // clusters with data
	index           map[uint64]uint64 // by number
	number          map[uint64]uint64 // by index
	clusters        map[uint64]uint64 // how many clusters with data a piece has
}

func cut(t testing.TB, path string, cluster uint64) *pieces {
	t.Helper()
	raw, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	info, err := raw.Stat()
	require.NoError(t, err)
	p := &pieces{raw: raw, size: uint64(info.Size()), cluster: cluster, length: cluster * cluster / 8, mapped: make(map[uint64]bool),
		index: make(map[uint64]uint64), number: make(map[uint64]uint64), clusters: make(map[uint64]uint64)}
	for at := int64(0); at < info.Size(); {
		at, err = raw.Seek(at, 3) // SEEK_DATA
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		require.NoError(t, err)
		cl := uint64(at) / cluster
		at = int64((cl + 1) * cluster)
		b := make([]byte, cluster)
		if p.read(cl, b); zeros(b) {
			continue
		}
		p.mapped[cl] = true
		index := cl * cluster / p.length
		if _, ok := p.number[index]; !ok {
			n := index*7919%1000003 + 17
			p.number[index], p.index[n] = n, index
		}
		p.clusters[index]++
	}
	return p
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func (p *pieces) read(cl uint64, b []byte) {
	clear(b)
	if n, err := p.raw.ReadAt(b, int64(cl*p.cluster)); err != nil && (!errors.Is(err, io.EOF) || n == 0) {
		panic(err)
	}
}

// scan shows the scanner all clusters, in no order; those of the pieces given as stray.
func (p *pieces) scan(s *landmarks.Scanner, strays ...uint64) {
	var list []uint64
	for cl := range p.mapped {
		list = append(list, cl)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	var wg sync.WaitGroup
	for part := range slices.Chunk(list, max(1, (len(list)+1)/2)) {
		wg.Go(func() {
			b := make([]byte, p.cluster)
			for _, cl := range part {
				p.read(cl, b)
				if index := cl * p.cluster / p.length; slices.Contains(strays, index) {
					s.Stray(strayAt(cl), b)
				} else {
					s.Look(p.number[index], cl*p.cluster%p.length, b)
				}
			}
		})
	}
	wg.Wait()
	s.Read = func(piece, at uint64, b []byte) error {
		from := p.index[piece]*p.length + at
		for cl := from / p.cluster; cl <= (from+uint64(len(b))-1)/p.cluster; cl++ {
			if !p.mapped[cl] {
				return errors.New("not mapped")
			}
		}
		_, err := p.raw.ReadAt(b, int64(from))
		return err
	}
}

// strayAt is where a cluster of the disk lies in the file.
func strayAt(cl uint64) uint64 { return (cl*48271%2147483647 + 5) << 21 }

// tally counts the clusters that are placed.
type tally struct{ right, wrong, likely, missed uint64 }

func (p *pieces) tally(places []landmarks.Place) (n tally) {
	for _, c := range p.clusters {
		n.missed += c
	}
	for _, pl := range places {
		c := p.clusters[p.index[pl.Piece]]
		n.missed -= c
		switch {
		case p.index[pl.Piece] != pl.Index:
			n.wrong += c
		case pl.Certain:
			n.right += c
		default:
			n.likely += c
		}
	}
	return n
}

// fileSystems are all, or one where time is short.
func fileSystems() []guestdisk.FS {
	if testing.Short() {
		return guestdisk.All[:1]
	}
	return guestdisk.All
}

func TestPlaces(t *testing.T) {
	for _, fs := range fileSystems() {
		t.Run(string(fs), func(t *testing.T) {
			d := guestdisk.BuildRaw(t, t.TempDir(), guestdisk.Spec{FS: fs, Data: 12 << 20})
			for _, cluster := range []uint64{64 << 10, 16 << 10, 4 << 10, 512} {
				p := cut(t, d.Raw, cluster)
				s := landmarks.New(p.length)
				p.scan(s)
				places := s.Resolve()
				n := p.tally(places)
				t.Logf("clusters of %d: %d pieces, %d placed, %+v, doubt %q", cluster, len(p.index), len(places), n, s.Doubt())
				assert.Zero(t, n.wrong)
				size, ok := s.DiskSize()
				assert.True(t, ok)
				assert.Equal(t, d.Size, size.Bytes)
				assert.True(t, size.Exact)
				if assert.Len(t, s.Volumes(), 1) {
					assert.Equal(t, d.Partition, s.Volumes()[0].Start)
				}
				if cluster == 64<<10 {
					assert.GreaterOrEqual(t, n.right*100, 95*(n.right+n.missed+n.likely))
				}
			}
		})
	}
}

// The disk of a machine within the machine has landmarks of its own.
func TestNestedDiskIsNotOurs(t *testing.T) {
	for _, fs := range fileSystems()[:min(2, len(fileSystems()))] {
		d := guestdisk.BuildRaw(t, t.TempDir(), guestdisk.Spec{FS: fs, Data: 8 << 20, Nested: true})
		for _, cluster := range []uint64{64 << 10, 16 << 10, 4 << 10, 2 << 10, 512} {
			p := cut(t, d.Raw, cluster)
			s := landmarks.New(p.length)
			p.scan(s)
			n := p.tally(s.Resolve())
			assert.Zero(t, n.wrong)
			if s.Doubt() != "" {
				// With small clusters an image in a file may start where a disk may.
				assert.Zero(t, n.right)
				s = landmarks.New(p.length)
				s.VirtualSize = d.Size
				p.scan(s)
				n = p.tally(s.Resolve())
				assert.Zero(t, n.wrong)
			}
			t.Logf("%s, clusters of %d: %d pieces, %+v", fs, cluster, len(p.index), n)
			assert.NotZero(t, n.right)
			assert.Empty(t, s.Doubt())
		}
	}
}

// A journal holds copies of blocks that say that they lie elsewhere.
func TestCopiesInAJournalDoNotCount(t *testing.T) {
	d := guestdisk.BuildRaw(t, t.TempDir(), guestdisk.Spec{Data: 16 << 20, Journaled: true})
	for _, cluster := range []uint64{64 << 10, 16 << 10, 4 << 10, 2 << 10} {
		p := cut(t, d.Raw, cluster)
		s := landmarks.New(p.length)
		p.scan(s)
		n := p.tally(s.Resolve())
		t.Logf("clusters of %d: %d pieces, %+v", cluster, len(p.index), n)
		assert.Zero(t, n.wrong)
		assert.NotZero(t, n.right)
	}
}

// Clusters that nothing maps are placed one by one, where they carry proof.
func TestStrays(t *testing.T) {
	for _, fs := range fileSystems() {
		d := guestdisk.BuildRaw(t, t.TempDir(), guestdisk.Spec{FS: fs, Data: 8 << 20})
		for _, cluster := range []uint64{64 << 10, 4 << 10} {
			p := cut(t, d.Raw, cluster)
			for _, lost := range []uint64{0, 1} {
				s := landmarks.New(p.length)
				p.scan(s, lost)
				for piece, index := range p.index {
					if index != lost {
						s.Known(piece, index)
					}
				}
				at := make(map[uint64]uint64)
				for cl := range p.mapped {
					at[strayAt(cl)] = cl
				}
				s.ReadStray = func(host uint64, b []byte) error {
					cl, in := at[host&^(1<<21-1)], host&(1<<21-1)
					_, err := p.raw.ReadAt(b, int64(cl*p.cluster+in))
					return err
				}
				certain := 0
				strays := s.Strays()
				for _, pl := range strays {
					assert.Equal(t, at[pl.Piece], pl.Index, pl.Why)
					if pl.Certain {
						certain++
					}
				}
				t.Logf("%s, clusters of %d, piece %d: %d clusters, %d placed, %d of them certain", fs, cluster, lost, p.clusters[lost], len(strays), certain)
			}
		}
	}
}
