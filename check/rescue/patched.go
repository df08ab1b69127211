package rescue

import (
	"io"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// Change is some bytes of the file as they will be.
type Change struct {
	Offset qcow2.HostOffset
	New    []byte
	Reason string
}

// patched is a file with changes on top of it. It reads zeros between the end of the file
// and its own.
type patched struct {
	base     io.ReaderAt
	baseSize int64
	size     int64
	changes  []Change // sorted, none overlaps another
}

func newPatched(base io.ReaderAt, size int64) *patched {
	return &patched{base: base, baseSize: size, size: size}
}

// put adds a change. Where it covers one that was there before, that one is gone.
func (p *patched) put(off qcow2.HostOffset, b []byte, reason string) {
	p.changes = slices.DeleteFunc(p.changes, func(c Change) bool {
		return c.Offset >= off && uint64(c.Offset)+uint64(len(c.New)) <= uint64(off)+uint64(len(b))
	})
	i, _ := slices.BinarySearchFunc(p.changes, off, func(c Change, off qcow2.HostOffset) int {
		if c.Offset < off {
			return -1
		}
		return 1
	})
	p.changes = slices.Insert(p.changes, i, Change{Offset: off, New: b, Reason: reason})
	p.size = max(p.size, int64(off)+int64(len(b)))
}

// ReadAt reads the file as it will be.
func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	if off >= p.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.size-off))
	if err := p.readBase(b[:n], off); err != nil {
		return 0, err
	}
	for _, c := range p.changes {
		at, end := int64(c.Offset), int64(c.Offset)+int64(len(c.New))
		if end <= off || at >= off+int64(n) {
			continue
		}
		from, to := max(at, off), min(end, off+int64(n))
		copy(b[from-off:to-off], c.New[from-at:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *patched) readBase(b []byte, off int64) error {
	if off >= p.baseSize {
		clear(b)
		return nil
	}
	n := int(min(int64(len(b)), p.baseSize-off))
	clear(b[n:])
	if k, err := p.base.ReadAt(b[:n], off); k < n {
		if err == nil || err == io.EOF {
			clear(b[k:n])
			return nil
		}
		return p.covered(b[:n], off, err)
	}
	return nil
}

// covered lets an error pass where all that could not be read is changed.
func (p *patched) covered(b []byte, off int64, err error) error {
	for i := 0; i < len(b); i += qcow2.SectorSize {
		part := b[i:min(i+qcow2.SectorSize, len(b))]
		at := off + int64(i)
		if k, e := p.base.ReadAt(part, at); k == len(part) || e == io.EOF {
			clear(part[k:])
			continue
		}
		if !slices.ContainsFunc(p.changes, func(c Change) bool {
			return int64(c.Offset) <= at && at+int64(len(part)) <= int64(c.Offset)+int64(len(c.New))
		}) {
			return err
		}
	}
	return nil
}

// NextData makes patched a [qcow2.DataFinder].
func (p *patched) NextData(off int64) (start, end int64, err error) {
	start, end = off, p.baseSize
	if f, ok := p.base.(qcow2.DataFinder); ok && off < p.baseSize {
		if start, end, err = f.NextData(off); err != nil {
			return off, p.size, nil
		}
	}
	if off >= p.baseSize || start >= p.baseSize {
		start, end = p.size, p.size
	}
	for _, c := range p.changes {
		at, stop := int64(c.Offset), int64(c.Offset)+int64(len(c.New))
		if stop <= off {
			continue
		}
		if at = max(at, off); at < start {
			return at, stop, nil
		}
		break
	}
	return start, end, nil
}
