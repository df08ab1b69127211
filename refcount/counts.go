package refcount

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/qcheck/qcheck/qcow2"
)

var (
	// ErrMemory: counting this claim would take more than
	// [Options.MaxMemory]. What part of the claim was counted is open, but no
	// count is ever above the truth, and the Counts stays usable.
	ErrMemory = errors.New("the references need more memory than the limit allows")

	// ErrRange: the claim reaches past [Options.Clusters]. Nothing of it was
	// counted.
	ErrRange = errors.New("clusters out of range")
)

// Options bound a [Counts].
type Options struct {
	// MaxMemory bounds what Counts may hold, in bytes. The default, 0, is no
	// bound.
	MaxMemory int64

	// Clusters is the first cluster index that may not be claimed. The
	// default, 0, and the most is 2^55, where offsets of 64 bits end.
	Clusters uint64
}

// maxClusters is how many clusters of 512 bytes have an offset of 64 bits.
const maxClusters = 1 << (64 - qcow2.MinClusterBits)

// Counts holds how often each host cluster is referenced, and what the
// references said about the COPIED flag. Claims may come from several
// goroutines at once; use one [Claimer] in each. Counts never decrease, and
// they end at 2^64-1 instead of wrapping.
//
// Memory follows the references that were claimed, never the offsets: a few
// bits per cluster where references are dense, a few bytes per run where they
// are not. See the package documentation.
type Counts struct {
	limit  uint64 // first cluster that may not be claimed
	memory budget
	dir    directory
}

// New makes an empty Counts.
func New(opts Options) *Counts {
	c := &Counts{limit: min(opts.Clusters, maxClusters)}
	if c.limit == 0 {
		c.limit = maxClusters
	}
	c.memory.max = opts.MaxMemory
	c.dir.init(&c.memory)
	return c
}

// Claim counts times references to each of the n clusters from first on. It
// fails with [ErrRange] or [ErrMemory].
func (c *Counts) Claim(first qcow2.HostCluster, n, times uint64) error {
	return c.claim(nil, uint64(first), n, times, 0)
}

// ClaimCopied is Claim for references that carry a COPIED flag: it records
// also that the flag was set, or that it was not. Use it for the references of
// the active L1 table and below, and Claim for all others.
func (c *Counts) ClaimCopied(first qcow2.HostCluster, n, times uint64, copied bool) error {
	return c.claim(nil, uint64(first), n, times, copiedMark(copied))
}

// chunk gives the chunk of that index, made if need be.
func (c *Counts) chunk(known *nearby, index uint64) (*chunk, error) {
	if known == nil {
		return c.dir.obtain(index, &c.memory)
	}
	place := &known[index%uint64(len(known))]
	if ch := *place; ch != nil && ch.index == index {
		return ch, nil
	}
	ch, err := c.dir.obtain(index, &c.memory)
	if err == nil {
		*place = ch
	}
	return ch, err
}

func (c *Counts) claim(known *nearby, first, n, times uint64, marks Marks) error {
	if !qcow2.RangeFits(first, n, c.limit) {
		return fmt.Errorf("%w: %d from %d on, limit %d", ErrRange, n, first, c.limit)
	}
	if times == 0 {
		return nil
	}
	for n > 0 {
		lo := int(first % chunkClusters)
		part := min(n, chunkClusters-uint64(lo))
		ch, err := c.chunk(known, first/chunkClusters)
		if err != nil {
			return err
		}
		if err := ch.claim(&c.memory, lo, lo+int(part), times, marks); err != nil {
			return err
		}
		first += part
		n -= part
	}
	return nil
}

// Get is how often a cluster was claimed. While claims are still being made it
// may be behind them.
func (c *Counts) Get(cluster qcow2.HostCluster) uint64 {
	ch := c.dir.lookup(uint64(cluster) / chunkClusters)
	if ch == nil {
		return 0
	}
	refs, _ := ch.get(int(uint64(cluster) % chunkClusters))
	return refs
}

// Said tells whether a reference to the cluster had COPIED set, and whether
// one had it clear.
func (c *Counts) Said(cluster qcow2.HostCluster) (copied, notCopied bool) {
	ch := c.dir.lookup(uint64(cluster) / chunkClusters)
	if ch == nil {
		return false, false
	}
	_, marks := ch.get(int(uint64(cluster) % chunkClusters))
	return marks&MarkCopied != 0, marks&MarkNotCopied != 0
}

// Memory is what Counts holds, in bytes; planes, tables and lists are counted
// by what was allocated for them.
func (c *Counts) Memory() int64 { return c.memory.used.Load() }

// Highest gives the highest cluster that was claimed; ok is false when none
// was. It must not run while claims are made.
func (c *Counts) Highest() (cluster qcow2.HostCluster, ok bool) {
	chunks := c.dir.sorted()
	for i := len(chunks) - 1; i >= 0; i-- {
		if at := chunks[i].highestBelow(chunkClusters); at >= 0 {
			return chunks[i].first() + qcow2.HostCluster(at), true
		}
	}
	return 0, false
}

// budget counts memory. Charges come before the allocation they are for.
type budget struct {
	used atomic.Int64
	max  int64 // 0: no bound
}

func (b *budget) take(n int64) error {
	if now := b.used.Add(n); b.max > 0 && now > b.max {
		b.used.Add(-n)
		return ErrMemory
	}
	return nil
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// satAdd adds without wrapping.
func satAdd(a, b uint64) uint64 {
	if s := a + b; s >= a {
		return s
	}
	return math.MaxUint64
}
