package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// The refcounts pass compares the refcount of every cluster with the references
// that were found (REF005-REF009), and looks for what owns the clusters that
// nothing seems to (MAP020).
//
// It relies on the counts, which every other pass has filled, on the list of
// refcount blocks, and on the doubts: while one is left nothing is called a leak.
//
// It leaves behind the end of the image.

// maxLeakRuns bounds the runs of unreferenced clusters that are remembered until
// it is known whether they are leaks. There can be more only in an image that is
// past being told run by run; the rest is counted.
const maxLeakRuns = 1 << 16

// leaks is what has more refcount than references.
type leaks struct {
	runs     excess
	beyond   excess // behind the end of the file
	reserved bool   // some of it may be a bitmap's whose fault leaves that open
}

// excess collects runs of clusters.
type excess struct {
	runs []unowned
	rest uint64 // clusters in runs that were not kept
	// unreferenced: some of the rest have no reference at all, and so may be a
	// structure that was lost.
	unreferenced bool
}

func (l *excess) add(u unowned) {
	if len(l.runs) < maxLeakRuns {
		l.runs = append(l.runs, u)
		return
	}
	l.rest += u.n
	l.unreferenced = l.unreferenced || u.references == 0
}

// checkRefcounts runs the pass.
func (c *run) checkRefcounts() error {
	if cl, ok := c.counts.Highest(); ok {
		c.res.ImageEndOffset = uint64(c.g.HostOffset(cl + 1))
	}
	c.res.TotalClusters = c.g.Clusters(c.h.SectorAlignedSize())
	if c.uncounted {
		return nil
	}
	if !c.refTableUsable() || !c.h.RefcountOrderOK() {
		c.checkTruncated()
		return nil
	}
	c.table = c.loadTable()
	c.mergeReserved()
	var found leaks
	totals, err := refcount.Compare(c.ctx, c.counts, c.table, refcount.CompareOptions{
		Jobs: c.opts.Jobs,
		// What a refcount says of clusters past the end of the file does not make
		// the image longer.
		FileClusters: max(1, c.g.Clusters(uint64(c.img.Size()))),
		Diff:         func(d refcount.Diff) { c.takeDiff(d, &found) },
		BlockError: func(b refcount.Block, err error) {
			o := c.blockOwner(&refBlock{index: b.Index, offset: b.Offset})
			c.report(troubleFinding(o, at(b.Offset, c.g.ClusterSize()), err))
		},
		Progress: func(bytes uint64) { c.progress("refcounts", bytes, uint64(len(c.table.Blocks()))*c.g.ClusterSize()) },
	})
	if err != nil {
		return err
	}
	if totals.InFile.Any {
		c.res.ImageEndOffset = uint64(c.g.HostOffset(totals.InFile.Highest + 1))
	}
	c.checkTruncated()
	if !c.truncated {
		for _, u := range c.pastRefs.runs {
			found.beyond.add(u)
		}
		found.beyond.rest += c.pastRefs.rest
	}
	return c.settleLeaks(&found)
}

// loadTable makes the refcount table of the blocks whose content can be trusted.
// What the others cover is not compared: nothing is known of it.
func (c *run) loadTable() *refcount.Table {
	var blocks []refcount.Block
	var unusable []refcount.Entries
	for _, b := range c.blocks {
		if b.bad {
			unusable = append(unusable, refcount.Entries{First: b.index, N: 1})
			continue
		}
		blocks = append(blocks, refcount.Block{Index: b.index, Offset: b.offset})
	}
	for _, i := range c.badBlocks {
		unusable = append(unusable, refcount.Entries{First: i, N: 1})
	}
	for _, hole := range c.refTableHoles {
		unusable = append(unusable, refcount.Entries{First: uint64(hole.from), N: uint64(hole.to - hole.from)})
	}
	return refcount.NewTable(c.img, c.g, blocks, unusable)
}

// onDisk is the refcount of a cluster as the file has it; 0 where that is not
// known.
func (c *run) onDisk(cl qcow2.HostCluster) uint64 {
	if c.table == nil {
		return 0
	}
	if c.lookup == nil {
		c.lookup = refcount.NewLookup(c.table)
	}
	n, _ := c.lookup.Get(cl)
	return n
}

