package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// l2ref is a run of consecutive L1 tables (by number) that all name the same L2
// table at the same index. A table that a hundred snapshots share is one l2ref,
// not a hundred.
type l2ref struct {
	offset      qcow2.HostOffset
	index       uint32 // in the L1 tables
	first, last uint32 // L1 tables, by number; 0 is the active one
}

// l2table is an L2 table to be read, once, however many L1 tables name it.
type l2table struct {
	offset qcow2.HostOffset
	window uint32 // the L1 index of (the first of) its references
	l1     uint32 // the first L1 table that names it; 0 is the active one
	times  uint32 // references
	// skip tells that the cluster cannot be an L2 table, since other metadata
	// lies there: its content would be misread.
	skip bool
}

// active tells that the active L1 table names it, so that its COPIED flags count.
func (t *l2table) active() bool { return t.l1 == 0 }

// collectTables reads every L1 table and gives the L2 tables that they name, in
// the order of the file. An entry that names none that could be read is
// reported, and what it may lead to is in doubt.
func (c *run) collectTables() ([]l2table, error) {
	var refs []l2ref
	var at []uint32 // by L1 index: 1 + the last l2ref of that index
	for n := range c.l1s {
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
		l := &c.l1s[n]
		scan := qcow2.ReadL1(c.img, l.extent.Offset, l.entries)
		blank := l.entries > 0
		for i, e := range scan.All() {
			if i%(1<<16) == 0 && c.ctx.Err() != nil {
				return nil, c.ctx.Err()
			}
			blank = false
			if x := l.entry(i); !qcow2.RangeFits(uint64(x.Offset), x.Length, uint64(c.img.Size())) {
				continue // half an entry leads to what is somebody else's
			}
			l.seen++
			offset, ok := c.checkL1Entry(n, i, e)
			if !ok {
				continue
			}
			if uint64(len(at)) <= i {
				at = append(at, make([]uint32, i+1-uint64(len(at)))...)
			}
			if k := at[i]; k > 0 && refs[k-1].offset == offset && refs[k-1].last+1 == uint32(n) {
				refs[k-1].last++
				continue
			}
			refs = append(refs, l2ref{offset: offset, index: uint32(i), first: uint32(n), last: uint32(n)})
			at[i] = uint32(len(refs))
		}
		c.losePastL1(uint32(n))
		if blank && len(c.blankL1s) < maxBlank {
			c.blankL1s = append(c.blankL1s, uint32(n))
		}
		for _, bad := range scan.Unreadable() {
			c.trouble(l.owner(), qcow2.Extent{Offset: bad.Offset, Length: bad.Length}, bad)
		}
	}
	sortRefs(refs)
	return c.mergeRefs(c.dropStrayL1s(refs)), nil
}

func sortRefs(refs []l2ref) {
	slices.SortFunc(refs, func(a, b l2ref) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.first, b.first), cmp.Compare(a.index, b.index))
	})
}

// mergeRefs makes one table of all references to it, and reports tables that
// are named at two places of the disk.
func (c *run) mergeRefs(refs []l2ref) []l2table {
	tables := make([]l2table, 0, len(refs))
	for len(refs) > 0 {
		n := 1
		for n < len(refs) && refs[n].offset == refs[0].offset {
			n++
		}
		same := refs[:n]
		refs = refs[n:]
		t := l2table{offset: same[0].offset, window: same[0].index, l1: same[0].first}
		before := placesBefore{same[0], same[0]}
		for _, r := range same {
			t.times += r.last - r.first + 1
			if r.index != t.window {
				c.reportTwice(r, same[0], before)
			}
			before.add(r)
		}
		tables = append(tables, t)
	}
	return tables
}

// placesBefore are, of the references to a table that come before one in the
// order of their first L1 table, those of two different places that reach
// furthest. It takes a look at both to tell whether an L1 table has the same
// table at another place.
type placesBefore [2]l2ref

func (p *placesBefore) add(r l2ref) {
	switch {
	case r.index == p[0].index:
		if r.last > p[0].last {
			p[0] = r
		}
	case r.last > p[0].last:
		p[0], p[1] = r, p[0]
	case p[1].index == p[0].index || r.last > p[1].last:
		p[1] = r
	}
}

