// Package chain checks an image together with all files below it in its chain of backing
// files, and says which persistent bitmaps hold through the chain.
//
//	c, err := chain.Run(ctx, file, img, chain.Options{Open: open})
//
// It opens no path by itself: [Options.Open] does, by the rules by which QEMU finds a
// backing file. Every file is opened once, kept open to the end as QEMU does, and closed
// by [Chain.Close]. A chain is never followed further than a depth that is far more than
// anybody has, and a file that is met again ends it: a chain can be a loop.
package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// MaxDepth is how many files below an image are looked at.
const MaxDepth = qcow2.DefaultBackingDepth

// File is an open file of a chain.
type File interface {
	check.Sibling
	// Name is what reports call the file: the path at which it was found.
	Name() string
	// Same tells whether another file is this very one, by whatever name it was opened.
	Same(File) bool
}

// Options says how to check a chain. Open is needed; the zero value of all else is right.
type Options struct {
	// Check are the options of the check of each file. What they require is required of
	// the image alone. Its OpenSibling is not looked at: Open is.
	Check check.Options
	// Open opens the backing file that another file of the chain names.
	Open func(from File, name, format string) (File, error)
	// OpenData opens the external data file of a file of the chain. The default is nil:
	// data files are not looked at.
	OpenData func(from File, name, format string) (check.Sibling, error)
	// Run checks one file; img is the image in it. The default is [check.Run].
	Run func(ctx context.Context, file File, img *qcow2.Image, opts check.Options) (*check.Result, error)
}

// Layer is one file of a chain.
type Layer struct {
	Given  string // the name by which the file above names it; as given by the user for the image itself
	Name   string // what reports call it
	Format string // qcow2, raw, or what else is recorded
	Size   uint64 // bytes of the disk in it
	// ClusterSize is in bytes, 0 for a file that is no qcow2 image.
	ClusterSize uint64
	// Result is that of its check; nil for a file that is not checked, such as a raw one.
	Result *check.Result
	// Err is what kept its check from its end, nil otherwise.
	Err error

	file File
	img  *qcow2.Image // nil where it is no qcow2 image
	// below is what came of opening the file that it names: a file or an error, or
	// neither where it names none.
	below    File
	belowErr error
}

// Chain is an image with all files below it.
type Chain struct {
	// Layers are the files, the image itself first. It has at least that one.
	Layers []Layer
	// Bitmaps are the bitmaps of all layers by name, in the order in which they are met.
	Bitmaps []Bitmap
}

