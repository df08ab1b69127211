package imagefile

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// ErrReadOnly is the error of a change to a file that was opened for a check.
var ErrReadOnly = errors.New("the file was opened for reading only")

// OpenError is why a file could not be opened. Err is a [*LockedError], a
// [*NotRegularError], an [*OptionError] or the operating system's error.
type OpenError struct {
	Path string
	Kind Kind
	Err  error
}

// Error gives the file's name, escaped where it could upset a terminal, and the
// reason.
func (e *OpenError) Error() string {
	return printable(e.Path) + ": " + e.Err.Error()
}

func (e *OpenError) Unwrap() error { return e.Err }

// Conflict is what another program does with an image that keeps us from it.
type Conflict int

const (
	// ConflictWriter: it has the image open for writing, as a running VM has.
	ConflictWriter Conflict = iota
	// ConflictExclusive: it lets nobody read the image, as a repair does.
	ConflictExclusive
	// ConflictReader: it reads the image and so lets nobody write to it. Only
	// opening for writing meets this.
	ConflictReader
	// ConflictForeign: it holds an exclusive lock that is none of QEMU's, over
	// the bytes that QEMU's locking uses.
	ConflictForeign
)

// Process names a program that holds a lock.
type Process struct {
	PID  int
	Name string // as the kernel shortens it; may be empty
	// Guest is the name of the virtual machine that a QEMU runs (its -name guest=…); may
	// be empty.
	Guest string
}

// LockedError says that another program's locks forbid what was asked for.
type LockedError struct {
	Conflict Conflict
	Kind     Kind
	// Write tells that the file was to be opened for writing.
	Write bool
	// Holder is the program that holds the lock, or nil where it could not be
	// found out (other users' programs are only visible to root).
	Holder *Process
}

// Error says who does what with the file. The file's name is left to
// [OpenError].
func (e *LockedError) Error() string {
	who := "another process, most likely a running QEMU,"
	switch {
	case e.Holder != nil && e.Holder.Guest != "":
		who = fmt.Sprintf("VM %s (%s, process %d)", printable(e.Holder.Guest), printable(e.Holder.Name), e.Holder.PID)
	case e.Holder != nil && e.Holder.Name != "":
		who = fmt.Sprintf("%s (process %d)", printable(e.Holder.Name), e.Holder.PID)
	case e.Holder != nil:
		who = fmt.Sprintf("process %d", e.Holder.PID)
	case e.Conflict == ConflictExclusive, e.Conflict == ConflictForeign:
		who = "another process"
	}
	switch e.Conflict {
	case ConflictWriter:
		return fmt.Sprintf("%s holds this %v for writing", who, e.Kind)
	case ConflictExclusive:
		return fmt.Sprintf("%s holds this %v and lets nobody else read it", who, e.Kind)
	case ConflictReader:
		return fmt.Sprintf("%s reads this %v and lets nobody change it", who, e.Kind)
	default:
		return fmt.Sprintf("%s holds a lock on this %v that is not QEMU's", who, e.Kind)
	}
}

// Hint says what the user can do about it.
func (e *LockedError) Hint() string {
	switch {
	case e.Conflict == ConflictWriter && e.Write:
		return "stop the VM first: what is in use is never repaired"
	case e.Conflict == ConflictWriter:
		return "stop the VM or whatever writes to it, or check it as it runs with -U (findings are then provisional)"
	case e.Conflict == ConflictExclusive && e.Write:
		return "wait until the other program has finished, then try again"
	case e.Conflict == ConflictExclusive:
		return "wait until the other program has finished; -U does not help here"
	case e.Conflict == ConflictReader:
		return "stop whatever reads the image first, for instance a VM that has it as its backing file"
	default:
		return "find the program that holds the lock with lslocks and let it finish"
	}
}

// NotRegularError says that a path names something that cannot hold an image.
type NotRegularError struct {
	Mode fs.FileMode // its type bits tell what it is
}

func (e *NotRegularError) Error() string {
	what := "not a regular file or a block device"
	switch t := e.Mode.Type(); {
	case t.IsDir():
		what = "a directory"
	case t&fs.ModeNamedPipe != 0:
		what = "a named pipe (FIFO)"
	case t&fs.ModeSocket != 0:
		what = "a socket"
	case t&fs.ModeCharDevice != 0:
		what = "a character device"
	}
	return "is " + what + "; an image is a regular file or a block device"
}

// OptionError says that the [Options] contradict each other.
type OptionError struct {
	Reason string
}

func (e *OptionError) Error() string { return e.Reason }

// cause takes an error of package os apart: the operation and the path are told
// by [OpenError], better.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// printable gives a name as it is when that is harmless on a terminal, else
// quoted. Names may come out of an image.
func printable(name string) string {
	plain := func(r rune) bool { return strconv.IsPrint(r) && r != '\uFFFD' }
	if name != "" && strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) < 0 {
		return name
	}
	return strconv.QuoteToGraphic(name)
}
