package corpus

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// bitmapSpec is a small disk with a bitmap that is stored, "b0", and one that is
// clean, "b1". The table of the first has five entries, of which 0, 2 and 4 have data,
// and its cluster room for more.
func bitmapSpec(bits uint32) Spec {
	part := uint64(512*8) << bits // what a cluster of b0 tells of, in bytes of the disk
	return Spec{ClusterBits: bits, Size: 4*part + 512, Ops: []Op{Write{Length: 512, Pattern: 1}, Write{Offset: 1 << bits, Length: 512, Pattern: 1},
		Reserve{Name: "room", Clusters: 2}},
		Bitmaps: []Bitmap{
			{Name: "b0", GranularityBits: 9, Auto: true, Dirty: []Range{{0, part / 16}, {5 * part / 2, part / 4}, {4 * part, 512}}},
			{Name: "b1", GranularityBits: 16},
		}}
}

// freeBitmaps gives up all that the bitmaps of bitmapSpec have, so that nothing
// seems lost when the directory cannot be read.
func freeBitmaps() []Damage {
	return []Damage{SetRefcount(BitmapDirectory(), 0), SetRefcount(BitmapTable("b0"), 0), SetRefcount(BitmapTable("b1"), 0),
		SetRefcount(BitmapData("b0", 0), 0), SetRefcount(BitmapData("b0", 2), 0), SetRefcount(BitmapData("b0", 4), 0)}
}

// bitmapExtensionCases are faults of the bitmaps extension.
func bitmapExtensionCases() []Case { return inSizes(bitmapExtensionCasesIn, 12, 9, 16, 21) }

func bitmapExtensionCasesIn(bits uint32) []Case {
	spec := func() Spec { return bitmapSpec(bits) }
	ext := func(off, n uint64) Place { return ExtensionData(qcow2.ExtBitmaps, off, n) }
	nb, offset, size := ext(qcow2.BitmapsExtNbBitmaps, 4), ext(qcow2.BitmapsExtDirectoryOffset, 8), ext(qcow2.BitmapsExtDirectorySize, 8)
	stale := spec()
	stale.StaleBitmaps = true
	v2 := spec()
	v2.Version = 2
	lost := func(d ...Damage) []Damage { return append(freeBitmaps(), d...) }
	return []Case{
		one("bitmaps/autoclear-without-extension", "the image is said to have bitmaps, but has none", base(bits),
			problem.BitmapExtensionMissing, HeaderField(qcow2.FieldAutoclearFeatures),
			SetBits(HeaderField(qcow2.FieldAutoclearFeatures), uint64(qcow2.AutoclearBitmaps))),
		one("bitmaps/stale", "written to by software that knows no bitmaps: what they say is not true any more", stale,
			problem.BitmapsStale, HeaderField(qcow2.FieldAutoclearFeatures)),
		staleEntries(bits),
		one("bitmaps/count-0", "a directory of no bitmaps", spec(), problem.BitmapCountWrong, nb, Set(nb, 0)),
		one("bitmaps/count-65536", "more bitmaps than there can be", spec(), problem.BitmapCountWrong, nb, Set(nb, 65536)),
		one("bitmaps/count-high", "one bitmap more than the directory has", spec(), problem.BitmapCountWrong, nb, Set(nb, 3)).inAllSizes(),
		one("bitmaps/count-low", "one bitmap less than the directory has", spec(), problem.BitmapCountWrong, nb, Set(nb, 1)),
		one("bitmaps/reserved", "the reserved field", spec(),
			problem.BitmapExtensionReserved, ext(qcow2.BitmapsExtReserved, 4), Set(ext(qcow2.BitmapsExtReserved, 4), 7)),
		one("bitmaps/directory-0", "the directory is said to be in the header's place", spec(), problem.BitmapDirectoryMisplaced, offset, lost(Set(offset, 0))...),
		one("bitmaps/directory-misaligned", "the directory is said to start within a cluster", spec(), problem.BitmapDirectoryMisplaced, offset, lost(Add(offset, 8))...).inAllSizes(),
		one("bitmaps/directory-past-end", "the directory is said to lie behind the end of the file", spec(),
			problem.BitmapDirectoryMisplaced, offset, lost(Set(offset, tib))...).inAllSizes(),
		one("bitmaps/directory-size-0", "a directory of no bytes", spec(), problem.BitmapDirectoryMisplaced, size, Set(size, 0)),
		one("bitmaps/directory-huge", "a directory larger than all that fits into one", spec(),
			problem.BitmapDirectoryMisplaced, size, Set(size, qcow2.MaxBitmapDirectorySize+8)).inAllSizes(),
		one("bitmaps/directory-trailing", "bytes behind the last entry of the directory", spec(), problem.BitmapDirectorySize, size, Add(size, 8)).inAllSizes(),
		one("bitmaps/version-2", "bitmaps in a version 2 image, which has no bit to tell whether they are true", v2,
			problem.BitmapsInVersion2, ExtensionOf(qcow2.ExtBitmaps)),
	}
}

