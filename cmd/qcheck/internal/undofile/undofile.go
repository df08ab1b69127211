// Package undofile is the place of an image's undo journal in the file system.
//
//	disk.qcow2                        the image
//	disk.qcow2.qcheck-undo            the journal of its last repair, beside the file
//	                                  that a link leads to
//	disk.qcow2.qcheck-undo.2, .1      those of the repairs before, the older the lower
//	disk.qcow2.qcheck-undo.new-123    one that is being written
//
// A journal is made with O_EXCL and mode 0600, for it holds metadata of the image. It is
// written under another name, and renamed when it is whole; a finished one is moved out
// of its way first. No file is ever replaced, so neither a disk that is full nor a wrong
// name costs anybody anything.
//
// Who can make a journal be followed can write to the image whatever they like. So a
// file is only taken for one if it can only have come from the caller or the image's
// owner; docs/undo.md has the rules and what they are for.
package undofile

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/qcheck/qcheck/check/repair"
)

// Suffix is what the name of a journal ends with.
const Suffix = ".qcheck-undo"

// DirEnv is the environment variable that names the folder for the journals of block
// devices.
const DirEnv = "QCHECK_UNDO_DIR"

// defaultDir is that folder where the variable is not set: nothing that is kept in
// /dev survives the next start of the machine.
const defaultDir = "/var/lib/qcheck"

// Place is a path at which there may be an undo journal. It is a [repair.Journals].
type Place struct {
	Path string
	// Image is what the system says of the image, the owner of which is trusted. The
	// default is nil: nobody is but the caller.
	Image fs.FileInfo
	// ReadOnly opens a journal that is only looked at. The default is false.
	ReadOnly bool
	// Rotate moves the journal that is there out of the way of a new one; what it
	// says has been looked at. The default is false: a new one fails.
	Rotate bool
	// Announce makes it known where the journal is that has just been published. An
	// error keeps the repair from beginning. The default is nil.
	Announce func() error

	makeDir string // a folder of our own that may not be there yet
	fresh   string // the name that a new journal has until it is published, or ""
}

// Default is the place of the journal of the image at path if no other is named:
// beside a file, in a folder of its own for a block device.
func Default(path string, device bool) *Place {
	if !device {
		if real, err := filepath.EvalSymlinks(path); err == nil && real != filepath.Clean(path) {
			path = real
		}
		return &Place{Path: path + Suffix}
	}
	dir := stateDir()
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	name := strings.TrimPrefix(strings.TrimPrefix(path, "/dev/"), "/")
	return &Place{Path: filepath.Join(dir, url.PathEscape(name)+Suffix), makeDir: dir}
}

// stateDir is the folder for the journals of block devices.
func stateDir() string {
	if dir := os.Getenv(DirEnv); dir != "" {
		return dir
	}
	return defaultDir
}

// NotAFileError says that something else than a file is where the journal should be.
type NotAFileError struct{ Mode fs.FileMode }

func (e *NotAFileError) Error() string {
	if e.Mode.Type() == fs.ModeSymlink {
		return "it is a symbolic link, which is not followed"
	}
	return "it is not a regular file"
}

// Create makes a new journal's file, for reading and writing. It fails with
// [fs.ErrExist] when there is one that must not be moved away.
func (p *Place) Create() (repair.JournalFile, error) {
	if p.makeDir != "" {
		if err := os.MkdirAll(p.makeDir, 0o700); err != nil {
			return nil, cause(err)
		}
	}
	if err := trustFolder(p.Path); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(p.Path); err == nil && !p.Rotate {
		return nil, fs.ErrExist
	}
	f, err := os.CreateTemp(filepath.Dir(p.Path), filepath.Base(p.Path)+freshInfix+"*")
	if err != nil {
		return nil, cause(err)
	}
	// A journal that would not be followed after a crash is of no use: some file systems
	// give every file to the same user.
	info, err := f.Stat()
	if err == nil {
		err = trustFile(info, p.Image)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(f.Name())
		return nil, cause(err)
	}
	p.fresh = f.Name()
	return f, nil
}

// Publish gives the new journal its name.
func (p *Place) Publish() error {
	if p.Rotate {
		if err := p.makeRoom(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := rename(p.fresh, p.Path); err != nil {
		return cause(err)
	}
	p.fresh = ""
	if err := p.SyncDir(); err != nil {
		return err
	}
	if p.Announce != nil {
		return p.Announce()
	}
	return nil
}

// Open opens the journal, or fails with [fs.ErrNotExist].
func (p *Place) Open() (repair.JournalFile, error) {
	// Looked at first, for opening some devices has effects. What counts is what was
	// opened, though: the name may have been given to something else meanwhile, and a
	// pipe must not hold us up.
	info, err := os.Lstat(p.Path)
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, &NotAFileError{Mode: info.Mode()}
	}
	flags := os.O_RDWR
	if p.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(p.Path, flags|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, &NotAFileError{Mode: fs.ModeSymlink}
	}
	if err != nil {
		return nil, cause(err)
	}
	if info, err = f.Stat(); err == nil {
		err = p.trust(info)
	}
	if err != nil {
		f.Close()
		return nil, cause(err)
	}
	return f, nil
}

// trust holds that an open file may be followed as a journal.
func (p *Place) trust(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &NotAFileError{Mode: info.Mode()}
	}
	if err := trustFile(info, p.Image); err != nil {
		return err
	}
	return trustFolder(p.Path)
}

// Remove removes the journal: the new one until it is published.
func (p *Place) Remove() error {
	name := p.Path
	if p.fresh != "" {
		name, p.fresh = p.fresh, ""
	}
	return cause(os.Remove(name))
}

// SyncDir makes sure that it survives a power cut that the journal is there, or not
// there any more.
func (p *Place) SyncDir() error { return syncDir(filepath.Dir(p.Path)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return cause(err)
	}
	defer d.Close()
	// Some file systems cannot flush folders, and say so.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return fmt.Errorf("its folder cannot be flushed: %w", cause(err))
	}
	return nil
}

// cause takes an error of package os apart: the caller knows the path.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}
