package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report"
)

// opened is an image with the file it is read from.
type opened struct {
	*imagefile.File
	path       string
	forceShare bool
	img        *qcow2.Image
	hint       string // what helps against the error of a file that the image names
}

// openImage opens an image as a reader. The error is an [*imagefile.OpenError],
// wraps [qcow2.ErrNotQcow2], or tells what could not be read.
func openImage(s *streams, path string, forceShare bool) (*opened, error) {
	f, err := imagefile.Open(path, imagefile.Options{ForceShare: forceShare})
	if err != nil {
		return nil, err
	}
	if f.LockState() != imagefile.LockTaken {
		s.warnOnce("locks", check.Escape(path)+": there are no image locks here, so a running VM that writes to an image would not be noticed")
	}
	o := &opened{File: f, path: path, forceShare: forceShare}
	if err := o.reopen(); err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

// reopen reads the header anew, of the file as long as it is now.
func (o *opened) reopen() error {
	if err := o.Refresh(); err != nil {
		return fmt.Errorf("%s: %w", check.Escape(o.path), err)
	}
	img, err := qcow2.Open(o.File, o.Size())
	if errors.Is(err, qcow2.ErrNotQcow2) && o.Size() == 0 {
		err = fmt.Errorf("%w: it is empty", err)
	}
	if errors.Is(err, qcow2.ErrNotQcow2) {
		if found := check.FirstLook(o.File, o.Size()); found != nil {
			err = fmt.Errorf("%w, but %v: its header was overwritten; write nothing to it; `qcheck rescue` rebuilds the header in a copy", err, found)
		}
	}
	if errors.Is(err, qcow2.ErrNotQcow2) {
		if l, ok := check.LooksLike(o.File, o.Size()); ok {
			err = &report.NotQcow2Error{Err: err, Looks: l}
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", check.Escape(o.path), err)
	}
	o.img = img
	return nil
}

// sibling opens another file that the image names, relative to the image's
// folder as QEMU does.
func (o *opened) sibling(kind check.SiblingKind, name, format string) (check.Sibling, error) {
	if kind == check.SiblingDataFile {
		return o.dataFile(name, format)
	}
	return o.backing(name)
}

// backing opens the backing file.
func (o *opened) backing(name string) (*opened, error) {
	path, err := siblingPath(o.path, name)
	if err != nil {
		return nil, err
	}
	if o.IsSame(path) {
		return nil, check.ErrBackingLoop
	}
	f, err := o.openSibling(path, imagefile.BackingFile)
	if err != nil {
		return nil, err
	}
	return &opened{File: f, path: path, forceShare: o.forceShare}, nil
}

// dataFile opens the external data file.
func (o *opened) dataFile(name, _ string) (check.Sibling, error) {
	path, err := siblingPath(o.path, name)
	if err != nil {
		return nil, err
	}
	path, misplaced := dataFilePath(path, name)
	f, err := o.openSibling(path, imagefile.DataFile)
	if err != nil {
		return nil, err
	}
	return dataFileAt{f, misplaced}, nil
}

// openSibling opens another file of the image.
func (o *opened) openSibling(path string, kind imagefile.Kind) (*imagefile.File, error) {
	f, err := imagefile.Open(path, imagefile.Options{Kind: kind, ForceShare: o.forceShare})
	if l, ok := errors.AsType[*imagefile.LockedError](err); ok {
		o.hint = l.Hint()
		if kind == imagefile.BackingFile && l.Conflict == imagefile.ConflictWriter {
			err = inUse{l}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist} // where it was looked for
	}
	return f, err
}

// inUse is a lock that a writer holds, and a [check.ErrInUse].
type inUse struct{ *imagefile.LockedError }

func (inUse) Is(target error) bool { return target == check.ErrInUse }

// dataFileAt is an opened sibling, and what is odd about its place.
type dataFileAt struct {
	*imagefile.File
	misplaced string
}

// Misplaced makes it a [check.MisplacedSibling].
func (d dataFileAt) Misplaced() string { return d.misplaced }

// dataFilePath gives the path of an external data file that stands beside the image,
// or where QEMU would look for it: unlike a backing file's name, QEMU takes a relative
// one from the folder that it is started in. misplaced says that the two are not one
// file.
func dataFilePath(beside, name string) (path, misplaced string) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "file:"), "//")
	if filepath.IsAbs(name) {
		return beside, ""
	}
	here, errHere := os.Stat(name)
	there, errThere := os.Stat(beside)
	switch {
	case errHere == nil && errThere == nil && os.SameFile(here, there):
		return beside, ""
	case errHere == nil && errThere == nil:
		return name, "there is one in the current folder, and another one beside the image"
	case errHere == nil:
		return name, "it is in the current folder, and not beside the image"
	case errThere == nil:
		return beside, "it lies beside the image, and not in the current folder"
	}
	return beside, ""
}

// errProtocol means that an image names its other file by something else than a
// path.
var errProtocol = errors.New("not the path of a local file, and qcheck follows no others")

// siblingPath gives the path that a name in an image stands for, as QEMU finds it. A name
// may start with a protocol ("nbd:", "json:{…}"), of which only local files can be looked
// at. "file:" is one as well: what follows is taken as it stands, from the current folder.
// Any other relative name is taken from the folder of the image, by the name under which
// that was opened, be it a symbolic link, and is not simplified: "a/.." need not be ".".
func siblingPath(image, name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "file:"); ok {
		if rest == "" {
			return "", errors.New("the name is empty")
		}
		return rest, nil
	}
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		return "", errProtocol
	}
	if name == "" {
		return "", errors.New("the name is empty")
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	folder := strings.LastIndexFunc(image, func(r rune) bool { return r < 0x80 && os.IsPathSeparator(uint8(r)) }) + 1
	return image[:folder] + name, nil
}
