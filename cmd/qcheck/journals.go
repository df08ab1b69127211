package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
	"github.com/qcheck/qcheck/report"
)

// repairable is an open image as a repair sees it: whatever becomes of its name
// meanwhile, it is that file which is written to.
type repairable struct {
	*imagefile.File
	path string // as the user gave it
}

func (o *opened) repairable() repairable { return repairable{o.File, o.path} }

// FileID tells the file from all others.
func (r repairable) FileID() repair.FileID {
	device, inode := r.ID()
	return repair.FileID{Device: device, Inode: inode}
}

// errReplaced means that an image's name leads to another file now.
var errReplaced = errors.New("another file has taken this name since the image was opened; nothing has been written")

const replacedHint = "run the same command again, for the file that has the name now"

// stillThere holds that an image's name leads to the file that is about to be changed.
// Else its journal would stand beside another one.
func stillThere(r repairable) error {
	if r.IsAt(r.path) {
		return nil
	}
	return &repairFailure{image: r.path, err: errReplaced, hint: replacedHint}
}

// undoPlaces are where the undo journal of an image is, and where it may be as well.
type undoPlaces struct {
	// keep is where the journal of this repair is kept, or nil for nowhere.
	keep  *undofile.Place
	named bool              // keep was named by the user
	older []*undofile.Place // beside keep, of the repairs before, where keep was named
	// own are the places that belong to the image's name. What is there was put there
	// for it, even when it is a copy of the image that the journal was made for.
	own []*undofile.Place
	// found is where the image itself says that a repair was interrupted, or nil.
	found *undofile.Place
	image *imagefile.File
}

// placesOf finds the places for an image.
func placesOf(path string, f *imagefile.File) undoPlaces {
	p := undofile.Default(path, f.IsDevice())
	p.Image = f.Info()
	return undoPlaces{keep: p, own: []*undofile.Place{p}, found: announced(f), image: f}
}

// undoPlaces finds the places for an image that is repaired.
func (r *RepairFlags) undoPlaces(path string, f *imagefile.File) undoPlaces {
	u := placesOf(path, f)
	switch {
	case r.NoUndo:
		u.keep = nil
	case r.Undo != nil:
		u.keep, u.named = &undofile.Place{Path: *r.Undo, Image: f.Info()}, true
	}
	if u.keep != nil {
		u.keep.Announce = func() error { return u.announce(path) }
	}
	return u
}

// all are the places at which a repair may have been interrupted.
func (u *undoPlaces) all() []*undofile.Place {
	list := append([]*undofile.Place(nil), u.own...)
	if u.named {
		list = append(list, u.keep)
	}
	if u.found != nil {
		list = append(list, u.found)
	}
	if u.image.IsDevice() {
		list = append(list, undofile.Devices(u.image.Info())...)
	}
	seen := make(map[string]*undofile.Place)
	unique := list[:0]
	for _, p := range list {
		name := absolute(p.Path)
		switch same := seen[name]; {
		case same == nil:
			seen[name] = p
			unique = append(unique, p)
		case p == u.found:
			u.found = same
		}
	}
	return unique
}

// isOwn tells whether a place belongs to the image's name.
func (u *undoPlaces) isOwn(p *undofile.Place) bool { return slices.Contains(u.own, p) }

// absolute is a path that holds in every folder, through whichever links its folder was
// named.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// announce makes the image say where the journal of its repair is, as long as that is
// under way: so it is found through every link to the image, and when that was moved.
// Where a file cannot carry a note, it is registered; where that cannot be done either,
// the journal is found by the image's name alone.
func (u *undoPlaces) announce(path string) error {
	if !u.image.IsAt(path) {
		return errReplaced
	}
	journal := absolute(u.keep.Path)
	if u.image.SetNote(journal) != nil {
		device, inode := u.image.ID()
		_ = undofile.Register(device, inode, journal)
	}
	return nil
}

// announced gives the place that an image was announced with, or nil.
func announced(f *imagefile.File) *undofile.Place {
	path, err := f.Note()
	if err != nil || path == "" {
		path = undofile.Registered(f.ID())
	}
	if !filepath.IsAbs(path) {
		return nil
	}
	return &undofile.Place{Path: path, Image: f.Info()}
}

// settle takes the announcement back once a repair has come to an end, if it has.
func (u *undoPlaces) settle(err error) {
	_, failed := errors.AsType[*repair.RollbackFailedError](err)
	_, interrupted := errors.AsType[*repair.InterruptedError](err)
	if failed || interrupted {
		return
	}
	// What is left of it leads to a journal that is finished, which is harmless.
	_ = u.image.ClearNote()
	_ = undofile.Unregister(u.image.ID())
}

// errCopy means that a journal fits an image, but was made for another file.
var errCopy = errors.New("the image is a copy of the one that the journal was made for")

