package qcow2_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// openBitmaps gives the directory's entries of an image by name.
func openBitmaps(t testing.TB, img *qcow2.Image) map[string]*qcow2.BitmapEntry {
	t.Helper()
	ext := img.Extension(qcow2.ExtBitmaps)
	require.NotNil(t, ext)
	dir := qcow2.ReadBitmapDirectory(img, qcow2.DecodeBitmapsExtension(ext.Data))
	require.Equal(t, qcow2.StopEnd, dir.Stop.Reason)
	byName := map[string]*qcow2.BitmapEntry{}
	for _, e := range dir.Entries {
		byName[string(e.Name)] = &e
	}
	return byName
}

func TestBitmapLikeQEMU(t *testing.T) {
	qemutest.Require(t, qemutest.QemuDaemon)
	const mib = 1 << 20
	for _, tc := range []struct {
		name, options, size string
		granularity         int64
		commands            []string
	}{
		{name: "empty", size: "16M", granularity: 65536},
		{name: "some writes", size: "16M", granularity: 65536, commands: guestWrites(1, 20, 16*mib, 300000, true)},
		{name: "granularity 512", size: "4M", granularity: 512, commands: guestWrites(2, 40, 4*mib, 20000, true)},
		{name: "clusters of 512 B", options: "cluster_size=512", size: "5M", granularity: 512,
			commands: append(guestWrites(3, 20, 4*mib, 20000, true), "write -z 0 2M", "write -z 3M 2M")},
		{name: "all dirty", size: "16M", granularity: 65536, commands: []string{"write -z 0 16M"}},
		{name: "all dirty, clusters of 512 B, odd size", options: "cluster_size=512", size: "3100160", granularity: 512,
			commands: []string{"write -z 0 3100160"}},
		{name: "odd size, only the end dirty", size: "10000384", granularity: 65536, commands: []string{"write 9999872 512"}},
		{name: "granularity 2 GiB", size: "5G", granularity: 2 << 30, commands: []string{"write -P 1 4G 512"}},
		{name: "large disk", size: "1T", granularity: 65536, commands: []string{"write -P 1 0 64k", "write -z 600G 1G", "write -P 1 1023G 1M"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := createImage(t, tc.options, tc.size)
			daemon := qemutest.Serve(t, path)
			daemon.AddBitmap(qemutest.Bitmap{Name: "b", Granularity: tc.granularity})
			daemon.AddBitmap(qemutest.Bitmap{Name: "other", Granularity: 65536, Disabled: true})
			if len(tc.commands) > 0 {
				daemon.IO(tc.commands...)
			}
			daemon.DisableBitmap("", "b")
			wantDigest := daemon.SHA256("", "b")
			want := daemon.DirtyExtents("", "b")
			var wantBytes uint64
			daemon.Quit()

			img, _ := openImage(t, path)
			b, err := img.BitmapUnchecked(openBitmaps(t, img)["b"])
			require.NoError(t, err)
			assert.EqualValues(t, tc.granularity, b.Granularity())
			digest, err := b.Digest()
			require.NoError(t, err)
			assert.Equal(t, wantDigest, hex.EncodeToString(digest[:]))
			var got []qemutest.Range
			for x, err := range b.Dirty() {
				require.NoError(t, err)
				got = append(got, qemutest.Range{Start: int64(x.Start), Length: int64(x.Length)})
			}
			assert.Equal(t, want, got)
			for _, r := range want {
				wantBytes += uint64(r.Length)
			}
			n, err := b.DirtyBytes()
			require.NoError(t, err)
			assert.Equal(t, wantBytes, n)
		})
	}
}

// TestBitmapTailLikeQEMU sets bits past the end of a bitmap, which count in the
// digest as far as the last 64-bit word goes, and nowhere else.
func TestBitmapTailLikeQEMU(t *testing.T) {
	qemutest.Require(t, qemutest.QemuDaemon)
	path := createImage(t, "", "1M")
	daemon := qemutest.Serve(t, path)
	daemon.AddBitmap(qemutest.Bitmap{Name: "b", Granularity: 65536, Disabled: false})
	daemon.IO("write 128k 64k")
	daemon.Quit()

	img, _ := openImage(t, path)
	entry := openBitmaps(t, img)["b"]
	var table []byte
	table, err := img.ReadExtent(qcow2.Extent{Offset: entry.TableOffset, Length: 8}, 8)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	// 16 bits of the bitmap, 48 up to the word's end, and then those that nobody reads.
	_, err = f.WriteAt([]byte{0x84, 0x00, 0x55, 0, 0, 0, 0, 0xaa, 0x77}, int64(bytesToWord(table)))
	require.NoError(t, err)
	require.NoError(t, f.Close())

	// Opened for reading, or QEMU would mark the bitmap as in use.
	daemon = qemutest.Start(t)
	daemon.Open(qemutest.Disk, path, map[string]any{"read-only": true})
	want := daemon.SHA256("", "b")
	wantDirty := daemon.DirtyExtents("", "b")
	daemon.Quit()

	b, err := img.BitmapUnchecked(entry)
	require.NoError(t, err)
	digest, err := b.Digest()
	require.NoError(t, err)
	assert.Equal(t, want, hex.EncodeToString(digest[:]))
	assert.Equal(t, sha256.Sum256([]byte{0x84, 0x00, 0x55, 0, 0, 0, 0, 0xaa}), digest)
	assert.Equal(t, []qcow2.DirtyExtent{{Start: 2 << 16, Length: 1 << 16}, {Start: 7 << 16, Length: 1 << 16}}, dirtyOf(t, b))
	assert.Len(t, wantDirty, 2)
}

