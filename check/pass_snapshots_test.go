package check

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// snapshotCase adds snapshots to an image: edit changes one before the table is
// written, damage the file after.
type snapshotCase struct {
	name   string
	header func(*qcow2.Header)
	n      int
	edit   func(m *testImage, s []qcow2.Snapshot)
	damage func(m *testImage, s []qcow2.Snapshot)
	want   func(m *testImage, s []qcow2.Snapshot) []spot
	doubts int
	listed int // snapshots in the result; n where it is 0, none where it is -1
}

// addSnapshots adds snapshots of an empty disk, with an L1 table each.
func addSnapshots(m *testImage, n int, edit func(*testImage, []qcow2.Snapshot)) []qcow2.Snapshot {
	snaps := make([]qcow2.Snapshot, n)
	for i := range snaps {
		snaps[i] = qcow2.Snapshot{
			L1TableOffset: m.alloc(uint64(m.h.L1Size) * 8), L1Size: m.h.L1Size,
			ID: fmt.Append(nil, i+1), Name: fmt.Appendf(nil, "snap%d", i+1), DateSec: 1700000000,
		}
		snaps[i].SetExtra(0, m.h.Size)
	}
	if edit != nil {
		edit(m, snaps)
	}
	var table []byte
	for i := range snaps {
		snaps[i].EntryOffset = qcow2.HostOffset(len(table))
		table = append(table, snaps[i].Encode()...)
	}
	m.h.NbSnapshots = uint32(n)
	m.h.SnapshotsOffset = m.put(table)
	for i := range snaps {
		snaps[i].EntryOffset += m.h.SnapshotsOffset
	}
	return snaps
}

