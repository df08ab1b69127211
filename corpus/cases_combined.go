package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// combinedSpec is a small disk that has everything: a snapshot that shares data with
// it, a bitmap that is stored and one that is clean. It has clusters of 1<<bits bytes.
func combinedSpec(bits uint32) Spec {
	cs := uint64(1) << bits
	var ops []Op
	for i := range uint64(4) {
		ops = append(ops, Write{Offset: i * cs, Length: 512, Pattern: 1})
	}
	ops = append(ops, Snapshot{ID: "1", Name: "first"}, Write{Length: 512, Pattern: 2}, Reserve{Name: "room", Clusters: 2})
	return Spec{ClusterBits: bits, Size: 64*cs + 512, Ops: ops, Bitmaps: []Bitmap{
		{Name: "b0", GranularityBits: 9, Auto: true, Dirty: []Range{{0, 3 * cs}, {64 * cs, 512}}},
		{Name: "b1", GranularityBits: 16},
	}}
}

// ailment is one of the faults that combined cases put together. Each is in a
// structure of its own, and none hides another.
type ailment struct {
	name, story string
	code        problem.Code
	at          Place
	damage      Damage
}

func ailments() []ailment {
	room, stored := Reserved("room"), BitmapTableEntry("b0", 0)
	flags := BitmapField("b1", qcow2.BitmapFieldFlags, 4)
	reserved := ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtReserved, 4)
	return []ailment{
		{"leak", "two leaked clusters", problem.RefcountTooHigh, RefcountOf(room), SetRefcount(room, 1)},
		{"low-refcount", "a snapshot table that is said to be free", problem.RefcountTooLow, RefcountOf(SnapshotTable()), SetRefcount(SnapshotTable(), 0)},
		{"reftable-bit", "a reserved bit in the refcount table", problem.RefcountEntryReserved, RefcountTableEntry(0), SetBits(RefcountTableEntry(0), 1<<2)},
		{"l1-bit", "a reserved bit in the L1 table", problem.L1ReservedBits, L1Entry(0), SetBits(L1Entry(0), 1<<58)},
		{"l2-bit", "a reserved bit in an L2 table", problem.L2ReservedBits, L2Entry(0), SetBits(L2Entry(0), 1<<57)},
		{"copied", "data of the disk alone that is said to be shared", problem.L2Copied, L2Entry(0), ClearBits(L2Entry(0), copied)},
		{"bitmap-flag", "a bitmap with an unknown flag", problem.BitmapFlagsReserved, flags, SetBits(flags, 1<<7)},
		{"table-bit", "a reserved bit in a bitmap's table", problem.BitmapLowReserved, stored, SetBits(stored, 1<<4)},
		{"bitmaps-reserved", "a reserved field of the bitmaps extension", problem.BitmapExtensionReserved, reserved, Set(reserved, 7)},
	}
}

// combinedCases are several faults at once: every two of the ailments in clusters of
// 512 bytes, and all of them together in the smallest, the usual and the largest
// clusters.
func combinedCases() []Case {
	all := ailments()
	together := func(name, story string, bits uint32, faults []ailment) Case {
		c := Case{Name: "combined/" + name, Story: story, Spec: combinedSpec(bits)}
		for _, f := range faults {
			c.Damage = append(c.Damage, f.damage)
			c.Want = append(c.Want, Want{Code: f.code, At: f.at})
		}
		return c
	}
	var cases []Case
	for i, a := range all {
		for _, b := range all[i+1:] {
			cases = append(cases, together(a.name+"-and-"+b.name, a.story+", and "+b.story, 9, []ailment{a, b}))
		}
	}
	for _, bits := range []uint32{9, 16, 21} {
		cases = append(cases, together(fmt.Sprintf("all-%d", 1<<bits), "one fault of every structure at once", bits, all))
	}
	return cases
}
