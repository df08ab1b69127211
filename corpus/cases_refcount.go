package corpus

import "github.com/qcheck/qcheck/check"

// refcountCases are faults of the refcount structures, and of what they say.
func refcountCases() []Case {
	room := Reserved("room").At(0, 1)
	narrow := base()
	narrow.RefcountBits = 1
	narrow.Ops = append(narrow.Ops, Write{Offset: mib, Length: 64 * kib, Pattern: 1, Compressed: true})
	small := Spec{ClusterBits: 9, RefcountBits: 64, Size: mib, Ops: []Op{Write{Length: 512, Pattern: 1}}}
	history := snapshotHistory(Spec{Size: 8 * mib}, 0)
	return []Case{
		one("refcount/table-reserved", "a low bit of a refcount table entry", base(),
			check.REF001, RefcountTableEntry(0), SetBits(RefcountTableEntry(0), 1<<2)),
		one("refcount/block-misaligned", "a refcount table entry that names the middle of a cluster", base(),
			check.REF002, RefcountTableEntry(5), SetOffset(RefcountTableEntry(5), Reserved("room"), 512)),
		one("refcount/block-past-end", "a refcount table entry that names a place behind the end of the file", base(),
			check.REF003, RefcountTableEntry(5), SetOffset(RefcountTableEntry(5), End(1), mib)),
		one("refcount/block-far", "a refcount table entry that names the end of all addresses", base(),
			check.REF003, RefcountTableEntry(5), Set(RefcountTableEntry(5), ^uint64(0)&^0xffff)),
		one("refcount/block-twice", "two refcount table entries share a block", base(),
			check.REF004, RefcountTableEntry(1), Copy(RefcountTableEntry(1), RefcountTableEntry(0)), AddRefcount(RefcountBlock(0), 1)),
		one("refcount/too-low", "the snapshot table is said to be free: the next write may destroy it", history,
			check.REF005, RefcountOf(SnapshotTable()), SetRefcount(SnapshotTable(), 0)).count(1),
		one("refcount/too-low-data", "data that a snapshot shares is said to have one owner", history,
			check.REF005, RefcountOf(Data(0)), AddRefcount(Data(0), -1)),
		one("refcount/leak", "a cluster that nothing refers to is said to be in use", base(),
			check.REF006, RefcountOf(room), SetRefcount(room, 1)).count(1),
		one("refcount/leak-run", "a run of clusters that nothing refers to", base(),
			check.REF006, RefcountOf(Reserved("room")), SetRefcount(Reserved("room"), 1)).count(4),
		one("refcount/past-the-file", "a cluster behind the end of the file is said to be in use: QEMU does not look there", base(),
			check.REF006, RefcountBlock(0).At(2000, 2), Set(RefcountBlock(0).At(2000, 2), 1)).count(1),
		one("refcount/too-high", "a bitmap's table counts once too often",
			Spec{Size: 8 * mib, Bitmaps: []Bitmap{{Name: "b0", Dirty: []Range{{0, mib}}}}},
			check.REF006, RefcountOf(BitmapTable("b0")), AddRefcount(BitmapTable("b0"), 1)).count(1),
		one("refcount/width", "two references to compressed data whose refcount has one bit", narrow,
			check.REF007, RefcountOf(Data(mib)), Copy(L2Entry(unused), L2Entry(mib))),
		one("refcount/uncovered", "a cluster in a part of the file that no refcount block covers", small,
			check.REF008, RefcountTableEntry(4), Extend(512*64*5), Set(L2Entry(5*512), 512*64*4|copied)),
		one("refcount/in-doubt", "an L1 entry is wrong, so that what its table owned seems to be nobody's", base(),
			check.MAP003, L1Entry(0), PointAt(L1Entry(0), End(1), mib)).and(check.REF009, RefcountOf(Data(used))).and(check.MAP020, Place{}),
	}
}
