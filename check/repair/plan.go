package repair

import (
	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Stage says when an edit is written. Between two stages everything is flushed.
type Stage uint8

// The stages, in order. At the end of each the image is one that can be read as
// before.
const (
	// StageNew: structures in clusters that nothing uses yet, past the old end
	// of the file or within it.
	StageNew Stage = iota
	// StageRaise: refcounts that go up, so that the new structures are taken.
	StageRaise
	// StageInPlace: entries that are mended where they stand.
	StageInPlace
	// StageHeader: the first sector, in one write; it switches to the new
	// structures.
	StageHeader
	// StageRelease: refcounts that go down; what they free is not used any
	// more.
	StageRelease
)

var stageNames = [...]string{"new structures", "raise refcounts", "mend in place", "switch the header", "release"}

func (s Stage) String() string { return stageNames[s] }

// Plan is what a repair does, worked out before anything is written.
type Plan struct {
	// Edits stand in the order in which they are written: by stage, then by
	// offset. No two of one stage overlap.
	Edits Edits
	// OldSize and NewSize are the file's length in bytes. A repair never makes
	// a file shorter.
	OldSize, NewSize int64
	// Before is the result of the check that the plan starts from, and After
	// that of a check of what the image will be.
	Before, After *check.Result
	// Lost says what is lost by a lossy repair, in words: guest ranges, bitmaps,
	// snapshots.
	Lost []string
	// LostGuest are the guest ranges among them.
	LostGuest []GuestRange
	// Kept tells that clusters which nothing refers to are kept because of what they hold,
	// although nothing in the image will say so any more.
	Kept bool
	// turned are bits, or fields, with which everything agreed, in the order in which they
	// were turned back.
	turned []patch
	// sizeOpen tells that it may be the size of the disk that is wrong.
	sizeOpen bool
	// open are clusters with a reference too many, which may be the wrong one.
	open []qcow2.HostCluster
	// Left are codes of findings that are left, and that a repair with one more
	// option would settle, each with that option.
	Left []Advice
}

// Advice tells what option a finding's repair takes.
type Advice struct {
	Code   problem.Code
	Option string // "--allow-data-loss", "--reattach", …
}

// GuestRange is a part of a disk.
type GuestRange struct {
	Snapshot       string              // its ID, escaped, for a reader; empty for the active disk
	Of             problem.SnapshotRef // in the table as it was before
	Offset, Length uint64              // bytes
}

// Empty tells that there is nothing to do.
func (p *Plan) Empty() bool { return p.Edits.Len() == 0 && p.NewSize == p.OldSize }

// File is an image file that a repair writes to.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	// CurrentSize is the file's size now, in bytes.
	CurrentSize() (int64, error)
}
