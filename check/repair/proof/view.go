package proof

import (
	"io"
	"sort"

	"github.com/qcheck/qcheck/qcow2"
)

// view is the image as it would be: the file with the edits on top. It keeps no edit,
// only marks from where to look for them.
type view struct {
	base           io.ReaderAt
	baseSize, size int64
	bits           uint // cluster_bits
	stages         [][]mark
	touched        *set // clusters with an edit
}

// mark is a place in the edits of a stage: the next one has this offset.
type mark struct {
	offset qcow2.HostOffset
	cursor Cursor
}

// markEvery is a compromise between the memory for marks and the time to go from one
// to an edit.
const markEvery = 64

func newView(base io.ReaderAt, baseSize int64, bits uint, p *Plan) (*view, error) {
	v := &view{base: base, baseSize: baseSize, size: p.NewSize, bits: bits, touched: newSet()}
	for _, c := range p.Stages {
		var marks []mark
		end := qcow2.HostOffset(0)
		c = c.Clone()
		for i := 0; ; i++ {
			var at Cursor
			if i%markEvery == 0 {
				at = c.Clone()
			}
			e, ok := c.Next()
			if !ok {
				break
			}
			if e.Offset < end || !qcow2.RangeFits(uint64(e.Offset), uint64(len(e.New)), uint64(p.NewSize)) {
				return nil, refuse(e.Offset, "an edit is out of order or past the end of the file")
			}
			if at != nil {
				marks = append(marks, mark{e.Offset, at})
			}
			end = e.Offset + qcow2.HostOffset(len(e.New))
			v.touched.add(v.span(qcow2.Extent{Offset: e.Offset, Length: uint64(len(e.New))}))
		}
		v.stages = append(v.stages, marks)
	}
	v.touched.freeze()
	return v, nil
}

// span gives the clusters that an extent touches.
func (v *view) span(x qcow2.Extent) (qcow2.HostCluster, uint64) {
	return qcow2.Geometry{ClusterBits: v.bits}.ClusterSpan(x.Offset, x.Length)
}

// edits gives the edits that reach into an extent, in the order in which they are
// written, until f returns false.
func (v *view) edits(x qcow2.Extent, f func(Edit) bool) {
	if !v.touched.any(v.span(x)) {
		return
	}
	for _, marks := range v.stages {
		i := sort.Search(len(marks), func(i int) bool { return marks[i].offset > x.Offset })
		if len(marks) == 0 {
			continue
		}
		c := marks[max(i-1, 0)].cursor.Clone()
		for e, ok := c.Next(); ok && uint64(e.Offset) < uint64(x.Offset)+x.Length; e, ok = c.Next() {
			if e.Offset+qcow2.HostOffset(len(e.New)) > x.Offset && !f(e) {
				return
			}
		}
	}
}

// touches tells whether a byte of an extent is written.
func (v *view) touches(x qcow2.Extent) (found bool) {
	v.edits(x, func(Edit) bool {
		found = true
		return false
	})
	return found
}

// ReadAt makes view an [io.ReaderAt].
func (v *view) ReadAt(p []byte, off int64) (int, error) {
	if off >= v.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), v.size-off))
	have := int(min(max(v.baseSize-off, 0), int64(n)))
	clear(p[have:n])
	if k, err := v.base.ReadAt(p[:have], off); k < have {
		if err != nil && err != io.EOF {
			return 0, err
		}
		clear(p[k:have])
	}
	v.edits(qcow2.Extent{Offset: qcow2.HostOffset(off), Length: uint64(n)}, func(e Edit) bool {
		if at := int64(e.Offset) - off; at >= 0 {
			copy(p[at:n], e.New)
		} else {
			copy(p[:n], e.New[-at:])
		}
		return true
	})
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData makes view a [qcow2.DataFinder].
func (v *view) NextData(off int64) (start, end int64, err error) {
	f, ok := v.base.(qcow2.DataFinder)
	if !ok || off >= v.baseSize {
		return off, v.size, nil
	}
	if start, end, err = f.NextData(off); err != nil {
		return off, v.size, nil
	}
	if c, ok := v.touched.next(qcow2.HostCluster(off >> v.bits)); ok && int64(c)<<v.bits < start {
		start = max(int64(c)<<v.bits, off)
		end = int64(c+1) << v.bits
	}
	if start >= v.baseSize {
		return v.baseSize, v.size, nil
	}
	return start, end, nil
}

// flipped is an image with bits put back that had flipped.
type flipped struct {
	io.ReaderAt
	bits []Bit
}

func (f flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	for _, b := range f.bits {
		if at := int64(b.Offset) - off; at >= 0 && at < int64(n) {
			p[at] ^= b.Mask
		}
	}
	return n, err
}

// NextData is that of the image: a flipped bit in a hole is none.
func (f flipped) NextData(off int64) (start, end int64, err error) {
	if d, ok := f.ReaderAt.(qcow2.DataFinder); ok {
		return d.NextData(off)
	}
	return off, 1<<63 - 1, nil
}