func TestSnapshots(t *testing.T) {
	const l1Offset, l1Size, extraSize = qcow2.SnapshotFieldL1TableOffset, qcow2.SnapshotFieldL1Size, qcow2.SnapshotFieldExtraDataSize
	entry := func(code problem.Code, i int, field qcow2.HostOffset, n uint64) func(*testImage, []qcow2.Snapshot) []spot {
		return func(_ *testImage, s []qcow2.Snapshot) []spot {
			return []spot{{code, s[i].EntryOffset + field, n}}
		}
	}
	none := func(*testImage, []qcow2.Snapshot) []spot { return nil }
	put := func(i int, field qcow2.HostOffset, b ...byte) func(*testImage, []qcow2.Snapshot) {
		return func(m *testImage, s []qcow2.Snapshot) { m.write(s[i].EntryOffset+field, b) }
	}
	cases := []snapshotCase{
		{name: "sound", n: 3, want: none},
		{name: "sound, with VM state", n: 1, want: none, edit: func(m *testImage, s []qcow2.Snapshot) {
			s[0].L1Size++
			s[0].SetExtra(1<<20, m.h.Size)
		}},
		{name: "sound, more extra data", n: 2, want: none, edit: func(m *testImage, s []qcow2.Snapshot) {
			s[0].ExtraData = append(s[0].ExtraData, make([]byte, 13)...)
		}},
		{name: "sound, of a disk of size 0", n: 1, want: none, header: func(h *qcow2.Header) { h.Size = 0 }},
		{name: "version 2, no extra data", n: 2, want: none, header: func(h *qcow2.Header) { h.Version = 2 },
			edit: func(m *testImage, s []qcow2.Snapshot) { s[0].ExtraData, s[1].ExtraData = nil, nil }},
		{name: "L1 misaligned", n: 2, damage: put(1, 7, 0x08), doubts: 1, want: entry(problem.SnapshotL1Misplaced, 1, l1Offset, 8)},
		{name: "L1 too large", n: 2, damage: put(0, 8, 0x80), doubts: 1, want: entry(problem.SnapshotL1Misplaced, 0, l1Size, 4)},
		{name: "L1 past the end", n: 2, damage: put(0, 2, 0x01), doubts: 1, want: entry(problem.SnapshotL1Misplaced, 0, l1Offset, 12)},
		{name: "L1 grows past the end", n: 2, damage: put(0, 8, 0, 0x20), doubts: 1, want: entry(problem.SnapshotL1Misplaced, 0, l1Offset, 12)},
		{name: "L1 at the header", n: 2, damage: put(0, 0, make([]byte, 8)...), doubts: 1, want: entry(problem.SnapshotL1Misplaced, 0, l1Offset, 8)},
		{name: "short extra data", n: 2, want: entry(problem.SnapshotFieldsMissing, 1, extraSize, 4),
			edit: func(m *testImage, s []qcow2.Snapshot) { s[1].ExtraData = s[1].ExtraData[:8] }},
		{name: "extra data too large", n: 3, damage: put(1, extraSize+2, 0x04), want: entry(problem.SnapshotEntryOversized, 1, extraSize, 4)},
		{name: "last entry's extra data too large", n: 3, damage: put(2, extraSize+2, 0x04), doubts: 1, want: entry(problem.SnapshotEntryOversized, 2, extraSize, 4)},
		{name: "name too long", n: 4, damage: put(1, qcow2.SnapshotFieldNameSize, 1), want: entry(problem.SnapshotEntryOversized, 1, qcow2.SnapshotFieldIDSize, 4)},
		{name: "name takes in the next entry", n: 4, damage: put(1, qcow2.SnapshotFieldNameSize+1, 5+64), want: entry(problem.SnapshotEntryOversized, 1, qcow2.SnapshotFieldIDSize, 4)},
		{name: "ID too long", n: 4, damage: put(0, qcow2.SnapshotFieldIDSize, 0x80), want: entry(problem.SnapshotEntryOversized, 0, qcow2.SnapshotFieldIDSize, 4)},
		{name: "extra data of zero bytes", n: 4, damage: put(2, extraSize+3, 0), want: entry(problem.SnapshotEntryOversized, 2, extraSize, 4)},
		{name: "wiped", n: 3, doubts: 1, listed: -1,
			damage: func(m *testImage, s []qcow2.Snapshot) { m.write(m.h.SnapshotsOffset, make([]byte, 256)) },
			want: func(m *testImage, s []qcow2.Snapshot) []spot {
				return []spot{{problem.SnapshotTableShort, s[0].EntryOffset, 120}}
			}},

		{name: "same ID", n: 3, want: entry(problem.SnapshotIDAmbiguous, 2, qcow2.SnapshotHeadSize+16, 1),
			edit: func(m *testImage, s []qcow2.Snapshot) { s[2].ID = s[0].ID }},
		{name: "same ID for QEMU", n: 2, want: entry(problem.SnapshotIDAmbiguous, 1, qcow2.SnapshotHeadSize+16, 3),
			edit: func(m *testImage, s []qcow2.Snapshot) { s[1].ID = []byte("1\x00x") }},
		{name: "empty ID", n: 2, want: entry(problem.SnapshotIDAmbiguous, 0, qcow2.SnapshotFieldIDSize, 2),
			edit: func(m *testImage, s []qcow2.Snapshot) { s[0].ID = nil }},
		{name: "data file", n: 1,
			header: func(h *qcow2.Header) { h.IncompatibleFeatures |= qcow2.IncompatDataFile },
			edit:   func(m *testImage, s []qcow2.Snapshot) { m.setExtension(qcow2.ExtDataFile, []byte("disk.raw")) },
			want: func(*testImage, []qcow2.Snapshot) []spot {
				return []spot{{problem.SnapshotWithDataFile, qcow2.FieldNbSnapshots, 4}}
			}},
		{name: "L1 too small for the disk", n: 1, doubts: 1, want: entry(problem.SnapshotL1TooSmall, 0, l1Size, 4),
			edit: func(m *testImage, s []qcow2.Snapshot) { s[0].SetExtra(0, m.h.Size<<10) }},
		{name: "L1 without entries", n: 1, doubts: 1, want: entry(problem.SnapshotL1TooSmall, 0, l1Size, 4),
			damage: put(0, l1Size, make([]byte, 4)...)},
		{name: "L1 too small for the VM state", n: 1, doubts: 1, want: entry(problem.SnapshotL1TooSmall, 0, l1Size, 4),
			edit: func(m *testImage, s []qcow2.Snapshot) { s[0].SetExtra(1, m.h.Size) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := newTestImage(t, c.header)
			s := addSnapshots(m, c.n, c.edit)
			m.finish()
			if c.damage != nil {
				c.damage(m, s)
			}
			r := assertFindings(t, m, c.want(m, s)...)
			switch c.listed {
			case 0:
				c.listed = c.n
			case -1:
				c.listed = 0
			}
			assert.Len(t, r.res.Snapshots, c.listed)
			assert.Len(t, r.snapshots, c.listed)
			assert.Len(t, r.doubts, c.doubts)
		})
	}
}

// The file ends within the snapshot table: what is before the end is still
// checked, and what follows may own clusters.
func TestSnapshotTableCut(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte{'x'}, 1500)
	cases := []struct {
		name string
		edit func(s *qcow2.Snapshot) // of the third of five snapshots
		cut  uint64                  // where the file ends, from the third's start
		code problem.Code
		off  qcow2.HostOffset // from the third's start; 0 for the header's count
		n    uint64
	}{
		{"before an entry", func(*qcow2.Snapshot) {}, 0, problem.SnapshotTableShort, 0, 4},
		{"within the extra data", func(s *qcow2.Snapshot) { s.ExtraData = append(s.ExtraData, long[:1000]...) }, 100, problem.SnapshotEntryOversized, qcow2.SnapshotFieldExtraDataSize, 4},
		{"within the ID", func(s *qcow2.Snapshot) { s.ID = long }, 100, problem.SnapshotEntryOversized, qcow2.SnapshotFieldIDSize, 2},
		{"within the name", func(s *qcow2.Snapshot) { s.Name = long }, 100, problem.SnapshotEntryOversized, qcow2.SnapshotFieldNameSize, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := newTestImage(t, func(h *qcow2.Header) { h.ClusterBits, h.Size = 9, 1<<20 })
			s := addSnapshots(m, 5, func(_ *testImage, s []qcow2.Snapshot) { c.edit(&s[2]) })
			m.finish()
			m.size = int64(s[2].EntryOffset) + int64(c.cut)
			off := s[2].EntryOffset + c.off
			if c.off == 0 {
				off = qcow2.FieldNbSnapshots
			}
			r := m.inspect(t, Options{})
			assertSpots(t, []spot{{c.code, off, c.n}}, r.res.Findings)
			assert.Len(t, r.doubts, 1)
			assert.Equal(t, "2", r.res.Snapshots[1].ID)
		})
	}
}