// concerns tells whether a journal tells of a repair of this image. One that belongs to
// the image's name does: what it says is held against every byte. Another one has to have
// been made for this very file. A copy of a half-repaired file carries the note of its
// original, and two devices can hold the same; the journal of the other one must not be used
// up, so that is errCopy, unless the user has named it for this device.
func (u *undoPlaces) concerns(r repairable, p *undofile.Place, state repair.JournalState) (bool, error) {
	if u.isOwn(p) {
		return true, nil
	}
	id := r.FileID()
	same := state.Image == id || state.Image == (repair.FileID{})
	if !r.IsDevice() {
		// Device numbers can change when the machine starts again.
		same = same || state.Image.Inode == id.Inode && u.mentioned(p)
		if same {
			return true, nil
		}
	}
	fit, err := repair.FitOf(r, p)
	switch {
	case err != nil:
		return false, err
	case r.IsDevice() && fit == repair.FitUndo:
		if same || u.isNamed(p) {
			return true, nil
		}
		return false, errCopy
	case fit == repair.FitUndo && u.mentioned(p):
		return false, errCopy
	}
	return u.isNamed(p), nil
}

// isNamed tells whether the user named a place, and mentioned whether the image did, or
// the user.
func (u *undoPlaces) isNamed(p *undofile.Place) bool {
	return u.named && (p == u.keep || slices.Contains(u.older, p))
}
func (u *undoPlaces) mentioned(p *undofile.Place) bool { return p == u.found || u.isNamed(p) }

// pending tells of a repair that was interrupted, before anything else is said of
// the image: what is in it may be half of the one and half of the other. A file that
// is no journal, or whose image may not be told, is none of a check's business.
func pending(s *streams, r repairable, places undoPlaces) error {
	for _, p := range places.all() {
		p.ReadOnly = true
		state, err := repair.Glance(p)
		mine := false
		if err == nil && state.Pending() {
			mine, err = places.concerns(r, p, state)
		}
		_, damaged := errors.AsType[*repair.DamagedError](err)
		switch {
		case errors.Is(err, errCopy):
			return copyError(r, p)
		case err != nil:
			if (damaged || !errors.Is(err, fs.ErrPermission)) && (places.isOwn(p) || places.mentioned(p)) {
				s.warning(fmt.Sprintf("%s: whether a repair was interrupted cannot be told: %s: %v", check.Escape(r.path), check.Escape(p.Path), err))
			}
		case p == places.found && state.Phase == repair.PhaseNone:
			s.warning(missingText(r.path, p))
		case mine:
			what := "a repair of this image was interrupted"
			if state.Phase == repair.PhaseUndoing {
				what = "the undoing of a repair of this image was interrupted"
			}
			return &repairFailure{image: r.path,
				err: fmt.Errorf("%s (%s), and must be finished or rolled back before anything else", what, timeText(state.Time)),
				hint: fmt.Sprintf("`qcheck -r %[1]s` rolls it back or finishes it and then repairs the image, `qcheck undo %[1]s` only rolls it back; the undo journal is %[2]s",
					report.Typed(r.path), check.Escape(p.Path))}
		}
	}
	return nil
}

// keepsUnowned gives the journal of a repair of this image, if there is one, that has kept
// clusters without an owner because of what they hold: nothing in the image tells them
// from leaks. A journal that may not be followed says nothing.
func keepsUnowned(r repairable, places undoPlaces) *undofile.Place {
	list := places.all()
	for _, p := range list[:len(list):len(list)] {
		if older, err := p.Older(); err == nil {
			list = append(list, older...)
		}
	}
	id := r.FileID()
	for _, p := range list {
		p.ReadOnly = true
		state, err := repair.Glance(p)
		same := state.Image.Inode == id.Inode && (state.Image.Device == id.Device || !r.IsDevice())
		if err == nil && state.Keeps && state.Phase == repair.PhaseFinished && same {
			return p
		}
	}
	return nil
}

// missingText says that the journal is gone that an image leads to.
func missingText(path string, p *undofile.Place) string {
	return fmt.Sprintf("%s: a repair of this image may have been interrupted, but its undo journal %s is not there any more; "+
		"if it was moved, `qcheck undo --undo FILE` takes its new name", check.Escape(path), check.Escape(p.Path))
}

func timeText(t time.Time) string { return t.Format("2006-01-02 15:04:05") }

// copyError says what can be done with a copy of a repaired, or half-repaired, image.
func copyError(r repairable, p *undofile.Place) error {
	name := check.Escape(p.Path)
	if r.IsDevice() {
		return &repairFailure{image: r.path, err: errors.New("a repair was interrupted, of this device or of another one that holds the same"),
			hint: fmt.Sprintf("if it was this one, under another number, name the undo journal: `qcheck undo --undo %s`, or `qcheck -r --undo`", name)}
	}
	return &repairFailure{image: r.path, err: fmt.Errorf("undo journal %s: %w, which still needs it", name, errCopy),
		hint: fmt.Sprintf("copy the journal too, to %s, then run `qcheck undo`", check.Escape(undofile.Default(r.path, false).Path))}
}

