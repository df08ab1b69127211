package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// A wiped table (MAP022) reads as zeros, as one without an entry does, and is in no other
// way remarkable: the refcounts alone tell, of clusters that hold data and that nothing
// refers to. A hole punched in the wrong place makes such images. Whoever calls these
// clusters leaks and frees them destroys a part of the disk for good.
//
// An interrupted operation of QEMU's can leave the same behind, so not all of them are
// called corruption: see [run.interrupted].

// dataFound is what was found in the clusters that nothing refers to.
type dataFound struct {
	n       uint64 // clusters that hold something else than zeros
	runs    int
	atLeast bool // not all could be looked at
	first   qcow2.HostCluster
	last    qcow2.HostCluster
}

// unownedData counts the clusters without a reference that hold data which no lost table
// that was found owns.
func (c *run) unownedData(leaks []unowned, cut bool) (d dataFound) {
	d.atLeast = cut
	budget := maxContent
	add := func(first qcow2.HostCluster, n uint64) {
		if d.n == 0 || first > d.last+1 {
			d.runs++
		}
		if d.n == 0 {
			d.first = first
		}
		d.last = first + qcow2.HostCluster(n) - 1
		d.n += n
	}
	for _, l := range leaks {
		if l.references > 0 {
			continue
		}
		for k := uint64(0); k < l.n; k++ {
			cl := l.first + qcow2.HostCluster(k)
			x := at(c.g.HostOffset(cl), c.g.ClusterSize())
			if c.isExplained(cl) {
				continue
			}
			if c.img.IsHole(x.Offset, x.Length) {
				if c.img.IsHole(x.Offset, (l.n-k)*c.g.ClusterSize()) {
					break
				}
				continue
			}
			if budget--; budget < 0 {
				// What the file system stores is taken for data from here on.
				d.atLeast = true
				add(cl, 1)
				continue
			}
			if zero, err := c.img.IsZero(x); err != nil || !zero {
				add(cl, 1)
			}
		}
	}
	return d
}

// maxExplained bounds the runs of clusters that are remembered because a lost table owns
// them.
const maxExplained = 1 << 18

// explain notes that a lost table, or what is left of one, accounts for clusters.
func (c *run) explain(first qcow2.HostCluster, n uint64) {
	if k := len(c.explained); k > 0 && c.explained[k-1].end() == first {
		c.explained[k-1].n += n
		return
	}
	if len(c.explained) < maxExplained {
		c.explained = append(c.explained, clusterRun{first, n})
	}
}

func (c *run) isExplained(cl qcow2.HostCluster) bool {
	i, found := slices.BinarySearchFunc(c.explained, cl, func(r clusterRun, cl qcow2.HostCluster) int { return cmp.Compare(r.first, cl) })
	if found {
		return true
	}
	// Runs of two tables may lie in each other, but then both are wrong.
	return i > 0 && c.explained[i-1].end() > cl
}

// findWiped reports tables that read as zeros while clusters hold data that nothing refers
// to, and puts in doubt whose these are.
func (c *run) findWiped(leaks []unowned, cut bool) {
	doubts := len(c.doubts)
	if len(c.lostTables) > 1 { // a single one may as well have lost its entry
		for _, n := range c.blankL1s {
			c.reportWipedL1(n)
		}
	}
	if len(c.blank) == 0 || c.h.HasDataFile() {
		return
	}
	d := c.unownedData(leaks, cut)
	if d.n == 0 {
		return
	}
	inDoubt := slices.ContainsFunc(c.doubts[:doubts], func(d Doubt) bool {
		return d.Owner.Structure != problem.StructRefcountTable && d.Owner.Structure != problem.StructRefcountBlock
	})
	for _, idx := range c.blank {
		c.reportWiped(&c.tables[idx], &d, inDoubt)
	}
}

// reportWiped reports an L2 table that reads as zeros.
func (c *run) reportWiped(t *l2table, d *dataFound, inDoubt bool) {
	o := c.tableOwner(t)
	from := c.windowStart(t.window)
	to := qcow2.GuestOffset(min(uint64(from)+c.g.L2Coverage(), max(c.h.Size, uint64(from)+1)))
	if !t.active() {
		to = from + qcow2.GuestOffset(c.g.L2Coverage())
	}
	reads := "reads as zeros"
	if c.h.BackingFileOffset != 0 {
		reads = "reads as the backing file"
	}
	atLeast := ""
	if d.atLeast {
		atLeast = "at least "
	}
	f := problem.Finding{
		Code: problem.TableWiped, Path: o.Path, Snapshot: o.Snapshot, Of: o.Of, Extent: at(t.offset, c.g.ClusterSize()),
		GuestOffset: ptr(from), Cluster: ptr(c.g.HostCluster(t.offset)),
		Message: problem.Say("%s is all zeros, so that the guest's %s at %v (%v to %v) %s; %s%d %s that nothing refers to, %s, %s data that it may have mapped",
			o, sizeWords(uint64(to-from)), sizeWords(uint64(from)), from, to, reads, atLeast, d.n, plural(d.n, "cluster", "clusters"), c.clusterSpan(d),
			plural(d.n, "holds", "hold")),
	}
	switch why := c.interrupted(t, d); {
	case why != "":
		f.Severity = problem.InDoubt
		f.Message.And("; it may also be that %s", why)
	case inDoubt:
		f.Severity = problem.InDoubt
		f.Message.And("; another structure that is damaged may own them as well")
	case len(c.blank) > 1:
		f.Message.And(" (%d tables are all zeros)", len(c.blank))
	}
	c.report(f)
	c.doubt(o, fmt.Sprintf("it is all zeros, while %s may have been mapped by it", c.clusterSpan(d)))
}

