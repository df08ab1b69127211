package imagefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
)

// Kind is what a file is to the image that is checked.
type Kind int

const (
	// Image is the image itself.
	Image Kind = iota
	// DataFile is an image's external data file.
	DataFile
	// BackingFile is an image's backing file: read, never written to.
	BackingFile
)

func (k Kind) String() string {
	switch k {
	case Image:
		return "image"
	case DataFile:
		return "data file"
	default:
		return "backing file"
	}
}

// Options says what a file is opened for. The zero value opens an image for a
// check.
type Options struct {
	// Kind is what the file is to the image. The default is Image.
	Kind Kind
	// ForceShare reads a file even while another program writes to it. The
	// default is false: such a file is not opened.
	ForceShare bool
	// Write opens for a repair, which is alone with the file. It excludes
	// ForceShare, and a backing file is never opened so. The default is false.
	Write bool
}

// File is an open image file or block device. Its methods may be used from
// several goroutines at once.
type File struct {
	f      *os.File
	opts   Options
	info   fs.FileInfo // as it was opened
	size   int64
	device bool

	locks locks
	state LockState
	live  atomic.Bool
}

// Open opens a regular file or a block device and takes QEMU's image locks as
// the options ask. The error is an [*OpenError].
func Open(path string, opts Options) (*File, error) {
	f, err := open(path, opts)
	if err != nil {
		return nil, &OpenError{Path: path, Kind: opts.Kind, Err: cause(err)}
	}
	return f, nil
}

func open(path string, opts Options) (*File, error) {
	switch {
	case opts.Write && opts.ForceShare:
		return nil, &OptionError{"a file that others write to is never opened for a repair"}
	case opts.Write && opts.Kind == BackingFile:
		return nil, &OptionError{"a backing file is never written to"}
	}
	// Looked at before it is opened: opening some devices has effects. Looked at
	// again once it is open, for the path may have been given to something else
	// meanwhile; O_NONBLOCK keeps even a pipe slipped in from holding us up.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !usable(info.Mode()) {
		return nil, &NotRegularError{Mode: info.Mode()}
	}
	osFile, err := openFile(path, opts.Write)
	if err != nil {
		return nil, err
	}
	f, err := newFile(osFile, opts)
	if err != nil {
		osFile.Close()
		return nil, err
	}
	return f, nil
}

func newFile(osFile *os.File, opts Options) (*File, error) {
	info, err := osFile.Stat()
	if err != nil {
		return nil, err
	}
	if !usable(info.Mode()) {
		return nil, &NotRegularError{Mode: info.Mode()}
	}
	f := &File{f: osFile, opts: opts, info: info, device: !info.Mode().IsRegular()}
	conn, err := osFile.SyscallConn()
	if err != nil {
		return nil, err
	}
	f.locks = newLocks(conn)
	if f.state, err = f.locks.take(planFor(opts)); err != nil {
		if le, ok := errors.AsType[*LockedError](err); ok {
			le.Kind, le.Write = opts.Kind, opts.Write
		}
		return nil, err
	}
	// Only now: until the lock is ours, the length may change.
	if f.size, err = f.CurrentSize(); err != nil {
		f.locks.drop()
		return nil, err
	}
	return f, nil
}

// usable tells whether an image can be stored in a file of this kind.
func usable(mode fs.FileMode) bool {
	return mode.IsRegular() || mode.Type() == fs.ModeDevice
}

// openFile opens without waiting and, for reading, without leaving a trace.
func openFile(path string, write bool) (*os.File, error) {
	if write {
		return os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	}
	flags := os.O_RDONLY | syscall.O_NONBLOCK
	if noAtime != 0 {
		// Permitted to the file's owner and to root, and not known to every
		// file system; whatever it fails for, the plain way decides.
		if f, err := os.OpenFile(path, flags|noAtime, 0); err == nil {
			return f, nil
		}
	}
	return os.OpenFile(path, flags, 0)
}

// ReadAt reads as [io.ReaderAt] says.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// WriteAt writes as [io.WriterAt] says, or fails with [ErrReadOnly] when the
// file was not opened for writing.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if !f.opts.Write {
		return 0, ErrReadOnly
	}
	return f.f.WriteAt(p, off)
}

// Truncate changes the file's length, in bytes. A block device cannot be changed
// so. It fails with [ErrReadOnly] when the file was not opened for writing.
func (f *File) Truncate(size int64) error {
	if !f.opts.Write {
		return ErrReadOnly
	}
	return f.f.Truncate(size)
}

// Sync makes sure that what was written is on the disk.
func (f *File) Sync() error { return f.f.Sync() }

// Size is the length of the file or device in bytes when it was opened, or at the
// last [File.Refresh]. It stays the same until then, so that one check goes by one
// length.
func (f *File) Size() int64 { return f.size }

// Refresh takes the length that the file has now for [File.Size], and so for
// [File.NextData], before a live image is read again. No other method may run
// meanwhile.
func (f *File) Refresh() error {
	size, err := f.CurrentSize()
	if err == nil {
		f.size = size
	}
	return err
}

// CurrentSize asks for the length in bytes as it is now. It differs from
// [File.Size] when a live image has grown.
func (f *File) CurrentSize() (int64, error) {
	if f.device {
		// A device's stat says nothing of its size; its end does.
		n, err := f.f.Seek(0, io.SeekEnd)
		if err == nil && n == 0 {
			err = errors.New("the device has no size (is there a medium in it?)")
		}
		return n, err
	}
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// IsSame tells whether a path leads to this very file.
func (f *File) IsSame(path string) bool {
	is, err := f.f.Stat()
	if err != nil {
		return false
	}
	other, err := os.Stat(path)
	return err == nil && os.SameFile(is, other)
}

// IsDevice tells that the file is a block device, which cannot grow.
func (f *File) IsDevice() bool { return f.device }

// LockState tells whether QEMU's image locks protect the file.
func (f *File) LockState() LockState { return f.state }

// Live tells that another program has had the file open for writing since we
// opened it: now, or at an earlier call. Only a file opened with ForceShare can
// be live. Each call asks anew, so that a VM started during a check is noticed by
// the call at its end, but one that came and went between two calls is not.
func (f *File) Live() bool {
	if f.opts.ForceShare && f.state == LockTaken && !f.live.Load() && f.locks.anyLocked(writerBytes) {
		f.live.Store(true)
	}
	return f.live.Load()
}

// NextData finds the next bytes that are stored, so that holes need not be read:
// the extent of data that holds offset off (cut to begin there), or the first one
// after it. Both ends equal [File.Size] when there is no more data. Where holes
// cannot be told from data, as on block devices, everything is data.
func (f *File) NextData(off int64) (start, end int64, err error) {
	off = max(off, 0)
	if off >= f.size {
		return f.size, f.size, nil
	}
	if !seekDataKnown {
		return off, f.size, nil
	}
	start, err = f.f.Seek(off, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return f.size, f.size, nil
	case errors.Is(err, os.ErrClosed):
		return 0, 0, err
	case err != nil, start < off:
		return off, f.size, nil
	case start >= f.size:
		return f.size, f.size, nil
	}
	// A hole may have come up under us since; then it passes for data.
	end, err = f.f.Seek(start, seekHole)
	if err != nil || end <= start || end > f.size {
		end = f.size
	}
	return start, end, nil
}

// Close gives the locks back and closes the file.
func (f *File) Close() error {
	// Closing gives the locks back as well, but only once the last copy of the
	// descriptor is gone, and a child process being started has one for a moment.
	f.locks.drop()
	return f.f.Close()
}