// staleEntries is a stale bitmap with many bad entries, apart from each other: they
// are no worse than that it is stale, whether they are listed or only counted.
func staleEntries(bits uint32) Case {
	const entries = 24
	spec := Spec{ClusterBits: bits, Size: entries * uint64(512*8) << bits, StaleBitmaps: true}
	spec.Bitmaps = []Bitmap{{Name: "b0", GranularityBits: 9, Auto: true, Dirty: []Range{{0, spec.Size}}}}
	c := one("bitmaps/stale-bad-entries", "stale, and with eight bad entries besides", spec, problem.BitmapsStale, HeaderField(qcow2.FieldAutoclearFeatures)).
		and(problem.BitmapHighReserved, BitmapTableEntry("b0", 0))
	c.Want[1].Severity = problem.Warning
	for i := range uint64(8) {
		c.Damage = append(c.Damage, SetBits(BitmapTableEntry("b0", 2*i), 1<<60))
	}
	return c
}

// bitmapDirectoryCases are faults of the entries of the bitmap directory.
func bitmapDirectoryCases() []Case { return inSizes(bitmapDirectoryCasesIn, 12, 9, 16, 21) }

func bitmapDirectoryCasesIn(bits uint32) []Case {
	spec := func() Spec { return bitmapSpec(bits) }
	field := func(off, n uint64) Place { return BitmapField("b1", off, n) }
	offset, size := field(qcow2.BitmapFieldTableOffset, 8), field(qcow2.BitmapFieldTableSize, 4)
	flags, typ := field(qcow2.BitmapFieldFlags, 4), field(qcow2.BitmapFieldType, 1)
	gran, nameSize := field(qcow2.BitmapFieldGranularityBits, 1), field(qcow2.BitmapFieldNameSize, 2)
	table := SetRefcount(BitmapTable("b1"), 0)
	with := func(b Bitmap) Spec {
		s := spec()
		s.Bitmaps[1] = b
		return s
	}
	inUse := with(Bitmap{Name: "b1", InUse: true})
	return []Case{
		one("bitmap/entry-runs-out", "a name that would reach past the end of the directory", spec(),
			problem.BitmapEntryBroken, nameSize, Set(nameSize, 200)).inAllSizes(),
		one("bitmap/extra-runs-out", "extra data that would reach past the end of the directory", spec(),
			problem.BitmapEntryBroken, field(qcow2.BitmapFieldExtraDataSize, 4), Set(field(qcow2.BitmapFieldExtraDataSize, 4), 0xfffffff8)),
		one("bitmap/table-0", "a table in the header's place", spec(), problem.BitmapTableMisplaced, offset, Set(offset, 0), table),
		one("bitmap/table-misaligned", "a table that starts within a cluster", spec(), problem.BitmapTableMisplaced, offset, Add(offset, 8), table).inAllSizes(),
		one("bitmap/table-past-end", "a table behind the end of the file", spec(), problem.BitmapTableMisplaced, offset, Set(offset, tib), table).inAllSizes(),
		one("bitmap/table-size-0", "a table of no entries", spec(), problem.BitmapTableSize, size, Set(size, 0)),
		one("bitmap/table-huge", "a table of more than 2^27 entries", spec(), problem.BitmapTableSize, size, Set(size, 1<<27+1)),
		one("bitmap/table-data-huge", "a table of a bitmap of more than 512 MiB", spec(), problem.BitmapTableSize, size, Set(size, 512*mib>>bits+1)).inAllSizes(),
		one("bitmap/table-size", "a table with an entry more than the disk takes", spec(), problem.BitmapSizeMismatch, size, Add(size, 1)).inAllSizes(),
		one("bitmap/disk-beyond-bitmaps", "a disk so large that no bitmap can be, of any granularity", spec(),
			problem.BitmapSizeMismatch, size, Set(Bytes(qcow2.FieldSize, 8), 1<<64-1)).and(problem.BitmapSizeMismatch, BitmapField("b0", qcow2.BitmapFieldTableSize, 4)).
			and(problem.L1TooSmall, Bytes(qcow2.FieldL1Size, 4)),
		one("bitmap/table-size-in-use", "the same for a bitmap in use: the disk was resized meanwhile", inUse,
			problem.BitmapSizeMismatch, size, Add(size, 1)).mild(problem.Note).and(problem.BitmapInUse, flags),
		one("bitmap/flags-reserved", "a flag that there is not", spec(), problem.BitmapFlagsReserved, flags, SetBits(flags, 1<<7)),
		one("bitmap/type", "a bitmap that does not track writes", spec(), problem.BitmapTypeUnknown, typ, Set(typ, 2)),
		one("bitmap/granularity-64", "a granularity that no number holds", spec(), problem.BitmapGranularity, gran, Set(gran, 64)),
		one("bitmap/granularity-32", "a granularity that the format allows and QEMU does not", spec(), problem.BitmapGranularity, gran, Set(gran, 32)),
		one("bitmap/granularity-8", "a granularity of less than a sector",
			func() Spec { s := with(Bitmap{Name: "b1", GranularityBits: 8}); return s }(), problem.BitmapGranularity, gran),
		one("bitmap/name-empty", "a bitmap without a name", with(Bitmap{}), problem.BitmapNameLength, BitmapField("", qcow2.BitmapFieldNameSize, 2)),
		one("bitmap/name-long", "a name of 1,024 bytes", with(Bitmap{Name: string(make1023()) + "x"}),
			problem.BitmapNameLength, BitmapField(string(make1023())+"x", qcow2.BitmapFieldNameSize, 2)).inAllSizes(),
		one("bitmap/name-twice", "two bitmaps of one name", with(Bitmap{Name: "b0"}), problem.BitmapNameDuplicate, Place{}),
		one("bitmap/extra-data", "extra data of a later version of the format", with(Bitmap{Name: "b1", ExtraData: []byte("12345678")}),
			problem.BitmapExtraData, field(qcow2.BitmapFieldExtraDataSize, 4)),
		one("bitmap/extra-data-compatible", "extra data of a later version that may be ignored",
			with(Bitmap{Name: "b1", ExtraData: []byte("12345678"), MoreFlags: qcow2.BitmapExtraDataCompatible}),
			problem.BitmapExtraData, field(qcow2.BitmapFieldExtraDataSize, 4)),
		one("bitmap/padding", "a byte of the padding behind a name", spec(), problem.BitmapEntryPadding, field(28, 1), Set(field(28, 1), 1)),
		one("bitmap/in-use", "left by a hypervisor that was killed", inUse, problem.BitmapInUse, flags),
		one("bitmap/auto-type", "a bitmap that is to track writes, but is of another type",
			with(Bitmap{Name: "b1", Auto: true}), problem.BitmapAutoOnOther, flags, Set(typ, 2)),
		one("bitmap/name-control", "a name that changes the colours of a terminal", with(Bitmap{Name: "\x1b[31mred"}), problem.BitmapNameDangerous, Place{}).mild(problem.Warning),
		one("bitmap/name-nul", "a name with a NUL: QEMU loses every bitmap when it opens the image for writing",
			with(Bitmap{Name: "ab\x00cdefghijk"}), problem.BitmapNameDangerous, Place{}),
		one("bitmap/name-not-utf8", "a name that is no text", with(Bitmap{Name: "caf\xe9"}), problem.BitmapNameDangerous, Place{}).mild(problem.Warning),
	}
}

