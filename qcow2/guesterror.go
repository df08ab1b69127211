package qcow2

import "fmt"

// GuestProblem tells why guest data cannot be read.
type GuestProblem uint8

// The problems of a [GuestError].
const (
	// ProblemUnreadable: an I/O error on the image file; Err is a [*ReadError].
	ProblemUnreadable GuestProblem = iota + 1
	// ProblemL1Table: the L1 table does not start at a cluster.
	ProblemL1Table
	// ProblemL1Entry: the L1 entry at Host names an L2 table that does not
	// start at a cluster.
	ProblemL1Entry
	// ProblemL2Entry: the L2 entry at Host names a data cluster that does not
	// start at a cluster.
	ProblemL2Entry
	// ProblemZeroFlag: the L2 entry at Host has the zero flag in a version 2
	// image.
	ProblemZeroFlag
	// ProblemSubclusters: the subcluster bitmap of the L2 entry at Host
	// contradicts itself or the entry.
	ProblemSubclusters
	// ProblemCompressedDataFile: the L2 entry at Host is compressed, in an
	// image with an external data file.
	ProblemCompressedDataFile
	// ProblemDataFileOffset: the L2 entry at Host names a place in the
	// external data file that is not its guest offset.
	ProblemDataFileOffset
	// ProblemDecompress: the compressed data at Host does not decompress; Err
	// tells why.
	ProblemDecompress
	// ProblemEncrypted: the data at Host is encrypted.
	ProblemEncrypted
	// ProblemDataFile: the external data file is missing or cannot be read;
	// Host is an offset in it.
	ProblemDataFile
	// ProblemBackingFile: the data is in the backing file, which is missing or
	// cannot be read.
	ProblemBackingFile
)

var problemTexts = [...]string{
	ProblemUnreadable:         "the image file cannot be read",
	ProblemL1Table:            "the L1 table is not aligned to a cluster",
	ProblemL1Entry:            "the L1 entry names an L2 table that is not aligned to a cluster",
	ProblemL2Entry:            "the L2 entry names a data cluster that is not aligned",
	ProblemZeroFlag:           "the L2 entry has the zero flag in a version 2 image",
	ProblemSubclusters:        "the subcluster bitmap contradicts itself",
	ProblemCompressedDataFile: "the cluster is compressed in an image with an external data file",
	ProblemDataFileOffset:     "the place in the external data file is not the guest offset",
	ProblemDecompress:         "the compressed cluster cannot be decompressed",
	ProblemEncrypted:          "the data is encrypted",
	ProblemDataFile:           "the external data file cannot be read",
	ProblemBackingFile:        "the backing file cannot be read",
}

func (p GuestProblem) String() string {
	if int(p) < len(problemTexts) && problemTexts[p] != "" {
		return problemTexts[p]
	}
	return fmt.Sprintf("problem %d", uint8(p))
}

// GuestError tells what range of a virtual disk cannot be read, and why.
type GuestError struct {
	Problem GuestProblem
	Start   GuestOffset
	Length  uint64 // bytes that share the problem, from Start on
	// Host is the place of what is at fault: the entry or the data, as the
	// problem says. It means nothing for ProblemBackingFile.
	Host HostOffset
	Err  error // the cause, where there is more to know
}

func (e *GuestError) Error() string {
	s := fmt.Sprintf("cannot read the guest's data at %v: %v", e.Start, e.Problem)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *GuestError) Unwrap() error { return e.Err }