func bytesToWord(b []byte) (w uint64) {
	for _, c := range b {
		w = w<<8 | uint64(c)
	}
	return w
}

func dirtyOf(t testing.TB, b *qcow2.Bitmap) []qcow2.DirtyExtent {
	t.Helper()
	var got []qcow2.DirtyExtent
	for x, err := range b.Dirty() {
		require.NoError(t, err)
		got = append(got, x)
	}
	return got
}

// bitmapFile makes an image of 4 KiB clusters with a bitmap of granularity 512
// whose table is at cluster 2: a table entry stands for 16 MiB.
func bitmapFile(size uint64, table []byte) (*memFile, *qcow2.BitmapEntry) {
	f := newFile(qcow2.Header{ClusterBits: 12, Size: size}, 100<<12)
	f.parts[2<<12] = table
	return f, &qcow2.BitmapEntry{
		TableOffset: 2 << 12, TableSize: uint32(len(table) / 8), Type: qcow2.BitmapDirtyTracking,
		GranularityBits: 9, Name: []byte("b"),
	}
}

func TestBitmapDirty(t *testing.T) {
	const per = 16 << 20 // bytes of the disk for a table entry
	stored := bytes.Repeat([]byte{0}, 4096)
	stored[0], stored[4095] = 0xff, 0x80
	type extents = []qcow2.DirtyExtent
	for _, tc := range []struct {
		name  string
		size  uint64
		table []uint64
		want  extents
	}{
		{"no bits", 0, nil, nil},
		{"zeros", 2 * per, []uint64{0, 0}, nil},
		{"ones", 2 * per, []uint64{1, 1}, extents{{0, 2 * per}}},
		{"ones, cut", 2*per - 1024 + 5, []uint64{1, 1}, extents{{0, 2*per - 1024}}},
		{"ones at the end", 3 * per, []uint64{0, 0, 1}, extents{{2 * per, per}}},
		{"stored", 2 * per, []uint64{0, 10 << 12}, extents{{per, 4096}, {2*per - 512, 512}}},
		{"runs join over entries", 4 * per, []uint64{1, 10 << 12, 1, 0},
			extents{{0, per + 4096}, {2*per - 512, per + 512}}},
		{"the same cluster twice", 2 * per, []uint64{10 << 12, 10 << 12},
			extents{{0, 4096}, {per - 512, 512 + 4096}, {2*per - 512, 512}}},
		{"cut within a word", 2048, []uint64{10 << 12}, extents{{0, 2048}}},
		{"last cluster partly past the end of the file", per, []uint64{99<<12 + 0}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, e := bitmapFile(tc.size, words(tc.table...))
			f.parts[10<<12] = stored
			f.size -= 100
			b, err := f.open(t).BitmapUnchecked(e)
			require.NoError(t, err)
			assert.Equal(t, tc.want, dirtyOf(t, b))

			// The digest against the plain way: all bits in memory.
			plain := make([]byte, max(1, (b.Bits()+63)/64)*8)
			for i, entry := range tc.table {
				part := plain[min(len(plain), i*4096):]
				switch entry {
				case 1:
					copy(part, bytes.Repeat([]byte{0xff}, 4096))
				case 10 << 12:
					copy(part, stored)
				}
			}
			digest, err := b.Digest()
			require.NoError(t, err)
			assert.Equal(t, sha256.Sum256(plain), digest)
		})
	}
}

