package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report"
)

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

// repairOne repairs one image and gives what is to be reported, with its exit code.
func (c *CheckCmd) repairOne(ctx context.Context, s *streams, path string, opts check.Options) (report.Image, exitCode) {
	image := report.Image{Name: path, MaxFindings: opts.MaxFindings}
	fail := func(err error) (report.Image, exitCode) {
		image.Err, image.Result, image.Repair = err, nil, nil
		return image, s.fail(err)
	}
	o, err := openForRepair(s, path)
	if err != nil {
		return c.notOpened(s, path, err)
	}
	defer o.Close()
	places := c.undoPlaces(path, o.File)
	recovered, err := recoverAll(s, o.repairable(), places)
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
	c.tellKept(s, o, plan, places)
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

// tellKept says how long clusters stay that a repair keeps without an owner.
func (c *CheckCmd) tellKept(s *streams, o *opened, plan *repair.Plan, places undoPlaces) {
	if !plan.Kept {
		return
	}
	name := check.Escape(o.path)
	switch p := keepsUnowned(o.repairable(), places); {
	case p != nil:
		s.warning(fmt.Sprintf("%s: clusters that nothing refers to and that hold data are kept, since an earlier repair kept such (its undo journal is %s); --free-unowned frees them",
			name, check.Escape(p.Path)))
	case places.keep == nil:
		s.warning(fmt.Sprintf("%s: clusters that nothing refers to are kept, since they may hold all that is left of what is lost; without an undo journal the next `qcheck -r` frees them as leaks", name))
	default:
		s.warning(fmt.Sprintf("%s: clusters that nothing refers to are kept, since they may hold all that is left of what is lost; they stay as long as the undo journal is there, unless --free-unowned is given", name))
	}
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
		if err := makeRoom(o.repairable(), places); err != nil {
			return nil, err
		}
		js = places.keep
	}
	if err := stillThere(o.repairable()); err != nil {
		return nil, err
	}
	var after *check.Result
	verify := func(ctx context.Context, r io.ReaderAt, size int64) (err error) {
		after, err = verify(ctx, o, r, size, plan, opts, c.CompactBitmaps)
		return err
	}
	applied, err := repair.Apply(ctx, o.repairable(), plan, js, repair.ApplyOptions{Verify: verify})
	places.settle(err)
	if err != nil {
		return nil, applyError(o.path, places, err)
	}
	if !o.IsAt(o.path) {
		return nil, &repairFailure{image: o.path,
			err:  errors.New("another file took this name while the repair was under way; the file that was repaired is the one that had the name before"),
			hint: "check the file that has the name now"}
	}
	if applied.Unclosed != nil {
		s.warning(fmt.Sprintf("%s: the repair is done, but the undo journal could not be marked as finished: %v", check.Escape(o.path), applied.Unclosed))
	}
	return check.Repaired(plan.Before, after, opts.MaxFindings), nil
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
	counts := func(r *check.Result) map[problem.Code]uint64 {
		m := make(map[problem.Code]uint64)
		for i := range r.Findings {
			if f := &r.Findings[i]; f.Code != problem.BitmapDataUniform && f.Code != problem.BitmapDataUnreadable {
				m[f.Code] += f.Count
			}
		}
		return m
	}
	want, got := counts(plan.After), counts(after)
	for _, rule := range problem.Catalog() {
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
	case check.VerdictInDoubt, check.VerdictUnsupported: // what is reserved was there before
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
	return c.told(plan, c.undoPlaces(o.path, o.File)), nil
}

// makePlan works out a repair.
func (c *CheckCmd) makePlan(ctx context.Context, o *opened, opts check.Options) (*repair.Plan, error) {
	tidy()
	r := c.planOptions(o, opts)
	r.KeepUnowned = keepsUnowned(o.repairable(), c.undoPlaces(o.path, o.File)) != nil
	return repair.Make(ctx, o.File, o.Size(), r)
}

func (c *CheckCmd) planOptions(o *opened, opts check.Options) repair.Options {
	r := repair.Options{
		Scope: repair.Scope(c.Repair), BitmapPolicy: repair.BitmapPolicy(c.BitmapPolicy), AllowDataLoss: c.AllowDataLoss,
		Reattach: c.Reattach, FreeUnowned: c.FreeUnowned, CompactBitmaps: c.CompactBitmaps, Device: o.IsDevice(),
		Jobs: opts.Jobs, MemoryLimit: opts.MemoryLimit, MaxFindings: opts.MaxFindings, Progress: opts.Progress, NoBacking: opts.NoBacking,
		Data: opts.Data,
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
		Count: plan.Edits.Len(), Bytes: plan.Edits.Bytes(), Edits: toldEdits(plan), MaxEdits: int(c.MaxFindings),
	}
	if c.Data {
		r.Flags = append([]string{"--data"}, r.Flags...)
	}
	for _, a := range plan.Left {
		r.Left = append(r.Left, report.Advice(a))
	}
	if places.keep != nil && !plan.Empty() {
		r.Undo, r.UndoNamed = places.keep.Path, places.named
	}
	return r
}

// toldEdits puts the edits of a plan in a report's words. An edit has the codes that a
// round of the plan went by; some are of findings that only the rounds before brought
// about, as when a new table takes a cluster, and mean nothing to who has the report of
// the check.
func toldEdits(plan *repair.Plan) iter.Seq[report.Edit] {
	found := make(map[problem.Code]bool)
	for i := range plan.Before.Findings {
		found[plan.Before.Findings[i].Code] = true
	}
	return func(yield func(report.Edit) bool) {
		for e := range plan.Edits.All() {
			codes := slices.DeleteFunc(slices.Clone(e.Codes), func(c problem.Code) bool { return !found[c] })
			if !yield(report.Edit{Stage: e.Stage.String(), Offset: e.Offset, Old: e.Old, New: e.New, Reason: e.Reason, Codes: codes}) {
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
	case errors.Is(err, errReplaced):
		e.err, e.hint = errReplaced, replacedHint
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
