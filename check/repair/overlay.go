package repair

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// overlay is the image as it will be: the file, with what has been decided on top
// of it. Nothing is written to the file. It reads like a file, so that what is
// decided can be checked before it is done.
type overlay struct {
	base     io.ReaderAt
	baseSize int64
	size     int64
	device   bool // cannot grow
	// mu guards the pages and what is made of them: refcounts are changed while
	// others are still being compared.
	mu    sync.RWMutex
	pages map[int64]page // that have been decided on
	order []int64        // the numbers of the pages, sorted; made when needed
	hot   hotPage
	log   []intent
	fresh map[qcow2.HostCluster]struct{} // clusters that nothing used before
	// dropped are clusters that the repair itself has taken references from, all
	// of which were known: whatever else is in doubt has none to them.
	dropped map[qcow2.HostCluster]struct{}
	// sunk are clusters of which the repair has given back references that nobody could
	// find, and not all.
	sunk map[qcow2.HostCluster]struct{}
	// gaveUp tells that a part of a disk, or a snapshot, was given up.
	gaveUp bool
	// kept tells that clusters without an owner were kept, which are no longer in doubt.
	kept bool
	// bitmapsGone tells that bitmaps were given up: what is left of them is given back.
	bitmapsGone bool
	bits        uint // cluster_bits, 0 before they are known
}

// intent is one decision: some bytes, and why.
type intent struct {
	offset, length int64
	reason         string
	codes          []problem.Code
	refcounts      uint // the width of refcounts in bits, where these are refcounts in place
}

func newOverlay(base io.ReaderAt, size int64, device bool) *overlay {
	return &overlay{
		base: base, baseSize: size, size: size, device: device,
		pages: make(map[int64]page), fresh: make(map[qcow2.HostCluster]struct{}),
		dropped: make(map[qcow2.HostCluster]struct{}), sunk: make(map[qcow2.HostCluster]struct{}),
	}
}

// ReadAt reads the image as it will be.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off >= o.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), o.size-off))
	if err := o.read(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (o *overlay) read(p []byte, off int64) error {
	if err := o.readBase(p, off); err != nil {
		return err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	if len(o.pages) == 0 {
		return nil
	}
	for at := off &^ (pageSize - 1); at < off+int64(len(p)); at += pageSize {
		n := at / pageSize
		from, to := max(at, off), min(at+pageSize, off+int64(len(p)))
		if o.hot.is(n) {
			copy(p[from-off:], o.hot.will[from-at:])
		} else {
			o.pages[n].over(p[from-off:to-off], int(from-at))
		}
	}
	return nil
}

// readBase reads the file, and zeros past its end.
func (o *overlay) readBase(p []byte, off int64) error {
	if off >= o.baseSize {
		clear(p)
		return nil
	}
	n := int(min(int64(len(p)), o.baseSize-off))
	clear(p[n:])
	if k, err := o.base.ReadAt(p[:n], off); k < n {
		if err == nil || err == io.EOF {
			clear(p[k:n])
			return nil
		}
		return err
	}
	return nil
}

// NextData makes overlay a [qcow2.DataFinder].
func (o *overlay) NextData(off int64) (start, end int64, err error) {
	f, ok := o.base.(qcow2.DataFinder)
	if !ok || off >= o.baseSize {
		return off, o.size, nil
	}
	start, end, err = f.NextData(off)
	if err != nil {
		return off, o.size, nil
	}
	if at, ok := o.pageFrom(off / pageSize); ok && at*pageSize < start {
		start = max(at*pageSize, off)
		end = (at + 1) * pageSize
	}
	if start >= o.baseSize && o.size > o.baseSize {
		return start, o.size, nil
	}
	return start, end, nil
}

// pageFrom gives the first changed page from n on.
func (o *overlay) pageFrom(n int64) (int64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.order) != len(o.pages) { // none is ever removed
		o.order = slices.Sorted(maps.Keys(o.pages))
	}
	i, _ := slices.BinarySearch(o.order, n)
	if i == len(o.order) {
		return 0, false
	}
	return o.order[i], true
}

// write decides on bytes. The image grows to hold them; where it must not has
// been seen to by the allocator.
func (o *overlay) write(off qcow2.HostOffset, p []byte, why intent) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := int64(off)
	for done := 0; done < len(p); {
		n := (at + int64(done)) / pageSize
		o.heat(n)
		done += copy(o.hot.will[at+int64(done)-n*pageSize:], p[done:])
	}
	if end := at + int64(len(p)); end > o.size { // it is read meanwhile when the image does not grow
		o.size = end
	}
	why.offset, why.length = at, int64(len(p))
	o.log = append(o.log, why)
	return nil
}

