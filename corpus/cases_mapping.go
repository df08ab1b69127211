package corpus

import (
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// mappingCases are faults of L1 and L2 tables.
func mappingCases() []Case {
	hole, entry := L2Entry(unused), L2Entry(used)
	compressed := base()
	compressed.Ops = append(compressed.Ops, Write{Offset: mib, Length: 64 * kib, Pattern: 1, Compressed: true})
	v2 := base()
	v2.Version = 2
	ext := Spec{Size: 2 * gib, ExtendedL2: true, Ops: append(writes(Spec{Size: 8 * mib}), Reserve{Name: "room", Clusters: 4},
		Write{Offset: mib, Length: 64 * kib, Pattern: 1, Compressed: true})}
	data := func(name string) Spec {
		return Spec{Size: 8 * mib, DataFile: &DataFile{Name: name}, Ops: writes(Spec{Size: 8 * mib})}
	}
	snapshot := base()
	snapshot.Ops = append(snapshot.Ops, Snapshot{ID: "1", Name: "s"})
	zeros := Spec{Size: 2 * gib, Ops: append(writes(Spec{Size: 8 * mib}), Map{Offset: gib, Length: mib})}
	changed := snapshot
	changed.Ops = append(slices.Clone(snapshot.Ops), Write{Offset: gib, Length: mib, Pattern: 7})
	blank := Spec{Size: 2 * gib, Ops: []Op{Write{Length: 1}, Discard{Length: 64 * kib, Full: true}}}
	compressedEntry := func(off, length uint64) uint64 {
		return uint64(qcow2.Geometry{ClusterBits: 16}.NewCompressedEntry(qcow2.HostOffset(off), length))
	}
	return []Case{
		one("mapping/l1-reserved-low", "a low bit of an L1 entry", base(), check.MAP001, L1Entry(0), SetBits(L1Entry(0), 1<<3)),
		one("mapping/l1-reserved-high", "a high bit of an L1 entry", base(), check.MAP001, L1Entry(0), SetBits(L1Entry(0), 1<<60)),
		one("mapping/l1-reserved-snapshot", "a reserved bit in a snapshot's L1 table", snapshot,
			check.MAP001, SnapshotL1Entry("1", 0), SetBits(SnapshotL1Entry("1", 0), 1<<57)),
		one("mapping/l2-table-misaligned", "an L1 entry that names the middle of a cluster", base(),
			check.MAP002, L1Entry(1), PointAt(L1Entry(1), Reserved("room"), 512)),
		one("mapping/l2-table-past-end", "an L1 entry that names a place behind the end of the file", base(),
			check.MAP003, L1Entry(1), PointAt(L1Entry(1), End(1), mib)),
		one("mapping/l2-table-far", "an L1 entry that names a place where no file reaches", base(),
			check.MAP003, L1Entry(3), Set(L1Entry(3), offsetBits&^0xffff|copied)),
		one("mapping/l1-copied-clear", "an L2 table of one owner, but the L1 entry does not say so", base(),
			check.MAP004, L1Entry(0), ClearBits(L1Entry(0), copied)),
		one("mapping/l1-copied-set", "an L2 table that a snapshot shares, said to be the disk's own: a write would change the snapshot", snapshot,
			check.MAP004, L1Entry(0), SetBits(L1Entry(0), copied)),
		one("mapping/l2-reserved-low", "a low bit of an L2 entry", base(), check.MAP005, entry, SetBits(entry, 1<<5)),
		one("mapping/l2-reserved-high", "a high bit of an L2 entry", base(), check.MAP005, entry, SetBits(entry, 1<<56)),
		one("mapping/l2-zero-flag-v2", "a zero cluster in a version 2 image, where there are none", v2, check.MAP005, entry, SetBits(entry, 1)),
		one("mapping/l2-zero-flag-extended", "the zero flag of ordinary entries in an extended one", ext,
			check.MAP005, L2Descriptor(used), SetBits(L2Descriptor(used), 1)),
		one("mapping/data-misaligned", "an L2 entry that names the middle of a cluster", base(),
			check.MAP006, hole, PointAt(hole, Reserved("room"), 512)),
		one("mapping/data-past-end", "an L2 entry that names a place behind the end of the file", base(),
			check.MAP007, hole, PointAt(hole, End(1), mib)),
		one("mapping/data-at-the-end", "an L2 entry that names the very end of the file, where a repair would put the new refcount table", base(),
			check.MAP007, hole, PointAt(hole, End(1), 0), Add(HeaderField(qcow2.FieldRefcountTableOffset), 8)).and(check.HDR013, HeaderField(qcow2.FieldRefcountTableOffset)),
		one("mapping/data-far", "an L2 entry that names a place where no file reaches", base(),
			check.MAP007, hole, Set(hole, offsetBits&^0xffff)),
		one("mapping/l2-copied-clear", "a cluster of one owner, but the L2 entry does not say so", base(),
			check.MAP008, entry, ClearBits(entry, copied)),
		one("mapping/l2-copied-set", "a cluster that a snapshot shares, said to be the disk's own: a write would change the snapshot", snapshot,
			check.MAP008, entry, SetBits(entry, copied)),
		one("mapping/data-file-copied-clear", "a cluster of a data file, which is never shared, without COPIED", data("copied-clear.data"),
			check.MAP008, L2Entry(64*kib), ClearBits(L2Entry(64*kib), copied)),
		one("mapping/compressed-copied", "a compressed cluster said to be writable in place", compressed,
			check.MAP009, L2Entry(mib), SetBits(L2Entry(mib), copied)),
		one("mapping/compressed-past-end", "compressed data behind the end of the file", base(),
			check.MAP010, hole, Set(hole, compressedEntry(1<<40, 512))),
		one("mapping/compressed-in-data-file", "a compressed cluster where there can be none", data("compressed.data"),
			check.MAP011, L2Entry(unused), Set(L2Entry(unused), compressedEntry(0, 512))),
		one("mapping/subcluster-both", "a subcluster that has data and reads as zeros", ext,
			check.MAP012, L2Bitmap(used), SetBits(L2Bitmap(used), 1<<32)),
		one("mapping/subcluster-nowhere", "subclusters with data in a cluster that has no place", ext,
			check.MAP013, L2Bitmap(unused), Set(L2Bitmap(unused), 3)),
		one("mapping/subcluster-compressed", "a compressed cluster with subclusters", ext,
			check.MAP013, L2Bitmap(mib), Set(L2Bitmap(mib), 1)),
		one("mapping/copied-nowhere", "a cluster of its own, in the header's place", base(), check.MAP014, hole, Set(hole, copied)),
		one("mapping/data-file-elsewhere", "a cluster of the data file that is not where the guest has it", data("elsewhere.data"),
			check.MAP015, L2Entry(unused), Set(L2Entry(unused), copied|used+64*kib)),
		one("mapping/shared-by-two", "two guest clusters in one host cluster, refcounts and flags to match: legal, but never written by QEMU", base(),
			check.MAP017, Place{}, Point(hole, Data(used)), AddRefcount(Data(used), 1), ClearBits(entry, copied)),
		one("mapping/l2-table-twice", "one L2 table for two parts of the disk: a write to one shows in the other", blank,
			check.MAP018, L1Entry(1), Copy(L1Entry(1), L1Entry(0)), AddRefcount(L2Table(0), 1),
			ClearBits(L1Entry(0), copied), ClearBits(L1Entry(1), copied)),
		one("mapping/beyond-the-disk", "data behind the end of the disk, as a careless change of the size leaves it", base(),
			check.MAP019, L2Entry(4*mib), Set(HeaderField(qcow2.FieldSize), 4*mib)).mild(check.Warning).count(1),
		one("mapping/lost-table", "an L1 entry was wiped, and the L2 table with its data is still there", base(),
			check.MAP020, L2Table(0), Wipe(L1Entry(0))).and(check.REF009, Place{}),
		one("mapping/lost-table-of-zeros", "an L1 entry was wiped whose table names nothing but zeros: the guest sees no difference", zeros,
			check.MAP020, L2Table(gib), Wipe(L1Entry(2))).and(check.REF009, Place{}).mild(check.Warning),
		one("mapping/lost-table-or-left-over", "an L2 table that may have come off the active disk, or be left over from an interrupted return to the snapshot",
			changed, check.MAP020, L2Table(gib), Wipe(L1Entry(2))).and(check.REF009, Place{}).mild(check.Warning),
		one("mapping/not-a-table", "an L1 entry that names a cluster of something else", base(),
			check.MAP021, Reserved("room").At(0, 64*kib), Put(Reserved("room"), noise(64*kib)),
			SetRefcount(Reserved("room").At(0, 1), 1), Point(L1Entry(1), Reserved("room")), SetBits(L1Entry(1), copied)),
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
