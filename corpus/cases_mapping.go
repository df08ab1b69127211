package corpus

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// mappingCases are faults of L1 and L2 tables.
func mappingCases() []Case {
	return slices.Concat(inSizes(mappingCasesIn, 16, 9, 21), inSizes(unalignedCasesIn, 16, 10, 21), inSizes(subclusterCasesIn, 16, 14, 21), []Case{
		one("mapping/compressed-offset-wide", "compressed data at an offset of 58 bits, which the entries for small clusters have room for", base(9),
			problem.CompressedMisplaced, L2Entry(unused(9)), Set(L2Entry(unused(9)), 1<<62|1<<57)),
	})
}

func mappingCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	beyond := 2 * coverage(bits) // where no table is, unless one is asked for
	far := offsetBits &^ (c - 1)
	base, unused := base(bits), unused(bits)
	with := func(ops ...Op) Spec {
		s := base
		s.Ops = append(slices.Clone(base.Ops), ops...)
		return s
	}
	hole, entry := L2Entry(unused), L2Entry(used)
	packed := 40 * c
	compressed := with(Write{Offset: packed, Length: c, Pattern: 1, Compressed: true})
	v2 := base
	v2.Version = 2
	data := func(name string) Spec {
		return Spec{ClusterBits: bits, Size: 64 * c, DataFile: &DataFile{Name: sizedName(name, bits)}, Ops: touches(bits)}
	}
	snapshot := with(Snapshot{ID: "1", Name: "s"})
	single := base
	single.Size = coverage(bits)
	zeros := with(Map{Offset: beyond, Length: 16 * c})
	changed := with(Snapshot{ID: "1", Name: "s"}, Write{Offset: beyond, Length: 16 * c, Pattern: 7})
	blank := Spec{ClusterBits: bits, Size: base.Size, Ops: []Op{Write{Length: 1}, Discard{Length: c, Full: true}}}
	compressedEntry := func(off, length uint64) uint64 {
		return uint64(qcow2.Geometry{ClusterBits: uint(bits)}.NewCompressedEntry(qcow2.HostOffset(off), length))
	}
	return []Case{
		one("mapping/l1-reserved-low", "a low bit of an L1 entry", base, problem.L1ReservedBits, L1Entry(0), SetBits(L1Entry(0), 1<<3)).inAllSizes(),
		one("mapping/l1-reserved-high", "a high bit of an L1 entry", base, problem.L1ReservedBits, L1Entry(0), SetBits(L1Entry(0), 1<<60)),
		one("mapping/l1-reserved-snapshot", "a reserved bit in a snapshot's L1 table", snapshot,
			problem.L1ReservedBits, SnapshotL1Entry("1", 0), SetBits(SnapshotL1Entry("1", 0), 1<<57)),
		one("mapping/l2-table-past-end", "an L1 entry that names a place behind the end of the file", base,
			problem.L1PastEnd, L1Entry(1), PointAt(L1Entry(1), End(1), 16*c)).inAllSizes(),
		one("mapping/l2-table-far", "an L1 entry that names a place where no file reaches", base,
			problem.L1PastEnd, L1Entry(3), Set(L1Entry(3), far|copied)).inAllSizes(),
		one("mapping/l1-copied-clear", "an L2 table of one owner, but the L1 entry does not say so", base,
			problem.L1Copied, L1Entry(0), ClearBits(L1Entry(0), copied)).inAllSizes(),
		one("mapping/l1-copied-set", "an L2 table that a snapshot shares, said to be the disk's own: a write would change the snapshot", snapshot,
			problem.L1Copied, L1Entry(0), SetBits(L1Entry(0), copied)).inAllSizes(),
		one("mapping/l1-copied-empty-snapshot", "an entry of a snapshot's L1 table that names no table, but has COPIED set: QEMU aborts when the snapshot is deleted", snapshot,
			problem.L1Copied, SnapshotL1Entry("1", 2), SetBits(SnapshotL1Entry("1", 2), copied)).inAllSizes(),
		one("mapping/l2-reserved-low", "a low bit of an L2 entry", base, problem.L2ReservedBits, entry, SetBits(entry, 1<<5)).inAllSizes(),
		one("mapping/l2-reserved-high", "a high bit of an L2 entry", base, problem.L2ReservedBits, entry, SetBits(entry, 1<<56)),
		one("mapping/l2-zero-flag-v2", "a zero cluster in a version 2 image, where there are none", v2, problem.L2ReservedBits, entry, SetBits(entry, 1)),
		one("mapping/data-past-end", "an L2 entry that names a place behind the end of the file", base,
			problem.L2PastEnd, hole, PointAt(hole, End(1), 16*c)).inAllSizes(),
		one("mapping/data-at-the-end", "an L2 entry that names the very end of the file, where a repair would put the new refcount table", base,
			problem.L2PastEnd, hole, PointAt(hole, End(1), 0), Add(HeaderField(qcow2.FieldRefcountTableOffset), 8)).and(problem.RefcountTableMisplaced, HeaderField(qcow2.FieldRefcountTableOffset)).inAllSizes(),
		one("mapping/data-far", "an L2 entry that names a place where no file reaches", base,
			problem.L2PastEnd, hole, Set(hole, far)),
		one("mapping/l2-copied-clear", "a cluster of one owner, but the L2 entry does not say so", base,
			problem.L2Copied, entry, ClearBits(entry, copied)).inAllSizes(),
		one("mapping/l2-copied-set", "a cluster that a snapshot shares, said to be the disk's own: a write would change the snapshot", snapshot,
			problem.L2Copied, entry, SetBits(entry, copied)),
		one("mapping/data-file-copied-clear", "a cluster of a data file, which is never shared, without COPIED", data("copied-clear.data"),
			problem.L2Copied, L2Entry(c), ClearBits(L2Entry(c), copied)).inAllSizes(),
		one("mapping/compressed-copied", "a compressed cluster said to be writable in place", compressed,
			problem.CompressedCopied, L2Entry(packed), SetBits(L2Entry(packed), copied)).inAllSizes(),
		one("mapping/compressed-past-end", "compressed data behind the end of the file", base,
			problem.CompressedMisplaced, hole, Set(hole, compressedEntry(1<<40, 512))).inAllSizes(),
		one("mapping/compressed-in-data-file", "a compressed cluster where there can be none", data("compressed.data"),
			problem.CompressedWithDataFile, L2Entry(unused), Set(L2Entry(unused), compressedEntry(0, 512))).inAllSizes(),
		one("mapping/copied-nowhere", "a cluster of its own, in the header's place", base, problem.L2ToHeader, hole, Set(hole, copied)).inAllSizes(),
		one("mapping/data-file-elsewhere", "a cluster of the data file that is not where the guest has it", data("elsewhere.data"),
			problem.DataFileOffset, L2Entry(unused), Set(L2Entry(unused), copied|used+c)).inAllSizes(),
		one("mapping/shared-by-two", "two guest clusters in one host cluster, refcounts and flags to match: legal, but never written by QEMU", base,
			problem.DataShared, Place{}, Point(hole, Data(used)), AddRefcount(Data(used), 1), ClearBits(entry, copied)).inAllSizes(),
		one("mapping/l2-table-twice", "one L2 table for two parts of the disk: a write to one shows in the other", blank,
			problem.L2TableShared, L1Entry(1), Copy(L1Entry(1), L1Entry(0)), AddRefcount(L2Table(0), 1),
			ClearBits(L1Entry(0), copied), ClearBits(L1Entry(1), copied)).inAllSizes(),
		one("mapping/beyond-the-disk", "data behind the end of the disk, as a careless change of the size leaves it", base,
			problem.MappedPastDisk, L2Entry(32*c), Set(HeaderField(qcow2.FieldSize), 32*c)).mild(problem.Warning).count(1).inAllSizes(),
		one("mapping/lost-table", "an L1 entry was wiped, and the L2 table with its data is still there; where it belongs cannot be told for certain", base,
			problem.OrphanL2Table, L2Table(0), Wipe(L1Entry(0))).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("mapping/lost-table-only", "the only L1 entry was wiped: there is one place where the L2 table can belong", single,
			problem.OrphanL2Table, L2Table(0), Wipe(L1Entry(0))).and(problem.OwnerUnknown, Place{}).inAllSizes(),
		one("mapping/lost-table-of-zeros", "an L1 entry was wiped whose table names nothing but zeros: the guest sees no difference", zeros,
			problem.OrphanL2Table, L2Table(beyond), Wipe(L1Entry(2))).and(problem.OwnerUnknown, Place{}).mild(problem.InDoubt),
		one("mapping/lost-table-or-left-over", "an L2 table that may have come off the active disk, or be left over from an interrupted return to the snapshot",
			changed, problem.OrphanL2Table, L2Table(beyond), Wipe(L1Entry(2))).and(problem.OwnerUnknown, Place{}).mild(problem.InDoubt),
		one("mapping/not-a-table", "an L1 entry that names a cluster of something else", base,
			problem.NotAnL2Table, Reserved("room").At(0, c), Put(Reserved("room"), noise(512)),
			SetRefcount(Reserved("room").At(0, 1), 1), Point(L1Entry(1), Reserved("room")), SetBits(L1Entry(1), copied)).inAllSizes(),
	}
}

