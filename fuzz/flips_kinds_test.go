package fuzz_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

const (
	kib = uint64(1) << 10
	mib = uint64(1) << 20
)

// flipKind is an image of which bits are flipped.
type flipKind struct {
	name, what string
	spec       corpus.Spec
	// made makes the image with QEMU instead.
	made func(t testing.TB, path string)
}

// image builds the image.
func (k *flipKind) image(t testing.TB) *corpus.Image {
	t.Helper()
	if k.made == nil {
		img, err := corpus.Build(k.spec)
		require.NoError(t, err, k.name)
		return img
	}
	path := filepath.Join(t.TempDir(), "image.qcow2")
	k.made(t, path)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	img := &corpus.Image{Store: corpus.NewStore(0)}
	_, err = img.WriteAt(b, 0)
	require.NoError(t, err)
	return img
}

// stamped writes n bytes that tell where they belong.
func stamped(off, n uint64, pattern byte) corpus.Op {
	return corpus.Write{Offset: off, Length: n, Pattern: pattern, Stamp: true}
}

// ordinary is a disk with data, zeros of both sorts, and holes, in clusters of a
// size. Of large clusters only the first bytes are written to.
func ordinary(s corpus.Spec) corpus.Spec {
	c := uint64(1) << 16
	if s.ClusterBits != 0 {
		c = 1 << s.ClusterBits
	}
	if s.Size == 0 {
		s.Size = 24 * c
	}
	n := min(c, 4*kib)
	var ops []corpus.Op
	for i := range uint64(4) {
		ops = append(ops, stamped(i*c, n, byte(0x11*(i+1))))
	}
	ops = append(ops, stamped(9*c, n, 0x55), stamped(s.Size-c, n, 0x66))
	if s.Version != 2 {
		ops = append(ops, corpus.Zero{Offset: 5 * c, Length: c}, corpus.Zero{Offset: 9 * c, Length: c, Keep: true})
	}
	s.Ops = append(ops, s.Ops...)
	return s
}

// flipKinds are the images. Those made by QEMU come only where it is asked for.
func flipKinds(qemu bool) []flipKind {
	const c = 4 * kib // of most of them
	with := func(s corpus.Spec, ops ...corpus.Op) corpus.Spec {
		s.Ops = append(s.Ops, ops...)
		return ordinary(s)
	}
	// past is what makes snapshots differ from the disk and from each other.
	past := func(c uint64, vmState uint64) []corpus.Op {
		n := min(c, 4*kib)
		return []corpus.Op{
			corpus.Snapshot{ID: "1", Name: "first"},
			stamped(c, n, 0x71), corpus.Discard{Offset: 2 * c, Length: c}, stamped(12*c, n, 0x72),
			corpus.Snapshot{ID: "2", Name: "second", VMState: vmState},
			stamped(0, n, 0x73), stamped(13*c, n, 0x74),
		}
	}
	compressed := func(c uint64) []corpus.Op {
		return []corpus.Op{
			corpus.Write{Offset: 14 * c, Length: 4 * c, Pattern: 0x81, Stamp: true, Compressed: true},
			corpus.Write{Offset: 19 * c, Length: c, Pattern: 0x82, Compressed: true},
		}
	}
	many := func(gran uint8) []corpus.Bitmap {
		return []corpus.Bitmap{
			{Name: "daily", Auto: true, GranularityBits: gran, Dirty: []corpus.Range{{Offset: 0, Length: 3 * c}, {Offset: 9 * c, Length: c}}},
			{Name: "weekly", GranularityBits: gran, Dirty: []corpus.Range{{Offset: c, Length: 2 * c}, {Offset: 20 * c, Length: 2 * c}}},
			{Name: "left", Auto: true, InUse: true, GranularityBits: gran, Dirty: []corpus.Range{{Offset: 2 * c, Length: c}}},
			{Name: "clean", Auto: true, GranularityBits: gran + 3},
		}
	}
	kinds := []flipKind{
		{name: "clusters-512", what: "clusters of 512 bytes, three L2 tables, compressed clusters", spec: with(corpus.Spec{ClusterBits: 9, Size: 96 * kib}, compressed(512)...)},
		{name: "clusters-4k", what: "clusters of 4 KiB, compressed clusters", spec: with(corpus.Spec{ClusterBits: 12}, compressed(c)...)},
		{name: "clusters-64k", what: "clusters of 64 KiB, no options", spec: ordinary(corpus.Spec{})},
		{name: "clusters-2m", what: "clusters of 2 MiB", spec: ordinary(corpus.Spec{ClusterBits: 21})},
		{name: "version-2", what: "version 2, compressed clusters, two snapshots", spec: with(corpus.Spec{Version: 2, ClusterBits: 12}, append(compressed(c), past(c, 0)...)...)},
		{name: "refcount-1", what: "refcounts of 1 bit", spec: ordinary(corpus.Spec{ClusterBits: 12, RefcountBits: 1})},
		{name: "refcount-8", what: "refcounts of 8 bits, compressed clusters, two snapshots", spec: with(corpus.Spec{ClusterBits: 12, RefcountBits: 8}, append(compressed(c), past(c, 0)...)...)},
		{name: "refcount-64", what: "refcounts of 64 bits, two snapshots", spec: with(corpus.Spec{ClusterBits: 12, RefcountBits: 64}, past(c, 0)...)},
		{name: "extended-l2", what: "extended L2 entries, a snapshot", spec: corpus.Spec{ClusterBits: 14, Size: 24 * 16 * kib, ExtendedL2: true, Ops: []corpus.Op{
			stamped(0, 16*kib, 0x11), stamped(16*kib+2*kib, 5*kib, 0x12), stamped(3*16*kib, 512, 0x13), corpus.Zero{Offset: 3*16*kib + 4*kib, Length: 2 * kib, Keep: true},
			corpus.Zero{Offset: 5 * 16 * kib, Length: 16 * kib}, corpus.Zero{Offset: 6*16*kib + 512, Length: kib},
			corpus.Snapshot{ID: "1", Name: "first"}, stamped(512, kib, 0x14), stamped(20*16*kib, 3*kib, 0x15)}}},
		{name: "zstd", what: "clusters compressed with zstd, a snapshot that shares them", spec: with(corpus.Spec{ClusterBits: 12, Compression: qcow2.CompressionZstd},
			append(compressed(c), corpus.Snapshot{ID: "1", Name: "first"}, stamped(14*c, c, 0x91))...)},
		{name: "luks", what: "a LUKS header", spec: ordinary(corpus.Spec{ClusterBits: 12, Crypt: qcow2.CryptLUKS})},
		{name: "data-file", what: "an external data file", spec: ordinary(corpus.Spec{ClusterBits: 12, DataFile: &corpus.DataFile{Name: "flips.data"}})},
		{name: "data-file-raw", what: "an external data file that is a raw image by itself", spec: corpus.Spec{ClusterBits: 12, Size: 24 * c,
			DataFile: &corpus.DataFile{Name: "flips.raw", Raw: true}, Ops: []corpus.Op{corpus.Map{Length: 24 * c}, stamped(0, 4*c, 0x11), stamped(9*c, c, 0x12)}}},
		{name: "snapshots", what: "three snapshots, two with VM state", spec: with(corpus.Spec{ClusterBits: 12}, append(past(c, 9*kib),
			corpus.Snapshot{ID: "3", Name: "third", VMState: 5 * kib}, stamped(21*c, c, 0x75))...)},
		{name: "snapshots-64k", what: "clusters of 64 KiB, two snapshots, one with VM state", spec: with(corpus.Spec{}, past(64*kib, 9*kib)...)},
		{name: "bitmaps", what: "four bitmaps with clusters of 512 bytes: enabled, disabled, in use, clean", spec: func() corpus.Spec {
			s := ordinary(corpus.Spec{ClusterBits: 9, Size: 96 * kib})
			s.Bitmaps = many(9)
			return s
		}()},
		{name: "bitmaps-64k", what: "clusters of 64 KiB, bitmaps, a snapshot", spec: func() corpus.Spec {
			s := with(corpus.Spec{}, corpus.Snapshot{ID: "1", Name: "first"}, stamped(64*kib, 4*kib, 0x71))
			s.Bitmaps = many(16)
			for i := range s.Bitmaps {
				for k, d := range s.Bitmaps[i].Dirty {
					s.Bitmaps[i].Dirty[k] = corpus.Range{Offset: d.Offset * 16, Length: d.Length * 16}
				}
			}
			return s
		}()},
		{name: "backing", what: "a backing file", spec: func() corpus.Spec {
			s := ordinary(corpus.Spec{ClusterBits: 12})
			s.Backing = &corpus.Backing{Name: "flips.base", Format: "raw", Size: 24 * c, Writes: []corpus.Write{{Offset: 0, Length: 24 * c, Pattern: 0xb0, Stamp: true}}}
			return s
		}()},
	}
	if qemu {
		kinds = append(kinds, madeByQEMU()...)
	}
	return kinds
}

