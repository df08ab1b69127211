package fuzz_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz"
	"github.com/qcheck/qcheck/qcow2"
)

// What is read of an image at most, which may claim anything.
const (
	mostEntries = 4096    // of a table
	mostExtents = 1000    // of a disk or a bitmap
	mostBits    = 1 << 24 // of a bitmap that is read as a whole
	mostRead    = 1 << 20 // bytes of a disk
)

// FuzzReaders: whatever package qcow2 reads of an image, it does not panic, and what
// it gives goes together. It starts from images of the corpus as they are.
func FuzzReaders(f *testing.F) {
	names := fuzz.Cases()
	for i := 0; i < len(names); i += 8 {
		f.Add(uint16(i), uint32(0), []byte{})
	}
	f.Fuzz(func(t *testing.T, which uint16, at uint32, patch []byte) {
		name := names[int(which)%len(names)]
		_, img, err := images.Build(name)
		require.NoError(t, err)
		size := img.Size()
		img.WriteAt(patch[:min(len(patch), 4096)], int64(at))
		img.Truncate(size)
		verifyReaders(t, img, fmt.Sprintf("%s; %x at %#x", name, patch, at))
	})
}

func verifyReaders(t *testing.T, file *corpus.Image, said string) {
	img, err := qcow2.Open(file, file.Size())
	if err != nil {
		require.ErrorIs(t, err, qcow2.ErrNotQcow2, said)
		return
	}
	if !img.GeometryOK {
		return
	}
	img.BackingFileName()
	img.BackingFormat()
	for i := range img.Extensions {
		qcow2.DecodeFeatureNames(img.Extensions[i].Data)
	}
	verifyEntries(t, img, said)
	disk, err := img.ActiveDisk(qcow2.DiskOptions{})
	verifyDisk(t, disk, err, said)
	table := qcow2.ReadSnapshotTable(img)
	for i := range min(len(table.Snapshots), 8) {
		s := &table.Snapshots[i]
		got, err := qcow2.DecodeSnapshot(s.Encode(), s.EntryOffset)
		require.NoError(t, err, said)
		require.Equal(t, *s, got, said)
		disk, err := img.SnapshotDisk(s, qcow2.DiskOptions{})
		verifyDisk(t, disk, err, said)
	}
	if e := img.Extension(qcow2.ExtBitmaps); e != nil {
		d := qcow2.ReadBitmapDirectory(img, qcow2.DecodeBitmapsExtension(e.Data))
		for i := range min(len(d.Entries), 8) {
			b, err := img.BitmapUnchecked(&d.Entries[i])
			if err == nil {
				verifyBitmap(t, b, said)
			}
		}
	}
	if e := img.Extension(qcow2.ExtCrypto); e != nil {
		qcow2.DecodeLUKSHeader(e.Data)
	}
}

// verifyEntries asserts that nothing of an entry is lost between its parts, and that
// refcounts can be read and written.
func verifyEntries(t *testing.T, img *qcow2.Image, said string) {
	h, g := &img.Header, img.Geometry
	last, n := uint64(0), 0
	for i, e := range qcow2.ReadL1(img, h.L1TableOffset, uint64(h.L1Size)).All() {
		require.True(t, n == 0 || i > last, said)
		require.Less(t, i, uint64(h.L1Size), said)
		require.Equal(t, uint64(e), uint64(qcow2.NewL1Entry(e.Offset(), e.Copied()))|e.Reserved(), said)
		if last = i; n >= mostEntries {
			break
		}
		n++
	}
	n = 0
	for _, e := range qcow2.ScanTable[qcow2.RefTableEntry](img, h.RefcountTableOffset, uint64(h.RefcountTableClusters)*g.ClusterSize()/8).All() {
		require.Equal(t, uint64(e), uint64(e.Offset())|e.Reserved(), said)
		if n++; n >= 16 {
			break
		}
		raw := make([]byte, g.ClusterSize())
		if !h.RefcountOrderOK() || img.ReadAt(raw, e.Offset()) != nil {
			continue
		}
		from, to := g.RefcountBlock(raw), g.RefcountBlock(make([]byte, len(raw)))
		for i := range min(from.Len(), mostEntries) {
			require.LessOrEqual(t, from.Get(i), from.Max(), said)
			to.Set(i, from.Get(i))
			require.Equal(t, from.Get(i), to.Get(i), said)
		}
	}
}

// verifyDisk asserts that the map of a disk has no gaps, and that what it calls data
// can be read unless it says why not.
func verifyDisk(t *testing.T, d *qcow2.Disk, err error, said string) {
	if err != nil {
		return
	}
	defer d.Close()
	next, n, left := qcow2.GuestOffset(0), 0, uint64(mostRead)
	for x, err := range d.Map(0, qcow2.GuestOffset(d.Size())) {
		require.Equal(t, next, x.Start, said)
		require.Positive(t, x.Length, said)
		next += qcow2.GuestOffset(x.Length)
		if n++; n > mostExtents {
			return
		}
		if k := min(x.Length, left, 64<<10); k > 0 {
			left -= k
			read, failed := d.ReadAt(make([]byte, k), int64(x.Start))
			if err != nil {
				require.Error(t, failed, said)
			} else if failed == nil || errors.Is(failed, io.EOF) {
				require.EqualValues(t, k, read, said)
			}
		}
	}
	require.EqualValues(t, d.Size(), next, said)
}

// verifyBitmap asserts that the dirty extents of a bitmap are in order, and as many
// as are counted.
func verifyBitmap(t *testing.T, b *qcow2.Bitmap, said string) {
	if b.Bits() > mostBits {
		return
	}
	end, sum, n := uint64(0), uint64(0), 0
	var failed error
	for x, err := range b.Dirty() {
		if err != nil {
			failed = err
			continue
		}
		require.True(t, n == 0 || uint64(x.Start) > end, said)
		require.Positive(t, x.Length, said)
		end = uint64(x.Start) + x.Length
		sum += x.Length
		n++
	}
	counted, err := b.DirtyBytes()
	_, digested := b.Digest()
	if failed != nil {
		require.Error(t, err, said)
		require.Error(t, digested, said)
		return
	}
	require.NoError(t, err, said)
	require.Equal(t, sum, counted, said)
}
