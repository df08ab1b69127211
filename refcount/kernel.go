package refcount

import (
	"encoding/binary"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// segment is a stretch of a chunk whose refcounts have one source.
type segment struct {
	lo, hi   int                 // clusters of the chunk, hi excluded
	block    qcow2.RefcountBlock // its Raw is nil where all refcounts are 0 or unknown
	shift    int                 // cluster i of the chunk is entry i+shift of block
	coverage Coverage
}

// segment compares the clusters of a segment; ch is nil where none of them has
// a reference.
func (w *worker) segment(base uint64, ch *chunk, s segment) {
	switch {
	case s.lo >= s.hi:
	case ch == nil:
		w.constant(base, &s, s.lo, s.hi, 0)
	case ch.one.Load() == nil:
		w.runs(base, ch, &s)
	default:
		w.planes(base, ch, &s)
	}
}

// runs compares with a chunk that is a list of runs.
func (w *worker) runs(base uint64, ch *chunk, s *segment) {
	at := s.lo
	for _, r := range ch.runs.list[ch.runs.find(s.lo):] {
		if int(r.first) >= s.hi {
			break
		}
		lo, hi := max(int(r.first), s.lo), min(int(r.last)+1, s.hi)
		w.constant(base, s, at, lo, 0)
		w.constant(base, s, lo, hi, r.refs)
		at = hi
	}
	w.constant(base, s, at, s.hi, 0)
}

// planes compares with a chunk that has bit planes.
func (w *worker) planes(base uint64, ch *chunk, s *segment) {
	for i := s.lo; i < s.hi; {
		word := i / 64
		end := (word + 1) * 64
		if refs, ok := ch.uniform(word); ok {
			for ; end < s.hi; end += 64 {
				if next, ok := ch.uniform(end / 64); !ok || next != refs {
					break
				}
			}
			end = min(end, s.hi)
			w.constant(base, s, i, end, refs)
			i = end
			continue
		}
		end = min(end, s.hi)
		if end-i == 64 && s.block.Raw != nil && ch.equalWord(word, s.block, i+s.shift) {
			i = end
			continue
		}
		for ; i < end; i++ {
			refs, refcount := ch.dense(i), uint64(0)
			if s.block.Raw != nil {
				refcount = s.block.Get(i + s.shift)
			}
			if refs != refcount {
				w.differ(base, s, i, i+1, refcount, refs)
			}
		}
	}
}

// equalWord tells quickly whether the references to the 64 clusters of a word
// are what the entries of a block from i on say. It may say no where they are.
func (ch *chunk) equalWord(word int, block qcow2.RefcountBlock, i int) bool {
	one, two := ch.one.Load()[word], uint64(0)
	if p := ch.two.Load(); p != nil {
		if two = p[word]; two != 0 && (block.Order == 0 || !ch.more.none(word)) {
			return false
		}
	}
	raw := block.Raw[i<<block.Order/8:][:8<<block.Order]
	for k := 0; k < len(raw); k += 8 {
		if binary.LittleEndian.Uint64(raw[k:]) != spread(block.Order, one)+spread(block.Order, two) {
			return false
		}
		one >>= 64 >> block.Order
		two >>= 64 >> block.Order
	}
	return true
}

// constant compares clusters lo to hi-1, which have so many references each.
func (w *worker) constant(base uint64, s *segment, lo, hi int, refs uint64) {
	if s.block.Raw == nil {
		if refs > 0 && lo < hi {
			w.differ(base, s, lo, hi, 0, refs)
		}
		return
	}
	for lo < hi {
		lo = sameUntil(s.block, lo+s.shift, hi+s.shift, refs) - s.shift
		if lo == hi {
			return
		}
		refcount := s.block.Get(lo + s.shift)
		end := sameUntil(s.block, lo+s.shift+1, hi+s.shift, refcount) - s.shift
		w.differ(base, s, lo, end, refcount, refs)
		lo = end
	}
}

// differ reports a run, in two where the file ends within it.
func (w *worker) differ(base uint64, s *segment, lo, hi int, refcount, refs uint64) {
	first, n := base+uint64(lo), uint64(hi-lo)
	d := Diff{First: qcow2.HostCluster(first), N: n, Refcount: refcount, References: refs, Coverage: s.coverage}
	if first < w.fileClusters && n > w.fileClusters-first {
		d.N = w.fileClusters - first
		w.emit(event{Diff: d})
		d.First, d.N = qcow2.HostCluster(w.fileClusters), n-d.N
	}
	w.emit(event{Diff: d})
}

// emit passes an event on, joined to the last one where it can be.
func (w *worker) emit(e event) {
	if n := len(w.batch); n > 0 && w.batch[n-1].joins(e.Diff, w.fileClusters) {
		w.batch[n-1].N += e.N
		return
	}
	if len(w.batch) == batchEvents {
		w.send()
	}
	w.batch = append(w.batch, e)
}

// send hands the events so far to the collector.
func (w *worker) send() {
	if len(w.batch) == 0 {
		return
	}
	select {
	case w.j.out <- slices.Clone(w.batch):
	case <-w.ctx.Done():
	}
	w.batch = w.batch[:0]
}
