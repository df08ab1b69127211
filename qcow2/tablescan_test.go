package qcow2_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func collect[E ~uint64](s *qcow2.TableScan[E]) map[uint64]uint64 {
	got := map[uint64]uint64{}
	for i, e := range s.All() {
		got[i] = uint64(e)
	}
	return got
}

func TestReadL1(t *testing.T) {
	const at = 0x20000
	entries := make([]uint64, 20000)
	entries[0], entries[3], entries[8191], entries[8192], entries[19999] = 1, 2, 3, 4, 5
	want := map[uint64]uint64{0: 1, 3: 2, 8191: 3, 8192: 4, 19999: 5}
	f := newFile(qcow2.Header{}, at+160000)
	f.parts[at] = words(entries...)

	assert.Equal(t, want, collect(qcow2.ReadL1(f.open(t), at, 20000)))
	assert.Equal(t, want, collect(qcow2.ReadL1(f.open(t), at, math.MaxUint64)), "entries past the end of the file are zero")
	assert.Equal(t, map[uint64]uint64{0: 1, 3: 2}, collect(qcow2.ReadL1(f.open(t), at, 8191)))
	assert.Empty(t, collect(qcow2.ReadL1(f.open(t), math.MaxUint64-7, 100)))

	t.Run("from an index on", func(t *testing.T) {
		var got []uint64
		for i := range qcow2.ReadL1(f.open(t), at, 20000).From(4) {
			got = append(got, i)
			if i == 8192 {
				break
			}
		}
		assert.Equal(t, []uint64{8191, 8192}, got)
	})
	t.Run("cut in the middle of an entry", func(t *testing.T) {
		f := newFile(qcow2.Header{}, at+13)
		f.parts[at] = words(7, 0xff00)
		assert.Equal(t, map[uint64]uint64{0: 7}, collect(qcow2.ReadL1(f.open(t), at, 2)))
		f.parts[at] = words(7, 0xff<<32)
		assert.Equal(t, map[uint64]uint64{0: 7, 1: 0xff << 32}, collect(qcow2.ReadL1(f.open(t), at, 2)))
	})
	t.Run("bad sector", func(t *testing.T) {
		f.bad = []qcow2.Extent{{Offset: at + 4096 + 100, Length: 5000}}
		defer func() { f.bad = nil }()
		s := qcow2.ReadL1(f.open(t), at, 20000)
		assert.Equal(t, want, collect(s))
		require.Len(t, s.Unreadable(), 1)
		assert.Equal(t, qcow2.ReadError{Offset: at + 4096, Length: 8192, Err: errBadSector}, *s.Unreadable()[0])
		require.ErrorIs(t, s.Err(), errBadSector)
	})
	t.Run("holes cost nothing", func(t *testing.T) {
		f := newFile(qcow2.Header{}, math.MaxInt64)
		const far = 8 * (qcow2.MaxL1Entries - 1)
		f.parts[at+far] = words(9)
		img := f.open(t)
		f.read.Store(0)
		assert.Equal(t, map[uint64]uint64{qcow2.MaxL1Entries - 1: 9}, collect(qcow2.ReadL1(img, at, math.MaxUint64)))
		assert.LessOrEqual(t, f.read.Load(), int64(8))
	})
	t.Run("data extents that are not aligned to entries", func(t *testing.T) {
		f := newFile(qcow2.Header{}, at+0x10000)
		f.parts[at+12] = []byte{1, 2, 3}
		f.parts[at+21] = []byte{4}
		assert.Equal(t, map[uint64]uint64{1: 0x0102_0300, 2: 0x0004_0000}, collect(qcow2.ReadL1(f.open(t), at, 100)))
	})
}
