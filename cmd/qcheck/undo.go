package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
)

// UndoCmd is `qcheck undo IMAGE`.
type UndoCmd struct {
	Image  string `arg:"" help:"Image file or block device."`
	Undo   string `placeholder:"FILE" help:"The undo journal, if it was kept elsewhere than in IMAGE.qcheck-undo."`
	List   bool   `help:"List the undo journals of the image: when, in what state, and whether the repair can still be taken back. Nothing is changed."`
	Forget bool   `help:"Remove the undo journals of finished repairs, which can then not be taken back any more."`
}

// Examples is shown below the command's help.
func (c *UndoCmd) Examples() string {
	return "  qcheck undo disk.qcow2\n  qcheck undo disk.qcow2 --undo /var/tmp/disk.undo\n" +
		"  qcheck undo --list disk.qcow2\n  qcheck undo --forget disk.qcow2"
}

// Run takes the last repair back, or does what else was asked for.
func (c *UndoCmd) Run(s *streams) error {
	if c.List && c.Forget {
		return &usageError{text: "--list and --forget exclude each other", hint: helpHint("undo")}
	}
	do, opts := c.takeBack, imagefile.Options{Write: true}
	switch {
	case c.List:
		do, opts = c.list, imagefile.Options{ForceShare: true}
	case c.Forget:
		// A VM may run meanwhile, but no repair.
		do, opts = c.forget, imagefile.Options{ForceShare: true}
	}
	// What a repair was interrupted in need not be an image that can be read, so the
	// file is not looked into.
	f, err := imagefile.Open(c.Image, opts)
	if err != nil {
		return err
	}
	defer f.Close()
	if opts.Write && f.LockState() != imagefile.LockTaken {
		s.warning(check.Escape(c.Image) + ": there are no image locks here; make sure that no VM uses the image")
	}
	return do(s, repairable{f, c.Image})
}

// journals are the places of an image's journals, those of the latest repairs first, but
// that of an interrupted one before all.
func (c *UndoCmd) journals(r repairable) (undoPlaces, []*undofile.Place, error) {
	u := placesOf(r.path, r.File)
	if c.Undo != "" {
		u.keep, u.named = &undofile.Place{Path: c.Undo, Image: r.Info()}, true
		u.own, u.found = nil, nil
	}
	older, err := u.keep.Older()
	if err != nil {
		return u, nil, fmt.Errorf("the folder of the undo journals cannot be read: %w", err)
	}
	var list []*undofile.Place
	if u.named {
		u.older = older
		list = append([]*undofile.Place{u.keep}, older...)
	} else {
		u.own = append(u.own, older...)
		list = u.all()
	}
	states := make(map[*undofile.Place]repair.JournalState)
	for _, p := range list {
		states[p], _ = repair.Glance(p)
	}
	slices.SortStableFunc(list, func(a, b *undofile.Place) int {
		switch x, y := states[a], states[b]; {
		case x.Pending() != y.Pending():
			if x.Pending() {
				return -1
			}
			return 1
		case r.IsDevice() && !u.named: // their names say nothing of their order
			return y.Time.Compare(x.Time)
		}
		return 0
	})
	return u, list, nil
}

// takeBack undoes the last repair that the image is in.
func (c *UndoCmd) takeBack(s *streams, r repairable) error {
	if err := stillThere(r); err != nil {
		return err
	}
	u, list, err := c.journals(r)
	if err != nil {
		return err
	}
	var skipped *undofile.Place
	for _, p := range list {
		next, err := c.next(u, r, p)
		switch {
		case err != nil && (u.isOwn(p) || u.mentioned(p)):
			return err
		case err != nil, next == repair.FitNone:
			continue
		case next == repair.FitBefore:
			skipped = p
			continue
		}
		rec, err := repair.TakeBack(r, p)
		u.settle(err)
		if err != nil {
			return recoverError(r.path, p, err)
		}
		return c.done(s, r, p, rec)
	}
	if skipped != nil {
		return &repairFailure{image: r.path,
			err:  fmt.Errorf("there is no repair to take back: the image is as before the one that %s tells of", check.Escape(skipped.Path)),
			hint: "`qcheck undo --forget` removes journals that are of no more use"}
	}
	hint := "if the repair was made with --undo, name the same file here"
	if c.Undo != "" {
		hint = ""
	}
	return &repairFailure{image: r.path, hint: hint,
		err: fmt.Errorf("there is no repair to take back: there is no undo journal %s", check.Escape(u.keep.Path))}
}