// madeByQEMU are images that the real QEMU makes.
func madeByQEMU() []flipKind {
	create := func(t testing.TB, path, opts, size string) {
		qemutest.Img(t, "create", "-q", "-f", "qcow2", "-o", opts, path, size)
	}
	return []flipKind{
		{name: "qemu-plain", what: "made by QEMU: no options", made: func(t testing.TB, path string) {
			create(t, path, "compat=1.1", "1M")
			qemutest.IO(t, path, "write -P 17 0 192k", "write -P 18 512k 4k", "write -z 640k 64k", "discard 64k 64k")
		}},
		{name: "qemu-snapshots", what: "made by QEMU: clusters of 4 KiB, three snapshots, one deleted", made: func(t testing.TB, path string) {
			create(t, path, "cluster_size=4k", "96k")
			for i := range 3 {
				qemutest.IO(t, path, fmt.Sprintf("write -P %d %dk 8k", 17+i, 4*i), fmt.Sprintf("write -P %d 64k 4k", 33+i))
				qemutest.Img(t, "snapshot", "-c", fmt.Sprintf("s%d", i), path)
			}
			qemutest.Img(t, "snapshot", "-d", "s1", path)
			qemutest.IO(t, path, "write -P 99 0 4k", "discard 8k 4k")
		}},
		{name: "qemu-bitmaps", what: "made by QEMU: clusters of 4 KiB, three bitmaps, one disabled", made: func(t testing.TB, path string) {
			create(t, path, "cluster_size=4k", "96k")
			qemutest.IO(t, path, "write -P 17 0 16k")
			qemutest.Img(t, "bitmap", "--add", "-g", "4k", path, "one")
			qemutest.Img(t, "bitmap", "--add", "-g", "8k", path, "two")
			qemutest.IO(t, path, "write -P 18 4k 12k", "write -P 19 64k 8k")
			qemutest.Img(t, "bitmap", "--disable", path, "two")
			qemutest.Img(t, "bitmap", "--add", path, "three")
			qemutest.IO(t, path, "write -P 20 32k 4k")
		}},
	}
}
