package corpus

import (
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// also damages the image once more and adds the finding that it gives.
func (c Case) also(code problem.Code, at Place, damage ...Damage) Case {
	c.Damage = append(slices.Clone(c.Damage), damage...)
	c.Want = append(slices.Clone(c.Want), Want{Code: code, At: at})
	return c
}

// mildly gives the last finding a severity other than the catalogue's.
func (c Case) mildly(s problem.Severity) Case {
	c.Want = slices.Clone(c.Want)
	c.Want[len(c.Want)-1].Severity = s
	return c
}

// togetherCases are images with every fault of one structure at once, as far as they
// leave room for each other, in the smallest, the usual and the largest clusters:
// every code of the catalogue comes in company.
func togetherCases() []Case {
	var cases []Case
	add := func(bits uint32, sections ...[]Case) {
		for _, c := range slices.Concat(sections...) {
			c.Name = fmt.Sprintf("combined/%s-%d", c.Name, 1<<bits)
			cases = append(cases, c)
		}
	}
	for _, bits := range []uint32{9, 16, 21} {
		add(bits, headersTogether(bits), filesTogether(bits), mappingsTogether(bits), refcountsTogether(bits), snapshotsTogether(bits), bitmapsTogether(bits))
	}
	for _, bits := range []uint32{10, 16, 21} {
		add(bits, misalignedTogether(bits))
	}
	for _, bits := range []uint32{14, 16, 21} {
		add(bits, subclustersTogether(bits))
	}
	return cases
}

func headersTogether(bits uint32) []Case {
	c := uint64(1) << bits
	const unknown = qcow2.ExtensionType(0x12345678)
	field := HeaderField
	incompat, autoclear := field(qcow2.FieldIncompatibleFeatures), field(qcow2.FieldAutoclearFeatures)
	padding, order, crypt := Bytes(107, 1), field(qcow2.FieldRefcountOrder), field(qcow2.FieldCryptMethod)
	clusterBits, length := field(qcow2.FieldClusterBits), field(qcow2.FieldHeaderLength)
	l1, table, snapshots := field(qcow2.FieldL1TableOffset), field(qcow2.FieldRefcountTableOffset), field(qcow2.FieldSnapshotsOffset)
	base := base(bits)
	extended := base
	extended.FeatureNames = []qcow2.FeatureName{qemuFeatureNames[0], {Type: 3, Bit: 1, Name: "odd"}}
	extended.Extensions = []RawExtension{{qcow2.ExtFeatureNames, make([]byte, 47)}, {unknown, []byte("some data")}, {qcow2.ExtBackingFormat, []byte("raw")}}
	crypto := base
	crypto.NoFeatureNames = true
	crypto.Extensions = []RawExtension{{qcow2.ExtCrypto, make([]byte, 8)}, {qcow2.ExtCrypto, make([]byte, 16)}}
	backed := func(name, format string) Spec {
		return Spec{ClusterBits: bits, Size: 64 * c, Backing: &Backing{Name: fmt.Sprintf("%d-%s", c, name), Format: format, Size: mib},
			Extensions: []RawExtension{{unknown, []byte("some data")}}}
	}
	large := qcow2.MaxL1Size / 8 * coverage(bits)
	return []Case{
		one("header", "every feature bit and spare byte that is wrong without being in the way", base,
			problem.MarkedDirty, incompat, SetBits(incompat, 1)).
			also(problem.MarkedCorrupt, incompat, SetBits(incompat, 2)).
			also(problem.AutoclearUnknown, autoclear, SetBits(autoclear, 1<<9)).
			also(problem.CompressionTypeContradiction, incompat, SetBits(incompat, uint64(qcow2.IncompatCompression))).
			also(problem.HeaderPaddingSet, padding, Set(padding, 1)).
			also(problem.RawExternalMisused, autoclear, SetBits(autoclear, uint64(qcow2.AutoclearRawData))).
			also(problem.L1TooSmall, field(qcow2.FieldL1Size), Set(field(qcow2.FieldSize), 8*coverage(bits))).
			also(problem.BitmapExtensionMissing, autoclear, SetBits(autoclear, uint64(qcow2.AutoclearBitmaps))),
		one("geometry", "nothing that a reader could begin with", base, problem.ClusterSizeInvalid, clusterBits, Set(clusterBits, 22)).
			also(problem.HeaderLengthInvalid, length, Set(length, 108)).
			also(problem.FeatureUnknown, incompat, SetBits(incompat, 1<<50)).
			also(problem.RefcountWidthInvalid, order, Set(order, 7)).
			also(problem.CryptMethodUnknown, crypt, Set(crypt, 3)),
		one("tables", "not one of the tables that the header names can be found", Spec{ClusterBits: bits, Size: 64 * c},
			problem.L1Misplaced, l1, Add(l1, int64(c/2))).
			also(problem.RefcountTableMisplaced, table, Add(table, int64(c/2))).
			also(problem.SnapshotTableMisplaced, snapshots, Set(snapshots, c/2)),
		one("too-large", "a disk of a later version, larger than any can be", empty(bits),
			problem.HeaderCombination, field(qcow2.FieldSize), Set(field(qcow2.FieldSize), 2*large), Set(field(qcow2.FieldL1Size), 8<<20), SetRefcount(L1Table(), 0)).
			also(problem.FeatureUnknown, incompat, SetBits(incompat, 1<<6)),
		one("extensions", "extensions that are odd, there twice, unknown, cut off, out of place", extended,
			problem.FeatureNameImpossible, ExtensionData(qcow2.ExtFeatureNames, 48, 48)).
			also(problem.ExtensionDuplicate, Extension(1)).
			also(problem.ExtensionLength, Extension(1)).
			also(problem.ExtensionUnused, ExtensionOf(qcow2.ExtBackingFormat)).
			also(problem.ExtensionUnknown, ExtensionOf(unknown)),
		one("crypto-pointers", "two pointers to an encryption header, one of them too short, in an image that is not encrypted", crypto,
			problem.ExtensionLength, ExtensionLength(qcow2.ExtCrypto)).
			also(problem.CryptoPointerContradiction, Extension(1)).
			also(problem.ExtensionDuplicate, Extension(1)),
		one("backing", "an extension too long before a backing file's name too long", backed("together.raw", ""),
			problem.ExtensionOverrun, ExtensionLength(unknown), Set(ExtensionLength(unknown), c)).
			also(problem.BackingNameMisplaced, field(qcow2.FieldBackingFileSize), Set(field(qcow2.FieldBackingFileSize), 1024)),
		one("backing-without-format", "a backing file whose format nobody wrote down, but for a word that nobody knows", backed("together-formatless.raw", ""), problem.BackingFormatMissing, Place{}).
			also(problem.ExtensionUnknown, ExtensionOf(unknown)).
			also(problem.HeaderPaddingSet, padding, Set(padding, 1)),
		one("backing-in-header", "the name of the backing file is a part of the header, and a bit of a later version says that this is right", backed("in-header.raw", "raw"),
			problem.ExtensionsIgnored, field(qcow2.FieldBackingFileOffset), Set(field(qcow2.FieldBackingFileOffset), 104), Set(field(qcow2.FieldBackingFileSize), 8)).
			also(problem.AutoclearUnknown, autoclear, SetBits(autoclear, 1<<3)),
	}
}

func filesTogether(bits uint32) []Case {
	c := uint64(1) << bits
	data := func(name string) Spec {
		s := Spec{ClusterBits: bits, Size: 64 * c, DataFile: &DataFile{Name: name}, Ops: touches(bits)}
		if name != "" {
			s.DataFile.Name = fmt.Sprintf("%d-%s", c, name)
		}
		return s
	}
	luks := Spec{ClusterBits: bits, Size: 64 * c, Crypt: qcow2.CryptLUKS, Ops: touches(bits)}
	pointer := ExtensionData(qcow2.ExtCrypto, 0, 8)
	packed := uint64(qcow2.Geometry{ClusterBits: uint(bits)}.NewCompressedEntry(0, 512))
	missing := data("together-missing.data")
	kept := data("")
	kept.Ops = []Op{Snapshot{ID: "1", Name: "first"}}
	gone := one("data-file", "a data file that is not there, of which other things are said than of one", missing,
		problem.L2Copied, L2Entry(c), ClearBits(L2Entry(c), copied)).
		also(problem.CompressedWithDataFile, L2Entry(2*c), Set(L2Entry(2*c), packed)).
		also(problem.DataFileOffset, L2Entry(3*c), Set(L2Entry(3*c), copied|c)).
		also(problem.DataFileMissing, Place{})
	gone.Missing = []string{missing.DataFile.Name}
	unreadable := one("unreadable", "a disk error where an L2 table is, and a byte that should be zero", Spec{ClusterBits: bits, Size: 64 * c, Ops: []Op{Zero{Length: c}}},
		problem.Unreadable, L2Table(0)).
		also(problem.HeaderPaddingSet, Bytes(107, 1), Set(Bytes(107, 1), 1))
	unreadable.Unreadable = []Place{L2Table(0)}
	return []Case{
		gone, unreadable,
		one("data-file-unnamed", "a data file without a name, and a snapshot of what it does not keep", kept, problem.DataFileUnnamed, Place{}).
			also(problem.SnapshotWithDataFile, Place{}),
		one("luks", "no encryption header where it should be, and a leak", luks, problem.CryptoHeaderMisplaced, pointer, Set(pointer, tib), SetRefcount(CryptoHeader(), 0)).
			also(problem.L2Copied, L2Entry(0), ClearBits(L2Entry(0), copied)),
		one("luks-header", "an encryption header of another version, which is not counted", luks,
			problem.LUKSHeaderDamaged, CryptoHeader().At(6, 2), Set(CryptoHeader().At(6, 2), 3)).
			also(problem.RefcountTooLow, RefcountOf(CryptoHeader().At(0, 1)), SetRefcount(CryptoHeader().At(0, 1), 0)),
	}
}

func mappingsTogether(bits uint32) []Case {
	c := uint64(1) << bits
	at := func(i uint64) Place { return L2Entry(i * c) }
	s := base(bits)
	s.Size = 8 * coverage(bits)
	second := coverage(bits)
	s.Ops = append(s.Ops, Write{Offset: 40 * c, Length: c, Pattern: 1, Compressed: true}, Map{Offset: second, Length: c}, Discard{Offset: second, Length: c, Full: true}, Map{Offset: 7 * second, Length: 2 * c})
	faults := one("mapping", "an entry of every kind that is wrong", s, problem.L1ReservedBits, L1Entry(1), SetBits(L1Entry(1), 1<<60)).
		also(problem.L1PastEnd, L1Entry(2), PointAt(L1Entry(2), End(1), 16*c)).
		also(problem.NotAnL2Table, Reserved("room").At(0, c), Put(Reserved("room"), noise(512)), SetRefcount(Reserved("room").At(0, 1), 1),
			Point(L1Entry(3), Reserved("room")), SetBits(L1Entry(3), copied)).
		also(problem.L1Copied, L1Entry(0), ClearBits(L1Entry(0), copied)).
		also(problem.L2ReservedBits, at(0), SetBits(at(0), 1<<5)).
		also(problem.L2PastEnd, at(2), PointAt(at(2), End(1), 32*c)).
		also(problem.L2Copied, at(1), ClearBits(at(1), copied)).
		also(problem.CompressedCopied, at(40), SetBits(at(40), copied)).
		also(problem.CompressedMisplaced, at(3), Set(at(3), uint64(qcow2.Geometry{ClusterBits: uint(bits)}.NewCompressedEntry(1<<40, 512)))).
		also(problem.L2ToHeader, at(4), Set(at(4), copied)).
		also(problem.DataShared, Place{}, Point(at(7), Data(5*c)), AddRefcount(Data(5*c), 1), ClearBits(at(5), copied)).
		also(problem.L2TableShared, L1Entry(5), Copy(L1Entry(5), L1Entry(1)), AddRefcount(L2Table(second), 1), ClearBits(L1Entry(1), copied), ClearBits(L1Entry(5), copied)).
		also(problem.MappedPastDisk, Place{}, Set(HeaderField(qcow2.FieldSize), 7*second+c)).mildly(problem.Warning)
	return []Case{faults, overlapsTogether(bits)}
}

// misalignedTogether are entries that name the middle of a cluster, which none can in
// clusters of 512 bytes.
func misalignedTogether(bits uint32) []Case {
	room, half, hole := Reserved("room"), uint64(1)<<(bits-1), L2Entry(unused(bits))
	s := base(bits)
	s.Bitmaps = []Bitmap{{Name: "b0"}}
	return []Case{one("misaligned", "entries of every table that name the middles of clusters", s,
		problem.L1Unaligned, L1Entry(2), PointAt(L1Entry(2), room, half)).
		also(problem.L2Unaligned, hole, PointAt(hole, room, half)).
		also(problem.RefcountEntryUnaligned, RefcountTableEntry(5), SetOffset(RefcountTableEntry(5), room, half)).
		also(problem.BitmapEntryUnaligned, BitmapTableEntry("b0", 0), PointAt(BitmapTableEntry("b0", 0), room, half))}
}

// subclustersTogether are faults of extended L2 entries, which take clusters of 16 KiB.
func subclustersTogether(bits uint32) []Case {
	c := uint64(1) << bits
	s := base(bits)
	s.ExtendedL2 = true
	return []Case{one("subclusters", "subclusters that are wrong in every way", s, problem.SubclusterConflict, L2Bitmap(0), SetBits(L2Bitmap(0), 1<<32)).
		also(problem.SubclusterUnplaced, L2Bitmap(2*c), Set(L2Bitmap(2*c), 3)).
		also(problem.L2ReservedBits, L2Descriptor(c), SetBits(L2Descriptor(c), 1))}
}

func overlapsTogether(bits uint32) Case {
	s := combinedSpec(bits)
	hole := L2Entry(10 << bits)
	return one("overlaps", "data of the guest in a table, two tables' entries for one block, two bitmaps in one cluster", s,
		problem.MetadataOverlap, hole, Point(hole, RefcountTable()), AddRefcount(RefcountTable(), 1)).
		also(problem.RefcountBlockOverlap, RefcountTableEntry(1), Copy(RefcountTableEntry(1), RefcountTableEntry(0)), AddRefcount(RefcountBlock(0), 1)).
		also(problem.BitmapOverlap, BitmapTableEntry("b1", 0), Point(BitmapTableEntry("b1", 0), BitmapData("b0", 0)), AddRefcount(BitmapData("b0", 0), 1))
}

func refcountsTogether(bits uint32) []Case {
	c := uint64(1) << bits
	room, entry := Reserved("room"), RefcountTableEntry
	s := base(bits)
	narrow := s
	narrow.RefcountBits = 1
	narrow.Ops = append(slices.Clone(s.Ops), Write{Offset: 40 * c, Length: c, Pattern: 1, Compressed: true})
	wide := Spec{ClusterBits: bits, RefcountBits: 64, Size: s.Size, Ops: []Op{Write{Length: 512, Pattern: 1}}}
	block := c * qcow2.Geometry{ClusterBits: uint(bits), RefcountOrder: 6}.RefcountBlockEntries()
	short := one("refcounts-short", "a file that became longer than what its refcounts cover, and a table entry for what no file has", wide,
		problem.RefcountMissing, entry(4), Extend(int64(5*block)), Set(L2Entry(5*c), 4*block|copied)).
		also(problem.RefcountEntryPastEnd, entry(6), SetOffset(entry(6), End(1), 16*c))
	short.Long = block > gib/4
	return []Case{
		one("refcounts", "everything that refcounts can get wrong at once", s, problem.RefcountEntryReserved, entry(0), SetBits(entry(0), 1<<2)).
			also(problem.RefcountEntryPastEnd, entry(6), SetOffset(entry(6), End(1), 16*c)).
			also(problem.RefcountBlockOverlap, entry(1), Copy(entry(1), entry(0)), AddRefcount(RefcountBlock(0), 1)).
			also(problem.RefcountTooLow, RefcountOf(Data(0)), SetRefcount(Data(0), 0)).
			also(problem.RefcountTooHigh, RefcountOf(room), SetRefcount(room, 1)),
		one("refcounts-narrow", "more references than a refcount of a bit can count, and a leak", narrow,
			problem.RefcountOverflow, RefcountOf(Data(40*c)), Copy(L2Entry(2*c), L2Entry(40*c))).
			also(problem.RefcountTooHigh, RefcountOf(room.At(0, c)), SetRefcount(room.At(0, 1), 1)),
		short,
	}
}

func snapshotsTogether(bits uint32) []Case {
	c := uint64(1) << bits
	size := 64 * c
	s := Spec{ClusterBits: bits, Size: size, Ops: []Op{Snapshot{ID: "1", Name: "first"}, Snapshot{ID: "2", Name: "second", NoExtraData: true},
		Snapshot{ID: "3", Name: "third"}, Snapshot{ID: "4", Name: "fourth"}, Snapshot{ID: "4", Name: "fifth"}, Snapshot{ID: "6", Name: "last"}}}
	l1, disk, extra := SnapshotField("1", 0, 8), SnapshotField("3", 48, 8), SnapshotField("6", qcow2.SnapshotFieldExtraDataSize, 4)
	cut := Spec{ClusterBits: bits, Size: size}
	for _, id := range []string{"1", "2", "2", "4", "5", "6"} {
		cut.Ops = append(cut.Ops, Snapshot{ID: id, Name: "s"})
	}
	return []Case{
		one("snapshots", "a snapshot for everything that can be wrong with one", s,
			problem.SnapshotL1Misplaced, l1, SetRefcount(SnapshotL1("1"), 0), Add(l1, int64(c/2))).
			also(problem.SnapshotFieldsMissing, SnapshotField("2", qcow2.SnapshotFieldExtraDataSize, 4)).
			also(problem.SnapshotL1TooSmall, SnapshotField("3", qcow2.SnapshotFieldL1Size, 4), Set(disk, 8*coverage(bits))).
			also(problem.SnapshotIDAmbiguous, Place{}).
			also(problem.SnapshotEntryOversized, extra, Set(extra, 0xfffffff8)),
		one("snapshots-cut", "two snapshots with one ID, and the file ends within the last", cut, problem.SnapshotTableShort, Place{},
			Truncate(SnapshotEntry("5"), 4), SetRefcount(SnapshotL1("5"), 0), SetRefcount(SnapshotL1("6"), 0)).
			also(problem.SnapshotIDAmbiguous, Place{}).
			also(problem.SnapshotL1Misplaced, SnapshotField("1", 0, 8), SetRefcount(SnapshotL1("1"), 0), Set(SnapshotField("1", 0, 8), tib)),
	}
}

func bitmapsTogether(bits uint32) []Case {
	entry := BitmapTableEntry
	field := func(name string, off, n uint64) Place { return BitmapField(name, off, n) }
	at := func(name string) Place { return field(name, qcow2.BitmapFieldTableOffset, 8) }
	size := func(name string) Place { return field(name, qcow2.BitmapFieldTableSize, 4) }
	flags := func(name string) Place { return field(name, qcow2.BitmapFieldFlags, 4) }
	typ := func(name string) Place { return field(name, qcow2.BitmapFieldType, 1) }
	gran := func(name string) Place { return field(name, qcow2.BitmapFieldGranularityBits, 1) }
	ext := func(off, n uint64) Place { return ExtensionData(qcow2.ExtBitmaps, off, n) }
	reserved, nb, directory := ext(qcow2.BitmapsExtReserved, 4), ext(qcow2.BitmapsExtNbBitmaps, 4), ext(qcow2.BitmapsExtDirectoryOffset, 8)
	directorySize := ext(qcow2.BitmapsExtDirectorySize, 8)
	crowd := Spec{ClusterBits: bits, Size: mib, Bitmaps: []Bitmap{{Name: "far"}, {Name: "none"}, {Name: "long"}, {Name: "flags"}, {Name: "type"},
		{Name: "fine"}, {Name: "twice"}, {Name: "twice"}, {Name: "later", ExtraData: []byte("12345678")}, {Name: "padded"}, {Name: "used", InUse: true},
		{Name: "auto", Auto: true}, {Name: "\x1b[31mred"}, {}}}
	ends := Spec{ClusterBits: bits, Size: mib, Bitmaps: []Bitmap{{Name: "first"}, {Name: "last"}}}
	stale := ends
	stale.StaleBitmaps = true
	v2 := ends
	v2.Version = 2
	tables := bitmapSpec(bits)
	unreadable := one("bitmap-unreadable", "a disk error in a bitmap's data, and a fault in its table", bitmapSpec(bits), problem.BitmapDataUnreadable, BitmapData("b0", 2)).
		also(problem.BitmapLowReserved, entry("b0", 0), SetBits(entry("b0", 0), 1<<4))
	unreadable.Unreadable, unreadable.BitmapData = []Place{BitmapData("b0", 2)}, true
	stored := tables
	stored.Bitmaps = append(slices.Clone(tables.Bitmaps), Bitmap{Name: "b2", StoreZeros: true})
	data := one("bitmap-tables", "everything that can be wrong with a bitmap's table and data", stored,
		problem.BitmapLowReserved, entry("b0", 0), SetBits(entry("b0", 0), 1<<4)).
		also(problem.BitmapHighReserved, entry("b0", 2), SetBits(entry("b0", 2), 1<<60)).
		also(problem.BitmapEntryContradiction, entry("b0", 4), SetBits(entry("b0", 4), 1)).
		also(problem.BitmapEntryPastEnd, entry("b0", 1), Set(entry("b0", 1), tib)).
		also(problem.BitmapOverlap, entry("b0", 3), Point(entry("b0", 3), BitmapData("b0", 0)), AddRefcount(BitmapData("b0", 0), 1)).
		also(problem.BitmapDataUniform, BitmapData("b2", 0))
	data.BitmapData = true
	return []Case{
		one("bitmap-crowd", "a bitmap for everything that can be wrong with one", crowd,
			problem.BitmapTableMisplaced, at("far"), Set(at("far"), tib), SetRefcount(BitmapTable("far"), 0)).
			also(problem.BitmapTableSize, size("none"), Set(size("none"), 0)).
			also(problem.BitmapSizeMismatch, size("long"), Add(size("long"), 1)).
			also(problem.BitmapFlagsReserved, flags("flags"), SetBits(flags("flags"), 1<<7)).
			also(problem.BitmapTypeUnknown, typ("type"), Set(typ("type"), 2)).
			also(problem.BitmapGranularity, gran("fine"), Set(gran("fine"), 64)).
			also(problem.BitmapNameDuplicate, Place{}).
			also(problem.BitmapExtraData, field("later", qcow2.BitmapFieldExtraDataSize, 4)).
			also(problem.BitmapEntryPadding, field("padded", 31, 1), Set(field("padded", 31, 1), 1)).
			also(problem.BitmapInUse, flags("used")).
			also(problem.BitmapAutoOnOther, flags("auto"), Set(typ("auto"), 3)).
			also(problem.BitmapNameDangerous, Place{}).mildly(problem.Warning).
			also(problem.BitmapNameLength, field("", qcow2.BitmapFieldNameSize, 2)),
		one("bitmaps-count", "every number in the bitmaps extension is wrong", ends, problem.BitmapCountWrong, nb, Set(nb, 3)).
			also(problem.BitmapExtensionReserved, reserved, Set(reserved, 7)).
			also(problem.BitmapDirectorySize, directorySize, Add(directorySize, 8)),
		one("bitmaps-stale", "bitmaps that are not true any more, and the last runs out of the directory", stale,
			problem.BitmapsStale, HeaderField(qcow2.FieldAutoclearFeatures)).
			also(problem.BitmapEntryBroken, field("last", qcow2.BitmapFieldNameSize, 2), Set(field("last", qcow2.BitmapFieldNameSize, 2), 200)).mildly(problem.Warning),
		one("bitmaps-lost", "bitmaps in a version 2 image, without a directory", v2, problem.BitmapsInVersion2, ExtensionOf(qcow2.ExtBitmaps)).
			also(problem.BitmapDirectoryMisplaced, directory, Set(directory, 0), SetRefcount(BitmapDirectory(), 0), SetRefcount(BitmapTable("first"), 0), SetRefcount(BitmapTable("last"), 0)).mildly(problem.Warning),
		data, unreadable,
		one("bitmap-tail", "bits behind a bitmap's end, and a flag that there is not", bitmapSpec(bits), problem.BitmapTrailingBits, BitmapData("b0", 4).At(0, 1), SetBits(BitmapData("b0", 4).At(0, 1), 0x80)).
			also(problem.BitmapFlagsReserved, flags("b1"), SetBits(flags("b1"), 1<<7)),
	}
}
