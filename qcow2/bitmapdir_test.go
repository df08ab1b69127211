package qcow2_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func bitmapEntry(name string) *qcow2.BitmapEntry {
	return &qcow2.BitmapEntry{
		TableOffset: 0x40000, TableSize: 1, Type: qcow2.BitmapDirtyTracking, GranularityBits: 16, Name: []byte(name),
	}
}

func TestReadBitmapDirectory(t *testing.T) {
	const at = 0x20000
	two := append(bitmapEntry("b0").Encode(), bitmapEntry("b1").Encode()...)
	require.Len(t, two, 64)
	patched := func(off int, v byte) []byte {
		b := bytes.Clone(two)
		b[off] = v
		return b
	}
	ext := func(nb uint32, size uint64) qcow2.BitmapsExtension {
		return qcow2.BitmapsExtension{NbBitmaps: nb, DirectorySize: size, DirectoryOffset: at}
	}
	x := func(off, length uint64) qcow2.Extent {
		return qcow2.Extent{Offset: qcow2.HostOffset(at + off), Length: length}
	}
	type stop = qcow2.TableStop
	for _, tc := range []struct {
		name     string
		dir      []byte
		ext      qcow2.BitmapsExtension
		size     int64 // of the file; 0: a cluster for the directory
		bad      []qcow2.Extent
		names    []string
		stop     stop
		rest     uint64
		restZero bool
		partial  bool
	}{
		{name: "exact", dir: two, ext: ext(2, 64), names: []string{"b0", "b1"}, stop: stop{Index: 2}, restZero: true},
		{name: "more than nb_bitmaps", dir: two, ext: ext(1, 64), names: []string{"b0", "b1"}, stop: stop{Index: 2}, restZero: true},
		{name: "fewer than nb_bitmaps", dir: two, ext: ext(5, 64), names: []string{"b0", "b1"}, stop: stop{Index: 2}, restZero: true},
		{name: "size cut", dir: two, ext: ext(2, 56), names: []string{"b0"}, rest: 24, partial: true,
			stop: stop{Reason: qcow2.StopCut, Index: 1, Extent: x(32, 24)}},
		{name: "size cut below a head", dir: two, ext: ext(2, 50), names: []string{"b0"}, rest: 18,
			stop: stop{Reason: qcow2.StopTrailing, Index: 1, Extent: x(32, 18)}},
		{name: "trailing zeros", dir: two, ext: ext(2, 256), names: []string{"b0", "b1"}, rest: 192, restZero: true,
			stop: stop{Reason: qcow2.StopTrailing, Index: 2, Extent: x(64, 192)}},
		{name: "zeroed, then trailing", dir: make([]byte, 64), ext: ext(1, 32), names: []string{""}, rest: 8, restZero: true,
			stop: stop{Reason: qcow2.StopTrailing, Index: 1, Extent: x(24, 8)}},
		{name: "name overruns", dir: patched(32+qcow2.BitmapFieldNameSize, 0xff), ext: ext(2, 64), names: []string{"b0"},
			rest: 32, partial: true, stop: stop{Reason: qcow2.StopCut, Index: 1, Extent: x(32, 32)}},
		{name: "extra data overruns", dir: patched(qcow2.BitmapFieldExtraDataSize, 0xff), ext: ext(2, 64),
			rest: 64, partial: true, stop: stop{Reason: qcow2.StopCut, Index: 0, Extent: x(0, 64)}},
		{name: "file ends after the first", dir: two[:32], ext: ext(2, 64), size: at + 32, names: []string{"b0"}, rest: 32, restZero: true,
			stop: stop{Reason: qcow2.StopPastEnd, Index: 1, Extent: x(32, 0)}},
		{name: "padding beyond the end", dir: two[:58], ext: ext(2, 64), size: at + 58, names: []string{"b0", "b1"},
			stop: stop{Index: 2}, restZero: true},
		{name: "past the end", ext: ext(2, 64), size: at, rest: 64, restZero: true,
			stop: stop{Reason: qcow2.StopPastEnd, Extent: x(0, 0)}},
		{name: "unreadable", dir: two, ext: ext(2, 64), bad: []qcow2.Extent{x(40, 1)}, names: []string{"b0"}, rest: 32,
			stop: stop{Reason: qcow2.StopUnreadable, Index: 1, Extent: x(32, 24)}},
		{name: "of size 0", dir: two, ext: ext(2, 0), restZero: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFile(qcow2.Header{}, at+0x10000)
			f.parts[at] = tc.dir
			if tc.size != 0 {
				f.size = tc.size
			}
			f.bad = tc.bad
			got := qcow2.ReadBitmapDirectory(f.open(t), tc.ext)
			var names []string
			var covered uint64
			for _, e := range got.Entries {
				names = append(names, string(e.Name))
				assert.EqualValues(t, at+covered, e.EntryOffset)
				covered += e.EntrySize()
			}
			assert.Equal(t, tc.names, names)
			assert.Equal(t, x(0, covered), got.Extent)
			assert.Equal(t, x(covered, tc.rest), got.Rest)
			assert.Equal(t, tc.restZero, got.RestZero)
			if tc.stop.Reason == qcow2.StopUnreadable {
				var re *qcow2.ReadError
				require.ErrorAs(t, got.Stop.Err, &re)
				got.Stop.Err = nil
			}
			assert.Equal(t, tc.stop, got.Stop)
			assert.Equal(t, tc.partial, got.Partial != nil)
		})
	}
}

