package imagefile

import (
	"errors"

	"golang.org/x/sys/unix"
)

// noteName is the extended attribute that holds a note. Only who may write to the file
// can set it.
const noteName = "user.qcheck.undo"

// maxNote bounds the length of a note: that of the longest path.
const maxNote = 4096

// Note gives the note that was left with the file, or "". It goes with the file wherever
// that is moved, and is seen through every link to it.
func (f *File) Note() (string, error) {
	b := make([]byte, maxNote)
	n := 0
	err := f.control(func(fd int) (err error) {
		n, err = unix.Fgetxattr(fd, noteName, b)
		return err
	})
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// SetNote leaves a note with the file, and makes sure that it survives a power cut. It
// fails where the file system has no room for notes, as on block devices.
func (f *File) SetNote(text string) error {
	if !f.opts.Write {
		return ErrReadOnly
	}
	if err := f.control(func(fd int) error { return unix.Fsetxattr(fd, noteName, []byte(text), 0) }); err != nil {
		return err
	}
	return f.Sync()
}

// ClearNote takes the note away, if there is one.
func (f *File) ClearNote() error {
	if !f.opts.Write {
		return ErrReadOnly
	}
	err := f.control(func(fd int) error { return unix.Fremovexattr(fd, noteName) })
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && f.device {
		return nil
	}
	return err
}

// control calls do with the file's descriptor.
func (f *File) control(do func(fd int) error) error {
	conn, err := f.f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := conn.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}
