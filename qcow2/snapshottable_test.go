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

// snapshotEntry makes an entry of 40 + 16 + 1 + nameLen bytes.
func snapshotEntry(id string, nameLen int) *qcow2.Snapshot {
	s := &qcow2.Snapshot{
		L1TableOffset: 0x30000, L1Size: 1, ID: []byte(id), Name: bytes.Repeat([]byte{'n'}, nameLen),
	}
	s.SetExtra(0, 1<<20)
	return s
}

func TestReadSnapshotTable(t *testing.T) {
	const at = 0x20000
	two := append(snapshotEntry("1", 3).Encode(), snapshotEntry("2", 5).Encode()...)
	require.Len(t, two, 64+64)
	patched := func(off int, v byte) []byte {
		b := bytes.Clone(two)
		b[off] = v
		return b
	}
	type stop = qcow2.TableStop
	for _, tc := range []struct {
		name    string
		table   []byte
		nb      uint32
		size    int64 // of the file; 0: up to the table's end
		bad     []qcow2.Extent
		ids     []string
		length  uint64
		stop    stop
		partial bool
	}{
		{name: "none", table: two, nb: 0},
		{name: "both", table: two, nb: 2, ids: []string{"1", "2"}, length: 64 + 62, stop: stop{Index: 2}},
		{name: "one of two", table: two, nb: 1, ids: []string{"1"}, length: 60, stop: stop{Index: 1}},
		{name: "file ends after the second", table: two, nb: 1 << 31, ids: []string{"1", "2"}, length: 126,
			stop: stop{Reason: qcow2.StopPastEnd, Index: 2, Extent: qcow2.Extent{Offset: at + 128}}},
		{name: "padding beyond the end", table: two, nb: 2, size: at + 126, ids: []string{"1", "2"}, length: 126,
			stop: stop{Index: 2}},
		{name: "tail beyond the end, in the last cluster", table: two, nb: 2, size: at + 122,
			ids: []string{"1", "2"}, length: 126, stop: stop{Index: 2}},
		{name: "past the end by a cluster", table: patched(64+qcow2.SnapshotFieldIDSize, 0xff), nb: 2,
			ids: []string{"1"}, length: 60, partial: true,
			stop: stop{Reason: qcow2.StopCut, Index: 1, Extent: qcow2.Extent{Offset: at + 64, Length: 64}}},
		{name: "extra data over the limit", table: patched(64+qcow2.SnapshotFieldExtraDataSize+2, 0x10), nb: 2,
			size: at + 0x10000, ids: []string{"1"}, length: 60, partial: true,
			stop: stop{Reason: qcow2.StopExtraData, Index: 1, Extent: qcow2.Extent{Offset: at + 64, Length: 62 + 0x1000}}},
		{name: "second entry unreadable", table: two, nb: 2, bad: []qcow2.Extent{{Offset: at + 64, Length: 1}},
			ids: []string{"1"}, length: 60,
			stop: stop{Reason: qcow2.StopUnreadable, Index: 1, Extent: qcow2.Extent{Offset: at + 64, Length: 40}}},
		{name: "table past the end", nb: 1, size: at,
			stop: stop{Reason: qcow2.StopPastEnd, Extent: qcow2.Extent{Offset: at}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFile(qcow2.Header{ClusterBits: 12, SnapshotsOffset: at, NbSnapshots: tc.nb}, at+int64(len(tc.table)))
			f.parts[at] = tc.table
			if tc.size != 0 {
				f.size = tc.size
			}
			f.bad = tc.bad
			got := qcow2.ReadSnapshotTable(f.open(t))
			var ids []string
			for _, s := range got.Snapshots {
				ids = append(ids, string(s.ID))
			}
			assert.Equal(t, tc.ids, ids)
			assert.Equal(t, qcow2.Extent{Offset: at, Length: tc.length}, got.Extent)
			if tc.stop.Reason == qcow2.StopUnreadable {
				var re *qcow2.ReadError
				require.ErrorAs(t, got.Stop.Err, &re)
				got.Stop.Err = nil
			}
			assert.Equal(t, tc.stop, got.Stop)
			require.Equal(t, tc.partial, got.Partial != nil)
			if tc.partial {
				size, ok := got.Partial.DiskSize()
				assert.True(t, ok)
				assert.EqualValues(t, 1<<20, size)
				assert.EqualValues(t, 0x30000, got.Partial.L1TableOffset)
			}
		})
	}
}

func TestReadSnapshotTableLimits(t *testing.T) {
	t.Run("hole of 8 EiB, entries without end", func(t *testing.T) {
		f := newFile(qcow2.Header{SnapshotsOffset: 0x10000, NbSnapshots: math.MaxUint32}, math.MaxInt64)
		got := qcow2.ReadSnapshotTable(f.open(t))
		assert.Equal(t, qcow2.StopTooMany, got.Stop.Reason)
		assert.Equal(t, qcow2.MaxSnapshots, got.Stop.Index)
		assert.Len(t, got.Snapshots, qcow2.MaxSnapshots)
	})
	t.Run("claims in a tiny file are cheap", func(t *testing.T) {
		f := newFile(qcow2.Header{SnapshotsOffset: 64, NbSnapshots: math.MaxUint32}, 100)
		img := f.open(t)
		f.read.Store(0)
		got := qcow2.ReadSnapshotTable(img)
		assert.True(t, got.Stop.Early())
		assert.Less(t, f.read.Load(), int64(1000))
	})
	t.Run("table over 64 MiB", func(t *testing.T) {
		s := snapshotEntry("1", 65535)
		b := s.Encode()
		f := newFile(qcow2.Header{SnapshotsOffset: 0x10000, NbSnapshots: 2000}, 1<<30)
		for i := range int64(1500) {
			f.parts[0x10000+i*int64(len(b))] = b
		}
		// Only the heads matter; a file with few parts keeps the test fast.
		got := qcow2.ReadSnapshotTable(f.open(t))
		assert.Equal(t, qcow2.StopTableSize, got.Stop.Reason)
		assert.LessOrEqual(t, got.Extent.Length, uint64(qcow2.MaxSnapshotsTableSize))
		assert.Equal(t, int(qcow2.MaxSnapshotsTableSize/uint64(len(b))), len(got.Snapshots))
	})
	for _, off := range []uint64{math.MaxUint64, math.MaxUint64 - 39, math.MaxInt64, 1 << 56} {
		t.Run(fmt.Sprintf("offset %#x", off), func(t *testing.T) {
			f := newFile(qcow2.Header{SnapshotsOffset: qcow2.HostOffset(off), NbSnapshots: 1}, 0x10000)
			got := qcow2.ReadSnapshotTable(f.open(t))
			assert.Equal(t, qcow2.StopPastEnd, got.Stop.Reason)
			assert.Empty(t, got.Snapshots)
		})
	}
}