func TestReadBitmapDirectoryLimits(t *testing.T) {
	t.Run("65,535 entries", func(t *testing.T) {
		var dir []byte
		for i := range qcow2.MaxBitmaps {
			dir = append(dir, bitmapEntry(fmt.Sprintf("bitmap-%06d", i)).Encode()...)
		}
		f := newFile(qcow2.Header{}, 1<<30)
		f.parts[0x20000] = dir
		img := f.open(t)
		ext := qcow2.BitmapsExtension{NbBitmaps: qcow2.MaxBitmaps, DirectorySize: uint64(len(dir)), DirectoryOffset: 0x20000}
		f.read.Store(0)
		got := qcow2.ReadBitmapDirectory(img, ext)
		assert.Equal(t, qcow2.TableStop{Index: qcow2.MaxBitmaps}, got.Stop)
		assert.Less(t, f.read.Load(), int64(len(dir))*2)

		f.parts[0x20000] = append(dir, bitmapEntry("one too many").Encode()...)
		ext.DirectorySize += 40
		got = qcow2.ReadBitmapDirectory(img, ext)
		assert.Equal(t, qcow2.StopTooMany, got.Stop.Reason)
		assert.Len(t, got.Entries, qcow2.MaxBitmaps)
	})
	t.Run("hole that claims 2^64 bytes", func(t *testing.T) {
		f := newFile(qcow2.Header{}, math.MaxInt64)
		got := qcow2.ReadBitmapDirectory(f.open(t), qcow2.BitmapsExtension{
			NbBitmaps: math.MaxUint32, DirectorySize: math.MaxUint64, DirectoryOffset: 0x20000,
		})
		assert.Equal(t, qcow2.StopTooMany, got.Stop.Reason)
		assert.Len(t, got.Entries, qcow2.MaxBitmaps)
	})
	t.Run("larger than QEMU takes", func(t *testing.T) {
		e := bitmapEntry("b")
		e.ExtraData = make([]byte, qcow2.MaxBitmapDirectorySize-32)
		f := newFile(qcow2.Header{}, 1<<30)
		f.parts[0x20000] = e.Encode()
		got := qcow2.ReadBitmapDirectory(f.open(t), qcow2.BitmapsExtension{
			NbBitmaps: 2, DirectorySize: qcow2.MaxBitmapDirectorySize + 8, DirectoryOffset: 0x20000,
		})
		assert.Equal(t, qcow2.StopTableSize, got.Stop.Reason)
		assert.Len(t, got.Entries, 1)
	})
	for _, off := range []uint64{math.MaxUint64, math.MaxUint64 - 23, math.MaxInt64} {
		t.Run(fmt.Sprintf("offset %#x", off), func(t *testing.T) {
			f := newFile(qcow2.Header{}, 0x10000)
			got := qcow2.ReadBitmapDirectory(f.open(t), qcow2.BitmapsExtension{
				NbBitmaps: 1, DirectorySize: math.MaxUint64, DirectoryOffset: qcow2.HostOffset(off),
			})
			assert.Equal(t, qcow2.StopPastEnd, got.Stop.Reason)
			assert.Empty(t, got.Entries)
		})
	}
}
