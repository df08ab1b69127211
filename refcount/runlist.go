package refcount

import (
	"slices"
	"sort"
	"unsafe"
)

// run is a stretch of clusters of one chunk that have been claimed alike.
type run struct {
	refs        uint64 // at least 1
	first, last uint16
	marks       Marks
}

const runBytes = int64(unsafe.Sizeof(run{}))

// runList is how a chunk begins: runs in ascending order, disjoint, and no two
// neighbours that could be one.
type runList struct {
	list []run
}

func (l *runList) bytes() int64 { return int64(cap(l.list)) * runBytes }

// find gives the index of the first run that ends at i or later.
func (l *runList) find(i int) int {
	return sort.Search(len(l.list), func(k int) bool { return int(l.list[k].last) >= i })
}

func (l *runList) get(i int) (uint64, Marks) {
	k := l.find(i)
	if k == len(l.list) || int(l.list[k].first) > i {
		return 0, 0
	}
	return l.list[k].refs, l.list[k].marks
}

// add counts times references to the clusters lo to hi-1.
func (l *runList) add(b *budget, lo, hi int, times uint64, marks Marks) error {
	var (
		room  [8]run
		fresh = room[:0]
		push  = func(first, end int, refs uint64, marks Marks) {
			if first >= end {
				return
			}
			r := run{refs: refs, first: uint16(first), last: uint16(end - 1), marks: marks}
			if n := len(fresh); n > 0 && fresh[n-1].joins(r) {
				fresh[n-1].last = r.last
				return
			}
			fresh = append(fresh, r)
		}
	)
	// The runs from..to-1 are replaced by fresh ones: those that the claim
	// touches, and the neighbours on both sides, which may now join.
	from := l.find(lo)
	to := from
	if from > 0 {
		from--
		r := l.list[from]
		push(int(r.first), int(r.last)+1, r.refs, r.marks)
	}
	at := lo
	for ; to < len(l.list) && int(l.list[to].first) < hi; to++ {
		r := l.list[to]
		first, end := int(r.first), int(r.last)+1
		push(first, lo, r.refs, r.marks)
		push(at, first, times, marks&marksKept)
		push(max(first, lo), min(end, hi), satAdd(r.refs, times), r.marks|marks.over(r))
		push(hi, end, r.refs, r.marks)
		at = end
	}
	push(at, hi, times, marks&marksKept)
	if to < len(l.list) {
		r := l.list[to]
		push(int(r.first), int(r.last)+1, r.refs, r.marks)
		to++
	}

	if need, have := len(l.list)-(to-from)+len(fresh), cap(l.list); need > have {
		room := max(need, 2*have)
		if err := b.take(int64(room-have) * runBytes); err != nil {
			return err
		}
		l.list = append(make([]run, 0, room), l.list...)
	}
	l.list = slices.Replace(l.list, from, to, fresh...)
	return nil
}

func (r run) joins(next run) bool {
	return int(r.last)+1 == int(next.first) && r.refs == next.refs && r.marks == next.marks
}

// over gives the marks that a claim with marks m leaves on clusters that have
// references already.
func (m Marks) over(r run) Marks {
	strange := m&MarkSole != 0 || m&MarkCompressed != 0 && r.marks&MarkCompressed == 0
	m &= marksKept
	if strange {
		m |= MarkShared
	}
	return m
}
