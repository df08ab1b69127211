package rescue

import (
	"context"
	"errors"
	"io"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Bounds on what a scan remembers. An image of 128 GiB with clusters of 512 bytes, the
// largest that there can be, has 4 Mi L2 tables; larger clusters make longer runs.
const (
	maxRuns  = 6 << 20 // of sectors of tables, 16 bytes each
	maxHeads = 1 << 16 // places where something else begins, of each kind
)

// sectorRun is a run of sectors that can be part of tables.
type sectorRun struct {
	sector uint64 // number of the first one
	n      uint32
	shape  sniff.Shape // of all of them
}

// scan is what was found in a file by looking at each sector by itself.
type scan struct {
	runs      []sectorRun // in the order of the file
	snapshots []qcow2.HostOffset
	bitmaps   []qcow2.HostOffset
	luks      []qcow2.HostOffset
	headers   []qcow2.HostOffset
	read      uint64 // bytes
	cut       bool   // a bound was reached
	// unreadable are the parts of the file that could not be read.
	unreadable []qcow2.Extent
	// firstData is where the first sector is that is not zero.
	firstData qcow2.HostOffset
}

const (
	scanChunk     = 1 << 20
	maxUnreadable = 1000
)

// look reads the allocated part of a file once.
func look(ctx context.Context, r io.ReaderAt, size int64, progress func(done, total uint64)) (*scan, error) {
	s := &scan{firstData: qcow2.HostOffset(size)}
	buf := make([]byte, scanChunk)
	finder, _ := r.(qcow2.DataFinder)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		end := size
		if finder != nil {
			if start, stop, err := finder.NextData(at); err == nil && start >= at && stop >= start {
				if start > at {
					at = min(start&^(qcow2.SectorSize-1), size)
					continue
				}
				end = min(stop, size)
			}
		}
		n := min(int64(len(buf)), end-at)
		if rest := n % qcow2.SectorSize; rest != 0 && n > rest {
			n -= rest
		}
		s.chunk(r, buf[:n], at, uint64(size))
		at += (n + qcow2.SectorSize - 1) &^ (qcow2.SectorSize - 1)
		progress(uint64(at), uint64(size))
	}
	return s, nil
}

// chunk looks at some sectors. Where reading fails it goes sector by sector.
func (s *scan) chunk(r io.ReaderAt, b []byte, at int64, size uint64) {
	if n, err := r.ReadAt(b, at); n < len(b) && err != nil && !errors.Is(err, io.EOF) {
		if len(b) > qcow2.SectorSize {
			for i := 0; i < len(b); i += qcow2.SectorSize {
				s.chunk(r, b[i:min(i+qcow2.SectorSize, len(b))], at+int64(i), size)
			}
			return
		}
		s.unread(qcow2.Extent{Offset: qcow2.HostOffset(at), Length: uint64(len(b))})
		return
	} else if n < len(b) {
		clear(b[n:])
	}
	s.read += uint64(len(b))
	for i := 0; i+qcow2.SectorSize <= len(b); i += qcow2.SectorSize {
		s.sector(b[i:i+qcow2.SectorSize], uint64(at)+uint64(i), size)
	}
}

func (s *scan) unread(x qcow2.Extent) {
	if k := len(s.unreadable); k > 0 && s.unreadable[k-1].Offset+qcow2.HostOffset(s.unreadable[k-1].Length) == x.Offset {
		s.unreadable[k-1].Length += x.Length
		return
	}
	if len(s.unreadable) < maxUnreadable {
		s.unreadable = append(s.unreadable, x)
	}
}

// sector notes what a sector can be.
func (s *scan) sector(b []byte, at, size uint64) {
	if b[0] == 0 && b[len(b)/2] == 0 && sniff.Zero(b) {
		return
	}
	off := qcow2.HostOffset(at)
	s.firstData = min(s.firstData, off)
	shape := sniff.ShapeOf(b, size)
	if shape == 0 {
		return
	}
	s.head(&s.snapshots, shape, sniff.ShapeSnapshots, off)
	s.head(&s.bitmaps, shape, sniff.ShapeBitmaps, off)
	s.head(&s.luks, shape, sniff.ShapeLUKS, off)
	s.head(&s.headers, shape, sniff.ShapeHeader, off)
	shape &= sniff.ShapeTable | sniff.ShapeExtended
	if shape == 0 {
		return
	}
	number := at / qcow2.SectorSize
	if k := len(s.runs) - 1; k >= 0 && s.runs[k].shape == shape && s.runs[k].sector+uint64(s.runs[k].n) == number && s.runs[k].n < 1<<31 {
		s.runs[k].n++
		return
	}
	if len(s.runs) >= maxRuns {
		s.cut = true
		return
	}
	s.runs = append(s.runs, sectorRun{sector: number, n: 1, shape: shape})
}

func (s *scan) head(list *[]qcow2.HostOffset, shape, want sniff.Shape, off qcow2.HostOffset) {
	if shape&want == 0 {
		return
	}
	if len(*list) >= maxHeads {
		s.cut = true
		return
	}
	*list = append(*list, off)
}

// clusters gives each cluster of a size that holds a sector of a shape, in the order of
// the file.
func (s *scan) clusters(bits uint, shape sniff.Shape) func(yield func(qcow2.HostOffset) bool) {
	return func(yield func(qcow2.HostOffset) bool) {
		next := uint64(0) // number of the first cluster that was not given yet
		for _, r := range s.runs {
			if r.shape&shape == 0 {
				continue
			}
			first, last := r.sector<<9>>bits, (r.sector+uint64(r.n)-1)<<9>>bits
			for cl := max(first, next); cl <= last; cl++ {
				if !yield(qcow2.HostOffset(cl << bits)) {
					return
				}
			}
			next = max(next, last+1)
		}
	}
}
