package check

import (
	"errors"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The data pass, which is asked for with [Options.Data], tests what the tables lead to as
// far as it can be tested without knowing what the guest wrote: every compressed cluster
// is decompressed (CMP001), clusters that are allocated and not stored are named (MAP023),
// and so is key material that cannot be any (CRY002).
//
// It relies on the L2 tables that the mapping pass has collected; entries that are at
// fault there are left alone here.
//
// It leaves nothing behind but findings. Its memory is two clusters for each worker, and
// the runs of holes that are listed.

// checkDataPass runs the pass.
func (c *run) checkDataPass() error {
	if !c.opts.Data {
		return nil
	}
	c.checkKeyMaterial()
	c.checkRawDataFile()
	if !c.l2FormatKnown() || c.bomb() {
		return nil
	}
	order, units := c.dataPlan()
	workers := make([]*dataWorker, max(1, min(c.opts.Jobs, len(units))))
	holes := holeList{most: c.Listed(), cluster: c.g.ClusterSize()}
	var done, total uint64
	for _, u := range units {
		total += uint64(u.to-u.from) << c.g.ClusterBits
	}
	err := inOrder(c.ctx, len(workers), len(units), func(worker, i int) dataResult {
		if workers[worker] == nil {
			workers[worker] = &dataWorker{scanner: newScanner(c)}
		}
		return workers[worker].unit(tableAt(order, units[i].table), units[i])
	}, func(i int, r dataResult) {
		c.Absorb(r.Collector)
		holes.join(&r.holes)
		done += uint64(units[i].to-units[i].from) << c.g.ClusterBits
		c.progress("data", done, total)
	})
	if err != nil {
		return err
	}
	c.reportHoles(&holes)
	return nil
}

// dataUnit is a part of an L2 table that one worker takes at a time.
type dataUnit struct {
	table    int // in the order of the plan
	from, to int // entries
}

// unitBytes is how much of the disk a unit is for, about: little enough for the progress
// to move and for all processors to have work, even where one table is for half a TiB.
const unitBytes = 1 << 26

// dataPlan gives the parts of all tables that hold anything, in the order of the mapping
// pass.
func (c *run) dataPlan() (order []uint32, units []dataUnit) {
	order, _ = c.scanPlan()
	entries := int(c.g.L2Entries())
	step := min(entries, max(1, int(unitBytes>>c.g.ClusterBits)))
	var known struct{ asked, start, end qcow2.HostOffset }
	for k := range c.tables {
		t := &c.tables[tableAt(order, k)]
		if t.skip {
			continue
		}
		// A sparse file can have millions of tables that nobody has written yet.
		if t.offset < known.asked || t.offset >= known.end {
			known.asked = t.offset
			known.start, known.end = c.img.NextData(t.offset)
		}
		if t.offset+qcow2.HostOffset(c.g.ClusterSize()) <= known.start {
			continue
		}
		for from := 0; from < entries; from += step {
			units = append(units, dataUnit{k, from, min(from+step, entries)})
		}
	}
	return order, units
}

// dataResult is what a unit gave.
type dataResult struct {
	*problem.Collector
	holes holeList
}

// dataWorker looks at what L2 entries lead to.
type dataWorker struct {
	*scanner
	ts  *tableScan
	raw []byte // the table that was read last
	of  qcow2.HostOffset
	dst []byte // a cluster
	// tried holds the compressed clusters of this part of the disk that were found to be
	// good: snapshots share them.
	tried  map[qcow2.L2Entry]bool
	window uint32
}

// maxGood bounds what a worker remembers of compressed clusters.
const maxGood = 1 << 14

// unit looks at the entries of a part of a table.
func (w *dataWorker) unit(table uint32, u dataUnit) dataResult {
	r := dataResult{Collector: w.c.Part(), holes: holeList{most: w.c.Listed(), cluster: w.c.g.ClusterSize()}}
	t := &w.c.tables[table]
	if !w.load(t) {
		return r // the mapping pass has said that it cannot be read
	}
	for i := u.from; i < u.to; i++ {
		if be64(w.raw, i*w.entrySize) == 0 {
			continue
		}
		if i%ctxStride == 0 && w.c.ctx.Err() != nil {
			return r
		}
		j := w.judge(w.ts, i)
		switch {
		case j.compressed && j.faults&(faultCompressed|faultCompressedData) == 0:
			w.decompress(&r, t, i, &j)
		case j.allocated && j.n == 1:
			w.hole(&r, t, i, &j)
		}
	}
	return r
}

// load reads a table, unless it is the one that was read last.
func (w *dataWorker) load(t *l2table) bool {
	if w.window != t.window || len(w.tried) > maxGood {
		clear(w.tried)
		w.window = t.window
	}
	if w.ts != nil && w.of == t.offset {
		return true
	}
	if w.raw == nil {
		w.raw = make([]byte, w.c.g.ClusterSize())
		w.tried = make(map[qcow2.L2Entry]bool)
	}
	w.ts = nil
	if w.readAt(w.raw, t.offset) != nil {
		return false
	}
	w.of, w.ts = t.offset, w.begin(t, w.raw, nil)
	return true
}

// decompress tests that a compressed cluster gives one cluster.
func (w *dataWorker) decompress(r *dataResult, t *l2table, i int, j *judgement) {
	if w.tried[j.entry] {
		return
	}
	if w.dst == nil {
		w.dst = make([]byte, w.c.g.ClusterSize())
	}
	d := j.descriptor
	src, err := w.c.img.ReadExtent(qcow2.Extent{Offset: d.Offset, Length: d.Length()}, d.Length())
	if err != nil {
		o := Owner{Structure: problem.StructDataCluster, Path: w.c.entryPath(t, i)}
		r.Add(troubleFinding(o, at(d.Offset, d.Length()), err))
		return
	}
	err = qcow2.Decompress(w.c.h.CompressionType, w.dst, src)
	switch {
	case err == nil:
		w.tried[j.entry] = true
		return
	case errors.Is(err, qcow2.ErrCompressionType):
		return // which is a finding about the header
	case r.Unlisted(problem.CompressedUnreadable, 0, 1):
		return
	}
	f := w.c.entryFinding(t, i)
	f.Code, f.Cluster = problem.CompressedUnreadable, ptr(w.c.g.HostCluster(d.Offset))
	f.Value = problem.Hex(j.entry)
	f.Message = problem.Say("%s: the compressed cluster at %v, %d bytes for guest %s, cannot be decompressed: %v",
		f.Path, d.Offset, d.Length(), guestRange(uint64(*f.GuestOffset), w.c.g.ClusterSize()), err)
	r.Add(f)
}

// maxExpansion is how many times its own length a file from a stranger may unpack to, and
// expansionFloor below how many bytes nobody minds.
const (
	maxExpansion   = 100
	expansionFloor = 1 << 30
)

// bomb tells that the compressed clusters of an image from a stranger unpack to so much that
// nobody should try.
func (c *run) bomb() bool {
	return c.opts.Untrusted && c.unpacked() > max(expansionFloor, maxExpansion*uint64(max(c.img.Size(), 0)))
}

// unpacked is how many bytes all compressed clusters unpack to, those of snapshots included.
func (c *run) unpacked() uint64 {
	if !c.img.GeometryOK {
		return 0
	}
	return c.compressed << c.g.ClusterBits
}
