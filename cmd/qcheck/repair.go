package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report"
)

// undoPlaces are where the undo journal of an image is, and where it may be as well.
type undoPlaces struct {
	// keep is where the journal of this repair is kept, or nil for nowhere.
	keep *undofile.Place
	// all are the places at which a repair may have been interrupted.
	all   []*undofile.Place
	named bool // keep was named by the user
}

// undoPlaces finds the places for an image.
func (r *RepairFlags) undoPlaces(path string, device bool) undoPlaces {
	p := undofile.Default(path, device)
	u := undoPlaces{keep: p, all: []*undofile.Place{p}}
	switch {
	case r.NoUndo:
		u.keep = nil
	case r.Undo != nil:
		u.keep, u.named = &undofile.Place{Path: *r.Undo}, true
		if *r.Undo != p.Path {
			u.all = append(u.all, u.keep)
		}
	}
	return u
}

// repairFailure is what keeps an image from being repaired, or from being checked because
// of a repair.
type repairFailure struct {
	image string // as the user gave it; empty where others say it
	err   error
	hint  string
}

func (e *repairFailure) Error() string {
	if e.image == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("%s: %v", check.Escape(e.image), e.err)
}

func (e *repairFailure) Unwrap() error { return e.err }

// Hint says what to do about it.
func (e *repairFailure) Hint() string { return e.hint }

// pending tells of a repair that was interrupted, before anything else is said of
// the image: what is in it may be half of the one and half of the other. A file that
// is no journal, or whose image may not be told, is none of a check's business.
func pending(s *streams, path string, places []*undofile.Place) error {
	for _, p := range places {
		look := *p
		look.ReadOnly = true
		state, err := repair.Glance(&look)
		switch {
		case err != nil:
			if _, damaged := errors.AsType[*repair.DamagedError](err); damaged || !errors.Is(err, fs.ErrPermission) {
				s.warning(fmt.Sprintf("%s: whether a repair was interrupted cannot be told: %s: %v", check.Escape(path), check.Escape(p.Path), err))
			}
		case state.Pending():
			what := "a repair of this image was interrupted"
			if state.Phase == repair.PhaseUndoing {
				what = "the undoing of a repair of this image was interrupted"
			}
			return &repairFailure{image: path,
				err:  fmt.Errorf("%s (%s), and has to be brought to an end before anything else", what, state.Time.Format("2006-01-02 15:04:05")),
				hint: fmt.Sprintf("`qcheck -r` does that and goes on, `qcheck undo` does only that; the undo journal is %s", check.Escape(p.Path))}
		}
	}
	return nil
}

// recoverAll brings an image in order after a repair that was interrupted, and says
// so. It gives what was done, as reports have it.
func recoverAll(s *streams, path string, f repair.File, places []*undofile.Place) (string, error) {
	did := ""
	for _, p := range places {
		rec, err := repair.Recover(f, p)
		if err != nil {
			return did, recoverError(path, p, err)
		}
		switch rec.Action {
		case repair.RecoveredRolledBack:
			did = "rolled-back"
			s.warning(fmt.Sprintf("%s: a repair had been interrupted; it has been rolled back first", check.Escape(path)))
		case repair.RecoveredCompleted:
			did = "completed"
			s.warning(fmt.Sprintf("%s: a repair had been interrupted at its last step; that has been done first", check.Escape(path)))
		}
		if rec.Left != nil {
			s.warning(fmt.Sprintf("%s is of no more use, and cannot be removed: %v", check.Escape(p.Path), rec.Left))
		}
	}
	return did, nil
}

