package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// predictFile gives what is predicted for an image file.
func predictFile(t testing.TB, path string) *Result {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	img, err := qcow2.Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	res, err := Run(context.Background(), img, Options{OpenSibling: openIn(filepath.Dir(path))})
	require.NoError(t, err)
	return res
}

// fileSibling is another file of an image on disk.
type fileSibling struct {
	*os.File
	size int64
}

func (s fileSibling) Size() int64 { return s.size }

// openIn opens the files that an image in dir names.
func openIn(dir string) func(SiblingKind, string, string) (Sibling, error) {
	return func(_ SiblingKind, name, _ string) (Sibling, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return fileSibling{f, st.Size()}, nil
	}
}

// tryOpen lets QEMU open an image file, which may change it, and says what came
// of it. secret is the key of an encrypted image, or empty.
func tryOpen(t testing.TB, path, secret string, write bool) (OpenOutcome, qemutest.Result) {
	t.Helper()
	before := validBitmaps(t, path)
	args := []string{"-c", "length"}
	if !write {
		args = append(args, "-r")
	}
	if secret != "" {
		args = append(args, "--object", "secret,id=s,data="+secret, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+path)
	} else {
		args = append(args, "-f", "qcow2", path)
	}
	res := qemutest.Run(t, qemutest.QemuIO, args...)
	switch after := validBitmaps(t, path); {
	case res.RC >= 128:
		return OpenCrash, res
	case before && !after:
		return OpenDropsBitmaps, res
	case res.RC != 0:
		return OpenRefused, res
	}
	return OpenOK, res
}

// validBitmaps tells whether an image file still has what it had of bitmaps: the
// extension, and the autoclear bit unless it was clear to begin with.
func validBitmaps(t testing.TB, path string) bool {
	t.Helper()
	head := make([]byte, 4096)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	n, _ := f.ReadAt(head, 0)
	return bytes.Contains(head[:n], be(uint64(qcow2.ExtBitmaps), 4)) && (head[95]&1 != 0 || staleMark(head))
}

// staleMark tells that the reserved field of the compatible features carries the
// mark of tests that a bitmaps extension was stale to begin with.
func staleMark(head []byte) bool { return head[80] == staleBit }

// staleBit is an unknown compatible feature, which QEMU ignores and keeps.
const staleBit = 0x40

// field places of an image that QEMU made.
type layout struct {
	t   testing.TB
	b   []byte
	img *qcow2.Image
}

// ext is the place of an extension.
func (l *layout) ext(typ qcow2.ExtensionType) int {
	l.t.Helper()
	e := l.img.Extension(typ)
	require.NotNil(l.t, e, "the image has no extension of type %x", typ)
	return int(e.Offset)
}

// bitmap is the place of an entry of the bitmap directory.
func (l *layout) bitmap(i int) int {
	l.t.Helper()
	d := qcow2.ReadBitmapDirectory(l.img, qcow2.DecodeBitmapsExtension(l.img.Extension(qcow2.ExtBitmaps).Data))
	require.Greater(l.t, len(d.Entries), i)
	return int(d.Entries[i].EntryOffset)
}

// table is the place of a bitmap's table.
func (l *layout) table(i int) int {
	return int(binary.BigEndian.Uint64(l.b[l.bitmap(i):]))
}

func (l *layout) put(off int, b ...byte)  { copy(l.b[off:], b) }
func (l *layout) put32(off int, v uint64) { l.put(off, be(v, 4)...) }
func (l *layout) put64(off int, v uint64) { l.put(off, be(v, 8)...) }
func (l *layout) get64(off int) uint64    { return binary.BigEndian.Uint64(l.b[off:]) }

