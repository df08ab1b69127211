package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// l1table is an L1 table to be read: the active one, or a snapshot's.
type l1table struct {
	snapshot string // ID, escaped; empty for the active one
	extent   qcow2.Extent
	entries  uint64
	// unread tells that the table lies where others are, of which enough were
	// read; the overlap itself is reported.
	unread bool
}

func (l *l1table) owner() Owner { return Owner{Structure: StructL1Table, Snapshot: l.snapshot} }

// maxRepeatedL1 bounds how many bytes of L1 tables are read that lie where other
// L1 tables are. No sound image has any; without a bound, the snapshots of a
// small file could have terabytes of them.
const maxRepeatedL1 = qcow2.MaxL1Size

// boundL1s marks the L1 tables that are not to be read.
func (c *run) boundL1s() {
	order := make([]int, len(c.l1s))
	for n := range order {
		order[n] = n
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(c.l1s[a].extent.Offset, c.l1s[b].extent.Offset), cmp.Compare(a, b))
	})
	var end qcow2.HostOffset
	repeated := make([]bool, len(c.l1s))
	for _, n := range order {
		x := c.l1s[n].extent
		repeated[n] = x.Offset < end && n != 0
		end = max(end, x.Offset+qcow2.HostOffset(x.Length))
	}
	total := uint64(0)
	for n := range c.l1s {
		if !repeated[n] {
			continue
		}
		l := &c.l1s[n]
		if total += l.extent.Length; total > maxRepeatedL1 {
			l.unread = true
			c.doubt(l.owner(), "it lies where other L1 tables are, too many to read them all")
		}
	}
}

// entry is the place of an entry.
func (l *l1table) entry(i uint64) qcow2.Extent {
	return qcow2.Extent{Offset: l.extent.Offset + qcow2.HostOffset(i*8), Length: 8}
}

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
		if l.unread {
			continue
		}
		scan := qcow2.ReadL1(c.img, l.extent.Offset, l.entries)
		blank := l.entries > 0
		for i, e := range scan.All() {
			blank = false
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
		if blank && len(c.blankL1s) < maxBlank {
			c.blankL1s = append(c.blankL1s, uint32(n))
		}
		for _, bad := range scan.Unreadable() {
			c.trouble(l.owner(), qcow2.Extent{Offset: bad.Offset, Length: bad.Length}, bad)
		}
	}
	slices.SortFunc(refs, func(a, b l2ref) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.first, b.first), cmp.Compare(a.index, b.index))
	})
	return c.mergeRefs(refs), nil
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
		for i, r := range same {
			t.times += r.last - r.first + 1
			if r.index != t.window {
				c.reportTwice(same, i)
			}
		}
		tables = append(tables, t)
	}
	return tables
}

// reportTwice reports that same[i] names an L2 table that has another place
// already: within the same L1 table, if there is one such.
func (c *run) reportTwice(same []l2ref, i int) {
	if c.full(MAP018) {
		c.report(Finding{Code: MAP018, Rest: true}) // millions of entries can name one table
		return
	}
	r, other := same[i], same[0]
	where := "another L1 table"
	for _, o := range same[:i] {
		if o.index != r.index && o.last >= r.first && o.first <= r.last {
			other, where = o, "the same L1 table"
			break
		}
	}
	l := &c.l1s[r.first]
	path := fmt.Sprintf("l1[%d]", r.index)
	c.report(Finding{
		Code: MAP018, Path: path, Snapshot: l.snapshot, Extent: l.entry(uint64(r.index)),
		GuestOffset: ptr(c.windowStart(r.index)), Cluster: ptr(c.g.HostCluster(r.offset)), Value: r.offset.String(),
		Message: fmt.Sprintf("%s names the L2 table at %v, which is the one of l1[%d] of %s already: two parts of the disk share one mapping",
			path, r.offset, other.index, where),
	})
	c.doubt(Owner{Structure: StructL2Table, Path: path, Snapshot: l.snapshot}, "its L1 entry names a table that belongs elsewhere")
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
	path := fmt.Sprintf("l1[%d]", i)
	f := Finding{Path: path, Snapshot: l.snapshot, Extent: l.entry(i), GuestOffset: ptr(c.windowStart(uint32(i))), Value: hex(e)}
	if r := e.Reserved(); r != 0 {
		f := f
		f.Code, f.Value, f.Expected = MAP001, hex(r), "0x0"
		f.Message = fmt.Sprintf("%s is 0x%016x: reserved bits 0x%x are set", path, uint64(e), r)
		c.report(f)
	}
	owner := Owner{Structure: StructL2Table, Path: path, Snapshot: l.snapshot}
	switch {
	case offset == 0:
		if e.Copied() && n == 0 {
			f.Code, f.Value, f.Expected = MAP004, "set", "clear"
			f.Message = path + " has COPIED set but names no L2 table"
			c.report(f)
		}
		return 0, false
	case !c.g.Aligned(offset):
		f.Code, f.Expected = MAP002, fmt.Sprintf("a multiple of 0x%x", c.g.ClusterSize())
		f.Message = fmt.Sprintf("%s names an L2 table at %v, which is not the start of a cluster", path, offset)
	case !qcow2.RangeFits(uint64(offset), c.g.ClusterSize(), uint64(c.img.Size())):
		f.Code = MAP003
		f.Message = fmt.Sprintf("%s names an L2 table at %v, but the file ends at 0x%x", path, offset, c.img.Size())
	default:
		return offset, true
	}
	c.report(f)
	c.doubt(owner, "its L1 entry does not lead to a table")
	if len(c.badSlots) < maxBlank {
		c.badSlots = append(c.badSlots, l1slot{l1: uint32(n), index: uint32(i), entry: e})
	}
	// A table that the end of the file cuts is still read as far as it goes.
	cut := f.Code == MAP003 && !c.g.PastEnd(offset, c.g.ClusterSize(), c.img.Size())
	return offset, cut
}
