package refcount

import (
	"sync/atomic"

	"github.com/qcheck/qcheck/qcow2"
)

// Claimer claims clusters for one goroutine; see [Counts.Claimer]. It must not
// be used from two goroutines at once.
type Claimer struct {
	counts *Counts
	known  nearby
}

// nearby are chunks that a Claimer has met, each in the place that its index
// gives: enough for 2^26 clusters without asking the directory, whose probing
// the processor cannot predict when claims jump about.
type nearby [1024]*chunk

// Claimer makes a handle for one goroutine. It remembers where it has claimed,
// which makes its claims faster than those of the Counts itself.
func (c *Counts) Claimer() *Claimer { return &Claimer{counts: c} }

// Claim is [Counts.Claim].
func (k *Claimer) Claim(first qcow2.HostCluster, n, times uint64) error {
	return k.ClaimMarked(first, n, times, 0)
}

// ClaimCopied is [Counts.ClaimCopied].
func (k *Claimer) ClaimCopied(first qcow2.HostCluster, n, times uint64, copied bool) error {
	return k.ClaimMarked(first, n, times, copiedMark(copied))
}

// ClaimMarked is Claim for references of which more is known; see [Marks].
func (k *Claimer) ClaimMarked(first qcow2.HostCluster, n, times uint64, marks Marks) error {
	if n == 1 {
		if left, strange, ok := k.single(uint64(first), times, marks); ok {
			if left == 0 && !strange {
				return nil
			}
			return k.finish(uint64(first), left, strange)
		}
	}
	return k.counts.claim(&k.known, uint64(first), n, times, marks)
}

func copiedMark(copied bool) Marks {
	if copied {
		return MarkCopied
	}
	return MarkNotCopied
}

// single counts references to one cluster in the planes that exist, or does
// nothing and returns false; left are the references that did not fit there,
// and strange tells that the cluster is yet to be marked as shared. Short as
// it is, the processor fetches the memory of several such claims at once,
// which makes shuffled mappings several times faster.
func (k *Claimer) single(cluster, times uint64, marks Marks) (left uint64, strange, ok bool) {
	ch := k.known[cluster/chunkClusters%uint64(len(k.known))]
	if ch == nil || ch.index != cluster/chunkClusters || cluster >= k.counts.limit ||
		times == 0 || marks&MarkCompressed != 0 {
		return 0, false, false
	}
	one := ch.one.Load()
	if one == nil {
		return 0, false, false
	}
	two := ch.two.Load()
	if two == nil && times > 1 {
		return 0, false, false
	}
	w, bit := cluster%chunkClusters/64, uint64(1)<<(cluster%64)
	if kept := marks & marksKept; kept != 0 {
		p := ch.markPlane(kept).Load()
		if p == nil || kept&(kept-1) != 0 {
			return 0, false, false
		}
		atomic.OrUint64(&p[w], bit)
	}
	if atomic.OrUint64(&one[w], bit)&bit == 0 {
		times--
	} else {
		strange = marks&MarkSole != 0
	}
	if times > 0 && two != nil && atomic.OrUint64(&two[w], bit)&bit == 0 {
		times--
	}
	return times, strange, true
}

// finish does what single has left to do.
func (k *Claimer) finish(cluster, left uint64, strange bool) error {
	ch := k.known[cluster/chunkClusters%uint64(len(k.known))]
	b := &k.counts.memory
	i := int(cluster % chunkClusters)
	if strange {
		if err := ch.mark(b, i, i+1, MarkShared); err != nil {
			return err
		}
	}
	return ch.claimExtra(b, i/64, 1<<(i%64), left)
}
