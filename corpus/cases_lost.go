package corpus

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// lostCases are structures that nothing leads to any more, or that were wiped, while all that
// they own is still there: other tools call it leaked, and free it.
func lostCases() []Case { return inSizes(lostCasesIn, 16, 9) }

func lostCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	window := coverage(bits)
	three := threeParts(bits)
	snaps := func(n int) Spec {
		s := Spec{ClusterBits: bits, Size: window, Ops: touches(bits)}
		for i, name := range []string{"first", "second", "third"}[:n] {
			s.Ops = append(s.Ops, Snapshot{ID: string(rune('1' + i)), Name: name}, Write{Offset: uint64(i) * c, Length: 512, Pattern: byte(0x50 + i)})
		}
		return s
	}
	count := HeaderField(qcow2.FieldNbSnapshots)
	offset := HeaderField(qcow2.FieldSnapshotsOffset)
	copyOf := base(bits)
	copyOf.Ops = append(copyOf.Ops, Reserve{Name: "copy", Clusters: 1})
	var killed []Damage
	killed = append(killed, Copy(Reserved("copy"), L1Table()), SetRefcount(Reserved("copy"), 1), AddRefcount(L2Table(0), 1), ClearBits(L1Entry(0), copied))
	for _, at := range []uint64{0, 1, 5, 6, 32} {
		killed = append(killed, AddRefcount(Data(at*c), 1), ClearBits(L2Entry(at*c), copied))
	}
	return []Case{
		one("lost/l2-wiped", "an L2 table in the middle of a disk reads as zeros, as after a hole that was punched in the wrong place; its data is still there", three,
			problem.TableWiped, L2Table(window), Wipe(L2Table(window))).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("lost/l2-wiped-last", "the same with the last one: an interrupted write may have left it so", three,
			problem.TableWiped, L2Table(2*window), Wipe(L2Table(2*window))).mild(problem.InDoubt).and(problem.OwnerUnknown, Place{}),
		one("lost/l2-wiped-dirty", "the same in an image that was not closed", three,
			problem.TableWiped, L2Table(window), Wipe(L2Table(window)), SetBits(HeaderField(qcow2.FieldIncompatibleFeatures), uint64(qcow2.IncompatDirty))).
			mild(problem.InDoubt).and(problem.OwnerUnknown, Place{}).and(problem.MarkedDirty, Place{}),
		one("lost/l1-wiped", "the L1 table reads as zeros, and every L2 table is lost", three,
			problem.TableWiped, L1Table(), Wipe(L1Table())).and(problem.OrphanL2Table, Place{}).and(problem.OwnerUnknown, Place{}),
		one("lost/snapshot-only", "the header counts no snapshot, but there is one", snaps(1),
			problem.SnapshotsOrphaned, count, Set(count, 0)).mild(problem.InDoubt).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("lost/snapshots-two", "the header counts one of three snapshots", snaps(3),
			problem.SnapshotsOrphaned, count, Set(count, 1)).mild(problem.InDoubt).count(2).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("lost/snapshot-table-zero", "the header leads to no snapshot table, but counts three snapshots", snaps(3),
			problem.SnapshotsOrphaned, offset, Set(offset, 0)).count(3).and(problem.SnapshotTableMisplaced, offset).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("lost/snapshot-table-far", "one bit of the snapshot table's offset, which leads past the end of the file", snaps(3),
			problem.SnapshotsOrphaned, offset, FlipBits(offset, 1<<40)).count(3).and(problem.SnapshotTableMisplaced, Place{}).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("lost/snapshot-l1-copy", "the copy of the L1 table that a snapshot takes, and no snapshot: its making was cut short", copyOf,
			problem.RefcountTooHigh, Place{}, killed...).inAllSizes(),
	}
}

// threeParts is a disk of three L2 tables, each written after the one before, with data that
// lies in two pieces, so that no interrupted write explains the loss of a table.
func threeParts(bits uint32) Spec {
	c, window := uint64(1)<<bits, coverage(bits)
	return Spec{ClusterBits: bits, Size: 3 * window, Ops: []Op{
		Write{Length: 4 * c, Pattern: 1, Stamp: true},
		Write{Offset: window, Length: 20 * c, Pattern: 2, Stamp: true},
		Write{Offset: 8 * c, Length: c, Pattern: 3, Stamp: true},
		Write{Offset: window + 24*c, Length: 8 * c, Pattern: 4, Stamp: true},
		Write{Offset: 2 * window, Length: 20 * c, Pattern: 5, Stamp: true},
		Write{Offset: 10 * c, Length: c, Pattern: 6, Stamp: true},
		Write{Offset: 2*window + 24*c, Length: 8 * c, Pattern: 7, Stamp: true},
	}}
}