// Every step of opening an image, against the real thing.
func TestQEMUOpen(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	create := func(name, size string, options ...string) {
		args := []string{"create", "-q", "-f", "qcow2"}
		for _, o := range options {
			args = append(args, strings.Fields(o)...)
		}
		qemutest.Img(t, append(args, path(name), size)...)
	}
	create("plain", "1M")
	create("v2", "1M", "-o compat=0.10")
	create("small", "1M", "-o cluster_size=512")
	create("bitmaps", "64M")
	qemutest.AddImageBitmap(t, path("bitmaps"), "b0", 65536, false)
	qemutest.AddImageBitmap(t, path("bitmaps"), "abcdefghijkl", 512, true)
	create("smallbitmaps", "64M", "-o cluster_size=512")
	qemutest.AddImageBitmap(t, path("smallbitmaps"), "b0", 65536, false)
	create("snapshots", "1M")
	qemutest.Img(t, "snapshot", "-c", "first", path("snapshots"))
	qemutest.Img(t, "snapshot", "-c", "second", path("snapshots"))
	create("base", "1M")
	create("overlay", "1M", "-F qcow2 -b", path("base"))
	create("smalloverlay", "1M", "-o cluster_size=512 -F qcow2 -b", path("base"))
	create("data", "1M", "-o data_file="+path("data.raw"))
	create("luks", "1M", "--object secret,id=s,data=opensesame -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
	create("aes", "1M", "--object secret,id=s,data=opensesame -o encrypt.format=aes,encrypt.key-secret=s")
	create("huge", "2P", "-o cluster_size=2M")

	const (
		ok, refused, crash, drops = OpenOK, OpenRefused, OpenCrash, OpenDropsBitmaps

		fBacking, fBackingSize, fClusterBits, fSize, fCrypt  = 8, 16, 20, 24, 32
		fL1Size, fL1, fRefTable, fRefClusters, fNb, fSnap    = 36, 40, 48, 56, 60, 64
		fIncompat, fAutoclear, fOrder, fLength, fCompression = 72, 88, 96, 100, 104
		fIncompatLow, fAutoclearLow                          = 79, 95
	)
	bit := func(l *layout, off int, bits byte) { l.b[off] |= bits }
	inUse := func(l *layout, i int) { l.b[l.bitmap(i)+15] |= 1 }
	// unknown puts an extension of n bytes of data that nobody knows in place of
	// the end marker.
	unknown := func(l *layout, n int) {
		last := l.img.Extensions[len(l.img.Extensions)-1]
		l.put32(int(last.End()), 0x0badcafe)
		l.put32(int(last.End())+4, uint64(n))
	}
	type poker = func(l *layout)
	cases := []struct {
		name, image string
		poke        poker
		ro, rw      OpenOutcome
	}{
		{"plain", "plain", nil, ok, ok},
		{"v2", "v2", nil, ok, ok},
		{"clusters of 512 bytes", "small", nil, ok, ok},
		{"bitmaps", "bitmaps", nil, ok, ok},
		{"snapshots", "snapshots", nil, ok, ok},
		{"overlay", "overlay", nil, ok, ok},
		{"data file", "data", nil, ok, ok},
		{"luks", "luks", nil, ok, ok},
		{"aes", "aes", nil, ok, ok},

		{"version 4", "plain", func(l *layout) { l.put32(4, 4) }, refused, refused},
		{"version 1", "plain", func(l *layout) { l.put32(4, 1) }, refused, refused},
		{"cluster_bits 8", "plain", func(l *layout) { l.put32(fClusterBits, 8) }, refused, refused},
		{"cluster_bits 22", "plain", func(l *layout) { l.put32(fClusterBits, 22) }, refused, refused},
		{"header_length 103", "plain", func(l *layout) { l.put32(fLength, 103) }, refused, refused},
		{"header_length 104", "plain", func(l *layout) { l.put32(fLength, 104); l.put64(104, 0) }, ok, ok},
		{"header_length 108", "plain", func(l *layout) { l.put32(fLength, 108) }, refused, refused},
		{"header_length 108, extensions behind", "overlay", func(l *layout) { l.put32(fLength, 108); l.put64(108, 0); l.put64(116, 0) }, ok, ok},
		{"header_length 113", "plain", func(l *layout) { l.put32(fLength, 113) }, refused, refused},
		{"header_length 120", "plain", func(l *layout) { l.put32(fLength, 120) }, refused, refused},
		{"header fills the cluster", "small", func(l *layout) { l.put32(fLength, 512) }, ok, ok},
		{"header beyond the cluster", "small", func(l *layout) { l.put32(fLength, 520) }, refused, refused},
		{"padding", "plain", func(l *layout) { l.put(105, 1, 2, 3) }, ok, ok},
		{"backing name past the cluster", "plain", func(l *layout) { l.put64(fBacking, 65537) }, refused, refused},
		{"backing name at the cluster's end", "plain", func(l *layout) { l.put64(fBacking, 65536) }, ok, ok},
		{"backing name too long", "plain", func(l *layout) { l.put64(fBacking, 60000); l.put32(fBackingSize, 1024) }, refused, refused},
		{"backing name runs out", "plain", func(l *layout) { l.put64(fBacking, 65536-4); l.put32(fBackingSize, 5) }, refused, refused},
		{"backing name in the header", "plain", func(l *layout) { l.put64(fBacking, 80) }, ok, ok},
		{"backing name in the header, bitmaps", "bitmaps", func(l *layout) { l.put64(fBacking, 80) }, ok, ok},
		{"backing file gone", "overlay", func(l *layout) { l.put(int(l.img.Header.BackingFileOffset)+int(l.img.Header.BackingFileSize)-1, 'X') }, refused, refused},
		{"backing name with a NUL", "overlay", func(l *layout) { l.put(int(l.img.Header.BackingFileOffset)+int(l.img.Header.BackingFileSize)-1, 0) }, refused, refused},
		{"zstd without its bit", "plain", func(l *layout) { l.put(fCompression, 1) }, refused, refused},
		{"zstd", "plain", func(l *layout) { l.put(fCompression, 1); bit(l, fIncompatLow, 8) }, ok, ok},
		{"zlib with the bit", "plain", func(l *layout) { bit(l, fIncompatLow, 8) }, refused, refused},
		{"unknown compression", "plain", func(l *layout) { l.put(fCompression, 2); bit(l, fIncompatLow, 8) }, refused, refused},
		{"unknown incompatible bit", "plain", func(l *layout) { bit(l, fIncompatLow, 0x20) }, refused, refused},
		{"unknown compatible bit", "plain", func(l *layout) { bit(l, 87, 0x20) }, ok, ok},
		{"unknown autoclear bit", "plain", func(l *layout) { bit(l, fAutoclearLow, 0x20) }, ok, ok},
		{"dirty", "plain", func(l *layout) { bit(l, fIncompatLow, 1) }, ok, ok},
		{"corrupt", "plain", func(l *layout) { bit(l, fIncompatLow, 2) }, ok, refused},
		{"corrupt with bitmaps", "bitmaps", func(l *layout) { bit(l, fIncompatLow, 2) }, ok, refused},
		{"extended L2 in small clusters", "small", func(l *layout) { bit(l, fIncompatLow, 16) }, refused, refused},
		{"extended L2", "plain", func(l *layout) { bit(l, fIncompatLow, 16) }, ok, ok},
		{"refcount_order 7", "plain", func(l *layout) { l.put32(fOrder, 7) }, refused, refused},
		{"crypt_method 3", "plain", func(l *layout) { l.put32(fCrypt, 3) }, refused, refused},
		{"no refcount table", "plain", func(l *layout) { l.put32(fRefClusters, 0) }, refused, refused},
		{"refcount table of 8 MiB", "plain", func(l *layout) { l.put32(fRefClusters, 128) }, ok, ok},
		{"refcount table over 8 MiB", "plain", func(l *layout) { l.put32(fRefClusters, 129) }, refused, refused},
		{"refcount table misaligned", "plain", func(l *layout) { l.put64(fRefTable, 65536+512) }, refused, refused},
		{"refcount table past the end", "plain", func(l *layout) { l.put64(fRefTable, 1<<40) }, ok, ok},
		{"refcount table at the limit", "plain", func(l *layout) { l.put64(fRefTable, 1<<63-1<<30) }, refused, refused},
		{"refcount table past 2^63", "plain", func(l *layout) { l.put64(fRefTable, 1<<63) }, refused, refused},
		{"snapshot table misaligned, no snapshots", "plain", func(l *layout) { l.put64(fSnap, 8) }, refused, refused},
		{"snapshot table past the end", "plain", func(l *layout) { l.put32(fNb, 3); l.put64(fSnap, 1<<40) }, ok, ok},
		{"65536 snapshots of zeros", "plain", func(l *layout) { l.put32(fNb, 65536); l.put64(fSnap, 1<<40) }, ok, ok},
		{"65537 snapshots", "plain", func(l *layout) { l.put32(fNb, 65537); l.put64(fSnap, 1<<40) }, refused, refused},
		{"snapshot table past the limit", "plain", func(l *layout) { l.put32(fNb, 1); l.put64(fSnap, 1<<63-1<<30) }, refused, refused},
		{"snapshots with a data file", "data", func(l *layout) { l.put32(fNb, 1); l.put64(fSnap, 1<<40) }, ok, ok},
		{"snapshot with extra data of 1025", "snapshots", func(l *layout) { l.put32(int(l.get64(fSnap))+36, 1025) }, refused, refused},
		{"snapshot with extra data of 1024", "snapshots", func(l *layout) { l.put32(int(l.get64(fSnap))+36, 1024) }, ok, ok},
		{"snapshot without extra data", "snapshots", func(l *layout) { l.put32(int(l.get64(fSnap))+36, 0) }, refused, refused},
		{"snapshot with another L1", "snapshots", func(l *layout) { l.put64(int(l.get64(fSnap)), 123) }, ok, ok},
		{"L1 too small", "plain", func(l *layout) { l.put32(fL1Size, 0) }, refused, refused},
		{"L1 of 32 MiB", "plain", func(l *layout) { l.put32(fL1Size, 1<<22) }, ok, ok},
		{"L1 over 32 MiB", "plain", func(l *layout) { l.put32(fL1Size, 1<<22+1) }, refused, refused},
		{"L1 misaligned", "plain", func(l *layout) { l.put64(fL1, 512) }, refused, refused},
		{"L1 misaligned, no disk", "plain", func(l *layout) { l.put64(fSize, 0); l.put32(fL1Size, 0); l.put64(fL1, 512) }, refused, refused},
		{"L1 in the header", "plain", func(l *layout) { l.put64(fL1, 0) }, ok, ok},
		{"L1 past the end", "plain", func(l *layout) { l.put64(fL1, 1<<50) }, ok, ok},
		{"L1 past the limit", "plain", func(l *layout) { l.put64(fL1, 1<<63-1<<30) }, refused, refused},
		{"size just too large", "plain", func(l *layout) { l.put64(fSize, 512<<20+1) }, refused, refused},
		{"size 2^64-1", "plain", func(l *layout) { l.put64(fSize, 1<<64-1) }, refused, refused},
		{"size 2^63", "plain", func(l *layout) { l.put64(fSize, 1<<63) }, refused, refused},
		{"odd size", "plain", func(l *layout) { l.put64(fSize, 1000) }, ok, ok},

		{"extension overruns", "plain", func(l *layout) { l.put32(l.ext(qcow2.ExtFeatureNames)+4, 1<<16) }, refused, refused},
		{"extension ends with the area", "overlay", func(l *layout) { l.put64(fBacking, 112+16); l.put32(fBackingSize, 0) }, ok, ok},
		{"4 bytes before the name", "overlay", func(l *layout) { l.put64(fBacking, 112+16+4); l.put32(fBackingSize, 0) }, refused, refused},
		{"end marker overruns", "overlay", func(l *layout) { l.put64(fBacking, 112+8); l.put32(fBackingSize, 0); l.put64(112, 1) }, refused, refused},
		{"unknown extension", "plain", func(l *layout) { unknown(l, 100) }, ok, ok},
		{"feature names of odd length", "plain", func(l *layout) { l.put32(l.ext(qcow2.ExtFeatureNames)+4, 5); l.put64(112+16, 0) }, ok, ok},
		{"backing format of 16 bytes", "overlay", func(l *layout) { l.put32(l.ext(qcow2.ExtBackingFormat)+4, 16); l.put64(112+24, 0) }, refused, refused},
		{"encryption pointer without LUKS", "luks", func(l *layout) { l.put32(fCrypt, 0) }, refused, refused},
		{"bitmaps of 25 bytes", "bitmaps", func(l *layout) { l.put32(l.ext(qcow2.ExtBitmaps)+4, 25) }, refused, refused},
		{"stale bitmaps of 25 bytes", "bitmaps", func(l *layout) {
			l.put(fAutoclearLow, 0)
			l.put32(l.ext(qcow2.ExtBitmaps)+4, 25)
		}, refused, refused},
		{"stale bitmaps", "bitmaps", func(l *layout) { l.put(80, staleBit); l.put(fAutoclearLow, 0) }, ok, drops},
		{"stale bitmaps, broken", "bitmaps", func(l *layout) {
			l.put(80, staleBit)
			l.put(fAutoclearLow, 0)
			l.put32(l.ext(qcow2.ExtBitmaps)+8, 0)
		}, ok, drops},
		{"bitmaps bit without extension", "plain", func(l *layout) { bit(l, fAutoclearLow, 1) }, ok, ok},
		{"reserved field", "bitmaps", func(l *layout) { l.put32(l.ext(qcow2.ExtBitmaps)+12, 1) }, refused, refused},
		{"no bitmaps", "bitmaps", func(l *layout) { l.put32(l.ext(qcow2.ExtBitmaps)+8, 0) }, refused, refused},
		{"65536 bitmaps", "bitmaps", func(l *layout) { l.put32(l.ext(qcow2.ExtBitmaps)+8, 65536) }, refused, refused},
		{"one bitmap less", "bitmaps", func(l *layout) { l.put32(l.ext(qcow2.ExtBitmaps)+8, 1) }, refused, refused},
		{"one bitmap more", "bitmaps", func(l *layout) { l.put32(l.ext(qcow2.ExtBitmaps)+8, 3) }, refused, refused},
		{"directory of size 0", "bitmaps", func(l *layout) { l.put64(l.ext(qcow2.ExtBitmaps)+16, 0) }, refused, refused},
		{"directory 8 bytes longer", "bitmaps", func(l *layout) { o := l.ext(qcow2.ExtBitmaps) + 16; l.put64(o, l.get64(o)+8) }, refused, refused},
		{"directory 8 bytes shorter", "bitmaps", func(l *layout) { o := l.ext(qcow2.ExtBitmaps) + 16; l.put64(o, l.get64(o)-8) }, refused, refused},
		{"directory too large", "bitmaps", func(l *layout) { l.put64(l.ext(qcow2.ExtBitmaps)+16, 65535*1024+1) }, refused, refused},
		{"directory misaligned", "bitmaps", func(l *layout) { o := l.ext(qcow2.ExtBitmaps) + 24; l.put64(o, l.get64(o)+8) }, refused, refused},
		{"directory past the end", "bitmaps", func(l *layout) { l.put64(l.ext(qcow2.ExtBitmaps)+24, 1<<40) }, refused, refused},
		{"extra data", "bitmaps", func(l *layout) { l.put32(l.bitmap(0)+20, 4); l.put32(l.bitmap(0)+15, 4) }, refused, refused},
		{"flag 2", "bitmaps", func(l *layout) { l.b[l.bitmap(0)+15] |= 4 }, refused, refused},
		{"type 2", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+16, 2) }, refused, refused},
		{"granularity 8", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+17, 8) }, refused, refused},
		{"granularity 32", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+17, 32) }, refused, refused},
		{"another granularity, same table", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+17, 20) }, ok, ok},
		{"empty name", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+18, 0, 0) }, refused, refused},
		{"name ends in NUL, same padding", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+24, 'b', 0) }, ok, ok},
		{"name with a NUL, less padding", "bitmaps", func(l *layout) { l.put(l.bitmap(1)+24+2, 0) }, ok, drops},
		{"name with a NUL, in use", "bitmaps", func(l *layout) { l.put(l.bitmap(1)+24+2, 0); inUse(l, 0); inUse(l, 1) }, ok, ok},
		{"table at 0", "bitmaps", func(l *layout) { l.put64(l.bitmap(0), 0) }, refused, refused},
		{"table misaligned", "bitmaps", func(l *layout) { l.put64(l.bitmap(0), 512) }, refused, refused},
		{"table past the end", "bitmaps", func(l *layout) { l.put64(l.bitmap(0), 1<<40) }, ok, ok},
		{"table past the limit", "bitmaps", func(l *layout) { l.put64(l.bitmap(0), 1<<63-1<<30) }, refused, refused},
		{"table of 0 entries", "bitmaps", func(l *layout) { l.put32(l.bitmap(0)+8, 0) }, refused, refused},
		{"table of 2 entries", "bitmaps", func(l *layout) { l.put32(l.bitmap(0)+8, 2) }, refused, refused},
		{"table of 2 entries, in use", "bitmaps", func(l *layout) { l.put32(l.bitmap(0)+8, 2); inUse(l, 0) }, ok, ok},
		{"table over 512 MiB, in use", "bitmaps", func(l *layout) { l.put32(l.bitmap(0)+8, 8193); inUse(l, 0) }, refused, refused},
		{"table entry reserved", "bitmaps", func(l *layout) { l.put64(l.table(0), 2) }, refused, refused},
		{"table entry reserved high", "bitmaps", func(l *layout) { l.put64(l.table(0), 1<<56) }, refused, refused},
		{"table entry reserved, in use", "bitmaps", func(l *layout) { l.put64(l.table(0), 2); inUse(l, 0) }, ok, ok},
		{"table entry with bit 0 and offset", "bitmaps", func(l *layout) { l.put64(l.table(0), 65537) }, refused, refused},
		{"table entry all ones", "bitmaps", func(l *layout) { l.put64(l.table(0), 1) }, ok, ok},
		{"table entry misaligned", "bitmaps", func(l *layout) { l.put64(l.table(0), 512) }, refused, refused},
		{"table entry past the end", "bitmaps", func(l *layout) { l.put64(l.table(0), 1<<40) }, ok, ok},
		{"two of a name", "bitmaps", func(l *layout) { l.put(l.bitmap(0)+24, 'a', 0); l.put(l.bitmap(1)+24, 'a', 0) }, refused, refused},
		{"two of a name, second in use", "bitmaps", func(l *layout) {
			l.put(l.bitmap(0)+24, 'a', 'b')
			l.put(l.bitmap(1)+24+2, 0)
			inUse(l, 1)
		}, ok, drops},
		{"two of a name, first in use", "bitmaps", func(l *layout) {
			l.put(l.bitmap(0)+24, 'a', 'b')
			l.put(l.bitmap(1)+24+2, 0)
			inUse(l, 0)
		}, refused, refused},
		{"disk smaller than a sector", "bitmaps", func(l *layout) { l.put64(fSize, 100) }, refused, refused},
		{"disk grown", "bitmaps", func(l *layout) { l.put64(fSize, 512<<20) }, refused, refused},
		{"disk shrunk", "bitmaps", func(l *layout) { l.put64(fSize, 512) }, ok, ok},
		{"directory on the L1 table", "bitmaps", func(l *layout) {
			o := l.ext(qcow2.ExtBitmaps) + 24
			dir := l.get64(o)
			l.put(int(l.get64(fL1)), l.b[dir:dir+128]...)
			l.put64(o, l.get64(fL1))
		}, ok, drops},
		{"directory on the refcount table", "bitmaps", func(l *layout) {
			o := l.ext(qcow2.ExtBitmaps) + 24
			dir := l.get64(o)
			l.put(int(l.get64(fRefTable)), l.b[dir:dir+128]...)
			l.put64(o, l.get64(fRefTable))
		}, ok, drops},
		{"directory on a bitmap table", "bitmaps", func(l *layout) { l.put64(l.bitmap(0), l.get64(l.ext(qcow2.ExtBitmaps)+24)); inUse(l, 0) }, ok, ok},
		{"dirty with bitmaps", "bitmaps", func(l *layout) { bit(l, fIncompatLow, 1) }, ok, ok},
		{"dirty, in-use bitmap with a bad table", "bitmaps", func(l *layout) {
			bit(l, fIncompatLow, 1)
			l.put64(l.table(0), 2)
			inUse(l, 0)
		}, ok, refused},
		{"dirty, refcount table entry misaligned", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536, 0x20200) }, ok, refused},
		{"dirty, refcount table entry reserved", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536, 0x20001) }, ok, refused},
		{"dirty, refcount table entry reserved, past the end", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536, 0x514649fb00000003) }, ok, ok},
		{"dirty, refcount table entry reserved, without a block", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536, 1) }, ok, ok},
		{"dirty, refcount table entry reserved, on the table", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536, 0x10001) }, ok, ok},
		{"dirty, refcount table entry past the end", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536, 1<<50) }, ok, ok},
		{"dirty, unused refcount table entry", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(65536+8, 0x20200) }, ok, ok},
		{"dirty, refcount table past the end", "plain", func(l *layout) { bit(l, fIncompatLow, 1); l.put64(fRefTable, 1<<40) }, ok, ok},
		{"dirty, bitmaps bit without extension", "plain", func(l *layout) { bit(l, fIncompatLow, 1); bit(l, fAutoclearLow, 1) }, ok, ok},
		{"dirty, bitmaps bit without extension, leaks", "bitmaps", func(l *layout) {
			bit(l, fIncompatLow, 1)
			l.put32(l.ext(qcow2.ExtBitmaps), 0x0badcafe)
		}, ok, refused},
		{"bitmaps hidden, header written", "bitmaps", func(l *layout) { l.put64(fBacking, 80); bit(l, fAutoclearLow, 0x20) }, ok, drops},
		{"no room for the header", "smallbitmaps", func(l *layout) { unknown(l, 512-112-32-8-8-8) }, ok, ok},
		{"one word too much for the header", "smalloverlay", func(l *layout) {
			bit(l, fAutoclearLow, 0x20)
			old := l.img.Header.BackingFileOffset
			n := uint64(l.img.Header.BackingFileSize)
			copy(l.b[512-n:512], bytes.Clone(l.b[old:uint64(old)+n]))
			l.put64(fBacking, 512-n)
			unknown(l, int(512-n)-112-16-8)
		}, ok, refused},

		{"data file gone", "data", func(l *layout) { l.put(l.ext(qcow2.ExtDataFile)+8+5, 'X') }, refused, refused},
		{"raw bit", "data", func(l *layout) { bit(l, fAutoclearLow, 2) }, ok, ok},
		{"raw bit without data file", "plain", func(l *layout) { bit(l, fAutoclearLow, 2) }, refused, refused},
		{"data file named without the bit", "data", func(l *layout) { l.put(fIncompatLow, 0) }, ok, ok},

		{"LUKS without pointer", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto), 0) }, refused, refused},
		{"LUKS pointer misaligned", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto)+8, 512) }, refused, refused},
		{"LUKS pointer past the end", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto)+8, 1<<40) }, refused, refused},
		{"LUKS header too short", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto)+16, 591) }, refused, refused},
		{"LUKS header cuts its keys", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto)+16, 592) }, refused, refused},
		{"LUKS header cuts unused keys", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto)+16, 512*512) }, ok, ok},
		{"LUKS header longer than the file", "luks", func(l *layout) { l.put64(l.ext(qcow2.ExtCrypto)+16, 1<<40) }, ok, ok},
		{"LUKS magic", "luks", func(l *layout) { l.put(int(l.get64(l.ext(qcow2.ExtCrypto)+8)), 'l') }, refused, refused},
		{"LUKS payload in the keys", "luks", func(l *layout) { l.put32(int(l.get64(l.ext(qcow2.ExtCrypto)+8))+104, 2000) }, refused, refused},
		{"LUKS payload past the header", "luks", func(l *layout) { l.put32(int(l.get64(l.ext(qcow2.ExtCrypto)+8))+104, 5000) }, ok, ok},
		{"LUKS slot stripes", "luks", func(l *layout) { l.put32(int(l.get64(l.ext(qcow2.ExtCrypto)+8))+208+7*48+44, 3999) }, refused, refused},
		{"LUKS slot overlap", "luks", func(l *layout) { l.put32(int(l.get64(l.ext(qcow2.ExtCrypto)+8))+208+7*48+40, 9) }, refused, refused},
		{"LUKS without a key", "luks", func(l *layout) { l.put32(int(l.get64(l.ext(qcow2.ExtCrypto)+8))+208, qcow2.LUKSSlotDisabled) }, refused, refused},

		{"in-use bitmap of more than 2^41 bits", "huge", func(l *layout) { addHugeBitmap(l, 9) }, crash, crash},
		{"marked corrupt besides", "huge", func(l *layout) { addHugeBitmap(l, 9); bit(l, fIncompatLow, 2) }, crash, refused},
	}
	// QEMU takes seconds to read so many snapshots: once must do.
	slow := map[string]bool{"65536 snapshots of zeros": true}
	for _, c := range cases {
		if slow[c.name] && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whole, err := os.ReadFile(path(c.image))
			require.NoError(t, err)
			img, err := qcow2.Open(bytes.NewReader(whole), int64(len(whole)))
			require.NoError(t, err)
			l := &layout{t, bytes.Clone(whole), img}
			if c.poke != nil {
				c.poke(l)
			}
			b := l.b
			// QEMU gets its own copy each time: opening can change the image.
			file := filepath.Join(t.TempDir(), "image")
			require.NoError(t, os.WriteFile(file, b, 0o600))
			res := predictFile(t, file)
			key := ""
			if img.Header.CryptMethod != qcow2.CryptNone {
				key = "opensesame"
			}
			ro, roSaid := tryOpen(t, file, key, false)
			require.NoError(t, os.WriteFile(file, b, 0o600))
			rw, rwSaid := c.rw, roSaid
			if !slow[c.name] {
				rw, rwSaid = tryOpen(t, file, key, true)
			}
			said := fmt.Sprintf("predicted because: %s\n%v\n%v", strings.Join(res.QEMUOpen.Reasons, "; "), roSaid, rwSaid)
			assert.Equal(t, c.ro, ro, "QEMU, read-only: %s", said)
			assert.Equal(t, c.rw, rw, "QEMU, read-write: %s", said)
			assert.Equal(t, c.ro, res.QEMUOpen.ReadOnly, "predicted, read-only: %s", said)
			assert.Equal(t, c.rw, res.QEMUOpen.ReadWrite, "predicted, read-write: %s", said)
			if c.ro != ok || c.rw != ok {
				assert.NotEmpty(t, res.QEMUOpen.Reasons)
			}
			assert.Equal(t, c.ro == crash, res.Has(problem.QEMUCrash))
		})
	}
}

// addHugeBitmap gives the image an in-use bitmap whose table is its last cluster.
func addHugeBitmap(l *layout, granularityBits uint8) {
	cs := uint64(1) << l.img.Header.ClusterBits
	end := (uint64(len(l.b)) + cs - 1) / cs * cs
	e := qcow2.BitmapEntry{TableOffset: qcow2.HostOffset(end), TableSize: 1, Flags: qcow2.BitmapInUse, Type: 1, GranularityBits: granularityBits, Name: []byte("huge")}
	entry := e.Encode()
	ext := qcow2.BitmapsExtension{NbBitmaps: 1, DirectorySize: uint64(len(entry)), DirectoryOffset: qcow2.HostOffset(end + cs)}
	last := l.img.Extensions[len(l.img.Extensions)-1]
	l.put(int(last.End()), qcow2.EncodeExtension(qcow2.ExtBitmaps, ext.Encode())...)
	l.b[95] |= 1
	l.b = append(l.b, make([]byte, end+cs-uint64(len(l.b)))...)
	l.b = append(l.b, entry...)
}
