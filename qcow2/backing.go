package qcow2

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Causes of ProblemBackingFile and ProblemDataFile.
var (
	// ErrNotGiven means that the options have no way to open the file.
	ErrNotGiven = errors.New("no way to open it was given")
	// ErrBackingName means that the backing file's name is not within the
	// first cluster.
	ErrBackingName = errors.New("the backing file's name is outside of the first cluster")
	// ErrBackingFormat means a backing file of a format other than raw and
	// qcow2.
	ErrBackingFormat = errors.New("unsupported format of the backing file")
	// ErrBackingLoop means that a file is its own backing file, over some
	// steps or none.
	ErrBackingLoop = errors.New("the chain of backing files is a loop")
	// ErrBackingDepth means a chain of more backing files than Files.MaxDepth.
	ErrBackingDepth = errors.New("the chain of backing files is too long")
)

// lazySource is a source that is opened when it is first needed.
type lazySource struct {
	open func() (Source, error)
	once sync.Once
	src  Source
	err  error
}

func (l *lazySource) get() (Source, error) {
	l.once.Do(func() { l.src, l.err = l.open() })
	return l.src, l.err
}

// close closes the source if it was opened, and sees to it that it never will
// be.
func (l *lazySource) close() error {
	l.once.Do(func() { l.err = ErrNotGiven })
	return closeSource(l.src)
}

func closeSource(s Source) error {
	if c, ok := s.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (d *Disk) openBacking() (Source, error) {
	name, ok := d.img.BackingFileName()
	switch {
	case !ok:
		return nil, ErrBackingName
	case d.opts.Backing == nil:
		return nil, ErrNotGiven
	}
	return d.opts.Backing(string(name), d.img.BackingFormat())
}

func (d *Disk) openDataFile() (Source, error) {
	if d.opts.DataFile == nil {
		return nil, ErrNotGiven
	}
	name := ""
	if e := d.img.Extension(ExtDataFile); e != nil {
		name = string(e.Data)
	}
	return d.opts.DataFile(name, FormatRaw)
}

// HasBackingFile tells whether the header names a backing file.
func (h *Header) HasBackingFile() bool { return h.BackingFileOffset != 0 && h.BackingFileSize != 0 }

// BackingFormat is the format of the backing file as recorded in the header
// extension, "" when it is not.
func (img *Image) BackingFormat() string {
	if e := img.Extension(ExtBackingFormat); e != nil {
		return string(e.Data)
	}
	return ""
}

// The formats of backing files that [Files] reads.
const (
	FormatRaw   = "raw"
	FormatQcow2 = "qcow2"
)

// DefaultBackingDepth is the number of backing files below an image that
// [Files] opens.
const DefaultBackingDepth = 200

// Files opens the backing files and external data files of a whole chain of
// images. Backing files may be raw or qcow2; where no format is recorded they
// are qcow2 if they start with its magic.
type Files struct {
	// Open opens the file that the image known as from calls name, and gives
	// what that file is known as itself: its absolute path, say. A file that
	// is met again under the same identity is a loop.
	Open func(from, name string) (src Source, identity string, err error)
	// MaxDepth is how many backing files there may be below an image. The
	// default is DefaultBackingDepth.
	MaxDepth int
}

// DiskOptions gives the options to read a disk of the image known as identity,
// with all that lies below it.
func (f Files) DiskOptions(identity string) DiskOptions {
	return f.options([]string{identity})
}

// options are those of the image that is the last of chain.
func (f Files) options(chain []string) DiskOptions {
	self := chain[len(chain)-1]
	return DiskOptions{
		Backing: func(name, format string) (Source, error) { return f.backing(chain, name, format) },
		DataFile: func(name, _ string) (Source, error) {
			src, _, err := f.Open(self, name)
			return src, err
		},
	}
}

func (f Files) backing(chain []string, name, format string) (Source, error) {
	limit := f.MaxDepth
	if limit == 0 {
		limit = DefaultBackingDepth
	}
	if len(chain) > limit {
		return nil, ErrBackingDepth
	}
	file, identity, err := f.Open(chain[len(chain)-1], name)
	if err != nil {
		return nil, err
	}
	src, err := f.asDisk(append(slices.Clip(chain), identity), file, format)
	if err != nil {
		return nil, errors.Join(err, closeSource(file))
	}
	return src, nil
}

// asDisk gives the disk in a file, the last of chain.
func (f Files) asDisk(chain []string, file Source, format string) (Source, error) {
	last := len(chain) - 1
	if slices.Contains(chain[:last], chain[last]) {
		return nil, ErrBackingLoop
	}
	switch format {
	case FormatRaw:
		return file, nil
	case FormatQcow2, "":
	default:
		return nil, fmt.Errorf("%w: %q", ErrBackingFormat, format)
	}
	img, err := Open(file, file.Size())
	if errors.Is(err, ErrNotQcow2) && format == "" {
		return file, nil
	}
	if err != nil {
		return nil, err
	}
	disk, err := img.ActiveDisk(f.options(chain))
	if err != nil {
		return nil, err
	}
	return &backingDisk{disk, file}, nil
}

// backingDisk is a disk that owns the file of its image.
type backingDisk struct {
	*Disk
	file Source
}

func (b *backingDisk) Close() error { return errors.Join(b.Disk.Close(), closeSource(b.file)) }
