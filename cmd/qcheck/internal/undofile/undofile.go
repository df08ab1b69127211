// Package undofile is the place of an image's undo journal in the file system.
//
//	disk.qcow2              the image
//	disk.qcow2.qcheck-undo  its undo journal, beside the file that a link leads to
//
// A journal is made with O_EXCL and mode 0600, for it holds metadata of the image.
// One that is to take the place of a finished one is written under another name
// first, and renamed when it is whole: a disk that is full costs nobody the journal
// that there is.
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
	// ReadOnly opens a journal that is only looked at. The default is false.
	ReadOnly bool
	// Replace lets a journal that is there be replaced; what it says has been
	// looked at. The default is false.
	Replace bool
	// makeDir is a folder of our own that may not be there yet.
	makeDir string

	renamed string // the name that a new journal has until SyncDir, or ""
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
	dir := os.Getenv(DirEnv)
	if dir == "" {
		dir = defaultDir
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	name := strings.TrimPrefix(strings.TrimPrefix(path, "/dev/"), "/")
	return &Place{Path: filepath.Join(dir, url.PathEscape(name)+Suffix), makeDir: dir}
}

// NotAFileError says that something else than a file is where the journal should be.
type NotAFileError struct{ Mode fs.FileMode }

func (e *NotAFileError) Error() string { return "it is no regular file" }

// Create makes the journal's file, for reading and writing. It fails with
// [fs.ErrExist] when there is one that must not be replaced.
func (p *Place) Create() (repair.JournalFile, error) {
	if p.makeDir != "" {
		if err := os.MkdirAll(p.makeDir, 0o700); err != nil {
			return nil, cause(err)
		}
	}
	p.renamed = ""
	f, err := os.OpenFile(p.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return f, nil
	}
	if !p.Replace || !errors.Is(err, fs.ErrExist) {
		return nil, cause(err)
	}
	f, err = os.CreateTemp(filepath.Dir(p.Path), filepath.Base(p.Path)+".new-*")
	if err != nil {
		return nil, cause(err)
	}
	p.renamed = f.Name()
	return f, nil
}

// Open opens the journal, or fails with [fs.ErrNotExist].
func (p *Place) Open() (repair.JournalFile, error) {
	flags := os.O_RDWR
	if p.ReadOnly {
		flags = os.O_RDONLY
	}
	// A pipe or a device must not hold us up.
	f, err := os.OpenFile(p.Path, flags|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &NotAFileError{Mode: info.Mode()}
	}
	if err != nil {
		f.Close()
		return nil, cause(err)
	}
	return f, nil
}

// Remove removes the journal: a new one, as long as it has not taken the place of an
// older one.
func (p *Place) Remove() error {
	if p.renamed != "" {
		name := p.renamed
		p.renamed = ""
		return cause(os.Remove(name))
	}
	return cause(os.Remove(p.Path))
}

// SyncDir makes sure that it survives a power cut that the journal is there, or not
// there any more. A new journal takes its place then.
func (p *Place) SyncDir() error {
	if p.renamed != "" {
		if err := os.Rename(p.renamed, p.Path); err != nil {
			return cause(err)
		}
		p.renamed = ""
	}
	d, err := os.Open(filepath.Dir(p.Path))
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
