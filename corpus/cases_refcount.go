package corpus

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// refcountCases are faults of the refcount structures, and of what they say.
func refcountCases() []Case {
	return slices.Concat(inSizes(refcountCasesIn, 16, 9, 21), inSizes(unalignedBlockIn, 16, 10, 21))
}

// unalignedBlockIn is an entry that names the middle of a cluster, which none can in
// clusters of 512 bytes.
func unalignedBlockIn(bits uint32) []Case {
	return []Case{one("refcount/block-misaligned", "a refcount table entry that names the middle of a cluster", base(bits),
		problem.RefcountEntryUnaligned, RefcountTableEntry(5), SetOffset(RefcountTableEntry(5), Reserved("room"), 1<<(bits-1))).inAllSizes()}
}

func refcountCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	base, unused := base(bits), unused(bits)
	room := Reserved("room").At(0, 1)
	narrow := base
	narrow.RefcountBits = 1
	packed := 40 * c
	narrow.Ops = append(slices.Clone(base.Ops), Write{Offset: packed, Length: c, Pattern: 1, Compressed: true})
	// The widest refcounts: a block has the fewest of them.
	wide := Spec{ClusterBits: bits, RefcountBits: 64, Size: base.Size, Ops: []Op{Write{Length: 512, Pattern: 1}}}
	block := c * qcow2.Geometry{ClusterBits: uint(bits), RefcountOrder: 6}.RefcountBlockEntries() // what a block covers, in bytes
	history := history(bits)
	end := RefcountBlock(0).At(c-2, 2)
	uncovered := one("refcount/uncovered", "a cluster in a part of the file that no refcount block covers", wide,
		problem.RefcountMissing, RefcountTableEntry(4), Extend(int64(5*block)), Set(L2Entry(5*c), 4*block|copied)).inAllSizes()
	uncovered.Long = block > gib/4
	return []Case{
		uncovered,
		one("refcount/table-reserved", "a low bit of a refcount table entry", base,
			problem.RefcountEntryReserved, RefcountTableEntry(0), SetBits(RefcountTableEntry(0), 1<<2)).inAllSizes(),
		one("refcount/block-past-end", "a refcount table entry that names a place behind the end of the file", base,
			problem.RefcountEntryPastEnd, RefcountTableEntry(5), SetOffset(RefcountTableEntry(5), End(1), 16*c)).inAllSizes(),
		one("refcount/block-far", "a refcount table entry that names the end of all addresses", base,
			problem.RefcountEntryPastEnd, RefcountTableEntry(5), Set(RefcountTableEntry(5), -c)).inAllSizes(),
		one("refcount/block-twice", "two refcount table entries share a block", base,
			problem.RefcountBlockOverlap, RefcountTableEntry(1), Copy(RefcountTableEntry(1), RefcountTableEntry(0)), AddRefcount(RefcountBlock(0), 1)).inAllSizes(),
		one("refcount/too-low", "the snapshot table is said to be free: the next write may destroy it", history,
			problem.RefcountTooLow, RefcountOf(SnapshotTable()), SetRefcount(SnapshotTable(), 0)).count(1).inAllSizes(),
		one("refcount/too-low-data", "data that a snapshot shares is said to have one owner", history,
			problem.RefcountTooLow, RefcountOf(Data(0)), AddRefcount(Data(0), -1)),
		one("refcount/leak", "a cluster that nothing refers to is said to be in use", base,
			problem.RefcountTooHigh, RefcountOf(room), SetRefcount(room, 1)).count(1),
		one("refcount/leak-run", "a run of clusters that nothing refers to", base,
			problem.RefcountTooHigh, RefcountOf(Reserved("room")), SetRefcount(Reserved("room"), 1)).count(4).inAllSizes(),
		one("refcount/past-the-file", "a cluster behind the end of the file is said to be in use: QEMU does not look there", base,
			problem.RefcountTooHigh, end, Set(end, 1)).mild(problem.Note).count(1).inAllSizes(),
		one("refcount/too-high", "a bitmap's table counts once too often",
			Spec{Size: 8 * mib, Bitmaps: []Bitmap{{Name: "b0", Dirty: []Range{{0, mib}}}}},
			problem.RefcountTooHigh, RefcountOf(BitmapTable("b0")), AddRefcount(BitmapTable("b0"), 1)).count(1),
		one("refcount/width", "two references to compressed data whose refcount has one bit", narrow,
			problem.RefcountOverflow, RefcountOf(Data(packed)), Copy(L2Entry(unused), L2Entry(packed))).inAllSizes(),
		one("refcount/in-doubt", "an L1 entry is wrong, so that what its table owned seems to be nobody's", base,
			problem.L1PastEnd, L1Entry(0), PointAt(L1Entry(0), End(1), 16*c)).and(problem.OwnerUnknown, RefcountOf(Data(used))).and(problem.OrphanL2Table, Place{}).inAllSizes(),
	}
}
