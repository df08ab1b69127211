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
	head := make([]byte, journalBlock)
	if err := readZeros(f, head, 0); err != nil {
		return JournalState{}, err
	}
	j := &journal{f: f}
	marks, err := j.readMarks()
	if err != nil {
		return JournalState{}, err
	}
	damage := j.decodeHead(head)
	if damage == nil {
		damage = marks.check(j)
	}
	switch {
	case damage != nil && damage.Kind == DamagedContent && !marks.any():
		return JournalState{Phase: PhaseIncomplete}, nil
	case damage != nil && damage.Kind == DamagedForeign && marks.any():
		return JournalState{}, &DamagedError{Kind: DamagedContent}
	case damage != nil:
		return JournalState{}, damage
	case marks.any():
		j.phase = marks.phase()
		return j.state(), nil
	case marks.blank:
		return JournalState{Phase: PhaseIncomplete}, nil
	}
	// The seal is torn, and whether it counts only the records tell.
	return State(f)
}

// Belongs tells whether an image is in one of the states in which the repair that its
// journal tells of can have left it, so that it can be taken back. Nothing is changed.
// The error is that of Undo but a [*ChangedError].
func Belongs(f File, js Journals) (bool, error) {
	jf, err := js.Open()
	if err != nil {
		return false, err
	}
	defer jf.Close()
	j, err := load(jf)
	if err != nil {
		return false, err
	}
	if j.phase == PhaseIncomplete || j.phase == PhaseUndone {
		return false, nil
	}
	is, err := j.compare(f)
	if err != nil {
		return false, err
	}
	_, err = j.judge(is)
	if _, changed := errors.AsType[*ChangedError](err); changed {
		return false, nil
	}
	return err == nil, err
}