// blockAt gives the refcount block of an entry of the refcount table, or nil.
func (c *run) blockAt(index uint64) *refBlock {
	i, ok := slices.BinarySearchFunc(c.blocks, index, func(b refBlock, index uint64) int { return cmp.Compare(b.index, index) })
	if !ok {
		return nil
	}
	return &c.blocks[i]
}

// takeDiff reports clusters with too low a refcount, and keeps those with too
// high a one until it is known what to call them.
func (c *run) takeDiff(d refcount.Diff, found *leaks) {
	u := unowned{first: d.First, n: d.N, refcount: d.Refcount, references: d.References}
	switch {
	case d.Coverage == refcount.Unknown:
		// Nothing can be said; why has been reported with the block.
	case c.takePastRef(d):
		// They tell how long the file was, or are found to be too high.
	case d.Refcount > d.References:
		c.overcounted = c.overcounted || d.References == 1
		c.takeExcess(u, found)
	case d.Coverage == refcount.Uncovered:
		if c.Unlisted(problem.RefcountMissing, c.refcountSeverity(), u.n) {
			return
		}
		f := c.refcountFinding(u)
		f.Code, f.Extent = problem.RefcountMissing, c.missingBlock(d.First, d.N)
		if (uint64(d.First)+d.N-1)/c.g.RefcountBlockEntries() >= qcow2.MaxRefcountTableSize/8 {
			f.Repair = problem.RepairNone // QEMU takes no table that is long enough
		}
		f.Message = problem.Say("%s: %s, but no refcount block is there to count %s", c.clusterRange(u.first, u.n), c.referencesTo(u), it(u.n))
		c.report(f)
	default:
		if d.Refcount == 0 && len(c.unallocated) < maxBlank {
			c.unallocated = append(c.unallocated, d.First)
		}
		if most := c.maxRefcount(); u.references > most {
			c.eachBlock(problem.RefcountOverflow, 0, u, func(f problem.Finding) {
				f.Expected = problem.Value{}
				f.Message.And("; refcounts of %d bits end at %d", c.g.RefcountBits(), most)
				c.report(f)
			})
			return
		}
		c.eachBlock(problem.RefcountTooLow, c.refcountSeverity(), u, c.report)
	}
}

// takeExcess keeps a run of clusters with too high a refcount, or says what explains it.
func (c *run) takeExcess(u unowned, found *leaks) {
	if inFile := max(1, c.g.Clusters(uint64(c.img.Size()))); uint64(u.first)+u.n > inFile {
		beyond := u
		beyond.first = max(u.first, qcow2.HostCluster(inFile))
		beyond.n = u.n - uint64(beyond.first-u.first)
		c.pastRefs.add(beyond)
		if u.n -= beyond.n; u.n == 0 {
			return
		}
	}
	c.unreserved(u, func(part unowned, reserved bool) {
		switch {
		case reserved && c.staleBitmaps != nil:
			c.staleClusters += part.n
			return
		case reserved && !c.resizedInUse:
			return // the finding about the bitmap tells of it
		case reserved:
			found.reserved = true
		}
		found.runs.add(part)
	})
}

// settleLeaks decides, in one place, whether clusters without an owner are leaks.
func (c *run) settleLeaks(found *leaks) error {
	if len(found.runs.runs) == 0 {
		return c.reportBeyond(&found.beyond)
	}
	if found.reserved {
		c.doubt(Owner{Structure: problem.StructBitmapTable}, "how long it is cannot be told for certain")
	}
	c.unowned = found.runs.runs
	for _, cl := range c.sharedData {
		if c.onDisk(cl) < c.counts.Get(cl) {
			c.doubt(Owner{Structure: problem.StructDataCluster, Path: problem.ToClusterAt(cl, c.g.HostOffset(cl))}, "two L2 entries name it, and one of them may have lost its own")
			break
		}
	}
	if err := c.findLost(found.runs.runs, found.runs.unreferenced); err != nil {
		return err
	}
	code := problem.RefcountTooHigh
	if len(c.doubts) > 0 {
		code = problem.OwnerUnknown
	}
	for _, u := range found.runs.runs {
		c.eachBlock(code, c.refcountSeverity(), u, func(f problem.Finding) {
			if code == problem.OwnerUnknown {
				d := c.doubts[0]
				f.Expected = problem.Value{}
				f.Message.And("; not called a leak, since %s may own %s: %s", d.Owner, it(f.Count), d.Why)
			}
			c.report(f)
		})
	}
	if found.runs.rest > 0 {
		c.Count(code, c.refcountSeverity(), found.runs.rest)
	}
	return c.reportBeyond(&found.beyond)
}

