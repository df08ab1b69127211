package repair

import (
	"bytes"
	"errors"
	"io/fs"
)

// Undo takes back the repair that a journal tells of, and leaves the image as it
// was before: every byte, and its length. It can be interrupted at any time and
// called again. What it does depends on how far the repair came:
//
//   - not begun, or already taken back: nothing;
//   - interrupted: it is rolled back, if the image is one that the repair can have
//     left;
//   - done: it is taken back, if the image is exactly what the repair has made of it.
//
// Otherwise it fails with a [*ChangedError], and with a [*DamagedError] when the
// journal cannot be relied upon; in both cases nothing has been written. A
// [*InterruptedError] tells that it was interrupted. Afterwards the journal is
// marked as undone and can be removed.
func Undo(f File, jf JournalFile) error {
	j, err := load(jf)
	if err != nil {
		return err
	}
	return j.undo(f)
}

func (j *journal) undo(f File) error {
	if j.phase == PhaseIncomplete || j.phase == PhaseUndone {
		return nil
	}
	is, err := j.compare(f)
	if err != nil {
		return err
	}
	todo, err := j.judge(is)
	if err != nil {
		return err
	}
	if err := j.do(f, todo, is); err != nil {
		return &InterruptedError{Err: err}
	}
	j.phase = PhaseUndone
	return nil
}

// do takes the repair back. What was read from the journal and from the image may
// not be on the disk yet, so that comes first.
func (j *journal) do(f File, todo action, is *agreement) error {
	if err := j.confirm(); err != nil {
		return err
	}
	if todo == takeBack {
		if err := j.begin(f); err != nil {
			return err
		}
	} else if err := j.writeSector(f, is.sector); err != nil {
		return err
	}
	if todo != asBefore {
		if err := j.restore(f); err != nil {
			return err
		}
	}
	return j.mark(markUndone)
}

// action is what is to be done to an image to take a repair back.
type action uint8

const (
	asBefore action = iota // nothing but to flush it: it is as before
	rollBack               // restore a half-written image
	takeBack               // mark that it begins, then restore
)

// judge says what to do with an image, or that it must not be touched. For version
// 3 images the corrupt mark tells whether it can be half-written: it is there
// before anything else is changed and until everything is in place, both when
// repairing and when undoing. So where it is missing the image is as before or as
// after, or has been used by somebody else; nothing that we wrote can be in the way
// of what they wrote.
func (j *journal) judge(is *agreement) (action, error) {
	mayBeHalf := !j.corrupts || is.marked
	done := j.phase == PhaseVerified || j.phase == PhaseFinished
	switch {
	case done && is.after.fits(), j.phase == PhaseVerified && is.afterMarked.fits():
		return takeBack, nil
	case done:
		return 0, j.changed(is, is.after)
	case mayBeHalf && is.between.fits():
		return rollBack, nil
	case mayBeHalf:
		return 0, j.changed(is, is.between)
	case j.phase == PhaseUndoing && is.after.fits():
		return takeBack, nil
	case is.before.fits():
		return asBefore, nil
	}
	err := j.changed(is, is.before)
	err.Untouched = j.phase == PhaseOpen
	return 0, err
}

func (j *journal) changed(is *agreement, m match) *ChangedError {
	return &ChangedError{Phase: j.phase, Offset: m.at, Size: is.size}
}

// begin notes that a repair that was done is being taken back, and marks the image
// corrupt.
func (j *journal) begin(f File) error {
	if err := j.mark(markUndoing); err != nil {
		return err
	}
	j.phase = PhaseUndoing
	if !j.corrupts {
		return nil
	}
	return j.writeSector(f, j.withMark(j.after))
}

// restore writes what was there before, and takes the corrupt mark off when
// everything else is flushed. The mark must be on the disk. Bytes are written even
// where they read as they should: after a failed flush the system may show what is
// not on the disk.
func (j *journal) restore(f File) error {
	w := &spanWriter{f: f, write: func(p []byte, off int64) error { return writeBack(f, p, off) }}
	err := j.each(func(r *record) error {
		if !r.stored {
			return nil
		}
		return w.add(r.old, r.at)
	})
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	size, err := f.CurrentSize()
	if err != nil {
		return err
	}
	if size != j.oldSize {
		if err := f.Truncate(j.oldSize); err != nil {
			return err
		}
	}
	if !j.corrupts {
		if !bytes.Equal(j.before, j.after) {
			return j.writeSector(f, j.before)
		}
		return f.Sync()
	}
	// Two writes, for the first may be torn: it leaves the mark, and all is flushed
	// with it; the second changes one bit.
	if err := j.writeSector(f, j.withMark(j.before)); err != nil {
		return err
	}
	if bytes.Equal(j.before, j.withMark(j.before)) {
		return nil
	}
	return j.writeSector(f, j.before)
}

