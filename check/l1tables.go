package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// l1table is an L1 table to be read: the active one, or a snapshot's.
type l1table struct {
	snapshot string // ID, escaped, for a reader; empty for the active one
	of       problem.SnapshotRef
	extent   qcow2.Extent
	entries  uint64
	ref      qcow2.Extent // the bytes of the file that lead to it
	needed   uint64       // entries that the disk, and VM state, take
	seen     uint64       // entries that are not zero
	odd      uint64       // those among them that make no sense
	misread  bool         // see judgeL1s
}

func (l *l1table) owner() Owner {
	return Owner{Structure: problem.StructL1Table, Snapshot: l.snapshot, Of: l.of, Ref: l.ref}
}

// entry is the place of an entry.
func (l *l1table) entry(i uint64) qcow2.Extent {
	return qcow2.Extent{Offset: l.extent.Offset + qcow2.HostOffset(i*8), Length: 8}
}

// end is where the table ends in the file.
func (l *l1table) end() qcow2.HostOffset { return l.extent.Offset + qcow2.HostOffset(l.extent.Length) }

// cut makes the table one of the given number of entries.
func (l *l1table) cut(entries uint64) {
	l.entries = entries
	l.extent.Length = entries * 8
}

// listL1s finds the L1 tables that can be read.
//
// Tables that lie in each other are not all read: 65,536 snapshots whose tables
// of 32 MiB are each a cluster apart would take terabytes of reading. Of each
// such table as much is read as nobody else has.
func (c *run) listL1s() {
	c.l1s = append(c.l1s, l1table{}) // number 0 is the active one, even when it has no entries
	if n := c.l1Readable(); n > 0 {
		c.l1s[0] = l1table{extent: at(c.h.L1TableOffset, n*8), entries: n, ref: at(qcow2.FieldL1TableOffset, 8), needed: min(n, c.h.L1Needed(c.g))}
	}
	for i := range c.snapshots {
		s := &c.snapshots[i]
		if n := c.snapshotL1Readable(s); n > 0 {
			needed, _ := c.snapshotL1Needed(s)
			if needed == 0 || needed > n {
				needed = n
			}
			c.l1s = append(c.l1s, l1table{snapshot: snapshotName(i, s), of: problem.SnapshotEntry(i), extent: at(s.L1TableOffset, n*8), entries: n, ref: at(s.EntryOffset, 8), needed: needed})
		}
	}
	c.separateL1s()
}

// maxClashes bounds the L1 tables for which it is looked how much of them can be
// read although another lies where they are.
const maxClashes = 1 << 10

// separateL1s shortens L1 tables until none lies where another one is, or, unless
// it leads to L2 tables, where a structure is that the header names. A table that
// is longer than its disk needs is the likelier one to be wrong.
func (c *run) separateL1s() {
	firm := c.firmMetadata()
	clash := c.clashingL1s(firm)
	slices.SortFunc(clash, func(a, b int) int {
		excess := func(i int) uint64 { return c.l1s[i].entries - c.l1s[i].needed }
		return cmp.Or(cmp.Compare(excess(a), excess(b)), cmp.Compare(a, b))
	})
	var kept []int
	inTheWay := func(l *l1table, entries uint64) (Owner, bool) {
		x := at(l.extent.Offset, entries*8)
		for _, m := range firm {
			if c.sameClusters(x, m.extent) && !c.leadsToTables(l) {
				return m.owner, true
			}
		}
		for _, k := range kept {
			if c.sameClusters(x, c.l1s[k].extent) {
				return c.l1s[k].owner(), true
			}
		}
		return Owner{}, false
	}
	for n, i := range clash {
		l := &c.l1s[i]
		if n >= maxClashes {
			c.report(problem.Finding{Code: problem.MetadataOverlap, Unlisted: true})
			l.cut(0)
			continue
		}
		if other, found := inTheWay(l, l.entries); found {
			_, stillFound := inTheWay(l, l.needed)
			switch {
			case !stillFound:
				c.reportL1Clash(l, other)
				l.cut(l.needed)
			case i > 0:
				c.reportL1Clash(l, other)
				l.cut(0)
				continue
			default:
				// The active table is read in any case: what lies there is
				// told when all metadata is known.
			}
		}
		kept = append(kept, i)
	}
}

// firm is a structure that is found through the header alone.
type firm struct {
	owner  Owner
	extent qcow2.Extent
}

// firmMetadata gives the structures that are found through the header alone. What
// lies there is less likely to be an L1 table.
func (c *run) firmMetadata() (all []firm) {
	for _, m := range c.meta {
		switch o := c.owners[m.owner]; o.Structure {
		case problem.StructHeader, problem.StructRefcountTable, problem.StructSnapshotTable, problem.StructCryptoHeader, problem.StructBitmapDirectory:
			all = append(all, firm{owner: o, extent: at(c.g.HostOffset(m.first), m.n<<c.g.ClusterBits)})
		}
	}
	return all
}

// clashingL1s gives the numbers of L1 tables that share clusters with another
// one, or with a structure that the header names.
func (c *run) clashingL1s(others []firm) []int {
	order := make([]int, 0, len(c.l1s))
	for i := range c.l1s {
		if c.l1s[i].entries > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(c.l1s[a].extent.Offset, c.l1s[b].extent.Offset), cmp.Compare(a, b))
	})
	clash := make([]bool, len(c.l1s))
	widest := 0 // the place in order of the one that reaches furthest so far
	for k, i := range order {
		for _, o := range others {
			clash[i] = clash[i] || c.sameClusters(c.l1s[i].extent, o.extent)
		}
		if k == 0 {
			continue
		}
		if w := order[widest]; c.sameClusters(c.l1s[i].extent, c.l1s[w].extent) {
			clash[i], clash[w] = true, true
		}
		if c.l1s[i].end() > c.l1s[order[widest]].end() {
			widest = k
		}
	}
	var all []int
	for i, bad := range clash {
		if bad {
			all = append(all, i)
		}
	}
	return all
}

// sameClusters tells whether two ranges of the file touch the same cluster.
func (c *run) sameClusters(x, y qcow2.Extent) bool {
	f, n := c.g.ClusterSpan(x.Offset, x.Length)
	g, m := c.g.ClusterSpan(y.Offset, y.Length)
	return f < g+qcow2.HostCluster(m) && g < f+qcow2.HostCluster(n)
}

// reportL1Clash reports an L1 table that lies where another structure is.
func (c *run) reportL1Clash(l *l1table, other Owner) {
	o := l.owner()
	c.doubt(o, "it lies where other metadata is")
	first, n := c.g.ClusterSpan(l.extent.Offset, l.extent.Length)
	c.contested(problem.StructL1Table, first, n)
	code := problem.MetadataOverlap
	if other.isBitmap() {
		code = problem.BitmapOverlap
	}
	if c.Unlisted(code, 0, 1) {
		return
	}
	c.report(problem.Finding{
		Code: code, Structure: problem.StructL1Table, Snapshot: l.snapshot, Of: l.of, Extent: l.ref,
		Cluster: ptr(c.g.HostCluster(l.extent.Offset)), Value: problem.Hex(l.extent.Offset),
		Message: problem.Say("%s (%d entries at %v) lies where %s is", o, l.entries, l.extent.Offset, other),
	})
}