func TestBitmapErrors(t *testing.T) {
	const per = 16 << 20
	t.Run("as a whole", func(t *testing.T) {
		for _, tc := range []struct {
			name    string
			change  func(e *qcow2.BitmapEntry, h *qcow2.Header)
			problem qcow2.BitmapProblem
		}{
			{"in use", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.Flags = qcow2.BitmapInUse }, qcow2.BitmapUnsaved},
			{"type", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.Type = 2 }, qcow2.BitmapUnknownKind},
			{"extra data", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.ExtraDataSize = 8 }, qcow2.BitmapUnknownKind},
			{"granularity", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.GranularityBits = 64 }, qcow2.BitmapGranularity},
			{"no table", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.TableOffset = 0 }, qcow2.BitmapTablePlace},
			{"unaligned table", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.TableOffset += 512 }, qcow2.BitmapTablePlace},
			{"table past the end", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.TableOffset = 101 << 12 }, qcow2.BitmapTablePlace},
			{"table at the end of addresses", func(e *qcow2.BitmapEntry, _ *qcow2.Header) { e.TableOffset = 1<<64 - 4096 }, qcow2.BitmapTablePlace},
			{"too large", func(_ *qcow2.BitmapEntry, h *qcow2.Header) { h.Size = math.MaxUint64 }, qcow2.BitmapTooLarge},
		} {
			t.Run(tc.name, func(t *testing.T) {
				f, e := bitmapFile(per, words(1))
				img := f.open(t)
				tc.change(e, &img.Header)
				_, err := img.BitmapUnchecked(e)
				var be *qcow2.BitmapError
				require.ErrorAs(t, err, &be)
				assert.Equal(t, tc.problem, be.Problem)
			})
		}
	})
	for _, tc := range []struct {
		name    string
		entry   uint64
		problem qcow2.BitmapProblem
	}{
		{"reserved low", 10<<12 | 2, qcow2.BitmapEntryBits},
		{"reserved high", 10<<12 | 1<<63, qcow2.BitmapEntryBits},
		{"ones and an offset", 10<<12 | 1, qcow2.BitmapEntryBits},
		{"unaligned", 10<<12 | 512, qcow2.BitmapEntryOffset},
		{"past the end", 100 << 12, qcow2.BitmapEntryOffset},
		{"unreadable", 20 << 12, qcow2.BitmapUnreadable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, e := bitmapFile(3*per, words(1, tc.entry, 1))
			f.bad = []qcow2.Extent{{Offset: 20 << 12, Length: 1}}
			b, err := f.open(t).BitmapUnchecked(e)
			require.NoError(t, err)
			_, err = b.Digest()
			want := qcow2.BitmapError{Problem: tc.problem, Index: 1, Count: 1, Entry: qcow2.BitmapTableEntry(tc.entry)}
			requireBitmapError(t, want, err)
			n, err := b.DirtyBytes()
			requireBitmapError(t, want, err)
			assert.EqualValues(t, 2*per, n)
			var got []qcow2.DirtyExtent
			for x, err := range b.Dirty() {
				got = append(got, x)
				assert.Equal(t, x.Start == per, err != nil)
			}
			assert.Equal(t, []qcow2.DirtyExtent{{0, per}, {per, per}, {2 * per, per}}, got)
		})
	}
	t.Run("table too short", func(t *testing.T) {
		f, e := bitmapFile(3*per, words(1))
		b, err := f.open(t).BitmapUnchecked(e)
		require.NoError(t, err)
		n, err := b.DirtyBytes()
		requireBitmapError(t, qcow2.BitmapError{Problem: qcow2.BitmapTableShort, Index: 1, Count: 2}, err)
		assert.EqualValues(t, per, n)
	})
	t.Run("table partly unreadable", func(t *testing.T) {
		table := make([]uint64, 1500)
		table[0], table[700], table[1499] = 1, 1, 1
		f, e := bitmapFile(1500*per, words(table...))
		f.bad = []qcow2.Extent{{Offset: 3<<12 + 8, Length: 8}}
		b, err := f.open(t).BitmapUnchecked(e)
		require.NoError(t, err)
		var got []qcow2.DirtyExtent
		for x, err := range b.Dirty() {
			got = append(got, x)
			if x.Start == 512*per {
				requireBitmapError(t, qcow2.BitmapError{Problem: qcow2.BitmapUnreadable, Index: 512, Count: 512}, err)
			}
		}
		assert.Equal(t, []qcow2.DirtyExtent{{0, per}, {512 * per, 512 * per}, {1499 * per, per}}, got)
	})
	t.Run("cluster size unknown", func(t *testing.T) {
		f := newFile(qcow2.Header{ClusterBits: 40}, 4096)
		_, err := f.open(t).BitmapUnchecked(bitmapEntry("b"))
		require.ErrorIs(t, err, qcow2.ErrGeometry)
	})
}

// requireBitmapError compares all but the cause, which must be there just for
// what could not be read.
func requireBitmapError(t testing.TB, want qcow2.BitmapError, err error) {
	t.Helper()
	var be *qcow2.BitmapError
	require.ErrorAs(t, err, &be)
	got := *be
	assert.Equal(t, want.Problem == qcow2.BitmapUnreadable, got.Err != nil)
	got.Err = nil
	assert.Equal(t, want, got)
}

// BenchmarkBitmapDigest reads the largest bitmap that QEMU takes.
func BenchmarkBitmapDigest(b *testing.B) {
	const entries = qcow2.MaxBitmapPhysicalSize >> 12
	for _, value := range []uint64{0, 1, 10 << 12} {
		b.Run(fmt.Sprintf("entries of %#x", value), func(b *testing.B) {
			f, e := bitmapFile(entries*(16<<20), bytes.Repeat(words(value), entries))
			f.parts[10<<12] = nil
			f.size = 1 << 30
			bitmap, err := f.open(b).BitmapUnchecked(e)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				_, err := bitmap.Digest()
				require.NoError(b, err)
			}
		})
	}
}
