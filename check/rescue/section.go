package rescue

import (
	"context"
	"errors"
	"io"

	"github.com/qcheck/qcheck/qcow2"
)

// Section is a part of a file or device that is taken for an image, from an offset on.
type Section struct {
	R      io.ReaderAt
	Offset int64 // bytes
	Length int64 // bytes
}

// ReadAt reads from the section.
func (s Section) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(s.R, s.Offset, s.Length).ReadAt(p, off)
}

// NextData makes it a [qcow2.DataFinder].
func (s Section) NextData(off int64) (start, end int64, err error) {
	f, ok := s.R.(qcow2.DataFinder)
	if !ok {
		return off, s.Length, nil
	}
	start, end, err = f.NextData(off + s.Offset)
	return min(start-s.Offset, s.Length), min(end-s.Offset, s.Length), err
}

// mostHeaders bounds how many headers are looked for.
const mostHeaders = 1000

// Headers gives the offsets at which a header of a qcow2 image begins that makes sense.
func Headers(ctx context.Context, r io.ReaderAt, size int64, progress func(done, total uint64)) ([]int64, error) {
	s, err := look(ctx, r, size, progress)
	if err != nil {
		return nil, err
	}
	var list []int64
	for _, off := range s.headers {
		b := make([]byte, qcow2.SectorSize)
		if _, err := r.ReadAt(b, int64(off)); err != nil && !errors.Is(err, io.EOF) {
			continue
		}
		h, err := qcow2.DecodeHeader(b)
		if err != nil || !h.Known() || !h.RefcountOrderOK() || len(list) >= mostHeaders {
			continue
		}
		g, ok := h.Geometry()
		if ok && !h.DiskTooLarge(g) && h.HeaderLengthOK(g) && h.RefcountTableOffset != 0 && g.Aligned(h.RefcountTableOffset) && g.Aligned(h.L1TableOffset) {
			list = append(list, int64(off))
		}
	}
	return list, nil
}

// End is where what the image needs of the file ends, in bytes: a section that is longer
// than its image can be cut there.
func (p *Plan) End() int64 { return min(p.end, p.OldSize) }

// CopyUsed writes what the image needs of the old content to an empty file.
func (p *Plan) CopyUsed(ctx context.Context, w io.WriterAt) error {
	size := int64(1) << p.clusterBits
	buf := make([]byte, size)
	for cl := range uint64((p.OldSize + size - 1) / size) {
		if cl%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if !p.used.has(cl) {
			continue
		}
		at := int64(cl) * size
		b := buf[:min(size, p.OldSize-at)]
		if err := p.image.readBase(b, at); err != nil {
			return err
		}
		if _, err := w.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}
