package check

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// The mapping pass tests every L1 table and every L2 table: entries that name
// no place where a table or data can be, reserved bits, flags that contradict
// each other, mappings past the end of the disk (MAP001-003, 005-007, 009-015,
// 018, 019, 021), and clusters with two owners (MAP016, MAP017).
//
// It relies on the header's L1 fields and on the snapshots that could be read;
// all other metadata must have been claimed before it.
//
// It leaves behind the references of all tables and data in the counts, with
// what they said of COPIED; the L2 tables in the order of the file; the figures
// of allocation; and how far the external data file is used.

// checkMapping runs the pass.
func (c *run) checkMapping() error {
	defer c.markSpoiltBitmaps()
	c.listL1s()
	tables, err := c.collectTables()
	if err != nil {
		return err
	}
	c.tables = tables
	for i := range c.l1s {
		l := &c.l1s[i]
		c.claim(l.owner(), l.extent) // it lies in the file
	}
	for i := range c.tables {
		t := &c.tables[i]
		c.count(c.g.HostCluster(t.offset), 1, uint64(t.times))
	}
	if err := c.checkMetadataOverlaps(); err != nil {
		return err
	}
	if !c.l2FormatKnown() {
		return nil
	}
	if err := c.scanTables(); err != nil {
		return err
	}
	c.judgeL1s()
	c.checkDataFileSize()
	if c.uncounted {
		return nil
	}
	return c.checkShared()
}

// batchBytes is about how much of L2 tables one worker takes at a time.
const batchBytes = 1 << 20

// versionsKept is how many L2 tables of the same part of the disk, from
// different snapshots, are kept in memory to be compared with the next one.
const versionsKept = 8

// scanTables reads all L2 tables, each once.
func (c *run) scanTables() error {
	order, batches := c.scanPlan()
	var total uint64
	for i := range c.tables {
		if !c.tables[i].skip {
			total += c.g.ClusterSize()
		}
	}
	var done uint64
	scanners := make([]*scanner, max(1, min(c.opts.Jobs, len(batches))))
	return inOrder(c.ctx, len(scanners), len(batches), func(worker, i int) scanResult {
		if scanners[worker] == nil {
			scanners[worker] = newScanner(c)
		}
		return scanners[worker].batch(order, batches[i])
	}, func(_ int, r scanResult) {
		c.mergeScan(r)
		done += r.bytes
		c.progress("mapping", done, total)
	})
}

// span is a range of indexes.
type span struct{ from, to int }

// scanPlan gives the order in which tables are read, and the batches that
// workers take. It is the order of the file, except that tables for the same
// part of the disk (of different snapshots) follow each other: most of their
// entries are the same, and only side by side this can be told from a cluster
// that is used twice. order is nil when it is the order of the file throughout.
func (c *run) scanPlan() (order []uint32, batches []span) {
	if c.hasVersions() {
		order = make([]uint32, len(c.tables))
		first := make([]uint32, c.windows()) // by window: 1 + its first table
		for i := range c.tables {
			order[i] = uint32(i)
			if w := c.tables[i].window; first[w] == 0 {
				first[w] = uint32(i) + 1
			}
		}
		slices.SortFunc(order, func(a, b uint32) int {
			return cmp.Or(cmp.Compare(first[c.tables[a].window], first[c.tables[b].window]), cmp.Compare(c.age(a), c.age(b)), cmp.Compare(a, b))
		})
	}
	window := func(i int) uint32 {
		if order != nil {
			i = int(order[i])
		}
		return c.tables[i].window
	}
	perBatch := max(1, int(batchBytes/c.g.ClusterSize()))
	for from := 0; from < len(c.tables); {
		to := min(from+perBatch, len(c.tables))
		// A batch ends between two parts of the disk.
		for to < len(c.tables) && window(to) == window(to-1) {
			to++
		}
		batches = append(batches, span{from, to})
		from = to
	}
	return order, batches
}

// age puts the tables of one part of the disk in the order in which snapshots
// have parted with them: the active disk's is the latest.
func (c *run) age(table uint32) uint32 {
	return c.tables[table].l1 - 1 // of the active one it wraps to the largest number
}

// windows is the number of parts of the disk that tables can be for.
func (c *run) windows() (n uint32) {
	for i := range c.tables {
		n = max(n, c.tables[i].window+1)
	}
	return n
}

// hasVersions tells whether some part of the disk has more than one L2 table.
func (c *run) hasVersions() bool {
	if len(c.l1s) <= 1 {
		return false
	}
	seen := make([]bool, c.windows())
	for i := range c.tables {
		if w := c.tables[i].window; seen[w] {
			return true
		} else {
			seen[w] = true
		}
	}
	return false
}

// mergeScan takes over what a batch has found.
func (c *run) mergeScan(r scanResult) {
	c.Absorb(r.Collector)
	c.res.AllocatedClusters += r.allocated
	c.res.FragmentedClusters += r.fragmented
	c.res.CompressedClusters += r.compressed
	c.compressed += r.unpacked
	c.dataFileEnd = max(c.dataFileEnd, r.dataFileEnd)
	c.past.absorb(&r.past)
	c.readable += r.readable
	for _, d := range r.doubts {
		c.doubt(d.Owner, d.Why)
	}
	for _, idx := range r.garbage {
		c.tables[idx].skip = true
	}
	if len(c.blank) < maxBlank {
		c.blank = append(c.blank, r.blank...)
	}
	if r.err != nil {
		c.countFailed(r.err)
	}
}

// count adds references to clusters. It is the only place that does for
// metadata.
func (c *run) count(first qcow2.HostCluster, n, times uint64) {
	if err := c.counts.Claim(first, n, times); err != nil {
		c.countFailed(err)
	}
}

// countFailed notes, once, that references could not be counted: nothing can be
// said about refcounts then.
func (c *run) countFailed(err error) {
	if c.uncounted {
		return
	}
	c.uncounted = true
	what := err.Error()
	if errors.Is(err, refcount.ErrMemory) {
		what = fmt.Sprintf("counting the references takes more memory than the limit of %d bytes", c.opts.MemoryLimit)
	}
	c.report(problem.Finding{Code: problem.LimitReached, Message: problem.Say("%s; refcounts and COPIED flags were not checked", what)})
}