// recoverAll brings an image in order after a repair that was interrupted, and says
// so. It gives what was done, as reports have it.
func recoverAll(s *streams, r repairable, places undoPlaces) (string, error) {
	if err := stillThere(r); err != nil {
		return "", err
	}
	did := ""
	for _, p := range places.all() {
		state, err := repair.StateOf(p)
		mine := places.isOwn(p) || places.isNamed(p)
		if err != nil && !mine && !places.mentioned(p) {
			continue
		}
		if err == nil && state.Undoable() {
			mine, err = places.concerns(r, p, state)
		}
		switch {
		case errors.Is(err, errCopy) && state.Pending():
			return did, copyError(r, p)
		case errors.Is(err, errCopy):
			continue
		case err != nil:
			return did, recoverError(r.path, p, err)
		case p == places.found && state.Phase == repair.PhaseNone:
			s.warning(missingText(r.path, p))
			continue
		case !mine:
			continue
		}
		rec, err := repair.Recover(r, p)
		if err != nil {
			return did, recoverError(r.path, p, err)
		}
		switch rec.Action {
		case repair.RecoveredRolledBack:
			did = "rolled-back"
			s.warning(fmt.Sprintf("%s: a repair had been interrupted; it has been rolled back first", check.Escape(r.path)))
		case repair.RecoveredCompleted:
			did = "completed"
			s.warning(fmt.Sprintf("%s: a repair had been interrupted at its last step; that has been done first", check.Escape(r.path)))
		}
		if rec.Left != nil {
			s.warning(fmt.Sprintf("%s is of no more use, and cannot be removed: %v", check.Escape(p.Path), rec.Left))
		}
	}
	for _, p := range places.own {
		for _, left := range p.Unfinished() {
			_, _ = repair.Recover(r, left) // removes it if it was made for this image
		}
	}
	places.settle(nil)
	return did, nil
}

// recoverError says what can be done when a journal could not be followed.
func recoverError(path string, p *undofile.Place, err error) error {
	name := check.Escape(p.Path)
	e := &repairFailure{image: path, err: fmt.Errorf("undo journal %s: %w", name, err)}
	changed, isChanged := errors.AsType[*repair.ChangedError](err)
	damaged, isDamaged := errors.AsType[*repair.DamagedError](err)
	untrusted, isUntrusted := errors.AsType[*undofile.UntrustedError](err)
	_, noFile := errors.AsType[*undofile.NotAFileError](err)
	_, interrupted := errors.AsType[*repair.InterruptedError](err)
	switch {
	case isChanged && changed.Phase == repair.PhaseFinished:
		e.hint = "the journal is of another image, or the image has been used since: the repair cannot be taken back any more"
	case isChanged:
		e.hint = fmt.Sprintf("if the image was restored or replaced since, remove %s and start anew", name)
	case isDamaged && damaged.Kind == repair.DamagedOther:
		e.hint = fmt.Sprintf("if no other image needs %s, remove it; or name another file with --undo", name)
	case isDamaged && damaged.Kind == repair.DamagedForeign:
		e.hint = "nothing has been written; name another file with --undo"
	case isDamaged:
		e.hint = fmt.Sprintf("nothing has been written; move %s away, or name another file with --undo", name)
	case isUntrusted:
		e.hint = untrusted.Hint
	case noFile:
		e.hint = "name another file with --undo"
	case interrupted:
		e.hint = "the undo journal is still there: mend what is in the way, then run the same command again"
	}
	return e
}

// makeRoom looks at what is in the place of a new journal. Recover has been called, so
// no repair is under way there. A finished journal is kept under another name; one that
// is another image's keeps its name, for that image is looked for under it.
func makeRoom(r repairable, places undoPlaces) error {
	p := places.keep
	state, err := repair.StateOf(p)
	if err != nil {
		return recoverError(r.path, p, err)
	}
	if places.named && state.Phase == repair.PhaseFinished {
		fit, err := repair.FitOf(r, p)
		mine := false
		if err == nil {
			mine, err = places.concerns(r, p, state)
		}
		if err != nil && !errors.Is(err, errCopy) {
			return recoverError(r.path, p, err)
		}
		if fit != repair.FitUndo || !mine {
			return &repairFailure{image: r.path,
				err:  fmt.Errorf("%s is the undo journal of another image, or of an earlier state of this one", check.Escape(p.Path)),
				hint: "name another file with --undo, or remove this one if it is not needed any more"}
		}
	}
	p.Rotate = state.Phase != repair.PhaseNone
	return nil
}