// recoverError says what can be done when a journal could not be followed.
func recoverError(path string, p *undofile.Place, err error) error {
	name := check.Escape(p.Path)
	e := &repairFailure{image: path, err: fmt.Errorf("undo journal %s: %w", name, err)}
	changed, isChanged := errors.AsType[*repair.ChangedError](err)
	damaged, isDamaged := errors.AsType[*repair.DamagedError](err)
	_, noFile := errors.AsType[*undofile.NotAFileError](err)
	_, interrupted := errors.AsType[*repair.InterruptedError](err)
	switch {
	case isChanged && changed.Phase == repair.PhaseFinished:
		e.hint = "the journal is of another image, or the image has been used since: the repair cannot be taken back any more"
	case isChanged:
		e.hint = fmt.Sprintf("if the image was restored or replaced since, remove %s and start anew", name)
	case isDamaged && damaged.Kind == repair.DamagedForeign:
		e.hint = "nothing has been written; name another file with --undo"
	case isDamaged:
		e.hint = fmt.Sprintf("nothing has been written; move %s away, or name another file with --undo", name)
	case noFile:
		e.hint = "name another file with --undo"
	case interrupted:
		e.hint = "the undo journal is still there: mend what is in the way, then run the same command again"
	}
	return e
}

// repairOne repairs one image and gives what is to be reported, with its exit code.
func (c *CheckCmd) repairOne(ctx context.Context, s *streams, path string, opts check.Options) (report.Image, exitCode) {
	image := report.Image{Name: path}
	fail := func(err error) (report.Image, exitCode) {
		image.Err, image.Result, image.Repair = err, nil, nil
		return image, s.fail(err)
	}
	o, err := openForRepair(s, path)
	if err != nil {
		return c.notOpened(s, path, err)
	}
	defer o.Close()
	places := c.undoPlaces(path, o.IsDevice())
	recovered, err := recoverAll(s, path, o.File, places.all)
	if err == nil {
		err = o.reopen()
	}
	if err != nil {
		return fail(err)
	}
	if o.img.GeometryOK {
		image.ClusterSize = o.img.Geometry.ClusterSize()
	}
	plan, err := c.makePlan(ctx, o, opts)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", check.Escape(path), planError(err)))
	}
	image.Repair = c.told(plan, places)
	image.Repair.Recovered = recovered
	if plan.Empty() {
		image.Result, image.Err = checkImage(ctx, o, opts)
	} else {
		image.Result, err = c.apply(ctx, s, o, plan, places, opts)
		if err != nil {
			return fail(err)
		}
	}
	return c.finish(s, o, image)
}

// apply carries a plan out, and gives the result of the check of what came of it.
func (c *CheckCmd) apply(ctx context.Context, s *streams, o *opened, plan *repair.Plan, places undoPlaces, opts check.Options) (*check.Result, error) {
	for i, text := range plan.Lost {
		if i == 20 {
			s.warning(fmt.Sprintf("%s: and %d more like that", check.Escape(o.path), len(plan.Lost)-i))
			break
		}
		s.warning(fmt.Sprintf("%s: this will be lost: %s", check.Escape(o.path), check.Escape(text)))
	}
	var js repair.Journals
	if places.keep != nil {
		if err := replaceable(o, places); err != nil {
			return nil, err
		}
		js = places.keep
	}
	var after *check.Result
	verify := func(ctx context.Context, r io.ReaderAt, size int64) (err error) {
		after, err = verify(ctx, o, r, size, plan, opts, c.CompactBitmaps)
		return err
	}
	applied, err := repair.Apply(ctx, o.File, plan, js, repair.ApplyOptions{Verify: verify})
	if err != nil {
		return nil, applyError(o.path, places, err)
	}
	if applied.Unclosed != nil {
		s.warning(fmt.Sprintf("%s: the repair is done, but the undo journal could not be marked as finished: %v", check.Escape(o.path), applied.Unclosed))
	}
	return check.Repaired(plan.Before, after, opts.MaxFindings), nil
}