// writeSector writes the first sector and flushes it.
func (j *journal) writeSector(f File, sector []byte) error {
	if err := writeBack(f, sector, 0); err != nil {
		return err
	}
	return f.Sync()
}

// writeBack writes what should be there. A write that fails is no loss where it
// would change nothing: in a hole of a full disk, say.
func writeBack(f File, p []byte, off int64) error {
	if _, err := f.WriteAt(p, off); err == nil {
		return nil
	}
	var is [pageSize]byte
	for len(p) > 0 {
		part := p[:min(len(p), pageSize-int(off%pageSize))]
		_, err := f.WriteAt(part, off)
		if err != nil && (readZeros(f, is[:len(part)], off) != nil || !bytes.Equal(is[:len(part)], part)) {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// Action is what [Recover] did.
type Action uint8

// The actions.
const (
	RecoveredNothing    Action = iota // there was nothing to do
	RecoveredDropped                  // a journal that was of no use was removed
	RecoveredRolledBack               // an interrupted repair, or undoing, was led back
	RecoveredCompleted                // the last write of a repair that was done was made
)

// Recovery is what [Recover] or [TakeBack] found and did.
type Recovery struct {
	Found  JournalState
	Action Action
	// Left is why a journal that is of no more use could not be removed, or nil.
	Left error
}

// Recover brings an image in order after a repair, or the undoing of one, was
// interrupted: as it was before, or as it was to be if that was proved already. It
// comes before anything else that writes to an image, and can itself be interrupted
// at any time. A journal that has done its work is removed; that of a finished
// repair stays. The errors are those of [Undo].
func Recover(f File, js Journals) (Recovery, error) {
	r, err := withJournal(js, func(j *journal) (Action, error) {
		switch j.phase {
		case PhaseFinished:
			return RecoveredNothing, nil
		case PhaseVerified:
			return RecoveredCompleted, j.complete(f)
		}
		return j.takeBack(f)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return Recovery{}, nil
	}
	return r, err
}

// TakeBack undoes the repair that the image's journal tells of, as [Undo] does, and
// removes the journal. It fails with [fs.ErrNotExist] when there is none.
func TakeBack(f File, js Journals) (Recovery, error) {
	return withJournal(js, func(j *journal) (Action, error) { return j.takeBack(f) })
}

func (j *journal) takeBack(f File) (Action, error) {
	if j.phase == PhaseIncomplete || j.phase == PhaseUndone {
		// Nothing that could be compared byte by byte keeps another image's journal
		// from being removed here.
		return RecoveredDropped, j.mustMatch(f)
	}
	return RecoveredRolledBack, j.undo(f)
}

// withJournal opens the journal, and removes it when it is of no more use.
func withJournal(js Journals, do func(*journal) (Action, error)) (Recovery, error) {
	f, err := js.Open()
	if err != nil {
		return Recovery{}, err
	}
	j, err := load(f)
	if err != nil {
		f.Close()
		return Recovery{}, err
	}
	r := Recovery{Found: j.state()}
	act, err := do(j)
	if err != nil {
		f.Close()
		return r, err
	}
	r.Action = act
	if act == RecoveredDropped || act == RecoveredRolledBack {
		r.Left = discard(f, js)
		return r, nil
	}
	return r, f.Close()
}

// complete makes the last write of a repair that is done: it takes off the corrupt
// mark, if that is still there.
func (j *journal) complete(f File) error {
	is, err := j.compare(f)
	if err != nil {
		return err
	}
	if err := j.confirm(); err != nil {
		return &InterruptedError{Err: err, Completing: true}
	}
	switch {
	case is.after.fits(), is.afterMarked.fits():
		// Also where the mark is off: that may not be on the disk yet.
		if err := j.writeSector(f, j.after); err != nil {
			return &InterruptedError{Err: err, Completing: true}
		}
	case bytes.Equal(is.sector, j.withMark(j.after)) && !bytes.Equal(is.sector, j.after):
		return j.changed(is, is.afterMarked)
	}
	if err := j.mark(markFinished); err != nil {
		return &InterruptedError{Err: err, Completing: true}
	}
	j.phase = PhaseFinished
	return nil
}