// wrote tells whether something was decided on in an extent.
func (o *overlay) wrote(x qcow2.Extent) bool {
	return slices.ContainsFunc(o.log, func(l intent) bool {
		return x.Length > 0 && l.offset < int64(x.Offset)+int64(x.Length) && int64(x.Offset) < l.offset+l.length
	})
}

// heat makes a page the one that is being changed.
func (o *overlay) heat(n int64) {
	if o.hot.is(n) {
		return
	}
	if o.hot.there {
		o.pages[o.hot.n] = packed(o.hot.was[:], o.hot.will[:])
		o.hot.there = false
	}
	o.readPage(o.hot.was[:], n*pageSize)
	o.hot.will = o.hot.was
	o.pages[n].over(o.hot.will[:], 0)
	if _, known := o.pages[n]; !known {
		o.pages[n] = nil
	}
	o.hot.n, o.hot.there = n, true
}

// readPage reads a page of the file. Sectors that cannot be read are left as zeros: they
// may be beside what is changed only, and if they are not, [overlay.edits] fails.
func (o *overlay) readPage(p []byte, off int64) {
	if o.readBase(p, off) == nil {
		return
	}
	for i := int64(0); i < pageSize; i += qcow2.SectorSize {
		if sector := p[i : i+qcow2.SectorSize]; o.readBase(sector, off+i) != nil {
			clear(sector)
		}
	}
}

// edits adds what differs from the file to the edits of a plan.
func (o *overlay) edits(out *Edits) error {
	var was, will []byte
	var ranges [][2]int
	for _, part := range o.parts() {
		was = slices.Grow(was[:0], int(part.length))[:part.length]
		will = slices.Grow(will[:0], int(part.length))[:part.length]
		if err := o.readBase(was, part.offset); err != nil {
			return err
		}
		if err := o.read(will, part.offset); err != nil {
			return err
		}
		ranges = differing(ranges[:0], was, will)
		for _, r := range ranges {
			if part.refcounts > 0 {
				// Refcounts are taken in whole groups of 8 bytes, as they were
				// decided on: see raiseAndRelease.
				r[0], r[1] = r[0]&^7, min((r[1]+7)&^7, len(was))
			}
			e := Edit{
				Offset: qcow2.HostOffset(part.offset + int64(r[0])), Old: was[r[0]:r[1]], New: will[r[0]:r[1]],
				Reason: part.reason, Codes: part.codes,
			}
			if err := o.stage(out, e, part.refcounts); err != nil {
				return err
			}
		}
	}
	return nil
}

// parts cuts the decisions so that none overlap: the last one about a byte holds.
func (o *overlay) parts() []intent {
	cuts := make([]int64, 0, 2*len(o.log))
	for _, l := range o.log {
		cuts = append(cuts, l.offset, l.offset+l.length)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	owner := make([]int, len(cuts)) // 1 + the last decision about cuts[i] to cuts[i+1]
	for n, l := range o.log {
		i, _ := slices.BinarySearch(cuts, l.offset)
		for ; i < len(cuts) && cuts[i] < l.offset+l.length; i++ {
			owner[i] = n + 1
		}
	}
	var parts []intent
	last := 0
	for i, n := range owner {
		if n == 0 {
			last = 0
			continue
		}
		if k := len(parts); n == last && parts[k-1].offset+parts[k-1].length == cuts[i] {
			parts[k-1].length = cuts[i+1] - parts[k-1].offset
			continue
		}
		p := o.log[n-1]
		p.offset, p.length = cuts[i], cuts[i+1]-cuts[i]
		parts = append(parts, p)
		last = n
	}
	return parts
}

// differing appends the ranges in which a and b differ; ranges with a few equal
// bytes between them are one.
func differing(ranges [][2]int, a, b []byte) [][2]int {
	const gap = 32
	for i := 0; i < len(a); {
		if i+64 <= len(a) && bytes.Equal(a[i:i+64], b[i:i+64]) {
			i += 64
			continue
		}
		if a[i] == b[i] {
			i++
			continue
		}
		if n := len(ranges); n > 0 && i-ranges[n-1][1] < gap {
			ranges[n-1][1] = i + 1
		} else {
			ranges = append(ranges, [2]int{i, i + 1})
		}
		i++
	}
	return ranges
}

// stage adds an edit to the stage in which it is written. Refcounts that are mended in
// place are raised before, and lowered after the structures that they count.
func (o *overlay) stage(out *Edits, e Edit, width uint) error {
	cl := qcow2.HostCluster(uint64(e.Offset) >> o.bits)
	_, fresh := o.fresh[cl]
	switch {
	case fresh || int64(e.Offset) >= o.baseSize:
		e.Stage = StageNew
	case cl == 0:
		e.Stage = StageHeader
	case width > 0:
		return raiseAndRelease(out, e, width)
	default:
		e.Stage = StageInPlace
	}
	return out.Add(e)
}