// next tells whether a journal is the one to follow (FitUndo), or, because the image is
// as before its repair, one of those before it (FitBefore). An image that is neither as
// after the repair nor as before it is not changed by an older journal.
func (c *UndoCmd) next(u undoPlaces, r repairable, p *undofile.Place) (repair.Fit, error) {
	state, err := repair.StateOf(p)
	if err != nil {
		return repair.FitNone, recoverError(r.path, p, err)
	}
	if !state.Undoable() {
		if state.Phase == repair.PhaseNone || !u.isOwn(p) && !u.mentioned(p) {
			return repair.FitNone, nil
		}
		return repair.FitUndo, nil // removing it is all there is to do
	}
	mine, err := u.concerns(r, p, state)
	switch {
	case errors.Is(err, errCopy):
		return repair.FitNone, copyError(r, p)
	case err != nil:
		return repair.FitNone, recoverError(r.path, p, err)
	case !mine:
		return repair.FitNone, nil
	}
	if state.Pending() {
		return repair.FitUndo, nil
	}
	fit, err := repair.FitOf(r, p)
	if err != nil {
		return repair.FitNone, recoverError(r.path, p, err)
	}
	if fit == repair.FitNone {
		return repair.FitUndo, nil // to be refused, with what does not fit
	}
	return fit, nil
}

// done says what was taken back.
func (c *UndoCmd) done(s *streams, r repairable, p *undofile.Place, rec repair.Recovery) error {
	if rec.Left != nil {
		s.warning(fmt.Sprintf("%s is of no more use, and cannot be removed: %v", check.Escape(p.Path), rec.Left))
	}
	text := "the repair of " + timeText(rec.Found.Time) + " has been taken back"
	switch {
	case rec.Action == repair.RecoveredDropped:
		text = "nothing had been written by the repair that was interrupted"
	case rec.Found.Phase == repair.PhaseOpen:
		text = "the repair that was interrupted has been rolled back"
	}
	_, err := fmt.Fprintf(s.out, "%s: %s; every byte is as before\n", check.Escape(r.path), text)
	return err
}

// forget removes the journals that nobody needs in order to use the image.
func (c *UndoCmd) forget(s *streams, r repairable) error {
	u, list, err := c.journals(r)
	if err != nil {
		return err
	}
	// First all are looked at: where a repair was interrupted, nothing is removed.
	var ours []*undofile.Place
	for _, p := range list {
		state, err := repair.StateOf(p)
		mine := u.isOwn(p) || u.mentioned(p)
		if err == nil && state.Undoable() {
			mine, err = u.concerns(r, p, state)
		}
		switch {
		case err != nil && p == u.keep && u.named:
			return recoverError(r.path, p, err)
		case err != nil && (u.isOwn(p) || u.mentioned(p)):
			s.warning(fmt.Sprintf("%s was not removed: %v", check.Escape(p.Path), err))
		case err != nil || !mine || state.Phase == repair.PhaseNone:
		case state.Pending():
			return &repairFailure{image: r.path, err: fmt.Errorf("%s: %w", check.Escape(p.Path), &repair.UnfinishedError{}),
				hint: "`qcheck undo` rolls the repair back; `qcheck -r` does that too, then repairs the image"}
		default:
			ours = append(ours, p)
		}
	}
	for _, left := range u.keep.Unfinished() {
		if state, err := repair.StateOf(left); err == nil && state.Phase == repair.PhaseIncomplete {
			ours = append(ours, left)
		}
	}
	removed := 0
	for _, p := range ours {
		err := repair.Forget(r, p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			s.warning(fmt.Sprintf("%s was not removed: %v", check.Escape(p.Path), err))
		default:
			removed++
		}
	}
	text := fmt.Sprintf("%d undo journals removed", removed)
	switch removed {
	case 0:
		text = "no undo journal was removed"
	case 1:
		text = "1 undo journal removed"
	}
	_, err = fmt.Fprintf(s.out, "%s: %s\n", check.Escape(r.path), text)
	return err
}
