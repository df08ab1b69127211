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

func TestBitmapDirectory(t *testing.T) {
	t.Parallel()
	const tableOffset, tableSize, flags, typ, gran, nameSize, extraSize, head = qcow2.BitmapFieldTableOffset, qcow2.BitmapFieldTableSize,
		qcow2.BitmapFieldFlags, qcow2.BitmapFieldType, qcow2.BitmapFieldGranularityBits, qcow2.BitmapFieldNameSize, qcow2.BitmapFieldExtraDataSize, qcow2.BitmapHeadSize
	// All damage is done to the second bitmap, "bb".
	put := func(field qcow2.HostOffset, b ...byte) func(*bitmapImage) {
		return func(m *bitmapImage) { m.write(m.at(1, field), b) }
	}
	bit := func(field qcow2.HostOffset, b byte) func(*bitmapImage) {
		return func(m *bitmapImage) { m.flip(m.at(1, field), b) }
	}
	is := func(code problem.Code, field qcow2.HostOffset, n uint64) func(*bitmapImage) []spot {
		return one(code, entryField(1, field), n)
	}
	found := func(m *bitmapImage) []spot {
		return []spot{{problem.BitmapTableMisplaced, m.at(1, tableOffset), 8}, {problem.BitmapTableElsewhere, m.at(1, tableOffset), 8}}
	}
	name := func(s string) func(*bitmapImage) {
		return func(m *bitmapImage) {
			m.bitmaps[1].Name = []byte(s)
			m.resizeDirectory()
		}
	}
	cases := []bitmapCase{
		{name: "name runs past the directory", damage: func(m *bitmapImage) { m.flip(m.at(2, nameSize), 0x40) }, states: "edu",
			want: one(problem.BitmapEntryBroken, entryField(2, nameSize), 6)},
		{name: "extra data runs past the directory", damage: func(m *bitmapImage) { m.flip(m.at(2, extraSize), 0x80) }, states: "edu",
			want: one(problem.BitmapEntryBroken, entryField(2, nameSize), 6)},
		{name: "the first entry runs past the directory", damage: func(m *bitmapImage) { m.flip(m.at(0, extraSize), 0x80) }, states: "udd",
			want: one(problem.BitmapEntryBroken, entryField(0, nameSize), 6)},
		{name: "the second entry runs into the third", damage: func(m *bitmapImage) { m.flip(m.at(1, nameSize+1), 0x10) }, states: "eud",
			want: one(problem.BitmapEntryBroken, entryField(1, nameSize), 6)},
		{name: "the first entry takes in the second", damage: func(m *bitmapImage) { m.flip(m.at(0, nameSize+1), 0x20) }, states: "udd",
			want: one(problem.BitmapEntryBroken, entryField(0, nameSize), 6)},
		{name: "no entry can be followed", states: "none", doubts: 1, unowned: true, damage: func(m *bitmapImage) {
			m.flip(m.at(0, extraSize), 0x80)
			m.flip(m.at(1, typ), 8)
		}, want: one(problem.BitmapEntryBroken, entryField(0, nameSize), 6)},
		{name: "one entry wiped", states: "ed", doubts: 1, unowned: true,
			damage: func(m *bitmapImage) { m.write(m.at(1, 0), make([]byte, 32)) },
			want:   one(problem.BitmapEntryBroken, entryField(1, 0), 32)},
		{name: "wiped", states: "none", doubts: 1, unowned: true,
			damage: func(m *bitmapImage) { m.write(m.ext.DirectoryOffset, make([]byte, 512)) },
			want:   one(problem.BitmapEntryBroken, entryField(0, 0), 96)},
		{name: "wiped from the second entry on", states: "e", doubts: 1, unowned: true,
			damage: func(m *bitmapImage) { m.write(m.at(1, 0), make([]byte, 64)) },
			want:   one(problem.BitmapEntryBroken, entryField(1, 0), 64)},

		{name: "table offset 0", damage: put(tableOffset, make([]byte, 8)...), states: "eud", doubts: 2, unowned: true, want: found},
		{name: "table misaligned", damage: bit(tableOffset+7, 8), states: "eud", doubts: 2, unowned: true, want: found},
		{name: "table past the end", damage: bit(tableOffset+3, 8), states: "eud", doubts: 2, unowned: true, want: found},
		{name: "table far past the end", damage: bit(tableOffset, 0x80), states: "eud", doubts: 2, unowned: true, want: found},
		{name: "table of one in use reaches past the end", flags: inUse, damage: func(m *bitmapImage) { m.write(m.at(2, tableSize), []byte{0, 8, 0, 0}) },
			states: "edu", doubts: 1, unowned: true, want: func(m *bitmapImage) []spot {
				return []spot{{problem.BitmapTableMisplaced, m.at(2, tableOffset), 12}, {problem.BitmapInUse, m.at(2, flags), 4}}
			}},

		{name: "table size 0", damage: put(tableSize, 0, 0, 0, 0), states: "eud", doubts: 1, want: is(problem.BitmapTableSize, tableSize, 4)},
		{name: "table size over the limit", damage: bit(tableSize, 0x10), states: "eud", doubts: 1, want: is(problem.BitmapTableSize, tableSize, 4)},
		{name: "table for too much data", damage: bit(tableSize+1, 0x20), states: "eud", doubts: 1, want: is(problem.BitmapTableSize, tableSize, 4)},

		{name: "table too large", damage: put(tableSize, 0, 0, 0, 7), states: "eud", want: is(problem.BitmapSizeMismatch, tableSize, 4)},
		{name: "table too large, past the end", damage: bit(tableSize+1, 1), states: "eud", doubts: 1, want: is(problem.BitmapSizeMismatch, tableSize, 4)},
		{name: "table too small", damage: put(tableSize, 0, 0, 0, 2), states: "eud", want: is(problem.BitmapSizeMismatch, tableSize, 4)},
		{name: "table too large, in use", damage: func(m *bitmapImage) { m.write(m.at(2, tableSize+3), []byte{4}) }, flags: inUse, states: "edi", worst: problem.Warning,
			want: func(m *bitmapImage) []spot {
				return []spot{{problem.BitmapSizeMismatch, m.at(2, tableSize), 4}, {problem.BitmapInUse, m.at(2, flags), 4}}
			}},
		{name: "disk grown behind the bitmaps' back", states: "uuu", edit: func(m *bitmapImage) {
			for i := range m.g.Clusters(uint64(m.h.L1Size) * 8) {
				m.drop(uint64(m.h.L1TableOffset) + i*512)
			}
			m.h.Size *= 4
			m.h.L1Size = uint32(m.h.L1Needed(m.g))
			m.h.L1TableOffset = m.alloc(uint64(m.h.L1Size) * 8)
		}, want: func(m *bitmapImage) []spot {
			return []spot{{problem.BitmapSizeMismatch, m.at(0, tableSize), 4}, {problem.BitmapSizeMismatch, m.at(1, tableSize), 4}, {problem.BitmapSizeMismatch, m.at(2, tableSize), 4}}
		}},

		{name: "reserved flag", damage: bit(flags+3, 8), states: "eud", want: is(problem.BitmapFlagsReserved, flags, 4)},
		{name: "top flag", damage: bit(flags, 0x80), states: "eud", want: is(problem.BitmapFlagsReserved, flags, 4)},
		{name: "type 0", damage: put(typ, 0), states: "eud", want: is(problem.BitmapTypeUnknown, typ, 1)},
		{name: "type 2 and enabled", damage: func(m *bitmapImage) { m.write(m.at(0, typ), []byte{2}) }, states: "udd", want: one(problem.BitmapAutoOnOther, entryField(0, flags), 5)},
		{name: "granularity 64", damage: put(gran, 64), states: "eud", want: is(problem.BitmapGranularity, gran, 1)},
		{name: "granularity 8", damage: put(gran, 8), states: "eud", want: is(problem.BitmapGranularity, gran, 1)},
		{name: "granularity 32", damage: put(gran, 32), states: "eud", want: is(problem.BitmapGranularity, gran, 1)},
		{name: "no name", edit: name(""), states: "eud", want: is(problem.BitmapNameLength, nameSize, 2)},
		{name: "name too long", edit: name(string(bytes.Repeat([]byte("n"), 1024))), states: "eud", want: is(problem.BitmapNameLength, nameSize, 2)},
		{name: "same name", edit: name("a"), states: "eud", want: is(problem.BitmapNameDuplicate, head, 1)},
		{name: "same name for QEMU", edit: name("a\x00b"), states: "eud", want: func(m *bitmapImage) []spot {
			return []spot{{problem.BitmapNameDuplicate, m.at(1, head), 3}, {problem.BitmapNameDangerous, m.at(1, head), 3}}
		}},
		{name: "extra data", edit: func(m *bitmapImage) {
			m.bitmaps[1].ExtraData = []byte{1, 2, 3}
			m.resizeDirectory()
		}, states: "eud", worst: problem.Warning, want: is(problem.BitmapExtraData, extraSize, 4)},
		{name: "extra data, compatible", edit: func(m *bitmapImage) {
			m.bitmaps[1].ExtraData, m.bitmaps[1].Flags = []byte{1, 2, 3}, qcow2.BitmapExtraDataCompatible
			m.resizeDirectory()
		}, worst: problem.Warning, want: is(problem.BitmapExtraData, extraSize, 4)},
		{name: "compatible without extra data", damage: bit(flags+3, 4), worst: problem.Warning, want: is(problem.BitmapExtraData, flags, 4)},
		{name: "padding", damage: put(head+4, 0, 7, 7, 0), worst: problem.Warning, want: is(problem.BitmapEntryPadding, head+5, 2)},
		{name: "name not UTF-8", edit: name("\xff\xfe"), worst: problem.Warning, want: is(problem.BitmapNameDangerous, head, 2)},
		{name: "name with a control character", edit: name("a\x1b[2Jb"), worst: problem.Warning, want: is(problem.BitmapNameDangerous, head, 6)},
		{name: "name with a NUL", edit: name("bb\x00"), states: "eud", want: is(problem.BitmapNameDangerous, head, 3)},
	}
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

// An entry of the first half of the disk's bitmaps is broken in each way at
// once: what follows it is checked as if nothing were.
func TestBitmapFaultsDoNotHideEachOther(t *testing.T) {
	t.Parallel()
	m := newBitmapImage(t, nil, nil, newBitmap("a", auto), newBitmap("b", 0), newBitmap("c", 0), newBitmap("d", auto))
	m.flip(m.at(0, qcow2.BitmapFieldTableOffset), 0x80)
	m.write(m.at(0, qcow2.BitmapFieldType), []byte{9, 77})
	m.flip(m.entryAt(1, 0)+7, 2)
	m.flip(m.at(2, qcow2.BitmapFieldFlags+2), 1)
	r := m.inspect(t, Options{})
	codes := map[problem.Code]int{}
	for _, f := range r.res.Findings {
		codes[f.Code]++
	}
	assert.Equal(t, map[problem.Code]int{problem.BitmapTableMisplaced: 1, problem.BitmapAutoOnOther: 1, problem.BitmapGranularity: 1, problem.BitmapLowReserved: 1, problem.BitmapFlagsReserved: 1, problem.OwnerUnknown: 1}, codes)
	assert.Equal(t, BitmapEnabled, r.res.Bitmaps[3].State)
}

// Every flip of a bit of the directory and of a table is noticed, unless it
// makes another directory or table that could be.
func TestBitmapBits(t *testing.T) {
	t.Parallel()
	m := newBitmapImage(t, nil, nil, newBitmap("a", auto), newBitmap("bb", 0), newBitmap("c", inUse))
	before := m.inspect(t, Options{}).res
	require.Len(t, before.Findings, 1) // BMD012
	check := func(what string, where qcow2.HostOffset, mask byte, legitimate func(after *Result) bool) {
		m.flip(where, mask)
		after := m.inspect(t, Options{}).res
		noticed := len(after.Findings) != 1 || after.Findings[0].Code != problem.BitmapInUse
		if !noticed && !legitimate(after) {
			assert.Fail(t, "a flip goes unnoticed", "%s, byte %v, mask 0x%x", what, where, mask)
		}
		m.flip(where, mask)
	}
	for i := range qcow2.HostOffset(len(m.directory)) {
		for k := range 8 {
			entry, field := int(i/32), i%32
			check("directory", m.ext.DirectoryOffset+i, 1<<k, func(after *Result) bool {
				switch {
				case field >= qcow2.BitmapFieldFlags && field < qcow2.BitmapFieldType:
					// Enabled or not, in use or not: the state says it.
					return after.Bitmaps[entry].State != before.Bitmaps[entry].State || before.Bitmaps[entry].State == BitmapInconsistent
				case field == qcow2.BitmapFieldGranularityBits:
					// Finer or coarser, if the table has the right size for that, too.
					return after.Bitmaps[entry].GranularityBits != testGran && after.Bitmaps[entry].GranularityBits <= 31
				case field == qcow2.BitmapFieldNameSize+1:
					// Shorter by what becomes padding that is zero: only of "bb" nothing does.
					return false
				case field >= qcow2.BitmapHeadSize:
					return after.Bitmaps[entry].Name != before.Bitmaps[entry].Name
				}
				return false
			})
		}
	}
	for b := range m.bitmaps {
		for i := range qcow2.HostOffset(3 * 8) {
			for k := range 8 {
				check(fmt.Sprintf("table %d", b), m.bitmaps[b].TableOffset+i, 1<<k, func(*Result) bool {
					// The entry of ones that are not stored may become one of zeros.
					return i == 8+7 && k == 0
				})
			}
		}
	}
}