// Run opens the files of a chain and checks each. The result of the image itself also has
// what was found below it (CHN004, CHN006). The error is that of the check of the image, or
// the context's; then some layers may have no result. The chain is never nil and must be
// closed.
func Run(ctx context.Context, file File, img *qcow2.Image, opts Options) (*Chain, error) {
	if opts.Run == nil {
		opts.Run = func(ctx context.Context, _ File, img *qcow2.Image, o check.Options) (*check.Result, error) {
			return check.Run(ctx, img, o)
		}
	}
	c := &Chain{}
	c.open(file, img, &opts)
	var failure error
	for i := range c.Layers {
		l := &c.Layers[i]
		if l.img == nil {
			continue
		}
		o := opts.Check
		o.Chain = true
		o.OpenSibling = l.opener(&opts)
		if i > 0 {
			o.Require, o.RequireAll, o.Untrusted, o.Strict = nil, false, false, false
		}
		l.Result, l.Err = opts.Run(ctx, l.file, l.img, o)
		if i == 0 || ctx.Err() != nil {
			failure = errors.Join(failure, l.Err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	c.sumUp()
	c.Bitmaps = bitmapsOf(c.Layers)
	return c, failure
}

// open opens all files below the image.
func (c *Chain) open(file File, img *qcow2.Image, opts *Options) {
	c.Layers = []Layer{{Given: file.Name(), Name: file.Name(), Format: qcow2.FormatQcow2, file: file}}
	c.Layers[0].take(img)
	for {
		l := &c.Layers[len(c.Layers)-1]
		if l.img == nil || opts.Check.NoBacking {
			return
		}
		name, ok := backingName(l.img)
		if !ok {
			return
		}
		format := l.img.BackingFormat()
		if len(c.Layers) > MaxDepth {
			l.belowErr = fmt.Errorf("%w: %d files", qcow2.ErrBackingDepth, MaxDepth)
			return
		}
		l.below, l.belowErr = opts.Open(l.file, name, format)
		if l.belowErr != nil {
			return
		}
		if i := slices.IndexFunc(c.Layers, func(above Layer) bool { return above.file.Same(l.below) }); i >= 0 {
			l.belowErr = errors.Join(&check.LoopError{Again: c.Layers[i].Name}, l.below.Close())
			l.below = nil
			return
		}
		c.Layers = append(c.Layers, layerOf(l.below, name, format))
	}
}

// layerOf makes the layer of a file that was opened.
func layerOf(f File, given, format string) Layer {
	l := Layer{Given: given, Name: f.Name(), Format: format, Size: uint64(max(f.Size(), 0)), file: f}
	if format == "" { // QEMU looks at the content
		if l.Format = check.ContentFormat(f); l.Format == "" {
			l.Format = qcow2.FormatRaw
		}
	}
	if l.Format != qcow2.FormatQcow2 {
		return l
	}
	img, err := qcow2.Open(f, f.Size())
	if err != nil {
		l.Err = err // that it is none, the file above tells (CHN003)
		return l
	}
	l.take(img)
	return l
}

func (l *Layer) take(img *qcow2.Image) {
	l.img, l.Size = img, img.Header.Size
	if img.GeometryOK {
		l.ClusterSize = img.Geometry.ClusterSize()
	}
}

// backingName gives the name of the backing file as QEMU reads it: up to the first NUL.
func backingName(img *qcow2.Image) (string, bool) {
	raw, ok := img.BackingFileName()
	if !ok || len(raw) > qcow2.MaxBackingFileName {
		return "", false
	}
	if i := slices.Index(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	return string(raw), len(raw) > 0
}

// opener gives the check of a layer the file below, which stays open.
func (l *Layer) opener(opts *Options) func(check.SiblingKind, string, string) (check.Sibling, error) {
	return func(kind check.SiblingKind, name, format string) (check.Sibling, error) {
		switch {
		case kind != check.SiblingBackingFile && opts.OpenData == nil:
			return nil, qcow2.ErrNotGiven
		case kind != check.SiblingBackingFile:
			return opts.OpenData(l.file, name, format)
		case l.belowErr != nil:
			return nil, l.belowErr
		case l.below == nil:
			return nil, qcow2.ErrNotGiven
		}
		return lent{l.below}, nil
	}
}

// lent is a file that whoever borrows it cannot close.
type lent struct{ File }

func (lent) Close() error { return nil }

// Live makes it a [check.LiveSibling].
func (b lent) Live() bool {
	l, ok := b.File.(check.LiveSibling)
	return ok && l.Live()
}

// sumUp adds to the result of the image what is below it.
func (c *Chain) sumUp() {
	top := c.Layers[0].Result
	if top == nil {
		return
	}
	for i := 1; i < len(c.Layers); i++ {
		above, l := &c.Layers[i-1], &c.Layers[i]
		if above.Result != nil && above.Size != l.Size && (l.img != nil || l.Format == qcow2.FormatRaw) {
			above.Result.Add(lengthFinding(above, l))
		}
	}
	h := &c.Layers[0].img.Header
	at := qcow2.Extent{Offset: h.BackingFileOffset, Length: uint64(h.BackingFileSize)}
	for i := 1; i < len(c.Layers); i++ {
		if l := &c.Layers[i]; l.Result != nil {
			top.AddBelow(l.Name, i, l.Result, at)
		}
	}
}

// lengthFinding tells that a backing file is shorter or longer than the disk.
func lengthFinding(above, l *Layer) problem.Finding {
	h := &above.img.Header
	f := problem.Finding{
		Code: problem.BackingLength, Extent: qcow2.Extent{Offset: h.BackingFileOffset, Length: uint64(h.BackingFileSize)},
		Value: problem.Number(l.Size), Expected: problem.Number(above.Size),
	}
	name := check.Excerpt(l.Given)
	if l.Size < above.Size {
		f.Message = problem.Say(`backing file "%s" holds %s, the disk %s: what lies past the end of the backing file reads as zeros`,
			name, check.ReadableSize(l.Size), check.ReadableSize(above.Size))
	} else {
		f.Message = problem.Say(`backing file "%s" holds %s, the disk only %s: the end of the backing file cannot be seen through it`,
			name, check.ReadableSize(l.Size), check.ReadableSize(above.Size))
	}
	return f
}

// Close closes all files but that of the image itself.
func (c *Chain) Close() error {
	var errs []error
	for i := range c.Layers[1:] {
		errs = append(errs, c.Layers[i+1].file.Close())
	}
	return errors.Join(errs...)
}
