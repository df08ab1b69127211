package refcount

import (
	"iter"
	"math/bits"

	"github.com/qcheck/qcheck/qcow2"
)

// Shared gives the clusters that a claim with [MarkSole] or [MarkCompressed]
// found taken already, in ascending order, in runs. Every cluster that really
// is shared is among them; one that two compressed claims reached at the same
// instant may be too. It must not run while claims are made.
func (c *Counts) Shared() iter.Seq2[qcow2.HostCluster, uint64] {
	return c.pick(func(ch *chunk, w int) uint64 { return ch.markedWord(MarkShared, w) },
		func(r run) bool { return r.marks&MarkShared != 0 })
}

// Compressed gives the clusters that compressed data refers to, in ascending order, in
// runs. It must not run while claims are made.
func (c *Counts) Compressed() iter.Seq2[qcow2.HostCluster, uint64] {
	return c.pick(func(ch *chunk, w int) uint64 { return ch.markedWord(MarkCompressed, w) },
		func(r run) bool { return r.marks&MarkCompressed != 0 })
}

// Contradictions gives the clusters where the COPIED flag of a reference is
// wrong: set though there are other references, or clear though there are
// none. They come in ascending order, in runs. It must not run while claims are
// made.
func (c *Counts) Contradictions() iter.Seq2[qcow2.HostCluster, uint64] {
	return c.pick(func(ch *chunk, w int) uint64 {
		sole := ch.one.Load()[w]
		if two := ch.two.Load(); two != nil {
			sole &^= two[w]
		}
		return ch.markedWord(MarkCopied, w)&^sole | ch.markedWord(MarkNotCopied, w)&sole
	}, func(r run) bool {
		return r.refs != 1 && r.marks&MarkCopied != 0 || r.refs == 1 && r.marks&MarkNotCopied != 0
	})
}

func (ch *chunk) markedWord(m Marks, w int) uint64 {
	if p := ch.markPlane(m).Load(); p != nil {
		return p[w]
	}
	return 0
}

// pick gives the clusters that word (for chunks with bit planes) or listed
// (for lists of runs) picks, in runs.
func (c *Counts) pick(word func(ch *chunk, w int) uint64, listed func(r run) bool) iter.Seq2[qcow2.HostCluster, uint64] {
	return func(yield func(qcow2.HostCluster, uint64) bool) {
		var first qcow2.HostCluster
		var n uint64
		add := func(at qcow2.HostCluster, k uint64) bool {
			if n > 0 && first+qcow2.HostCluster(n) == at {
				n += k
				return true
			}
			ok := n == 0 || yield(first, n)
			first, n = at, k
			return ok
		}
		for _, ch := range c.dir.sorted() {
			if ch.one.Load() == nil {
				for _, r := range ch.runs.list {
					if listed(r) && !add(ch.first()+qcow2.HostCluster(r.first), uint64(r.last-r.first)+1) {
						return
					}
				}
				continue
			}
			for w := range chunkWords {
				for set := word(ch, w); set != 0; {
					lo := bits.TrailingZeros64(set)
					k := bits.TrailingZeros64(^(set >> lo))
					if !add(ch.first()+qcow2.HostCluster(w*64+lo), uint64(k)) {
						return
					}
					if lo+k == 64 {
						break
					}
					set &^= (1<<k - 1) << lo
				}
			}
		}
		if n > 0 {
			yield(first, n)
		}
	}
}
