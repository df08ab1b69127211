package corpus

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// headerCases are faults of the header.
func headerCases() []Case {
	return slices.Concat(inSizes(headerCasesIn, 16, 9, 21), inSizes(crashCasesIn, 21, 16))
}

func headerCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	field := HeaderField
	incompat, autoclear := field(qcow2.FieldIncompatibleFeatures), field(qcow2.FieldAutoclearFeatures)
	base, empty := base(bits), empty(bits)
	named := base
	named.FeatureNames = append(qemuFeatureNames[:len(qemuFeatureNames):len(qemuFeatureNames)],
		qcow2.FeatureName{Type: qcow2.FeatureIncompatible, Bit: 40, Name: "fancy\x1b[31m feature"})
	backed := func(name string) Spec {
		return Spec{ClusterBits: bits, Size: 128 * c, Backing: &Backing{Name: sizedName(name, bits), Format: "raw", Size: mib}}
	}
	most := qcow2.MaxL1Size / 8 * coverage(bits) // the largest disk there can be
	return []Case{
		{Name: "header/magic", Story: "not a qcow2 image at all: one bit of the magic is off",
			Spec: base, Damage: []Damage{FlipBits(field(qcow2.FieldMagic), 1)},
			Want: []Want{{Code: problem.NotQcow2, At: field(qcow2.FieldMagic)}}},
		one("header/version-4", "made by software of the future", base,
			problem.VersionUnknown, field(qcow2.FieldVersion), Set(field(qcow2.FieldVersion), 4)),
		one("header/version-1", "the older qcow format", base,
			problem.VersionUnknown, field(qcow2.FieldVersion), Set(field(qcow2.FieldVersion), 1)),
		one("header/cluster-bits-8", "clusters smaller than a sector", base,
			problem.ClusterSizeInvalid, field(qcow2.FieldClusterBits), Set(field(qcow2.FieldClusterBits), 8)),
		one("header/cluster-bits-22", "clusters larger than QEMU takes", base,
			problem.ClusterSizeInvalid, field(qcow2.FieldClusterBits), Set(field(qcow2.FieldClusterBits), 22)),
		one("header/cluster-bits-huge", "a shift by more bits than a word has", base,
			problem.ClusterSizeInvalid, field(qcow2.FieldClusterBits), Set(field(qcow2.FieldClusterBits), 0xffffffff)),
		one("header/extended-l2-clusters-small", "extended L2 entries in clusters of 8 KiB, a 32nd of which is no sector",
			Spec{ClusterBits: 13, Size: mib}, problem.ClusterSizeInvalid, field(qcow2.FieldClusterBits),
			SetBits(incompat, uint64(qcow2.IncompatExtendedL2))),
		one("header/header-length-100", "a header shorter than that of version 3", base,
			problem.HeaderLengthInvalid, field(qcow2.FieldHeaderLength), Set(field(qcow2.FieldHeaderLength), 96)),
		one("header/header-length-odd", "a header length that is no multiple of 8", base,
			problem.HeaderLengthInvalid, field(qcow2.FieldHeaderLength), Set(field(qcow2.FieldHeaderLength), 108)),
		one("header/header-length-huge", "a header longer than the first cluster", base,
			problem.HeaderLengthInvalid, field(qcow2.FieldHeaderLength), Set(field(qcow2.FieldHeaderLength), c+8)).inAllSizes(),
		one("header/incompatible-bit-5", "a feature that nobody knows yet", base,
			problem.FeatureUnknown, incompat, SetBits(incompat, 1<<5)),
		one("header/incompatible-bit-named", "a feature that the image has a name for, made to look like something else on a terminal", named,
			problem.FeatureUnknown, incompat, SetBits(incompat, 1<<40)),
		one("header/dirty", "not closed after it was written to with lazy refcounts; they agree all the same",
			Spec{Size: 8 * mib, Lazy: true, Dirty: true, Ops: writes(Spec{Size: 8 * mib})}, problem.MarkedDirty, incompat),
		one("header/dirty-refcounts-lost", "not closed, and the entry of its only refcount block is gone but for a bit: QEMU makes new refcounts when it opens the image",
			Spec{Size: 8 * mib, Lazy: true, Dirty: true, Ops: writes(Spec{Size: 8 * mib})}, problem.MarkedDirty, incompat,
			Set(RefcountTableEntry(0), 1)).and(problem.RefcountEntryReserved, RefcountTableEntry(0)).and(problem.RefcountMissing, RefcountTableEntry(0)),
		one("header/corrupt", "a QEMU found a fault and marked the image",
			Spec{Size: 8 * mib, Corrupt: true, Ops: writes(Spec{Size: 8 * mib})}, problem.MarkedCorrupt, incompat),
		one("header/autoclear-bit-2", "an autoclear feature that nobody knows yet", base,
			problem.AutoclearUnknown, autoclear, SetBits(autoclear, 1<<2)),
		one("header/refcount-order-7", "refcounts of 128 bits", base,
			problem.RefcountWidthInvalid, field(qcow2.FieldRefcountOrder), Set(field(qcow2.FieldRefcountOrder), 7)),
		one("header/refcount-order-huge", "a shift by more bits than a word has", base,
			problem.RefcountWidthInvalid, field(qcow2.FieldRefcountOrder), Set(field(qcow2.FieldRefcountOrder), 0xffffffff)),
		one("header/crypt-method-3", "an encryption method that there is not", base,
			problem.CryptMethodUnknown, field(qcow2.FieldCryptMethod), Set(field(qcow2.FieldCryptMethod), 3)),
		one("header/size-beyond-l1", "the virtual size was raised without a larger L1 table", base,
			problem.L1TooSmall, field(qcow2.FieldL1Size), Set(field(qcow2.FieldSize), 8*coverage(bits))).inAllSizes(),
		one("header/l1-misaligned", "the L1 table is said to start within a cluster", empty,
			problem.L1Misplaced, field(qcow2.FieldL1TableOffset),
			SetRefcount(L1Table(), 0), Add(field(qcow2.FieldL1TableOffset), int64(c/2))).inAllSizes(),
		one("header/l1-past-end", "the L1 table is said to lie behind the end of the file", empty,
			problem.L1Misplaced, field(qcow2.FieldL1TableOffset),
			SetRefcount(L1Table(), 0), SetOffset(field(qcow2.FieldL1TableOffset), End(1), 16*c)).inAllSizes(),
		one("header/l1-huge", "an L1 table of more than 32 MiB", empty,
			problem.L1Misplaced, field(qcow2.FieldL1Size), SetRefcount(L1Table(), 0),
			Set(field(qcow2.FieldL1Size), qcow2.MaxL1Size/8+1)).inAllSizes(),
		one("header/refcount-table-misaligned", "the refcount table is said to start within a cluster", base,
			problem.RefcountTableMisplaced, field(qcow2.FieldRefcountTableOffset), Add(field(qcow2.FieldRefcountTableOffset), 8)).inAllSizes(),
		one("header/refcount-table-none", "a refcount table of no clusters", base,
			problem.RefcountTableMisplaced, field(qcow2.FieldRefcountTableClusters), Set(field(qcow2.FieldRefcountTableClusters), 0)),
		one("header/refcount-table-huge", "a refcount table of more than 8 MiB", base,
			problem.RefcountTableMisplaced, field(qcow2.FieldRefcountTableClusters), Set(field(qcow2.FieldRefcountTableClusters), qcow2.MaxRefcountTableSize/c+1)).inAllSizes(),
		one("header/refcount-table-past-end", "the refcount table is said to lie behind the end of the file", base,
			problem.RefcountTableMisplaced, field(qcow2.FieldRefcountTableOffset),
			SetOffset(field(qcow2.FieldRefcountTableOffset), End(1), 16*c)).inAllSizes(),
		one("header/snapshots-misaligned", "no snapshots, but their table is said to start within a cluster", base,
			problem.SnapshotTableMisplaced, field(qcow2.FieldSnapshotsOffset), Set(field(qcow2.FieldSnapshotsOffset), c/2)).inAllSizes(),
		one("header/snapshots-past-end", "a snapshot table behind the end of the file", base,
			problem.SnapshotTableMisplaced, field(qcow2.FieldSnapshotsOffset),
			Set(field(qcow2.FieldNbSnapshots), 1), SetOffset(field(qcow2.FieldSnapshotsOffset), End(1), 16*c)).inAllSizes(),
		one("header/snapshots-too-many", "more than 65,536 snapshots", base,
			problem.SnapshotTableMisplaced, field(qcow2.FieldNbSnapshots), Set(field(qcow2.FieldNbSnapshots), qcow2.MaxSnapshots+1),
			SetOffset(field(qcow2.FieldSnapshotsOffset), Reserved("room"), 0)),
		one("header/backing-name-long", "a backing file name of 1,024 bytes", backed("name-long.raw"),
			problem.BackingNameMisplaced, field(qcow2.FieldBackingFileSize), Set(field(qcow2.FieldBackingFileSize), 1024)),
		one("header/backing-name-outside", "a backing file name behind the first cluster", backed("name-outside.raw"),
			problem.BackingNameMisplaced, field(qcow2.FieldBackingFileOffset), Set(field(qcow2.FieldBackingFileOffset), c+8)).inAllSizes(),
		one("header/backing-name-runs-out", "a backing file name that runs past the first cluster", backed("name-runs-out.raw"),
			problem.BackingNameMisplaced, field(qcow2.FieldBackingFileSize), Set(field(qcow2.FieldBackingFileOffset), c-4)).inAllSizes(),
		one("header/compression-type-without-bit", "zstd, but old software is not told", base,
			problem.CompressionTypeContradiction, field(qcow2.FieldCompressionType), Set(field(qcow2.FieldCompressionType), 1)),
		one("header/compression-bit-without-type", "old software is kept out for nothing", base,
			problem.CompressionTypeContradiction, incompat, SetBits(incompat, uint64(qcow2.IncompatCompression))),
		one("header/compression-type-unknown", "a compression method of the future", base,
			problem.CompressionTypeContradiction, field(qcow2.FieldCompressionType),
			Set(field(qcow2.FieldCompressionType), 2), SetBits(incompat, uint64(qcow2.IncompatCompression))),
		one("header/padding", "a byte behind the compression type that should be zero", base,
			problem.HeaderPaddingSet, Bytes(107, 1), Set(Bytes(107, 1), 0x55)),
		one("header/raw-without-data-file", "the data file is said to be raw, but there is none", base,
			problem.RawExternalMisused, autoclear, SetBits(autoclear, uint64(qcow2.AutoclearRawData))),
		one("header/raw-with-backing", "a raw data file cannot be the whole disk over a backing file",
			Spec{Size: 8 * mib, Backing: &Backing{Name: "raw-with-backing.raw", Format: "raw", Size: mib},
				DataFile: &DataFile{Name: "raw-with-backing.data"}},
			problem.RawExternalMisused, autoclear, SetBits(autoclear, uint64(qcow2.AutoclearRawData))),
		one("header/disk-too-large", "a disk that takes an L1 table of more than 32 MiB", empty, problem.HeaderCombination, field(qcow2.FieldSize),
			Set(field(qcow2.FieldSize), 2*most), Set(field(qcow2.FieldL1Size), 8<<20), SetRefcount(L1Table(), 0)).inAllSizes(),
		{Name: "header/file-too-short", Story: "the file ends within the header",
			Spec: base, Damage: []Damage{Truncate(HeaderCluster(), 96)},
			Want: []Want{{Code: problem.HeaderCut, At: Bytes(96, 4)}, {Code: problem.L1Misplaced}, {Code: problem.RefcountTableMisplaced}}},
		one("header/backing-name-in-header", "the backing file's name lies within the header, so that extensions have no room",
			backed("name-in-header.raw"), problem.ExtensionsIgnored, field(qcow2.FieldBackingFileOffset),
			Set(field(qcow2.FieldBackingFileOffset), 104), Set(field(qcow2.FieldBackingFileSize), 8)),
	}
}