// replaceable looks at what is in the place of a new journal. Recover has been
// called, so no repair is under way there. One that was named must not cost another
// image its journal.
func replaceable(o *opened, places undoPlaces) error {
	p := places.keep
	state, err := repair.StateOf(p)
	if err != nil {
		return recoverError(o.path, p, err)
	}
	if places.named && state.Phase == repair.PhaseFinished {
		ours, err := repair.Belongs(o.File, p)
		if err != nil {
			return recoverError(o.path, p, err)
		}
		if !ours {
			return &repairFailure{image: o.path,
				err:  fmt.Errorf("%s is the undo journal of another image, or of an earlier state of this one", check.Escape(p.Path)),
				hint: "name another file with --undo, or remove this one if it is not needed any more"}
		}
	}
	p.Replace = state.Phase != repair.PhaseNone
	return nil
}

// verify checks a repaired image and holds the result against the plan's promise.
func verify(ctx context.Context, o *opened, r io.ReaderAt, size int64, plan *repair.Plan, opts check.Options, compact bool) (*check.Result, error) {
	if err := o.Refresh(); err != nil { // the file may have grown
		return nil, err
	}
	img, err := qcow2.Open(r, size)
	if err != nil {
		return nil, err
	}
	if !opts.Untrusted {
		opts.OpenSibling = o.sibling
	}
	opts.BitmapData = opts.BitmapData || compact
	after, err := check.Run(ctx, img, opts)
	if err != nil {
		return after, err
	}
	return after, asPlanned(plan, after)
}

// asPlanned holds the check of a repaired image against that of its plan. Options of
// the user's can make it find more in the data of bitmaps.
func asPlanned(plan *repair.Plan, after *check.Result) error {
	counts := func(r *check.Result) map[check.Code]uint64 {
		m := make(map[check.Code]uint64)
		for i := range r.Findings {
			if f := &r.Findings[i]; f.Code != check.BMX002 && f.Code != check.BMX003 {
				m[f.Code] += f.Count
			}
		}
		return m
	}
	want, got := counts(plan.After), counts(after)
	for _, rule := range check.Catalog() {
		if want[rule.Code] != got[rule.Code] {
			return fmt.Errorf("%s counts %d, not %d", rule.Code, got[rule.Code], want[rule.Code])
		}
	}
	if !maps.Equal(want, got) {
		return errors.New("the findings are others than planned")
	}
	if rank(after.Verdict) > rank(plan.Before.Verdict) {
		return fmt.Errorf("it is worse than before: %s, not %s", after.Verdict, plan.Before.Verdict)
	}
	return nil
}

// rank orders the verdicts by what they mean for who wants to use the image.
func rank(v check.Verdict) int {
	switch v {
	case check.VerdictClean, check.VerdictWarnings, check.VerdictLeaks:
		return 0
	case check.VerdictInDoubt:
		return 1
	case check.VerdictCorrupt:
		return 2
	}
	return 3
}

// planOne shows what a repair would do.
func (c *CheckCmd) planOne(ctx context.Context, o *opened, opts check.Options) (*report.Repair, error) {
	plan, err := c.makePlan(ctx, o, opts)
	if err != nil {
		return nil, planError(err)
	}
	return c.told(plan, c.undoPlaces(o.path, o.IsDevice())), nil
}

// makePlan works out a repair.
func (c *CheckCmd) makePlan(ctx context.Context, o *opened, opts check.Options) (*repair.Plan, error) {
	tidy()
	return repair.Make(ctx, o.File, o.Size(), c.planOptions(o, opts))
}

func (c *CheckCmd) planOptions(o *opened, opts check.Options) repair.Options {
	r := repair.Options{
		Scope: repair.Scope(c.Repair), BitmapPolicy: repair.BitmapPolicy(c.BitmapPolicy), AllowDataLoss: c.AllowDataLoss,
		Reattach: c.Reattach, CompactBitmaps: c.CompactBitmaps, Device: o.IsDevice(),
		Jobs: opts.Jobs, MemoryLimit: opts.MemoryLimit, MaxFindings: opts.MaxFindings, Progress: opts.Progress, NoBacking: opts.NoBacking,
	}
	if !opts.Untrusted {
		r.OpenSibling = o.sibling
	}
	return r
}