func TestSnapshotTableUnreadable(t *testing.T) {
	t.Parallel()
	m := newTestImage(t, nil)
	s := addSnapshots(m, 4, nil)
	m.finish()
	m.bad = append(m.bad, at(s[2].EntryOffset+8, 1))
	r := m.inspect(t, Options{})
	require.NotEmpty(t, r.res.Findings)
	assert.Equal(t, problem.Unreadable, r.res.Findings[0].Code)
	assert.Equal(t, problem.StructSnapshotTable, r.res.Findings[0].Structure)
	assert.Len(t, r.doubts, 1)
	assert.Len(t, r.snapshots, 2)
}

// The claim ends where QEMU's snapshots_size does: with the last entry, so that
// a table of exactly one cluster does not claim two.
func TestSnapshotTableClaim(t *testing.T) {
	t.Parallel()
	m := newTestImage(t, func(h *qcow2.Header) { h.ClusterBits, h.Size = 9, 1<<20 })
	s := addSnapshots(m, 1, func(_ *testImage, s []qcow2.Snapshot) {
		s[0].Name = bytes.Repeat([]byte{'n'}, 512-qcow2.SnapshotHeadSize-qcow2.SnapshotExtraV3-1)
	})
	m.finish()
	r := assertFindings(t, m)
	claims := claimsOf(r, problem.StructSnapshotTable)
	require.Len(t, claims, 1)
	assert.Equal(t, m.g.HostCluster(s[0].EntryOffset), claims[0].first)
	assert.EqualValues(t, 1, claims[0].n)
}

// Every snapshot says the same of itself: 65,536 of them are checked, quickly,
// and without a finding for each.
func TestManySnapshots(t *testing.T) {
	t.Parallel()
	m := newTestImage(t, nil)
	one := qcow2.Snapshot{L1TableOffset: m.alloc(8), L1Size: m.h.L1Size, ID: []byte("1")}
	one.SetExtra(0, m.h.Size)
	m.h.NbSnapshots = qcow2.MaxSnapshots
	m.h.SnapshotsOffset = m.put(bytes.Repeat(one.Encode(), qcow2.MaxSnapshots))
	m.finish()
	img, err := qcow2.Open(m.sparseFile, m.size)
	require.NoError(t, err)
	c := newRun(t.Context(), img, Options{MaxFindings: 10})
	require.NoError(t, c.checkSnapshots())
	fs := c.Collector.Findings()
	require.Len(t, fs, 11)
	assert.Equal(t, problem.SnapshotIDAmbiguous, fs[10].Code)
	assert.EqualValues(t, qcow2.MaxSnapshots-1-10, fs[10].Count)
	assert.Len(t, c.snapshots, qcow2.MaxSnapshots)
}

// Every flip of a bit of an entry's head is noticed, but for those that make
// another entry that could be: dates and clocks can be anything, sizes that
// leave the entry's end where it is only move the ends of the ID and the name.
func TestSnapshotBits(t *testing.T) {
	t.Parallel()
	m := newTestImage(t, nil)
	s := addSnapshots(m, 2, nil)
	m.finish()
	for bit := range qcow2.SnapshotHeadSize * 8 {
		field := qcow2.HostOffset(bit / 8)
		if field >= 16 && field < 36 { // date, clock, and the VM state that extra data replaces
			continue
		}
		where, mask := s[0].EntryOffset+field, byte(1)<<(bit%8)
		m.flip(where, mask)
		r := m.inspect(t, Options{})
		switch {
		case field < 8 && len(r.res.Findings) == 0:
			// Another cluster of the file: what is there is no L1 table, or somebody else's.
			assert.True(t, m.g.Aligned(r.snapshots[0].L1TableOffset) && int64(r.snapshots[0].L1TableOffset) < m.size)
		case field >= 8 && field < 12 && len(r.res.Findings) == 0:
			assert.Greater(t, r.snapshots[0].L1Size, m.h.L1Size, "an L1 table may be larger than it has to be")
		case field >= 12 && len(r.res.Findings) == 0:
			assert.Equal(t, s[1].EntryOffset, r.snapshots[1].EntryOffset, "bit %d of byte %d", bit%8, field)
		default:
			assert.NotEmpty(t, r.res.Findings, "bit %d of byte %d", bit%8, field)
		}
		m.flip(where, mask)
	}
}

func claimsOf(c *run, s problem.Structure) []metaClaim {
	var claims []metaClaim
	for _, m := range c.meta {
		if c.owners[m.owner].Structure == s {
			claims = append(claims, m)
		}
	}
	return claims
}