// clusterSpan words where data was found.
func (c *run) clusterSpan(d *dataFound) string {
	if d.n == uint64(d.last-d.first)+1 {
		return c.clusterRange(d.first, d.n).String()
	}
	return fmt.Sprintf("between cluster %d at %v and cluster %d at %v", d.first, c.g.HostOffset(d.first), d.last, c.g.HostOffset(d.last))
}

// shortRun is how many clusters an interrupted write leaves behind at most for it to be taken
// for that, wherever they lie.
const shortRun = 16

// interrupted says what interrupted operation of QEMU's can have left an L2 table all zeros,
// and data without a reference; empty where there is none. All of these are cut short
// between the writing of refcounts and that of L2 tables:
//
//   - the first writes to a part of the disk. To add a table QEMU first writes all others, so
//     this is so of the newest one only, which lies behind the others in the file;
//   - writes to other parts: the last clusters of the file, or one short run of them, while
//     the table was empty before;
//   - the discarding of a whole part of the disk, which leaves an empty table in version 2
//     only; later versions set the zero flag;
//   - the emptying of an overlay, from the start of the disk, and the cutting off of the end
//     of a disk: every table before, or behind this one is empty too.
func (c *run) interrupted(t *l2table, d *dataFound) string {
	switch {
	case c.opts.Live:
		return "the image is in use"
	case c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty):
		return "a write was interrupted when the image was not closed"
	case c.h.Version == 2:
		return "the discarding of this part was interrupted"
	case d.runs == 1 && d.n <= shortRun && !d.atLeast:
		return "these are left over from an interrupted write elsewhere"
	}
	if len(c.blank) >= maxBlank {
		return "this part was discarded, as so many others"
	}
	empty := make(map[uint32]bool)
	for _, idx := range c.blank {
		empty[idx] = true
	}
	newest, first, last, tail := true, true, true, true
	for i := range c.tables {
		o := &c.tables[i]
		if c.g.HostCluster(o.offset) > d.first {
			tail = false
		}
		if o.skip || empty[uint32(i)] {
			continue
		}
		newest = newest && o.offset < t.offset
		if o.active() {
			first = first && o.window > t.window
			last = last && o.window < t.window
		}
	}
	switch {
	case newest:
		return "the first writes to this part were interrupted"
	case tail:
		return "these are left over from interrupted writes elsewhere"
	case c.h.BackingFileOffset != 0 && first:
		return "the emptying of this image, after a commit, was interrupted"
	case c.h.BackingFileOffset != 0 && len(empty) > 1:
		return "this part was emptied by a commit before"
	case last:
		return "the cutting off of the end of the disk was interrupted"
	}
	return ""
}

// reportWipedL1 reports an L1 table that reads as zeros while L2 tables are lost.
func (c *run) reportWipedL1(n uint32) {
	l := &c.l1s[n]
	disk := c.h.Size
	if n > 0 {
		disk = l.entries * c.g.L2Coverage()
	}
	f := problem.Finding{
		Code: problem.TableWiped, Structure: problem.StructL1Table, Snapshot: l.snapshot, Of: l.of, Extent: l.extent,
		GuestOffset: ptr(qcow2.GuestOffset(0)), Cluster: ptr(c.g.HostCluster(l.extent.Offset)),
		Message: problem.Say("%s is all zeros, so that all %s of its disk read as if they had never been written; %d L2 %s that it may have named %s",
			l.owner(), sizeWords(disk), len(c.lostTables), plural(uint64(len(c.lostTables)), "table", "tables"), plural(uint64(len(c.lostTables)), "is lost", "are lost")),
	}
	// A snapshot of an empty disk has such a table, and so has the disk that went back to it.
	if n > 0 || c.h.NbSnapshots > 0 || !c.guestHasLostAny {
		f.Severity = problem.InDoubt
		f.Message.And("; it may also have been empty")
	}
	c.report(f)
	c.doubt(l.owner(), "it is all zeros, while L2 tables have lost theirs")
}

// sizeWords words a number of bytes.
func sizeWords(n uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if v == float64(uint64(v)) {
		return fmt.Sprintf("%d %s", uint64(v), units[u])
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}
