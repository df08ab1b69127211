package proof

import (
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Edit changes some bytes of the file.
type Edit struct {
	Offset qcow2.HostOffset
	New    []byte
}

// Cursor goes through edits in the order of their offsets. Clone gives another one
// that is at the same place.
type Cursor interface {
	Next() (Edit, bool)
	Clone() Cursor
}

// Plan is what a repair would write, and what it declares.
type Plan struct {
	// Stages are the edits, as they are written one stage after the other. Within
	// a stage they are in the order of their offsets and do not overlap.
	Stages  []Cursor
	NewSize int64
	Declared
}

// Declared is what a plan says of itself. The places of structures are those in the
// image before the repair.
type Declared struct {
	Lost      []Range            // parts of disks whose data is given up
	Snapshots []qcow2.HostOffset // table entries of snapshots that are given up
	Renamed   []qcow2.HostOffset // table entries of snapshots that get a new ID
	// SnapshotTable tells that entries of the snapshot table are given up which cannot
	// be read.
	SnapshotTable bool
	Bitmaps       []string           // names of bitmaps that are removed
	Backing       bool               // the name of the backing file is given up
	Behind        bool               // what the L1 table maps behind the end of the disk is given up
	Reattached    []qcow2.HostOffset // pointers (L1 entries, fields that name an L1 table) that get their table back
	Corrected     []Bit              // bits that had flipped

	// Directory is a bitmap directory that nothing led to and that is led back to; its
	// offset is 0 where there is none. Tables are those of bitmaps.
	Directory qcow2.BitmapsExtension
	Tables    []Pointer
	// Remains are clusters that nothing referred to and that are freed since what they
	// belonged to are bitmaps that are given up.
	Remains map[qcow2.HostCluster]struct{}
	// Unowned is how many clusters are freed at most although something that was in
	// doubt may have owned them.
	Unowned uint64
}

// Pointer is an entry of a bitmap directory, and the table that it leads to.
type Pointer struct {
	Entry, Table qcow2.HostOffset
}

// Range is a part of a disk.
type Range struct {
	Of             problem.SnapshotRef // in the snapshot table as it was before
	Offset, Length uint64              // bytes
}

// Bit is a single bit of the file.
type Bit struct {
	Offset qcow2.HostOffset
	Mask   byte
}

// Allowed is what the user has allowed, and where the image is.
type Allowed struct {
	DataLoss bool
	Reattach bool
	Bitmaps  bool // what bitmaps hold that cannot be trusted is not needed
	Unowned  bool // what nothing refers to is not needed, whatever may have owned it
	Device   bool // it cannot grow, so that clusters behind all that is used are taken
}

// Before is what the check before the repair has found. What it could not tell does
// not become certain by what the repair changes.
type Before struct {
	Result    *check.Result
	Doubts    []check.Doubt
	Snapshots []qcow2.Snapshot
	Bitmaps   []qcow2.BitmapEntry
}

// Error tells why a plan is refused.
type Error struct {
	Reason string
	Offset qcow2.HostOffset // in the file
}

func (e *Error) Error() string { return fmt.Sprintf("%s (at %v)", e.Reason, e.Offset) }

func refuse(at qcow2.HostOffset, format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...), Offset: at}
}