// told puts a plan in a report's words.
func (c *CheckCmd) told(plan *repair.Plan, places undoPlaces) *report.Repair {
	r := &report.Repair{
		DryRun: c.DryRun, OldSize: plan.OldSize, NewSize: plan.NewSize, Lost: plan.Lost, Flags: c.how(),
		Count: plan.Edits.Len(), Bytes: plan.Edits.Bytes(), Edits: toldEdits(&plan.Edits), MaxEdits: int(c.MaxFindings),
	}
	for _, a := range plan.Left {
		r.Left = append(r.Left, report.Advice(a))
	}
	if places.keep != nil && !plan.Empty() {
		r.Undo, r.UndoNamed = places.keep.Path, places.named
	}
	return r
}

// toldEdits puts the edits of a plan in a report's words.
func toldEdits(edits *repair.Edits) iter.Seq[report.Edit] {
	return func(yield func(report.Edit) bool) {
		for e := range edits.All() {
			if !yield(report.Edit{Stage: e.Stage.String(), Offset: e.Offset, Old: e.Old, New: e.New, Reason: e.Reason, Codes: e.Codes}) {
				return
			}
		}
	}
}

// garbage is how much may lie about before it is collected, in per cent of what is in
// use: half of the runtime's. A plan can be large, and has few pointers, so that
// collecting costs next to nothing; in a short check it would cost a tenth.
const garbage = 50

// tidy collects garbage earlier than usual, if the user has not said when.
func tidy() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}

// openForRepair opens an image alone, to write to it.
func openForRepair(s *streams, path string) (*opened, error) {
	f, err := imagefile.Open(path, imagefile.Options{Write: true})
	if err != nil {
		return nil, err
	}
	if f.LockState() != imagefile.LockTaken {
		s.warnOnce("locks", check.Escape(path)+": there are no image locks here; make sure that no VM uses an image while it is repaired")
	}
	return &opened{File: f, path: path}, nil
}

// planError says why there is no plan for an image, in words that go without its name.
func planError(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return errInterrupted
	case errors.Is(err, repair.ErrNoSpace):
		return &repairFailure{err: fmt.Errorf("%w on the device; nothing has been written", err),
			hint: "make the device larger, or copy the image to a file and repair it there"}
	}
	if refused, ok := errors.AsType[*repair.RefusedError](err); ok {
		return &repairFailure{err: refused, hint: "this is a fault of qcheck: please report it, with what `qcheck metadump` makes of the image"}
	}
	return err
}

// applyError says what became of the image, and what can be done.
func applyError(path string, places undoPlaces, err error) error {
	e := &repairFailure{image: path, err: err}
	notBegun, isNotBegun := errors.AsType[*repair.NotBegunError](err)
	failed, isFailed := errors.AsType[*repair.RollbackFailedError](err)
	switch {
	case errors.Is(err, context.Canceled):
		e.err = fmt.Errorf("%w: %w", errInterrupted, err)
		if isNotBegun {
			e.err = fmt.Errorf("%w: the image has not been touched", errInterrupted)
		} else if !isFailed {
			e.err = fmt.Errorf("%w: the repair was rolled back, the image is as before", errInterrupted)
		}
	case isNotBegun && places.keep != nil:
		e.err = fmt.Errorf("%s: %w", check.Escape(places.keep.Path), notBegun)
		e.hint = "--undo FILE keeps the undo journal in another place, --no-undo does without"
	case errors.Is(err, syscall.ENOSPC):
		e.hint = "make room where the image is, then run the same command again"
	}
	if isFailed && failed.Journal {
		e.hint = "the undo journal is still there: mend what is in the way, then run the same command again"
	}
	return e
}
