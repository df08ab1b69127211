package repair

import "fmt"

// PlanError means that a plan is not one that can be applied: a fault of ours.
// Nothing has been written.
type PlanError struct {
	Edit   int // the index of the edit at fault
	Reason string
}

func (e *PlanError) Error() string {
	return fmt.Sprintf("the plan cannot be applied (edit %d): %s", e.Edit, e.Reason)
}

// StaleError means that the image is not the one that a plan was made for, or has
// been written to since. Nothing has been written.
type StaleError struct {
	Offset int64 // of the first byte that is not as the plan has it
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("the image has changed since the repair was planned, at 0x%x", e.Offset)
}

// RefusedError means that a plan was made and could not be proven to be safe, so that it
// is not carried out. Nothing has been written.
type RefusedError struct {
	Err error // as a rule a [*proof.Error]
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the repair was refused: %v; nothing has been written", e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// NotBegunError means that a repair could not begin, as a rule because there is no
// room for the undo journal. The image has not been touched.
type NotBegunError struct {
	Err error
	// Left is why the beginning of a journal could not be removed, or nil.
	Left error
}

func (e *NotBegunError) Error() string {
	return fmt.Sprintf("%v; the image has not been touched", e.Err)
}

func (e *NotBegunError) Unwrap() error { return e.Err }

// RolledBackError means that a repair failed, and that the image is as it was
// before.
type RolledBackError struct {
	Err error // why it failed; a [*VerifyError] when it was proved wrong
	// Left is why the journal, which is of no more use, could not be removed, or
	// nil.
	Left error
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("%v; the repair was rolled back, the image is as before", e.Err)
}

func (e *RolledBackError) Unwrap() error { return e.Err }

// VerifyError means that an image was not what a repair should have made of it.
type VerifyError struct{ Err error }

func (e *VerifyError) Error() string {
	return fmt.Sprintf("the repaired image is not as planned: %v", e.Err)
}

func (e *VerifyError) Unwrap() error { return e.Err }

// RollbackFailedError means that a repair failed, and that rolling it back failed
// too. The image may be half-written, and is marked corrupt where its version has
// that mark.
type RollbackFailedError struct {
	Err      error // why the repair failed
	Rollback error // why it could not be rolled back
	// Journal tells that the undo journal is there: when what is in the way has
	// been mended, the image is brought in order by [Recover].
	Journal bool
}

func (e *RollbackFailedError) Error() string {
	return fmt.Sprintf("%v; rolling back failed too: %v", e.Err, e.Rollback)
}

func (e *RollbackFailedError) Unwrap() []error { return []error{e.Err, e.Rollback} }

// InterruptedError means that taking a repair back, or completing one, was
// interrupted by an error. When what is in the way has been mended, it can be called
// again; until then the image may be half-written.
type InterruptedError struct {
	Err error
	// Completing tells that a repair that is done was to be completed; else it
	// was to be taken back.
	Completing bool
}

func (e *InterruptedError) Error() string {
	if e.Completing {
		return fmt.Sprintf("the last step of the repair failed: %v", e.Err)
	}
	return fmt.Sprintf("taking back the repair did not come to its end: %v", e.Err)
}

func (e *InterruptedError) Unwrap() error { return e.Err }

// ChangedError means that an image is not as the repair that the journal tells of
// can have left it: it has been written to since, or is another one. Writing the
// journal's bytes to it would damage it, so nothing has been written.
type ChangedError struct {
	Phase Phase // of the journal
	// Offset is where the first byte is that does not fit, or -1 when it is the
	// file's length.
	Offset int64
	Size   int64 // of the image, in bytes
	// Untouched tells that the repair was interrupted before it changed anything,
	// so that the journal is of no use to anybody.
	Untouched bool
}

func (e *ChangedError) Error() string {
	where := fmt.Sprintf("at 0x%x", e.Offset)
	if e.Offset < 0 {
		where = fmt.Sprintf("and is now %d bytes long", e.Size)
	}
	if e.Untouched {
		return "the image has been written to, " + where + ", since a repair was interrupted that had not changed anything yet"
	}
	return "the image has been written to since the repair, " + where + "; undoing would damage it"
}

// Damage is what is wrong with a journal.
type Damage uint8

// The kinds of damage.
const (
	DamagedForeign Damage = iota // it is no journal at all
	DamagedVersion               // a later version has made it
	DamagedContent               // a checksum does not fit
	DamagedOther                 // it is the journal of another image
)

// DamagedError means that an undo journal cannot be relied upon. Nothing has been
// written.
type DamagedError struct {
	Kind    Damage
	Version uint32 // for DamagedVersion
}

func (e *DamagedError) Error() string {
	switch e.Kind {
	case DamagedForeign:
		return "the file is not an undo journal"
	case DamagedVersion:
		return fmt.Sprintf("the undo journal has version %d, which this program does not know", e.Version)
	case DamagedOther:
		return "the undo journal was made for another image"
	default:
		return "the undo journal is damaged"
	}
}

// UnfinishedError means that a journal is still needed: the repair that it tells of, or
// its undoing, was interrupted.
type UnfinishedError struct{}

func (e *UnfinishedError) Error() string {
	return "a repair was interrupted, and its undo journal is needed to finish it or roll it back"
}
