package problem

import (
	"github.com/qcheck/qcheck/qcow2"
)

// Severity tells how bad a finding is.
type Severity uint8

// The severities, mildest first.
const (
	// Note: legitimate, worth knowing.
	Note Severity = iota + 1
	// Warning: the specification is violated or the content is stale, but no
	// guest data is at risk today.
	Warning
	// Leak: space is lost, nothing else.
	Leak
	// InDoubt: clusters hold data and nobody knows whose it is, or a table may
	// have been lost. It is space that is lost, or a part of a disk.
	InDoubt
	// Corruption: data is wrong, unreadable or unsafe to write, or QEMU refuses
	// to open the image because of it.
	Corruption
	// Trouble: not a fault of the image; something kept us from looking (an
	// I/O error, a limit). `qemu-img check` counts these as check-errors.
	Trouble
)

var severityNames = map[Severity]string{
	Note: "note", Warning: "warning", Leak: "leak", InDoubt: "in-doubt", Corruption: "corruption", Trouble: "error",
}

func (s Severity) String() string { return severityNames[s] }

// Repair tells what a repair can do about a finding.
type Repair uint8

// The kinds of repair.
const (
	// RepairNone: nothing can be done about it.
	RepairNone Repair = iota + 1
	// RepairSafe: `-r` does it; no guest-visible byte and no trustworthy bitmap
	// bit is lost.
	RepairSafe
	// RepairPolicy: `-r` does what `--bitmap-policy` says.
	RepairPolicy
	// RepairLossy: only with `--allow-data-loss`.
	RepairLossy
	// RepairReattach: only with `--reattach`.
	RepairReattach
)

var repairNames = map[Repair]string{
	RepairNone: "none", RepairSafe: "safe", RepairPolicy: "policy", RepairLossy: "lossy", RepairReattach: "reattach",
}

func (r Repair) String() string { return repairNames[r] }

// Structure names a part of the image, as reports and JSON do.
type Structure string

// The structures, in the order in which reports show them.
const (
	StructFile            Structure = "file"
	StructHeader          Structure = "header"
	StructExtension       Structure = "header-extension"
	StructCryptoHeader    Structure = "crypto-header"
	StructDataFile        Structure = "data-file"
	StructBackingFile     Structure = "backing-file"
	StructSnapshotTable   Structure = "snapshot-table"
	StructL1Table         Structure = "l1-table"
	StructL2Table         Structure = "l2-table"
	StructDataCluster     Structure = "data-cluster"
	StructRefcountTable   Structure = "refcount-table"
	StructRefcountBlock   Structure = "refcount-block"
	StructBitmapExtension Structure = "bitmap-extension"
	StructBitmapDirectory Structure = "bitmap-directory"
	StructBitmapTable     Structure = "bitmap-table"
	StructBitmapData      Structure = "bitmap-data"
)

// OfBitmaps tells whether a structure belongs to the bitmaps.
func (s Structure) OfBitmaps() bool {
	switch s {
	case StructBitmapExtension, StructBitmapDirectory, StructBitmapTable, StructBitmapData:
		return true
	}
	return false
}

// Structures lists all structures in the order in which reports show them.
func Structures() []Structure {
	return []Structure{StructFile, StructHeader, StructExtension, StructCryptoHeader, StructDataFile,
		StructBackingFile, StructSnapshotTable, StructL1Table, StructL2Table, StructDataCluster,
		StructRefcountTable, StructRefcountBlock, StructBitmapExtension, StructBitmapDirectory,
		StructBitmapTable, StructBitmapData}
}

// Finding is one thing that is wrong with an image, or a run of neighbouring
// things of the same kind.
type Finding struct {
	Code      Code
	Severity  Severity  // the catalogue's unless the image explains what is odd
	Structure Structure // the catalogue's unless the pass knows better
	Repair    Repair    // the catalogue's unless the pass knows better

	// Message says what is wrong; see [Finding.Text].
	Message Text
	// Path leads to the fault through the structures: "l1[3] → l2[17]".
	Path Path

	// Extent is the bytes of the file at fault: what would have to be other
	// than it is. Its length is 0 where no bytes can be named.
	Extent qcow2.Extent

	// Owner of the bytes, as far as there is one.
	Snapshot    string // ID, escaped, for a reader
	Of          SnapshotRef
	Bitmap      string // name, escaped
	GuestOffset *qcow2.GuestOffset
	Cluster     *qcow2.HostCluster // the (first) host cluster that it is about

	Value    Value // what was seen
	Expected Value // what should stand there, where that is known

	// Count is how many units are concerned (clusters for refcounts, entries
	// for tables, else 1), at least 1.
	Count uint64
	// Fixed tells that a repair has settled it.
	Fixed bool
	// Unlisted marks the one finding of a code that stands for those that are not
	// listed one by one; it has no place, only a count.
	Unlisted bool
}
