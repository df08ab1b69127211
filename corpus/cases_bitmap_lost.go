package corpus

import (
	"bytes"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// lostBitmapCases are bitmaps that nothing leads to any more, though all of them is
// there: the extension is gone or leads elsewhere, or an entry of the directory does.
func lostBitmapCases() []Case { return inSizes(lostBitmapCasesIn, 12, 9, 16, 21) }

func lostBitmapCasesIn(bits uint32) []Case {
	spec := func() Spec { return bitmapSpec(bits) }
	ext := ExtensionOf(qcow2.ExtBitmaps)
	data := func(off, n uint64) Place { return ExtensionData(qcow2.ExtBitmaps, off, n) }
	all, nb, offset := data(0, qcow2.BitmapsExtensionSize), data(qcow2.BitmapsExtNbBitmaps, 4), data(qcow2.BitmapsExtDirectoryOffset, 8)
	autoclear := HeaderField(qcow2.FieldAutoclearFeatures)
	stale := spec()
	stale.StaleBitmaps = true
	table, gran := BitmapField("b0", qcow2.BitmapFieldTableOffset, 8), BitmapField("b0", qcow2.BitmapFieldGranularityBits, 1)
	size := BitmapField("b0", qcow2.BitmapFieldTableSize, 4)
	lost := func(name, story string, at Place, damage ...Damage) Case {
		return one("lost-bitmaps/"+name, story, spec(), problem.BitmapsOrphaned, at, damage...).and(problem.OwnerUnknown, Place{})
	}
	led := func(name, story string, damage ...Damage) Case {
		return one("lost-bitmaps/"+name, story, spec(), problem.BitmapTableElsewhere, table, damage...).and(problem.OwnerUnknown, Place{})
	}
	staleLost := lost("extension-wiped-stale", "the same where the image was written to by software that knows no bitmaps, as QEMU leaves it", ext, Wipe(ext)).mild(problem.Warning)
	staleLost.Spec = stale
	return []Case{
		lost("extension-wiped", "the bitmaps extension was overwritten with zeros", ext, Wipe(ext)).and(problem.BitmapExtensionMissing, autoclear).inAllSizes(),
		staleLost,
		lost("extension-wiped-and-leaks", "the same, with leaks besides: which of them the bitmaps are is not certain", ext,
			Wipe(ext), SetRefcount(Reserved("room"), 1)).and(problem.BitmapExtensionMissing, autoclear),
		lost("extension-type", "a flipped bit in the type of the bitmaps extension", ext.At(0, 4), FlipBits(ext.At(0, 4), 1<<9)).
			and(problem.BitmapExtensionMissing, autoclear).and(problem.ExtensionUnknown, ext),
		lost("extension-cut", "the bitmaps extension is said to be shorter", ext, FlipBits(ExtensionLength(qcow2.ExtBitmaps), 1<<3)).
			and(problem.ExtensionLength, ExtensionLength(qcow2.ExtBitmaps)).and(problem.ExtensionOverrun, Place{}),
		lost("extension-empty", "an extension of zeros", all, Wipe(all)).and(problem.BitmapCountWrong, nb),
		lost("offset-0", "the directory's offset was overwritten with zeros", offset, Set(offset, 0)).and(problem.BitmapDirectoryMisplaced, offset).inAllSizes(),
		lost("offset-past-end", "a flipped bit leads behind the end of the file", offset, FlipBits(offset, 1<<40)).and(problem.BitmapDirectoryMisplaced, offset),
		lost("offset-misaligned", "a flipped bit leads into a cluster", offset, FlipBits(offset, 1<<3)).and(problem.BitmapDirectoryMisplaced, offset).inAllSizes(),
		lost("offset-at-table", "the extension leads to a bitmap's table", offset, SetOffset(offset, BitmapTable("b1"), 0)).and(problem.BitmapEntryBroken, Place{}),
		lost("offset-at-data", "the extension leads to guest data", offset, SetOffset(offset, Data(used), 0)).
			and(problem.BitmapEntryBroken, Place{}).and(problem.BitmapOverlap, Place{}).and(problem.L2Copied, Place{}).and(problem.RefcountTooLow, Place{}),
		one("lost-bitmaps/directory-wiped", "the directory was overwritten with zeros: nothing names the bitmaps any more", spec(),
			problem.BitmapEntryBroken, BitmapDirectory(), Wipe(BitmapDirectory())).and(problem.OwnerUnknown, Place{}),
		led("table-0", "the offset of a bitmap's table was overwritten with zeros", Set(table, 0)).and(problem.BitmapTableMisplaced, table).inAllSizes(),
		led("table-past-end", "a flipped bit leads behind the end of the file", FlipBits(table, 1<<40)).and(problem.BitmapTableMisplaced, table),
		led("table-free", "a bitmap's entry leads to a free cluster: QEMU takes the bitmap for empty", SetOffset(table, Reserved("room"), 0)).and(problem.RefcountTooLow, Place{}),
		led("table-of-another", "a bitmap's entry leads to the table of another one", SetOffset(table, BitmapTable("b1"), 0)).and(problem.BitmapOverlap, Place{}),
		one("lost-bitmaps/granularity-137", "a flipped bit makes the granularity one that cannot be", spec(), problem.BitmapGranularity, gran, FlipBits(gran, 1<<7)).inAllSizes(),
		one("lost-bitmaps/granularity-8", "the same, for one that QEMU does not take", spec(), problem.BitmapGranularity, gran, FlipBits(gran, 1)),
		one("lost-bitmaps/granularity-13", "the same, for one that can be, but not with the size of the table", spec(), problem.BitmapSizeMismatch, gran, FlipBits(gran, 1<<2)),
		one("lost-bitmaps/granularity-11", "the same, where the disk may as well have shrunk to a quarter", spec(), problem.BitmapSizeMismatch, size, FlipBits(gran, 1<<1)),
		noRoom(),
	}
}

// noRoom is an image whose bitmaps extension was overwritten with another one, and
// whose header has no room for one more.
func noRoom() Case {
	spec := bitmapSpec(9)
	const head = 8
	area := 512 - uint64(qcow2.HeaderLengthCompression) - head // less the end marker
	spec.Extensions = []RawExtension{{Type: 0x51434b31, Data: bytes.Repeat([]byte{'x'}, int(area-2*head-qcow2.BitmapsExtensionSize))}}
	ext := ExtensionOf(qcow2.ExtBitmaps)
	other := qcow2.EncodeExtension(0x51434b32, bytes.Repeat([]byte{'y'}, qcow2.BitmapsExtensionSize))
	return one("lost-bitmaps/no-room", "the bitmaps extension was overwritten with another one, and the header is full", spec,
		problem.BitmapsOrphaned, Place{}, Put(ext, other)).and(problem.BitmapExtensionMissing, HeaderField(qcow2.FieldAutoclearFeatures)).and(problem.ExtensionUnknown, ext).and(problem.OwnerUnknown, Place{})
}
