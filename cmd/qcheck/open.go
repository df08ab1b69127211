package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/qcow2"
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
			err = fmt.Errorf("%w, but %v: its header was overwritten; write nothing to it, and put a backup of the header back", err, found)
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
func (o *opened) sibling(kind check.SiblingKind, name, _ string) (check.Sibling, error) {
	path, err := siblingPath(o.path, name)
	if err != nil {
		return nil, err
	}
	k := imagefile.DataFile
	if kind == check.SiblingBackingFile {
		k = imagefile.BackingFile
	}
	f, err := imagefile.Open(path, imagefile.Options{Kind: k, ForceShare: o.forceShare})
	if err != nil {
		if l, ok := errors.AsType[*imagefile.LockedError](err); ok {
			o.hint = l.Hint()
		}
		return nil, err
	}
	return f, nil
}

// errProtocol means that an image names its other file by something else than a
// path.
var errProtocol = errors.New("not the path of a local file")

// siblingPath gives the path that a name in an image stands for. QEMU's names
// may start with a protocol ("nbd:", "json:{…}", "file:"), of which only local
// files can be looked at.
func siblingPath(image, name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "file:"); ok {
		name = strings.TrimPrefix(rest, "//")
	} else if proto, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(proto, "/") {
		return "", fmt.Errorf("%s: %w", check.Escape(name), errProtocol)
	}
	if name == "" {
		return "", errors.New("the name is empty")
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Join(filepath.Dir(image), name), nil
}