// reportTwice reports that r names an L2 table that has another place already:
// within the same L1 table, if there is one such.
func (c *run) reportTwice(r, other l2ref, before placesBefore) {
	if c.Unlisted(problem.L2TableShared, 0, 1) {
		return
	}
	where := "another L1 table"
	for _, o := range before {
		if o.index != r.index && o.last >= r.first {
			other, where = o, "the same L1 table"
		}
	}
	l := &c.l1s[r.first]
	path := problem.ToL1Entry(uint64(r.index))
	c.report(problem.Finding{
		Code: problem.L2TableShared, Path: path, Snapshot: l.snapshot, Of: l.of, Extent: l.entry(uint64(r.index)),
		GuestOffset: ptr(c.windowStart(r.index)), Cluster: ptr(c.g.HostCluster(r.offset)), Value: problem.Hex(r.offset),
		Message: problem.Say("%s names the L2 table at %v, which is the one of l1[%d] of %s already: two parts of the disk share one mapping",
			path, r.offset, other.index, where),
	})
	c.doubt(Owner{Structure: problem.StructL2Table, Path: path, Snapshot: l.snapshot, Of: l.of}, "its L1 entry names a table that belongs elsewhere")
}

// windowStart is the first guest byte that an L1 entry is for.
func (c *run) windowStart(index uint32) qcow2.GuestOffset {
	return qcow2.GuestOffset(uint64(index) * c.g.L2Coverage())
}

// checkL1Entry judges entry i of L1 table n and gives the place of its L2 table;
// ok is false when there is none to read.
func (c *run) checkL1Entry(n int, i uint64, e qcow2.L1Entry) (offset qcow2.HostOffset, ok bool) {
	l := &c.l1s[n]
	offset = e.Offset()
	if offset != 0 && e.Reserved() == 0 && c.g.Aligned(offset) && qcow2.RangeFits(uint64(offset), c.g.ClusterSize(), uint64(c.img.Size())) {
		return offset, true
	}
	if !c.g.Aligned(offset) || e.Reserved() != 0 && c.g.PastEnd(offset, c.g.ClusterSize(), c.img.Size()) {
		l.odd++
	}
	repair := problem.Repair(0)
	bad := func(code problem.Code, value, expected problem.Value, format string, numbers ...uint64) {
		c.report(problem.Finding{
			Code: code, Snapshot: l.snapshot, Of: l.of, Path: problem.ToL1Entry(i), Extent: l.entry(i), GuestOffset: ptr(c.windowStart(uint32(i))),
			Repair: repair, Value: value, Expected: expected, Message: problem.SayOfEntry(format, numbers...),
		})
	}
	if r := e.Reserved(); r != 0 {
		if !c.g.Aligned(offset) || c.g.PastEnd(offset, c.g.ClusterSize(), c.img.Size()) {
			repair = problem.RepairLossy // what stands there may be no entry at all
		}
		bad(problem.L1ReservedBits, problem.Hex(r), problem.Hex(uint64(0)), "is 0x%016x: reserved bits 0x%x are set", uint64(e), r)
		repair = 0
	}
	cut := false
	switch {
	case offset == 0:
		if e.Copied() { // in a snapshot, too: QEMU aborts when that is deleted
			bad(problem.L1Copied, problem.Flag(true), problem.Flag(false), "has COPIED set but names no L2 table")
		}
	case !c.g.Aligned(offset):
		bad(problem.L1Unaligned, problem.Hex(e), problem.MultipleOf(c.g.ClusterSize()), "names an L2 table at 0x%x, which is not the start of a cluster", uint64(offset))
	case !qcow2.RangeFits(uint64(offset), c.g.ClusterSize(), uint64(c.img.Size())):
		bad(problem.L1PastEnd, problem.Hex(e), problem.Value{}, "names an L2 table at 0x%x, but the file ends at 0x%x", uint64(offset), uint64(c.img.Size()))
		// A table that the end of the file cuts is still read as far as it goes.
		cut = !c.g.PastEnd(offset, c.g.ClusterSize(), c.img.Size())
		if e.Reserved() == 0 && c.wasInFile(offset, c.g.ClusterSize()) {
			c.losePastTable(uint32(n), i, offset)
		}
	default:
		return offset, true
	}
	if len(c.doubts) < maxDoubts {
		c.doubt(Owner{Structure: problem.StructL2Table, Path: problem.ToL1Entry(i), Snapshot: l.snapshot, Of: l.of}, "its L1 entry does not lead to a table")
	}
	if len(c.badSlots) < maxBlank {
		c.badSlots = append(c.badSlots, l1slot{l1: uint32(n), index: uint32(i), entry: e})
	}
	return offset, cut
}
