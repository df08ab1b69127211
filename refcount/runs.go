package refcount

import (
	"iter"

	"github.com/qcheck/qcheck/qcow2"
)

// Run is a stretch of host clusters with the same number of references.
type Run struct {
	First      qcow2.HostCluster
	N          uint64 // clusters, at least 1
	References uint64 // to each of them
}

// Runs gives the clusters with at least so many references (at least 1) in
// ascending order, in runs as long as they can be. It must not run while
// claims are made.
func (c *Counts) Runs(atLeast uint64) iter.Seq[Run] {
	atLeast = max(1, atLeast)
	return func(yield func(Run) bool) {
		var pending Run
		for _, ch := range c.dir.sorted() {
			for piece := range ch.pieces() {
				if piece.refs < atLeast {
					continue
				}
				r := Run{
					First:      ch.first() + qcow2.HostCluster(piece.lo),
					N:          uint64(piece.hi - piece.lo),
					References: piece.refs,
				}
				if pending.N > 0 && pending.First+qcow2.HostCluster(pending.N) == r.First && pending.References == r.References {
					pending.N += r.N
					continue
				}
				if pending.N > 0 && !yield(pending) {
					return
				}
				pending = r
			}
		}
		if pending.N > 0 {
			yield(pending)
		}
	}
}

// piece is a stretch of clusters lo to hi-1 of a chunk with equal references,
// 0 included.
type piece struct {
	lo, hi int
	refs   uint64
}

// pieces gives a chunk from end to end. Neighbours may have equal references.
func (ch *chunk) pieces() iter.Seq[piece] {
	if ch.one.Load() == nil {
		return ch.runs.pieces()
	}
	return func(yield func(piece) bool) {
		p := piece{}
		for w := range chunkWords {
			lo := w * 64
			if refs, ok := ch.uniform(w); ok {
				if refs != p.refs {
					if p.hi > p.lo && !yield(p) {
						return
					}
					p = piece{lo: lo, refs: refs}
				}
				p.hi = lo + 64
				continue
			}
			for i := lo; i < lo+64; i++ {
				refs := ch.dense(i)
				if refs != p.refs {
					if p.hi > p.lo && !yield(p) {
						return
					}
					p = piece{lo: i, refs: refs}
				}
				p.hi = i + 1
			}
		}
		yield(p)
	}
}

func (l *runList) pieces() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		at := 0
		for _, r := range l.list {
			if at < int(r.first) && !yield(piece{lo: at, hi: int(r.first)}) {
				return
			}
			at = int(r.last) + 1
			if !yield(piece{lo: int(r.first), hi: at, refs: r.refs}) {
				return
			}
		}
		if at < chunkClusters {
			yield(piece{lo: at, hi: chunkClusters})
		}
	}
}

// uniform tells quickly whether the 64 clusters of word w have 0, 1 or 2
// references all alike. It may say no where they have.
func (ch *chunk) uniform(w int) (refs uint64, ok bool) {
	switch ch.one.Load()[w] {
	case 0:
		return 0, true
	case ^uint64(0):
		two := ch.two.Load()
		if two == nil || two[w] == 0 {
			return 1, true
		}
		return 2, two[w] == ^uint64(0) && ch.more.none(w)
	}
	return 0, false
}
