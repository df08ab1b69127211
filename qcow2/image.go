package qcow2

import (
	"errors"
	"fmt"
	"io"
)

// ReadError is an I/O error on the image file, with the bytes that could not be
// read.
type ReadError struct {
	Offset HostOffset
	Length uint64 // bytes
	Err    error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("cannot read %d bytes at offset %v: %v", e.Length, e.Offset, e.Err)
}

func (e *ReadError) Unwrap() error { return e.Err }

// DataFinder is an optional capability of the reader given to [Open]: it finds
// the next bytes that are stored at all, so that holes of sparse files need not
// be read. NextData gives the extent of stored data that holds off, or the next
// one after it; an extent that starts at the file's size means that there is
// none. Data may be reported where there is a hole, never the reverse.
type DataFinder interface {
	NextData(off int64) (start, end int64, err error)
}

// Prefetcher is an optional capability of the reader given to [Open], for one where every
// read costs a round trip: it is told of several places that will be read next, and can ask
// for them at once. It must not be called from within a read.
type Prefetcher interface {
	Prefetch([]Extent)
}

// Image is an opened qcow2 image: its header and header extensions, and the
// means to read its other structures. It holds no other state of the file and
// judges nothing. It is safe for concurrent use.
type Image struct {
	r    io.ReaderAt
	size int64

	Header Header
	// Geometry is usable only when GeometryOK.
	Geometry   Geometry
	GeometryOK bool

	// Extensions holds the header extensions in the order of the file, those
	// of unknown type included. ExtensionsComplete is false when the last of
	// them overruns the extension area.
	Extensions         []Extension
	ExtensionsComplete bool

	head []byte // the first cluster, or the first sector where there is no geometry
}

// Open reads the header and its extensions from an image file of size bytes.
// It fails with [ErrNotQcow2] when the magic is not there and with a
// [*ReadError] when the first cluster cannot be read; every other oddity is left
// to be found by whoever looks.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	img := &Image{r: r, size: size}
	sector := make([]byte, SectorSize)
	if err := img.ReadAt(sector, 0); err != nil {
		return nil, err
	}
	h, err := DecodeHeader(sector[:min(int64(len(sector)), max(size, 0))])
	if err != nil {
		return nil, err
	}
	img.Header = h
	img.head = sector
	img.Geometry, img.GeometryOK = h.Geometry()
	if !img.GeometryOK {
		return img, nil
	}
	head := make([]byte, img.Geometry.ClusterSize())
	if err := img.ReadAt(head, 0); err != nil {
		return nil, err
	}
	img.head = head
	// Decoded again: a long header's tail may lie beyond the first sector.
	if img.Header, err = DecodeHeader(head); err != nil {
		return nil, err
	}
	area := img.Header.ExtensionArea(img.Geometry)
	img.Extensions, img.ExtensionsComplete = DecodeExtensions(
		head[area.Offset:uint64(area.Offset)+area.Length], area.Offset)
	return img, nil
}

// Over gives the same image, read through r from now on: its first cluster must be the
// same there, and its size.
func (img *Image) Over(r io.ReaderAt) *Image {
	same := *img
	same.r = r
	return &same
}

// Size is the size of the image file in bytes.
func (img *Image) Size() int64 { return img.size }

// Head gives the bytes of the first cluster (of the first sector, when
// cluster_bits is out of range), zero where the file is shorter. It must not be
// changed.
func (img *Image) Head() []byte { return img.head }

// ReadAt fills p from offset off of the file. Bytes past the end of the file
// read as zeros, as they do for QEMU. The error is a [*ReadError].
func (img *Image) ReadAt(p []byte, off HostOffset) error {
	if uint64(off) >= uint64(img.size) {
		clear(p)
		return nil
	}
	avail := uint64(img.size) - uint64(off)
	if uint64(len(p)) > avail {
		clear(p[avail:])
		p = p[:avail]
	}
	n, err := img.r.ReadAt(p, int64(off))
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.EOF) {
		// The file is shorter than it was when it was opened: what is gone
		// reads as zeros, like everything past the end.
		clear(p[n:])
		return nil
	}
	return &ReadError{Offset: off + HostOffset(n), Length: uint64(len(p) - n), Err: err}
}

// ReadExtent reads the bytes of an extent, at most limit of them, and of those
// only as many as the file has; it never allocates more than that.
func (img *Image) ReadExtent(x Extent, limit uint64) ([]byte, error) {
	n := min(x.Length, limit)
	if uint64(x.Offset) >= uint64(img.size) {
		return nil, nil
	}
	n = min(n, uint64(img.size)-uint64(x.Offset))
	b := make([]byte, n)
	if err := img.ReadAt(b, x.Offset); err != nil {
		return nil, err
	}
	return b, nil
}

// NextData gives the extent of stored data at or after off, cut to the file's
// size; start equals the file's size when there is none. Where the reader cannot
// tell, everything counts as data.
func (img *Image) NextData(off HostOffset) (start, end HostOffset) {
	size := HostOffset(img.size)
	if off >= size {
		return size, size
	}
	f, ok := img.r.(DataFinder)
	if !ok {
		return off, size
	}
	s, e, err := f.NextData(int64(off))
	if err != nil || s < int64(off) || e < s {
		return off, size
	}
	return min(HostOffset(s), size), min(HostOffset(e), size)
}

// Prefetches tells whether it helps to name what will be read next, see [Prefetcher].
func (img *Image) Prefetches() bool {
	_, ok := img.r.(Prefetcher)
	return ok
}

// Prefetch names what will be read next.
func (img *Image) Prefetch(extents []Extent) {
	if p, ok := img.r.(Prefetcher); ok {
		p.Prefetch(extents)
	}
}

// IsHole tells whether a range of the file holds no stored data, so that it
// reads as zeros without being read.
func (img *Image) IsHole(off HostOffset, length uint64) bool {
	start, _ := img.NextData(off)
	return start == HostOffset(img.size) || uint64(start-off) >= length
}

// Extension gives the last extension of a type, the one that QEMU goes by when
// there are several, or nil.
func (img *Image) Extension(typ ExtensionType) *Extension {
	for i := len(img.Extensions) - 1; i >= 0; i-- {
		if img.Extensions[i].Type == typ {
			return &img.Extensions[i]
		}
	}
	return nil
}

// BackingFileName gives the backing file's name; ok is false when there is none
// or when its place is not within the first cluster.
func (img *Image) BackingFileName() (name []byte, ok bool) {
	h := &img.Header
	if h.BackingFileOffset == 0 ||
		!RangeFits(uint64(h.BackingFileOffset), uint64(h.BackingFileSize), uint64(len(img.head))) {
		return nil, false
	}
	return img.head[h.BackingFileOffset:][:h.BackingFileSize], true
}
