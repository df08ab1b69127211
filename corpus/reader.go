package corpus

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Reader reads a case's image as a check finds it: with the errors that the case
// asks for. It is a [qcow2.DataFinder].
type Reader struct {
	*Store
	bad []qcow2.Extent
}

// ErrUnreadable is the error of reading what a case makes unreadable.
var ErrUnreadable = fmt.Errorf("the medium is broken here: %w", io.ErrUnexpectedEOF)

// Reader gives a reader for the case's image.
func (c *Case) Reader(img *Image) (*Reader, error) {
	r := &Reader{Store: img.Store}
	for _, p := range c.Unreadable {
		x, err := img.Find(p)
		if err != nil {
			return nil, err
		}
		r.bad = append(r.bad, x)
	}
	return r, nil
}

// ReadAt reads up to the first byte that cannot be read.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	for _, x := range r.bad {
		start, end := int64(x.Offset), int64(x.Offset)+int64(x.Length)
		if off < end && off+int64(len(p)) > start {
			n := int(max(start-off, 0))
			if n, err := r.Store.ReadAt(p[:n], off); err != nil {
				return n, err
			}
			return n, ErrUnreadable
		}
	}
	return r.Store.ReadAt(p, off)
}

// sibling is a file beside an image, opened.
type sibling struct{ *Store }

func (sibling) Close() error { return nil }

// Options gives the options with which a check of the case's image must be run.
func (c *Case) Options(img *Image) check.Options {
	return check.Options{
		MemoryLimit: c.MemoryLimit,
		BitmapData:  c.BitmapData,
		Data:        c.Data,
		OpenSibling: func(_ check.SiblingKind, name, _ string) (check.Sibling, error) {
			if s := img.Siblings[name]; s != nil {
				return sibling{s}, nil
			}
			return nil, fs.ErrNotExist
		},
	}
}
