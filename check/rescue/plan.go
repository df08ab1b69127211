package rescue

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/qcow2"
)

// Plan is what a rescue makes of a file, worked out before anything is written.
type Plan struct {
	// Facts are what was found out of the image, and how.
	Facts []Fact
	// Result is that of the check of what the image will be.
	Result *check.Result
	// Missing are the parts of disks of which nothing is left in the file, or whose place
	// nobody can tell.
	Missing []Missing
	// Lost says in words what else could not be kept.
	Lost []string
	// Orphans are the parts of the file that hold data which belongs nowhere any more.
	Orphans []Orphan
	// Unreadable are the parts of the file that could not be read.
	Unreadable []qcow2.Extent
	// Incomplete tells that there was more than could be remembered.
	Incomplete bool
	// OldSize and NewSize are the file's length in bytes.
	OldSize, NewSize int64

	image  *patched
	repair *repair.Plan

	used        *clusterSet // clusters of the old content that the image needs
	end         int64       // where the last of them ends, in bytes
	clusterBits uint
}

// Missing is a part of a disk that does not come back.
type Missing struct {
	Snapshot       string // its ID, escaped; empty for the active disk
	Offset, Length uint64 // bytes
	Why            string
}

// UnsoundError means that what was found cannot be made an image that a check is content
// with.
type UnsoundError struct{ Result *check.Result }

func (e *UnsoundError) Error() string {
	text := "what can be made of it would not be sound"
	for i := range e.Result.Findings {
		if f := &e.Result.Findings[i]; f.Severity == problem.Corruption || f.Severity == problem.Trouble || f.Severity == problem.InDoubt {
			return fmt.Sprintf("%s: %s %s", text, f.Code, f.Message)
		}
	}
	return fmt.Sprintf("%s: %s", text, e.Result.Verdict)
}

// Make works out what can be made of a file of size bytes. Nothing is written. The error
// wraps [ErrNothing] or [ErrNoMapping], is a [*GuessError], or tells what could not be
// read.
func Make(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Plan, error) {
	s, err := find(ctx, r, size, &opts)
	if err != nil {
		return nil, err
	}
	p := &Plan{OldSize: size, Incomplete: s.scan.cut, Unreadable: s.scan.unreadable}
	if p.image, err = s.patch(); err != nil {
		return nil, err
	}
	if opts.Device && p.image.size > size {
		return nil, repair.ErrNoSpace
	}
	p.repair, err = repair.Make(ctx, p.image, p.image.size, repair.Options{
		AllowDataLoss: true, Reattach: true, FreeUnowned: !opts.Keep, Device: opts.Device, NoBacking: true,
		Jobs: opts.Jobs, MemoryLimit: opts.MemoryLimit, Progress: opts.Progress,
	})
	if err != nil {
		return nil, fmt.Errorf("what was found cannot be made a sound image: %w", err)
	}
	p.Facts, p.Result, p.NewSize = s.m.facts, p.repair.After, p.repair.NewSize
	if p.Result.ExitCode() != check.ExitSound && !(s.f.dataFile && s.m.dataFile == "") {
		return nil, &UnsoundError{Result: p.Result}
	}
	return p, s.report(ctx, p)
}

// Empty tells that the file is what it should be.
func (p *Plan) Empty() bool { return len(p.image.changes) == 0 && p.repair.Empty() }

// WriteTo writes what changes to a file that holds the old content, and makes it as long
// as the image will be.
func (p *Plan) WriteTo(ctx context.Context, f interface {
	io.WriterAt
	Truncate(size int64) error
}) error {
	if err := f.Truncate(p.NewSize); err != nil {
		return err
	}
	for _, c := range p.image.changes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.WriteAt(c.New, int64(c.Offset)); err != nil {
			return err
		}
	}
	for e := range p.repair.Edits.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.WriteAt(e.New, int64(e.Offset)); err != nil {
			return err
		}
	}
	return nil
}

// report fills in what is missing.
func (s *search) report(ctx context.Context, p *Plan) error {
	if err := s.orphans(ctx, p); err != nil {
		return err
	}
	s.missHoles()
	s.missZeroTables(len(p.Orphans) > 0)
	p.Missing = s.missing
	for _, x := range p.repair.LostGuest {
		p.Missing = append(p.Missing, Missing{Snapshot: x.Snapshot, Offset: x.Offset, Length: x.Length, Why: "what maps it leads to nothing that is in the file"})
	}
	p.Lost = p.repair.Lost
	return nil
}

// Complete tells that everything that the file holds is in its place.
func (p *Plan) Complete() bool {
	return len(p.Missing) == 0 && len(p.Lost) == 0 && len(p.Orphans) == 0 && len(p.Unreadable) == 0 && !p.Incomplete &&
		!slices.ContainsFunc(p.Facts, func(f Fact) bool { return f.Source == SourceGuess })
}
