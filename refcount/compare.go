package refcount

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/qcheck/qcheck/qcow2"
)

// Coverage tells why a cluster has the refcount that it has.
type Coverage uint8

const (
	// Covered: it is in a refcount block.
	Covered Coverage = iota
	// Uncovered: there is no block for the cluster, or no entry for a block in
	// the refcount table; its refcount is 0.
	Uncovered
	// Unknown: the block is unusable or could not be read.
	Unknown
)

// Diff is a run of clusters whose refcount is not the number of references to
// them, or whose refcount is unknown although there are references.
type Diff struct {
	First      qcow2.HostCluster
	N          uint64 // clusters, at least 1
	Refcount   uint64 // of each, as the file says; 0 when Unknown
	References uint64 // to each
	Coverage   Coverage
}

// CompareOptions say how to compare.
type CompareOptions struct {
	// Jobs is how many goroutines read and compare. The result is the same for
	// any number. The default is the number of processors.
	Jobs int

	// FileClusters is how many clusters the file has, the last of them perhaps
	// in part. Runs end there, and totals are kept for both sides. The default,
	// 0, is no end.
	FileClusters uint64

	// Diff is called for each run, in ascending order of clusters; no two
	// calls could have been one, but where the file ends. The default is no
	// call.
	Diff func(Diff)

	// BlockError is called once for each refcount block that cannot be read,
	// among the calls of Diff, at the place of the first cluster concerned.
	// The default is no call.
	BlockError func(b Block, err error)

	// Progress is called now and then with the bytes of refcount blocks that
	// have been read so far. The default is no call.
	Progress func(bytes uint64)
}

// Sums are numbers of clusters.
type Sums struct {
	Low       uint64 // refcount lower than references, Uncovered included
	Leaked    uint64 // refcount higher than references
	Uncovered uint64 // referenced, but no refcount block covers them
	Unknown   uint64 // referenced, the refcount unknown

	// Highest is the highest cluster with a reference or a refcount above 0;
	// Any tells that there is one.
	Highest qcow2.HostCluster
	Any     bool
}

// Totals sum up a comparison.
type Totals struct {
	InFile  Sums   // clusters below CompareOptions.FileClusters
	PastEnd Sums   // clusters from there on
	Bytes   uint64 // read from refcount blocks
}

// Compare compares every refcount of the file with the references that were
// counted, reading the refcount blocks once, in pieces. No claims may be made
// meanwhile. A block that cannot be read is reported, and the rest is compared.
// The error is the context's, with the totals so far.
func Compare(ctx context.Context, c *Counts, t *Table, opts CompareOptions) (Totals, error) {
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.GOMAXPROCS(0)
	}
	if opts.FileClusters == 0 {
		opts.FileClusters = ^uint64(0)
	}
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	var failure atomic.Pointer[any] // what a goroutine panicked with first
	start := func(f func()) {
		workers.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					failure.CompareAndSwap(nil, &r)
					cancel()
				}
			}()
			f()
		})
	}
	defer func() {
		cancel()
		workers.Wait()
		if r := failure.Load(); r != nil {
			panic(*r) // where the caller can catch it
		}
	}()

	// Jobs are handed out and collected in the same order, so that the first
	// one that is waited for is always being worked on.
	todo := make(chan *job)
	inOrder := make(chan *job, 2*opts.Jobs)
	start(func() {
		defer close(inOrder)
		defer close(todo)
		p := newPlanner(c, t)
		for j := p.next(); j != nil; j = p.next() {
			for _, ch := range []chan *job{inOrder, todo} {
				select {
				case ch <- j:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	for range opts.Jobs {
		start(func() {
			w := worker{ctx: ctx, t: t, fileClusters: opts.FileClusters}
			for j := range todo {
				w.compare(j)
			}
		})
	}
	col := collector{opts: &opts}
	for j := range inOrder {
		if err := col.collect(ctx, j); err != nil {
			col.flush()
			return col.totals, err
		}
	}
	col.flush()
	return col.totals, ctx.Err()
}

// collector joins what the workers found, in order.
type collector struct {
	opts    *CompareOptions
	totals  Totals
	pending Diff // N 0: none
	failed  *blockFailure
}

func (c *collector) collect(ctx context.Context, j *job) error {
	for {
		select {
		case batch, ok := <-j.out:
			if !ok {
				c.jobDone(j)
				return ctx.Err()
			}
			for i := range batch {
				c.event(&batch[i])
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *collector) event(e *event) {
	if f := e.failed; f != nil {
		if c.failed != nil && c.failed.block == f.block {
			return // another piece of the same block
		}
		c.failed = f
		c.flush()
		if c.opts.BlockError != nil {
			c.opts.BlockError(f.block, f.err)
		}
		return
	}
	if c.pending.joins(e.Diff, c.opts.FileClusters) {
		c.pending.N += e.N
		return
	}
	c.flush()
	c.pending = e.Diff
}

// joins tells whether next goes on where d ends, and says the same.
func (d Diff) joins(next Diff, fileClusters uint64) bool {
	return d.N > 0 && uint64(d.First)+d.N == uint64(next.First) && uint64(next.First) != fileClusters &&
		d.Refcount == next.Refcount && d.References == next.References && d.Coverage == next.Coverage
}

// flush counts the run that is complete now, and hands it over.
func (c *collector) flush() {
	d := c.pending
	if d.N == 0 {
		return
	}
	c.pending = Diff{}
	sums := &c.totals.InFile
	if uint64(d.First) >= c.opts.FileClusters {
		sums = &c.totals.PastEnd
	}
	switch {
	case d.Coverage == Unknown:
		sums.Unknown += d.N
	case d.Refcount > d.References:
		sums.Leaked += d.N
	default:
		sums.Low += d.N
		if d.Coverage == Uncovered {
			sums.Uncovered += d.N
		}
	}
	if c.opts.Diff != nil {
		c.opts.Diff(d)
	}
}

func (c *collector) jobDone(j *job) {
	c.totals.Bytes += j.bytes
	for _, part := range []struct {
		sums *Sums
		at   int64
	}{{&c.totals.InFile, j.inFile}, {&c.totals.PastEnd, j.pastEnd}} {
		if part.at >= 0 {
			part.sums.Highest, part.sums.Any = qcow2.HostCluster(part.at), true
		}
	}
	if c.opts.Progress != nil {
		c.opts.Progress(c.totals.Bytes)
	}
}