// crashCasesIn are images that QEMU does not survive, which takes a large disk.
func crashCasesIn(bits uint32) []Case {
	return []Case{Case{Name: "header/crash", Story: "a bitmap in use with more bits than QEMU's bitmaps can have: it aborts",
		Spec: Spec{ClusterBits: bits, Size: 2 * pib, Bitmaps: []Bitmap{
			{Name: "b0", GranularityBits: 9, InUse: true, Auto: true, TableSize: 1}}},
		Want: []Want{{Code: problem.QEMUCrash}, {Code: problem.BitmapInUse, Bitmap: "b0"}, {Code: problem.BitmapSizeMismatch, Severity: problem.Note}}}.inAllSizes()}
}

// extensionCases are faults of the header extensions.
func extensionCases() []Case { return inSizes(extensionCasesIn, 16, 9, 21) }

func extensionCasesIn(bits uint32) []Case {
	base, empty := base(bits), empty(bits)
	plain := func(exts ...RawExtension) Spec {
		s := base
		s.Extensions = exts
		return s
	}
	const unknown = qcow2.ExtensionType(0x12345678)
	names := qcow2.EncodeFeatureNames(qemuFeatureNames)
	twoTables := plain(RawExtension{qcow2.ExtFeatureNames, names})
	short := plain(RawExtension{qcow2.ExtFeatureNames, names[:100]})
	short.NoFeatureNames = true
	luks := Spec{Size: 8 * mib, Crypt: qcow2.CryptLUKS}
	odd := func(n qcow2.FeatureName) Spec {
		s := base
		s.FeatureNames = []qcow2.FeatureName{qemuFeatureNames[0], n}
		return s
	}
	return []Case{
		one("extension/too-long", "an extension that claims more than the first cluster", plain(RawExtension{unknown, []byte("some data")}),
			problem.ExtensionOverrun, ExtensionLength(unknown), Set(ExtensionLength(unknown), 0xffffff00)),
		one("extension/past-the-cluster", "an extension that ends behind the first cluster", plain(RawExtension{unknown, []byte("some data")}),
			problem.ExtensionOverrun, ExtensionLength(unknown), Set(ExtensionLength(unknown), 1<<bits)).inAllSizes(),
		one("extension/runs-into-backing-name", "an extension that runs into the backing file's name",
			Spec{Size: 8 * mib, Backing: &Backing{Name: "runs-into.raw", Format: "raw", Size: mib}},
			problem.ExtensionOverrun, ExtensionLength(qcow2.ExtFeatureNames), Add(ExtensionLength(qcow2.ExtFeatureNames), 48)),
		one("extension/twice", "two feature name tables", twoTables, problem.ExtensionDuplicate, Extension(1)),
		one("extension/feature-names-length", "a feature name table that is no whole number of entries",
			short, problem.ExtensionLength, ExtensionLength(qcow2.ExtFeatureNames)),
		one("extension/bitmaps-length", "a bitmaps extension of 16 bytes",
			plain(RawExtension{qcow2.ExtBitmaps, make([]byte, 16)}), problem.ExtensionLength, ExtensionLength(qcow2.ExtBitmaps),
			SetBits(HeaderField(qcow2.FieldAutoclearFeatures), uint64(qcow2.AutoclearBitmaps))),
		one("extension/crypto-length", "a pointer to the encryption header of 8 bytes",
			plain(RawExtension{qcow2.ExtCrypto, make([]byte, 8)}), problem.ExtensionLength, ExtensionLength(qcow2.ExtCrypto), Set(HeaderField(qcow2.FieldCryptMethod), 2)),
		one("extension/no-crypto-pointer", "LUKS, and no word about where its header is", empty,
			problem.CryptoPointerContradiction, HeaderField(qcow2.FieldCryptMethod), Set(HeaderField(qcow2.FieldCryptMethod), 2)),
		one("extension/crypto-pointer-without-luks", "a LUKS header in an image that is said not to be encrypted", luks,
			problem.CryptoPointerContradiction, ExtensionOf(qcow2.ExtCrypto), Set(HeaderField(qcow2.FieldCryptMethod), 0), SetRefcount(CryptoHeader(), 0)),
		one("extension/data-file-without-bit", "the name of a data file, but no data file",
			plain(RawExtension{qcow2.ExtDataFile, []byte("disk.raw")}), problem.ExtensionUnused, ExtensionOf(qcow2.ExtDataFile)),
		one("extension/backing-format-without-file", "the format of a backing file, but no backing file",
			plain(RawExtension{qcow2.ExtBackingFormat, []byte("qcow2")}), problem.ExtensionUnused, ExtensionOf(qcow2.ExtBackingFormat)),
		one("extension/feature-type", "a feature name of a type that there is not", odd(qcow2.FeatureName{Type: 3, Bit: 1, Name: "odd"}),
			problem.FeatureNameImpossible, ExtensionData(qcow2.ExtFeatureNames, 48, 48)),
		one("extension/feature-bit", "a feature name for bit 64", odd(qcow2.FeatureName{Type: 0, Bit: 64, Name: "odd"}),
			problem.FeatureNameImpossible, ExtensionData(qcow2.ExtFeatureNames, 48, 48)),
		one("extension/unknown", "an extension that nobody knows yet", plain(RawExtension{unknown, []byte("some data")}),
			problem.ExtensionUnknown, ExtensionOf(unknown)),
	}
}
