// Package problem is what can be wrong with an image, whatever image it is: the codes of
// findings, the catalogue with every fact about each of them, what a finding is, and the
// collector that counts findings and bounds how many are listed.
//
// A code has one row in the catalogue, see [Rule]. Nothing else in the project keeps a list
// of codes: who has to decide something by the kind of a finding asks [Code.Is] or
// [Code.About]. docs/adding-a-finding.md walks through adding one.
package problem

// Code names a kind of finding. Codes are stable: never renumbered, never
// reused. What each means stands in the catalogue, see [Lookup].
type Code string

// The codes of the catalogue.
const (
	FileTruncated Code = "FIL001"

	NotQcow2                     Code = "HDR001"
	VersionUnknown               Code = "HDR002"
	ClusterSizeInvalid           Code = "HDR003"
	HeaderLengthInvalid          Code = "HDR004"
	FeatureUnknown               Code = "HDR005"
	MarkedDirty                  Code = "HDR006"
	MarkedCorrupt                Code = "HDR007"
	AutoclearUnknown             Code = "HDR008"
	RefcountWidthInvalid         Code = "HDR009"
	CryptMethodUnknown           Code = "HDR010"
	L1TooSmall                   Code = "HDR011"
	L1Misplaced                  Code = "HDR012"
	RefcountTableMisplaced       Code = "HDR013"
	SnapshotTableMisplaced       Code = "HDR014"
	BackingNameMisplaced         Code = "HDR015"
	CompressionTypeContradiction Code = "HDR016"
	HeaderPaddingSet             Code = "HDR017"
	RawExternalMisused           Code = "HDR018"
	HeaderCombination            Code = "HDR019"
	HeaderCut                    Code = "HDR020"
	QEMUCrash                    Code = "HDR021"
	ExtensionsIgnored            Code = "HDR022"

	ExtensionOverrun           Code = "EXT001"
	ExtensionDuplicate         Code = "EXT002"
	ExtensionLength            Code = "EXT003"
	CryptoPointerContradiction Code = "EXT004"
	ExtensionUnused            Code = "EXT005"
	FeatureNameImpossible      Code = "EXT006"
	ExtensionUnknown           Code = "EXT007"

	L1ReservedBits         Code = "MAP001"
	L1Unaligned            Code = "MAP002"
	L1PastEnd              Code = "MAP003"
	L1Copied               Code = "MAP004"
	L2ReservedBits         Code = "MAP005"
	L2Unaligned            Code = "MAP006"
	L2PastEnd              Code = "MAP007"
	L2Copied               Code = "MAP008"
	CompressedCopied       Code = "MAP009"
	CompressedMisplaced    Code = "MAP010"
	CompressedWithDataFile Code = "MAP011"
	SubclusterConflict     Code = "MAP012"
	SubclusterUnplaced     Code = "MAP013"
	L2ToHeader             Code = "MAP014"
	DataFileOffset         Code = "MAP015"
	MetadataOverlap        Code = "MAP016"
	DataShared             Code = "MAP017"
	L2TableShared          Code = "MAP018"
	MappedPastDisk         Code = "MAP019"
	OrphanL2Table          Code = "MAP020"
	NotAnL2Table           Code = "MAP021"
	TableWiped             Code = "MAP022"
	ClusterNotStored       Code = "MAP023"

	CompressedUnreadable Code = "CMP001"

	RefcountEntryReserved  Code = "REF001"
	RefcountEntryUnaligned Code = "REF002"
	RefcountEntryPastEnd   Code = "REF003"
	RefcountBlockOverlap   Code = "REF004"
	RefcountTooLow         Code = "REF005"
	RefcountTooHigh        Code = "REF006"
	RefcountOverflow       Code = "REF007"
	RefcountMissing        Code = "REF008"
	OwnerUnknown           Code = "REF009"

	SnapshotTableShort     Code = "SNP001"
	SnapshotL1Misplaced    Code = "SNP002"
	SnapshotFieldsMissing  Code = "SNP003"
	SnapshotEntryOversized Code = "SNP004"
	SnapshotIDAmbiguous    Code = "SNP005"
	SnapshotWithDataFile   Code = "SNP006"
	SnapshotL1TooSmall     Code = "SNP007"
	SnapshotsOrphaned      Code = "SNP008"

	BitmapExtensionMissing   Code = "BMP001"
	BitmapsStale             Code = "BMP002"
	BitmapCountWrong         Code = "BMP003"
	BitmapExtensionReserved  Code = "BMP004"
	BitmapDirectoryMisplaced Code = "BMP005"
	BitmapDirectorySize      Code = "BMP006"
	BitmapsInVersion2        Code = "BMP007"
	BitmapsOrphaned          Code = "BMP008"

	BitmapEntryBroken    Code = "BMD001"
	BitmapTableMisplaced Code = "BMD002"
	BitmapTableSize      Code = "BMD003"
	BitmapSizeMismatch   Code = "BMD004"
	BitmapFlagsReserved  Code = "BMD005"
	BitmapTypeUnknown    Code = "BMD006"
	BitmapGranularity    Code = "BMD007"
	BitmapNameLength     Code = "BMD008"
	BitmapNameDuplicate  Code = "BMD009"
	BitmapExtraData      Code = "BMD010"
	BitmapEntryPadding   Code = "BMD011"
	BitmapInUse          Code = "BMD012"
	BitmapAutoOnOther    Code = "BMD013"
	BitmapNameDangerous  Code = "BMD014"
	BitmapTableElsewhere Code = "BMD015"

	BitmapLowReserved        Code = "BMT001"
	BitmapHighReserved       Code = "BMT002"
	BitmapEntryContradiction Code = "BMT003"
	BitmapEntryUnaligned     Code = "BMT004"
	BitmapEntryPastEnd       Code = "BMT005"
	BitmapOverlap            Code = "BMT006"

	BitmapTrailingBits   Code = "BMX001"
	BitmapDataUniform    Code = "BMX002"
	BitmapDataUnreadable Code = "BMX003"

	CryptoHeaderMisplaced Code = "CRY001"
	LUKSHeaderDamaged     Code = "CRY002"
	NotEncrypted          Code = "CRY003"

	DataFileMissing   Code = "DAT001"
	DataFileUnnamed   Code = "DAT002"
	DataFileMisplaced Code = "DAT003"

	BackingUnreadable    Code = "CHN001"
	BackingFormatMissing Code = "CHN002"
	BackingFormatWrong   Code = "CHN003"
	BackingLength        Code = "CHN004"
	BackingInUse         Code = "CHN005"
	BackingUnsound       Code = "CHN006"

	QEMURefuses Code = "OPN001"

	Unreadable   Code = "IOE001"
	LimitReached Code = "LIM001"
)