// reportBeyond reports refcounts of clusters behind the end of the file, which hold
// nothing. QEMU leaves such when it is killed before it has written to them, and does not
// compare them.
func (c *run) reportBeyond(found *excess) error {
	code := problem.RefcountTooHigh
	if len(c.doubts) > 0 {
		code = problem.OwnerUnknown // they tell how long the file may have been
	}
	for _, u := range found.runs {
		c.eachBlock(code, problem.Note, u, func(f problem.Finding) {
			lie := "they lie"
			if f.Count == 1 {
				lie = "it lies"
			}
			f.Message.And("; %s behind the end of the file, where nothing is stored", lie)
			c.report(f)
		})
	}
	if found.rest > 0 {
		c.Count(code, problem.Note, found.rest)
	}
	return c.ctx.Err()
}

// refcountSeverity is that of refcounts that disagree with the references: the
// catalogue's, but for an image that a writer with lazy refcounts has open. Such a
// writer sets the dirty bit and writes refcounts when it closes the image; until
// then nobody goes by them.
func (c *run) refcountSeverity() problem.Severity {
	if c.opts.Live && c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) {
		return problem.Note
	}
	return 0
}

// it is the pronoun for n clusters.
func it(n uint64) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

// referencesTo words the references to each of a run of clusters.
func (c *run) referencesTo(u unowned) string {
	s := "no references"
	switch u.references {
	case 0:
	case 1:
		s = "1 reference"
	default:
		s = fmt.Sprintf("%d references", u.references)
	}
	if u.n > 1 {
		s += " each"
	}
	return s
}

// maxRefcount is the largest refcount that the image's width can hold.
func (c *run) maxRefcount() uint64 { return qcow2.MaxRefcount(c.g.RefcountOrder) }

// eachBlock makes findings about the refcounts of a run: one for each refcount
// block, since those are different bytes of the file. What is not listed any more
// is only counted.
func (c *run) eachBlock(code problem.Code, severity problem.Severity, u unowned, yield func(problem.Finding)) {
	per := c.g.RefcountBlockEntries()
	for u.n > 0 && !c.Unlisted(code, severity, u.n) {
		part := u
		part.n = min(u.n, per-uint64(u.first)%per)
		f := c.refcountFinding(part)
		f.Code, f.Severity = code, severity
		f.Message = problem.Say("%s: refcount %d, but %s", c.clusterRange(part.first, part.n), part.refcount, c.referencesTo(part))
		yield(f)
		u.first += qcow2.HostCluster(part.n)
		u.n -= part.n
	}
}

// refcountFinding begins a finding about the refcounts of clusters that one
// block covers.
func (c *run) refcountFinding(u unowned) problem.Finding {
	per := c.g.RefcountBlockEntries()
	index, entry := uint64(u.first)/per, uint64(u.first)%per
	f := problem.Finding{
		Path:    problem.ToRefcount(index, entry),
		Cluster: ptr(u.first), Count: u.n, Value: problem.Number(u.refcount), Expected: problem.Number(u.references),
		Severity: c.refcountSeverity(),
	}
	if b := c.blockAt(index); b != nil {
		width := uint64(c.g.RefcountBits())
		from, to := entry*width/8, ((entry+u.n)*width+7)/8
		f.Extent = at(b.offset+qcow2.HostOffset(from), to-from)
	} else {
		f.Extent = c.missingBlock(u.first, u.n)
	}
	return f
}

// missingBlock is what would have to name the block for clusters that none
// covers: entries of the refcount table, or its size in the header.
func (c *run) missingBlock(first qcow2.HostCluster, n uint64) qcow2.Extent {
	per := c.g.RefcountBlockEntries()
	from, to := uint64(first)/per, (uint64(first)+n-1)/per+1
	entries := c.refTableExtent().Length / 8
	if from >= entries {
		return at(qcow2.FieldRefcountTableClusters, 4)
	}
	return at(c.h.RefcountTableOffset+qcow2.HostOffset(from*8), (min(to, entries)-from)*8)
}
