package qcow2_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func FuzzDecodeHeader(f *testing.F) {
	g := newGenerator()
	for range 4 {
		h := g.header()
		f.Add(h.Encode())
	}
	f.Add([]byte("QFI\xfb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := qcow2.DecodeHeader(b)
		if err != nil {
			require.ErrorIs(t, err, qcow2.ErrNotQcow2)
			return
		}
		h.ExtensionArea(qcow2.Geometry{ClusterBits: 9})
		if h.Version != 2 && (h.HeaderLength < qcow2.HeaderLengthV3 || uint64(h.HeaderLength) > uint64(len(b))) {
			return // not all of the header is there
		}
		if h.Version == 2 && len(b) < qcow2.HeaderLengthV2 {
			return
		}
		enc := h.Encode()
		require.Equal(t, b[:len(enc)], enc)
	})
}

func FuzzExtensions(f *testing.F) {
	bitmaps := qcow2.BitmapsExtension{NbBitmaps: 1, DirectorySize: 32, DirectoryOffset: 0x10000}
	f.Add(append(qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw")), qcow2.EncodeExtension(qcow2.ExtBitmaps, bitmaps.Encode())...))
	f.Add(qcow2.EncodeExtension(qcow2.ExtFeatureNames, make([]byte, 48)))
	f.Add([]byte{1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, area []byte) {
		const base = 112
		exts, _ := qcow2.DecodeExtensions(area, base)
		next := qcow2.HostOffset(base)
		for i, e := range exts {
			require.Equal(t, next, e.Offset)
			require.True(t, qcow2.RangeFits(uint64(e.DataOffset()-base), uint64(len(e.Data)), uint64(len(area))))
			require.True(t, !e.Overruns() || i == len(exts)-1)
			next = e.End()
			qcow2.DecodeFeatureNames(e.Data)
			b := qcow2.DecodeBitmapsExtension(e.Data)
			require.Equal(t, b, qcow2.DecodeBitmapsExtension(b.Encode()))
		}
	})
}

func FuzzSnapshotTable(f *testing.F) {
	s := snapshotEntry("1", 3).Encode()
	f.Add(append(s, s...), uint32(2), int16(0))
	f.Add(s, uint32(1<<32-1), int16(-3))
	f.Fuzz(func(t *testing.T, table []byte, nb uint32, cut int16) {
		const at = 0x1000
		file := newFile(qcow2.Header{ClusterBits: 9, SnapshotsOffset: at, NbSnapshots: nb}, max(512, at+int64(len(table))+int64(cut)))
		file.parts[at] = table
		got := qcow2.ReadSnapshotTable(file.open(t))
		require.Equal(t, len(got.Snapshots), got.Stop.Index)
		require.LessOrEqual(t, uint32(len(got.Snapshots)), nb)
		require.Equal(t, uint32(len(got.Snapshots)) < nb, got.Stop.Early())
		next := qcow2.HostOffset(at)
		for i := range got.Snapshots {
			e := &got.Snapshots[i]
			require.Equal(t, next, e.EntryOffset)
			require.EqualValues(t, len(e.Encode()), e.EntrySize)
			require.LessOrEqual(t, len(e.ExtraData), qcow2.MaxSnapshotExtraData)
			next += qcow2.HostOffset(e.EntrySize)
		}
		require.LessOrEqual(t, uint64(next-at)-got.Extent.Length, uint64(7))
		require.True(t, qcow2.RangeFits(uint64(got.Stop.Extent.Offset), got.Stop.Extent.Length, uint64(file.size)) ||
			got.Stop.Extent.Length == 0)
	})
}

func FuzzBitmapDirectory(f *testing.F) {
	two := append(bitmapEntry("b0").Encode(), bitmapEntry("b1").Encode()...)
	f.Add(two, uint32(2), uint64(64), int16(0))
	f.Add(two, uint32(1), uint64(1<<40), int16(100))
	f.Fuzz(func(t *testing.T, dir []byte, nb uint32, size uint64, cut int16) {
		const at = 0x1000
		file := newFile(qcow2.Header{ClusterBits: 9}, max(512, at+int64(len(dir))+int64(cut)))
		file.parts[at] = dir
		got := qcow2.ReadBitmapDirectory(file.open(t), qcow2.BitmapsExtension{NbBitmaps: nb, DirectorySize: size, DirectoryOffset: at})
		require.Equal(t, len(got.Entries), got.Stop.Index)
		var sum uint64
		for i := range got.Entries {
			e := &got.Entries[i]
			require.EqualValues(t, at+sum, e.EntryOffset)
			sum += e.EntrySize()
			enc := e.Encode()
			require.Len(t, enc, int(e.EntrySize()))
			copy(enc[len(enc)-len(e.Padding):], e.Padding)
			// Beyond the end of the file the directory reads as zeros.
			stored := make([]byte, len(enc))
			if off := int(e.EntryOffset - at); off < len(dir) {
				copy(stored, dir[off:min(int64(len(dir)), max(int64(off), file.size-at))])
			}
			require.Equal(t, stored, enc)
		}
		require.Equal(t, sum, got.Extent.Length)
		require.LessOrEqual(t, sum, size)
		require.Equal(t, got.Stop.Reason == qcow2.StopEnd, sum == size)
		require.Equal(t, size-sum, got.Rest.Length)
	})
}

func FuzzDecompress(f *testing.F) {
	const cs = 4096
	f.Add(byte(0), deflate(f, text(1, cs)))
	f.Add(byte(1), zstdFrame(f, text(1, cs)))
	f.Add(byte(1), append(zstdFrame(f, text(1, 100), zstd.WithSingleSegment(true)), zstdFrame(f, text(1, cs-100))...))
	f.Add(byte(1), []byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, typ byte, src []byte) {
		room := bytes.Repeat([]byte{0xa5}, cs+64)
		err := qcow2.Decompress(qcow2.CompressionType(typ), room[:cs], src)
		require.Equal(t, bytes.Repeat([]byte{0xa5}, 64), room[cs:], "not a byte beyond the cluster")
		if err != nil {
			require.True(t, errors.Is(err, qcow2.ErrCompressedData) || errors.Is(err, qcow2.ErrCompressionType))
			return
		}
		again := make([]byte, cs)
		require.NoError(t, qcow2.Decompress(qcow2.CompressionType(typ), again, append(src[:len(src):len(src)], "garbage"...)))
		require.Equal(t, room[:cs], again)
	})
}

// FuzzGuestRead reads a whole image of which the fuzzer makes the tables: the
// map must have no gaps, and say the same as reading does.
func FuzzGuestRead(f *testing.F) {
	f.Add(byte(3), byte(0), uint16(3), words(1<<63|2048), words(1<<63|4096, 1, 1<<62|4100), deflate(f, text(1, 512)))
	f.Add(byte(3), byte(qcow2.IncompatCompression), uint16(9), words(2048, 2048), words(1<<62|4096|1<<61), zstdFrame(f, text(1, 512)))
	f.Add(byte(3), byte(qcow2.IncompatExtendedL2), uint16(40), words(2048), words(1<<63|4096, 0xffff_0000_0000), []byte("data"))
	f.Add(byte(2), byte(0), uint16(1), words(2048), words(4096|1), []byte("data"))
	f.Fuzz(func(t *testing.T, version, features byte, l1Size uint16, l1, l2, data []byte) {
		h := qcow2.Header{
			Version: uint32(version), ClusterBits: 9, Size: 100 << 10, L1Size: uint32(l1Size), L1TableOffset: 1024,
			IncompatibleFeatures: qcow2.Features(features), CompressionType: qcow2.CompressionType(features >> 3 & 1),
		}
		if h.ExtendedL2() {
			h.ClusterBits = qcow2.MinClusterBitsExtL2
			h.L1TableOffset = 1 << 14
		}
		unit := int64(h.L1TableOffset) / 2
		file := newFile(h, 100*unit)
		file.parts[2*unit] = l1[:min(len(l1), int(unit))]
		file.parts[4*unit] = l2[:min(len(l2), int(unit))]
		file.parts[8*unit] = data[:min(len(data), 64<<10)]
		img, err := qcow2.Open(file, file.size)
		require.NoError(t, err)
		d, err := img.ActiveDisk(qcow2.DiskOptions{})
		require.NoError(t, err)

		next := qcow2.GuestOffset(0)
		for x, err := range d.Map(0, qcow2.GuestOffset(d.Size())) {
			require.Equal(t, next, x.Start)
			require.NotZero(t, x.Length)
			next += qcow2.GuestOffset(x.Length)
			b := make([]byte, x.Length)
			n, readErr := d.ReadAt(b, int64(x.Start))
			var ge *qcow2.GuestError
			switch {
			case err != nil:
				require.ErrorAs(t, readErr, &ge)
				require.Zero(t, n)
			case readErr != nil:
				require.ErrorAs(t, readErr, &ge)
				require.True(t, x.Kind == qcow2.GuestCompressed || x.Kind == qcow2.GuestData && h.HasDataFile())
			case x.Kind == qcow2.GuestZero || x.Kind == qcow2.GuestUnallocated:
				require.Equal(t, make([]byte, len(b)), b)
			}
		}
		require.EqualValues(t, d.Size(), next)
	})
}
