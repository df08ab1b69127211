package repair

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/qcheck/qcheck/qcow2"
)

// ApplyOptions says how a plan is applied. The zero value is right but for Verify.
type ApplyOptions struct {
	// Verify is given the image as it will be when the repair is done, and says
	// whether it is what the plan promised. An error rolls the repair back. The
	// reader shows the image without the mark that still keeps QEMU from writing
	// to it; where the file is a [qcow2.DataFinder], so is the reader. The default
	// is nil: nothing is verified.
	Verify func(ctx context.Context, image io.ReaderAt, size int64) error
	// Time is noted in the journal. The default is the current time.
	Time time.Time
}

// Applied tells what was written.
type Applied struct {
	Edits   int
	Records uint64 // in the journal
	Length  int64  // of the journal's records, in bytes
	// Unclosed is why the journal could not be marked as finished, or nil. The
	// repair is done all the same, and can be taken back; [Recover] makes up for
	// it.
	Unclosed error
}

// Apply carries a plan out, under a journal, so that the image ends as it was
// before or as it was to be, whatever happens meanwhile:
//
//	       journal                            image
//	       ───────                            ─────
//	1      what is there, all of it    sync
//	2      sealed                      sync
//	3                                         marked corrupt       sync
//	4                                         grows                sync
//	5                                         stage by stage       sync
//	6                                         verify
//	7      verified                    sync
//	8                                         mark taken off       sync
//	9      finished                    sync
//
// Until 7 an interrupted repair is rolled back, from then on it is completed; see
// [Recover]. Between 3 and 8 QEMU refuses to write to the image (version 2 has no
// such mark, and an image that was marked before keeps the mark if the plan does not
// take it off). So a power cut, with whatever part of the writes since the last sync
// having reached the disk in whatever order, loses nothing, and neither does
// somebody who starts the VM before looking. A step that has nothing to do is left
// out.
//
// The errors are [*PlanError], [*StaleError] and [*NotBegunError]: nothing was
// written to the image; [*RolledBackError]: it is as before; [*RollbackFailedError].
//
// Without a place for journals (js is nil) everything is kept in memory: an error
// is still rolled back, a crash is not, and what is done cannot be taken back.
//
// Nothing else may write to the image meanwhile.
func Apply(ctx context.Context, f File, p *Plan, js Journals, opts ApplyOptions) (*Applied, error) {
	if p.Empty() {
		return &Applied{}, nil
	}
	l, err := layOut(f, p)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, &NotBegunError{Err: err}
	}
	kept := js != nil
	if !kept {
		js = &memoryJournals{}
	}
	if opts.Time.IsZero() {
		opts.Time = time.Now()
	}
	j, err := create(f, js, l, opts.Time)
	if err != nil {
		return nil, err
	}
	a := &applier{f: f, l: l, j: j, js: js, kept: kept}
	if err := a.write(ctx, opts.Verify); err != nil {
		return nil, a.rollBack(err)
	}
	done := &Applied{Edits: p.Edits.Len(), Records: j.records, Length: j.length}
	done.Unclosed = j.mark(markFinished)
	if err := j.f.Close(); done.Unclosed == nil {
		done.Unclosed = err
	}
	return done, nil
}

// applier is a repair under way.
type applier struct {
	f    File
	l    *layout
	j    *journal
	js   Journals
	kept bool // the journal is in a file
	// decided tells that the journal may say that the repair is verified.
	decided bool
}

// write does steps 3 to 8.
func (a *applier) write(ctx context.Context, verify func(context.Context, io.ReaderAt, int64) error) error {
	before, after := a.j.withMark(a.l.before), a.j.withMark(a.l.after)
	if err := a.sector(a.l.before, before); err != nil {
		return err
	}
	if p := a.l.plan; p.NewSize > p.OldSize {
		if err := a.f.Truncate(p.NewSize); err != nil {
			return fmt.Errorf("the image cannot grow to %d bytes: %w", p.NewSize, err)
		}
		if err := a.f.Sync(); err != nil {
			return err
		}
	}
	for s := range Stage(stagesCount) {
		if err := a.stage(ctx, s); err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
		if s == StageHeader {
			if err := a.sector(before, after); err != nil {
				return fmt.Errorf("%v: %w", s, err)
			}
		}
	}
	if verify != nil {
		err := verify(ctx, newView(a.f, a.l.after), a.l.plan.NewSize)
		if err != nil && ctx.Err() == nil {
			return &VerifyError{Err: err}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.decide(); err != nil {
		return err
	}
	return a.sector(after, a.l.after)
}

// stage writes the edits of a stage that lie beyond the first sector.
func (a *applier) stage(ctx context.Context, s Stage) error {
	wrote := false
	w := &spanWriter{f: a.f, write: func(p []byte, off int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		wrote = true
		if _, err := a.f.WriteAt(p, off); err != nil {
			return fmt.Errorf("writing %d bytes at 0x%x: %w", len(p), off, err)
		}
		return nil
	}}
	for at, b := range a.l.writes(s) {
		if err := w.add(b, at); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil || !wrote {
		return err
	}
	return a.f.Sync()
}

// sector writes the first sector, if it changes.
func (a *applier) sector(was, will []byte) error {
	if mismatch(was, will) < 0 {
		return nil
	}
	if _, err := a.f.WriteAt(will, 0); err != nil {
		return fmt.Errorf("writing the first sector: %w", err)
	}
	return a.f.Sync()
}

// decide notes that the repair is done: from here on it is completed, not rolled
// back, by whoever finds it interrupted.
func (a *applier) decide() error {
	err := a.j.mark(markVerified)
	// A mark whose flush has failed may be there after a crash or not.
	a.decided = err == nil || a.j.hasMark(markVerified)
	if err != nil {
		return fmt.Errorf("writing the undo journal: %w", err)
	}
	return nil
}

// rollBack makes the image what it was before, after an error.
func (a *applier) rollBack(cause error) error {
	failed := func(err error) error {
		a.j.f.Close()
		return &RollbackFailedError{Err: cause, Rollback: err, Journal: a.kept}
	}
	if a.decided {
		// Or else the next run would find a verified repair, and an image that is
		// not what it has made.
		if err := a.j.begin(a.f); err != nil {
			return failed(err)
		}
	}
	if err := a.j.restore(a.f); err != nil {
		return failed(err)
	}
	// If this fails, the next run finds that the image is as before.
	_ = a.j.mark(markUndone)
	return &RolledBackError{Err: cause, Left: discard(a.j.f, a.js)}
}

// view is the image with the first sector that it will have.
type view struct {
	io.ReaderAt
	sector []byte
}

// findingView is a view of a file that knows its holes.
type findingView struct {
	view
	qcow2.DataFinder
}

func newView(f File, sector []byte) io.ReaderAt {
	v := view{f, sector}
	if d, ok := f.(qcow2.DataFinder); ok {
		return findingView{v, d}
	}
	return v
}

func (v view) ReadAt(p []byte, off int64) (int, error) {
	n, err := v.ReaderAt.ReadAt(p, off)
	if off < int64(len(v.sector)) {
		copy(p[:n], v.sector[off:])
	}
	return n, err
}
