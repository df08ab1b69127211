package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// recipe makes an image at a path, with the help of qemu-img.
type recipe func(path, qemuImg string) error

// recipes are the images, by name. What has a seed is the same each time.
var recipes = map[string]recipe{
	"contiguous":    created("1T", "preallocation=metadata"),
	"shuffled":      then(created("1T", "preallocation=metadata"), shuffle),
	"snapshots":     then(created("64G", "preallocation=metadata"), takeSnapshots),
	"bitmaps":       built(bitmaps()),
	"leaks":         then(created("1T", "preallocation=metadata"), forgetMapping),
	"scattered":     then(created("1T", "preallocation=metadata"), forgetClusters),
	"wrong":         then(created("1T", "preallocation=metadata"), wrongRefcounts),
	"nearly empty":  built(corpus.Spec{Size: 10 * gib, Ops: []corpus.Op{corpus.Write{Length: 3 * mib, Pattern: 7}}}),
	"small":         manySmall,
	"beyond":        beyond,
	"4K clusters":   then(created("64G", "preallocation=metadata,cluster_size=4k"), grow),
	"extended L2":   created("512G", "preallocation=metadata,extended_l2=on"),
	"refcount 1":    created("1T", "preallocation=metadata,refcount_bits=1"),
	"refcount 64":   created("1T", "preallocation=metadata,refcount_bits=64"),
	"linear 1 TiB":  created("1T", "preallocation=metadata,cluster_size=1M"),
	"linear 4 TiB":  created("4T", "preallocation=metadata,cluster_size=1M"),
	"linear 16 TiB": created("16T", "preallocation=metadata,cluster_size=1M"),
}

// makeImage makes an image. It runs in a process of its own: the memory that a
// program has had counts for those that it starts.
func makeImage(name, path, qemuImg string) error {
	make, ok := recipes[name]
	if !ok {
		return fmt.Errorf("there is no image %q", name)
	}
	return make(path, qemuImg)
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}

// created is what qemu-img creates.
func created(size, options string) recipe {
	return func(path, qemuImg string) error {
		return run(qemuImg, "create", "-q", "-f", "qcow2", "-o", options, path, size)
	}
}

// then does something to what another recipe has made.
func then(first, next recipe) recipe {
	return func(path, qemuImg string) error {
		if err := first(path, qemuImg); err != nil {
			return err
		}
		return next(path, qemuImg)
	}
}

// built is what the corpus builds.
func built(spec corpus.Spec) recipe {
	return func(path, _ string) error {
		img, err := corpus.Build(spec)
		if err != nil {
			return err
		}
		return img.WriteFiles(filepath.Dir(path), filepath.Base(path))
	}
}

// bitmaps is a full disk of 1 TiB with 64 bitmaps, each of which has dirty bits in
// half of its clusters.
func bitmaps() corpus.Spec {
	spec := corpus.Spec{Size: tib, Ops: []corpus.Op{corpus.Map{Length: tib}}}
	for i := range 64 {
		b := corpus.Bitmap{Name: "backup-" + strconv.Itoa(i), Auto: i == 63}
		for at := uint64(i) * gib; at < tib; at += 64 * gib {
			b.Dirty = append(b.Dirty, corpus.Range{Offset: at, Length: 3 * mib})
		}
		spec.Bitmaps = append(spec.Bitmaps, b)
	}
	return spec
}

// takeSnapshots takes 100 snapshots. Between two of them the guest does not write,
// which would take data.
func takeSnapshots(path, qemuImg string) error {
	for i := range 100 {
		if err := run(qemuImg, "snapshot", "-c", "s"+strconv.Itoa(i), path); err != nil {
			return err
		}
	}
	return nil
}

func grow(path, qemuImg string) error { return run(qemuImg, "resize", "-q", path, "1T") }

// manySmall makes a folder of 1,000 images of 1 GiB with a little data.
func manySmall(path, _ string) error {
	img, err := corpus.Build(corpus.Spec{Size: gib, Ops: []corpus.Op{corpus.Write{Length: mib, Pattern: 7}}})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	for i := range 1000 {
		if err := img.WriteFiles(path, fmt.Sprintf("vm-%03d.qcow2", i)); err != nil {
			return err
		}
	}
	return nil
}

// file is an image that is changed after it was made.
type file struct {
	*os.File
	img *qcow2.Image
	err error // the first that happened
}

// edit opens an image and lets f change it.
func edit(path string, f func(x *file)) (err error) {
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	info, err := w.Stat()
	if err != nil {
		return err
	}
	img, err := qcow2.Open(w, info.Size())
	if err != nil {
		return err
	}
	x := &file{File: w, img: img}
	f(x)
	return x.err
}

func (x *file) get(at qcow2.HostOffset, n uint64) []byte {
	b := make([]byte, n)
	if x.err == nil {
		_, x.err = x.ReadAt(b, int64(at))
	}
	return b
}

func (x *file) put(at qcow2.HostOffset, b []byte) {
	if x.err == nil {
		_, x.err = x.WriteAt(b, int64(at))
	}
}