// bitmapDataCases are faults of bitmap tables and of what bitmaps hold.
func bitmapDataCases() []Case {
	return slices.Concat(inSizes(bitmapDataCasesIn, 12, 9, 16, 21), inSizes(unalignedBitmapIn, 12, 10, 16, 21))
}

// unalignedBitmapIn is a table entry that names the middle of a cluster, which none can in
// clusters of 512 bytes.
func unalignedBitmapIn(bits uint32) []Case {
	clean := BitmapTableEntry("b0", 1)
	return []Case{one("bitmap-table/misaligned", "a table entry that names the middle of a cluster", bitmapSpec(bits),
		problem.BitmapEntryUnaligned, clean, PointAt(clean, Reserved("room"), 1<<(bits-1))).inAllSizes()}
}

func bitmapDataCasesIn(bits uint32) []Case {
	spec := func() Spec { return bitmapSpec(bits) }
	last := uint64(1)<<bits - 1
	stored, clean := BitmapTableEntry("b0", 0), BitmapTableEntry("b0", 1)
	zeros := spec()
	zeros.Bitmaps[1] = Bitmap{Name: "b1", StoreZeros: true}
	broken := spec()
	broken.Bitmaps[0].Dirty = broken.Bitmaps[0].Dirty[:2]
	ones := spec()
	ones.Bitmaps[0].Dirty = []Range{{0, ones.Size}}
	thorough := func(c Case) Case {
		c.BitmapData = true
		return c
	}
	unreadable := Case{Name: "bitmap-data/unreadable", Story: "a disk error where a bitmap's data is", Spec: broken,
		Unreadable: []Place{BitmapData("b0", 2)}, Want: []Want{{Code: problem.BitmapDataUnreadable, At: BitmapData("b0", 2), Bitmap: "b0"}}}
	return []Case{
		one("bitmap-table/reserved-low", "a low bit of a table entry", spec(), problem.BitmapLowReserved, stored, SetBits(stored, 1<<4)).inAllSizes(),
		one("bitmap-table/reserved-high", "a high bit of a table entry", spec(), problem.BitmapHighReserved, stored, SetBits(stored, 1<<63)).inAllSizes(),
		one("bitmap-table/ones-with-offset", "a cluster of ones that is also stored", spec(), problem.BitmapEntryContradiction, stored, SetBits(stored, 1)).inAllSizes(),
		one("bitmap-table/past-end", "a table entry that names a place behind the end of the file: QEMU reads it as clean", spec(),
			problem.BitmapEntryPastEnd, clean, Set(clean, tib)).inAllSizes(),
		one("bitmap-table/shared", "two parts of a bitmap in one cluster, refcount to match", spec(),
			problem.BitmapOverlap, clean, Copy(clean, stored), AddRefcount(BitmapData("b0", 0), 1)).inAllSizes(),
		one("bitmap-table/shared-with-bitmap", "two bitmaps in one cluster, refcount to match", spec(),
			problem.BitmapOverlap, BitmapTableEntry("b1", 0), Point(BitmapTableEntry("b1", 0), BitmapData("b0", 0)), AddRefcount(BitmapData("b0", 0), 1)),
		one("bitmap-data/tail", "bits behind the last one of the disk", spec(),
			problem.BitmapTrailingBits, BitmapData("b0", 4).At(0, 1), SetBits(BitmapData("b0", 4).At(0, 1), 0x80)).inAllSizes(),
		one("bitmap-data/tail-far", "bits at the end of the last cluster", spec(),
			problem.BitmapTrailingBits, BitmapData("b0", 4).At(last, 1), SetBits(BitmapData("b0", 4).At(last, 1), 1)).inAllSizes(),
		thorough(one("bitmap-data/zeros", "a cluster of zeros that is stored", zeros, problem.BitmapDataUniform, Place{})).inAllSizes(),
		thorough(one("bitmap-data/ones", "clusters of ones that are stored, as QEMU does it", ones, problem.BitmapDataUniform, BitmapData("b0", 0))),
		thorough(unreadable).inAllSizes(),
	}
}
