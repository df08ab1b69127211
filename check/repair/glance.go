package repair

import (
	"errors"
	"io/fs"
)

// Glance is [StateOf] without reading the records, whose checksums are not looked
// at: enough to know whether a repair was interrupted, before a check. Of the state
// only what the journal's first blocks say is known.
func Glance(js Journals) (JournalState, error) {
	f, err := js.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return JournalState{}, nil
	}
	if err != nil {
		return JournalState{}, err
	}
	defer f.Close()
	j, marks, damage, err := open(f)
	switch {
	case err != nil:
		return JournalState{}, err
	case j == nil, damage != nil && marks.any():
		return JournalState{}, damage
	case damage != nil, marks.blank:
		return j.incomplete().state(), nil
	case marks.any():
		j.phase = marks.phase()
		return j.state(), nil
	}
	// The seal is torn, and whether it counts only the records tell.
	return State(f)
}

// Fit is how an image stands to the repair that a journal tells of.
type Fit uint8

// The ways in which it can.
const (
	// FitNone: the image is another one, or has been written to since.
	FitNone Fit = iota
	// FitUndo: the image is as the repair can have left it; it can be taken back.
	FitUndo
	// FitBefore: the image is as before the repair. It was taken back, or the image
	// was restored.
	FitBefore
)

// FitOf compares an image with a journal. Nothing is changed. The error is that of
// Undo but a [*ChangedError].
func FitOf(f File, js Journals) (Fit, error) {
	jf, err := js.Open()
	if err != nil {
		return FitNone, err
	}
	defer jf.Close()
	j, err := load(jf)
	if err != nil || j.phase == PhaseIncomplete {
		return FitNone, err
	}
	is, err := j.compare(f)
	if err != nil {
		return FitNone, err
	}
	if j.phase != PhaseUndone {
		_, err = j.judge(is)
		if _, changed := errors.AsType[*ChangedError](err); !changed {
			return FitUndo, err
		}
	}
	if is.before.fits() {
		return FitBefore, nil
	}
	return FitNone, nil
}

// Forget removes a journal that nobody needs in order to use the image: of a repair that
// is done, that was taken back, or that never began. It fails with an [*UnfinishedError]
// for one of a repair that was interrupted, and with a [*DamagedError] for a file that
// is not a journal of this image.
func Forget(f File, js Journals) error {
	jf, err := js.Open()
	if err != nil {
		return err
	}
	j, err := load(jf)
	if err == nil && j.state().Pending() {
		err = &UnfinishedError{}
	}
	if err == nil {
		err = j.mustMatch(f)
	}
	if err != nil {
		jf.Close()
		return err
	}
	return discard(jf, js)
}