// tables gives the offsets in a table of 64-bit entries.
func (x *file) tables(at qcow2.HostOffset, entries uint64) []qcow2.HostOffset {
	var out []qcow2.HostOffset
	for b := x.get(at, 8*entries); len(b) > 0; b = b[8:] {
		// The entries of L1 and refcount tables hold their offset in the same bits.
		if off := qcow2.L1Entry(binary.BigEndian.Uint64(b)).Offset(); off != 0 {
			out = append(out, off)
		}
	}
	return out
}

func (x *file) l2Tables() []qcow2.HostOffset {
	return x.tables(x.img.Header.L1TableOffset, uint64(x.img.Header.L1Size))
}

func (x *file) refcountBlocks() []qcow2.HostOffset {
	return x.tables(x.img.Header.RefcountTableOffset, x.img.Geometry.ClusterSize()/8*uint64(x.img.Header.RefcountTableClusters))
}

// shuffle mixes which guest cluster is where: what years of writing here and there
// and discarding do.
func shuffle(path, _ string) error {
	return edit(path, func(x *file) {
		cs := x.img.Geometry.ClusterSize()
		tables := x.l2Tables()
		all := make([]byte, 0, uint64(len(tables))*cs)
		for _, t := range tables {
			all = append(all, x.get(t, cs)...)
		}
		r := rand.New(rand.NewPCG(1, 2))
		r.Shuffle(len(all)/8, func(i, j int) {
			a, b := all[8*i:8*i+8], all[8*j:8*j+8]
			va, vb := binary.NativeEndian.Uint64(a), binary.NativeEndian.Uint64(b)
			binary.NativeEndian.PutUint64(a, vb)
			binary.NativeEndian.PutUint64(b, va)
		})
		for i, t := range tables {
			x.put(t, all[uint64(i)*cs:uint64(i+1)*cs])
		}
	})
}

// forgetMapping clears the entries of 32 L2 tables here and there: their 262,144
// clusters are leaked.
func forgetMapping(path, _ string) error {
	return edit(path, func(x *file) {
		tables := x.l2Tables()
		for i := 7; i < len(tables); i += len(tables) / 32 {
			x.put(tables[i], make([]byte, x.img.Geometry.ClusterSize()))
		}
	})
}

// forgetClusters clears every 25th L2 entry: 671,088 clusters are leaked, none next to
// another.
func forgetClusters(path, _ string) error {
	return edit(path, func(x *file) {
		n := 0
		for _, t := range x.l2Tables() {
			b := x.get(t, x.img.Geometry.ClusterSize())
			for i := 0; i < len(b); i += 8 {
				if n++; n%25 == 0 {
					clear(b[i : i+8])
				}
			}
			x.put(t, b)
		}
	})
}

// wrongRefcounts makes about 5 million refcounts wrong: 0 and 2 instead of 1.
func wrongRefcounts(path, _ string) error {
	return edit(path, func(x *file) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, block := range x.refcountBlocks() {
			b := x.get(block, x.img.Geometry.ClusterSize())
			for i := 0; i < len(b); i += 2 {
				if binary.BigEndian.Uint16(b[i:]) == 0 {
					continue // not allocated
				}
				switch wrong := r.IntN(100); {
				case wrong < 15:
					binary.BigEndian.PutUint16(b[i:], 0)
				case wrong < 30:
					binary.BigEndian.PutUint16(b[i:], 2)
				}
			}
			x.put(block, b)
		}
	})
}

// beyond is an image whose file has more than 2^31 clusters: of 512 bytes, with
// some data and a refcount block behind the first 2^31.
func beyond(path, qemuImg string) error {
	spec := corpus.Spec{ClusterBits: 9, RefcountBits: 1, Size: gib, RefcountTableClusters: 1 << 14, Ops: []corpus.Op{corpus.Map{Length: mib}}}
	if err := built(spec)(path, qemuImg); err != nil {
		return err
	}
	return edit(path, func(x *file) {
		const first = qcow2.HostOffset(1<<31+1<<20) << 9
		const perBlock = 512 * 8
		block := make([]byte, 512) // says that it and the 64 clusters after it are used
		for i := range 65 {
			block[i/8] |= 1 << (i % 8)
		}
		x.put(first, block)
		index := uint64(first) >> 9 / perBlock
		x.put(x.img.Header.RefcountTableOffset+qcow2.HostOffset(8*index), binary.BigEndian.AppendUint64(nil, uint64(first)))

		var table []byte // for the 64 guest clusters that are moved there
		for i := range 64 {
			table = binary.BigEndian.AppendUint64(table, uint64(qcow2.NewL2Entry(first+qcow2.HostOffset(512*(i+1)), true, false)))
		}
		l2 := x.l2Tables()[1]
		old := x.get(l2, 512)
		x.put(l2, table)
		for ; len(old) > 0; old = old[8:] {
			was := uint64(qcow2.L1Entry(binary.BigEndian.Uint64(old)).Offset()) >> 9
			at := x.refcountBlocks()[was/perBlock] + qcow2.HostOffset(was%perBlock/8)
			b := x.get(at, 1)
			x.put(at, []byte{b[0] &^ (1 << (was % 8))})
		}
		if x.err == nil {
			x.err = x.Truncate(int64(first) + 512*65)
		}
	})
}