// unalignedCasesIn are entries that name the middle of a cluster, which none can in
// clusters of 512 bytes.
func unalignedCasesIn(bits uint32) []Case {
	base, hole, half := base(bits), L2Entry(unused(bits)), uint64(1)<<(bits-1)
	return []Case{
		one("mapping/l2-table-misaligned", "an L1 entry that names the middle of a cluster", base,
			problem.L1Unaligned, L1Entry(1), PointAt(L1Entry(1), Reserved("room"), half)).inAllSizes(),
		one("mapping/data-misaligned", "an L2 entry that names the middle of a cluster", base,
			problem.L2Unaligned, hole, PointAt(hole, Reserved("room"), half)).inAllSizes(),
	}
}

// subclusterCasesIn are faults of extended L2 entries, which there are in clusters of
// 16 KiB and more.
func subclusterCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	packed, unused := 40*c, unused(bits)
	ext := base(bits)
	ext.ExtendedL2 = true
	ext.Ops = append(ext.Ops, Write{Offset: packed, Length: c, Pattern: 1, Compressed: true})
	return []Case{
		one("mapping/l2-zero-flag-extended", "the zero flag of ordinary entries in an extended one", ext,
			problem.L2ReservedBits, L2Descriptor(used), SetBits(L2Descriptor(used), 1)).inAllSizes(),
		one("mapping/subcluster-both", "a subcluster that has data and reads as zeros", ext,
			problem.SubclusterConflict, L2Bitmap(used), SetBits(L2Bitmap(used), 1<<32)).inAllSizes(),
		one("mapping/subcluster-nowhere", "subclusters with data in a cluster that has no place", ext,
			problem.SubclusterUnplaced, L2Bitmap(unused), Set(L2Bitmap(unused), 3)).inAllSizes(),
		one("mapping/subcluster-compressed", "a compressed cluster with subclusters", ext,
			problem.SubclusterUnplaced, L2Bitmap(packed), Set(L2Bitmap(packed), 1)).inAllSizes(),
	}
}

// noise is n bytes that look like nothing.
func noise(n uint64) []byte {
	s := NewStore(0)
	Write{Length: n, Pattern: 0xee, Noise: true}.fill(s)
	b := make([]byte, n)
	s.read(b, 0)
	return b
}
