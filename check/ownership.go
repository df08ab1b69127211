package check

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Small questions about whose a cluster is that nothing refers to.

// lacks tells whether a cluster has a refcount for which a reference is missing.
func (c *run) lacks(cl qcow2.HostCluster) bool { return c.onDisk(cl) > c.counts.Get(cl) }

// unownedRange tells whether nothing refers to any cluster that x touches, while each has a
// refcount.
func (c *run) unownedRange(x qcow2.Extent) bool {
	if x.Offset == 0 || !c.g.Aligned(x.Offset) || c.outside(x.Offset, x.Length) {
		return false
	}
	first, n := c.g.ClusterSpan(x.Offset, x.Length)
	for cl := first; cl < first+qcow2.HostCluster(n); cl++ {
		if c.counts.Get(cl) > 0 || !c.lacks(cl) {
			return false
		}
	}
	return true
}

// claimedAstray tells whether the reference to a cluster is likely to be none: of an L1 table
// that is looked for in the wrong place, or of one of its entries, or of a snapshot table that
// is none.
func (c *run) claimedAstray(cl qcow2.HostCluster) bool {
	for n := range c.l1s {
		if n == maxBlank {
			break
		}
		if l := &c.l1s[n]; l.misread || l.seen == 0 && l.entries > 0 {
			if first, k := c.g.ClusterSpan(l.extent.Offset, l.extent.Length); cl >= first && cl < first+qcow2.HostCluster(k) {
				return true
			}
		}
	}
	if c.snapshotStop && c.snapshotTable.Offset > 0 {
		if first, k := c.g.ClusterSpan(c.snapshotTable.Offset, c.snapshotTable.Length); cl >= first && cl < first+qcow2.HostCluster(k) {
			return true
		}
	}
	n, ok := c.tableNumber(c.g.HostOffset(cl))
	return ok && (c.tables[n].skip || c.l1s[c.tables[n].l1].misread)
}

// tableNumber gives the number of the L2 table that lies at an offset, and that some L1
// table names.
func (c *run) tableNumber(off qcow2.HostOffset) (int, bool) {
	return slices.BinarySearchFunc(c.tables, off, func(t l2table, off qcow2.HostOffset) int {
		switch {
		case t.offset < off:
			return -1
		case t.offset > off:
			return 1
		}
		return 0
	})
}

// isL1Copy tells whether a cluster holds a part of a copy of an L1 table that is read: each
// entry names an L2 table that has an owner, at the place which it has there too. That is
// what is left of a snapshot whose making was cut short. Whoever frees it loses nothing,
// since all that it leads to belongs to others.
func (c *run) isL1Copy(b []byte) bool {
	found := false
	per := len(b) / 8
	for i := range per {
		w := be64(b, i*8)
		if w == 0 {
			continue
		}
		e := qcow2.L1Entry(w)
		n, ok := c.tableNumber(e.Offset())
		if !ok || e.Reserved() != 0 || c.tables[n].skip || int(c.tables[n].window)%per != i {
			return false
		}
		found = true
	}
	return found
}

// isOldSnapshotTable tells whether a cluster holds a snapshot table that a later one has taken
// the place of: each entry's L1 table is one of those that are known.
func (c *run) isOldSnapshotTable(off qcow2.HostOffset) bool {
	found := false
	for end := off + qcow2.HostOffset(c.g.ClusterSize()); off < end; {
		chain := c.snapshotChain(off, 1)
		if chain == nil || !slices.ContainsFunc(c.l1s, func(l l1table) bool { return l.of != 0 && l.extent.Offset == chain[0].L1TableOffset }) {
			break
		}
		found = true
		off += qcow2.HostOffset(chain[0].EntrySize)
	}
	return found
}

// namesAt tells whether some L2 table for a part of the disk has an entry, at an index, for the
// same cluster as e.
func (c *run) namesAt(window uint32, index int, e qcow2.L2Entry) bool {
	const copied = uint64(1) << 63
	s := c.prober()
	var word [8]byte
	tried := 0
	for i := range c.tables {
		t := &c.tables[i]
		if t.window != window || t.skip {
			continue
		}
		if tried++; tried > maxTargets {
			return true
		}
		if c.img.ReadAt(word[:], t.offset+qcow2.HostOffset(index*s.entrySize)) == nil && (be64(word[:], 0)^uint64(e))&^copied == 0 {
			return true
		}
	}
	return false
}

// mapsLacking tells whether an L2 table of another disk, for the same part as t, names
// clusters that lack a reference: then t may have shared them.
func (c *run) mapsLacking(t *l2table) bool {
	s := c.prober()
	tried := 0
	for i := range c.tables {
		o := &c.tables[i]
		if o.window != t.window || o.offset == t.offset {
			continue
		}
		if tried++; tried > maxTargets {
			return true
		}
		ts, ok := s.load(uint32(i))
		if !ok {
			continue
		}
		for k := range ts.entries {
			j, named := s.again(ts, k)
			for n := range j.n {
				if named && c.lacks(j.first+qcow2.HostCluster(n)) {
					return true
				}
			}
		}
	}
	return false
}

// strayL1 tells whether an L1 table may be looked for in the wrong place, so that there is more
// to hang back than L2 tables.
func (c *run) strayL1() bool {
	return c.Met(problem.L1Misplaced) || c.Met(problem.SnapshotL1Misplaced) || len(c.blankL1s) > 0 || c.lostSnapshots != nil ||
		slices.ContainsFunc(c.l1s, func(l l1table) bool { return l.misread || l.entries == 0 && l.extent.Offset != 0 })
}

// maxLostL2 bounds the L2 tables that are read whole to tell whether an L1 table is one.
const maxLostL2 = 1 << 6

// maxLostRead bounds, in bytes, what a check reads to tell whether tables are lost: in a hostile
// image everything can seem to be one.
const maxLostRead = 512 << 20

// readLost reads a cluster that may be a table; ok is false where too much was read already.
func (c *run) readLost(b []byte, off qcow2.HostOffset) (ok bool) {
	c.lostRead += uint64(len(b))
	return c.lostRead <= maxLostRead && c.img.ReadAt(b, off) == nil
}

// lostL1 tells whether so many entries at an offset are those of an L1 table that nothing
// refers to: each names a cluster, another one than the others do and none of the table's
// own, that lacks a reference and reads as an L2 table, and what that names lacks one too.
// blank tells that no L2 table has an entry.
func (c *run) lostL1(off qcow2.HostOffset, entries uint64) (ok, blank bool) {
	x := at(off, entries*8)
	if entries == 0 || entries > qcow2.MaxL1Entries || !c.unownedRange(x) {
		return false, false
	}
	own, n := c.g.ClusterSpan(x.Offset, x.Length)
	blank = true
	seen := make(map[qcow2.HostOffset]struct{})
	for _, e := range qcow2.ReadL1(c.img, off, entries).All() {
		to := e.Offset()
		cl := c.g.HostCluster(to)
		if e.Reserved() != 0 || to == 0 || !c.g.Aligned(to) || c.g.PastEnd(to, c.g.ClusterSize(), c.img.Size()) ||
			!c.lacks(cl) || cl >= own && cl < own+qcow2.HostCluster(n) {
			return false, false
		}
		if _, twice := seen[to]; twice {
			return false, false
		}
		seen[to] = struct{}{}
		if len(seen) > maxLostL2 {
			continue
		}
		table, empty := c.lostL2(to)
		if !table {
			return false, false
		}
		blank = blank && empty
	}
	return true, blank
}

// isLostL1 tells whether a cluster that reads as an L2 table is rather an L1 table: whatever it
// names, some clusters at least, reads as an L2 table that is in use. An L2 table names data.
// What refcounts say is not asked: they may just have been made anew.
func (c *run) isLostL1(b []byte) bool {
	table := make([]byte, c.g.ClusterSize())
	tables := 0
	for i := 0; i+8 <= len(b); i += 8 {
		w := be64(b, i)
		if w == 0 {
			continue
		}
		e := qcow2.L1Entry(w)
		to := e.Offset()
		if e.Reserved() != 0 || to == 0 || !c.g.Aligned(to) || !c.readLost(table, to) || sniff.Zero(table) || !c.format().L2Table(table) {
			return false
		}
		if tables++; tables == maxTargets {
			break
		}
	}
	return tables > 0
}

// lostL2 tells whether a cluster reads as an L2 table, and whatever it names lacks a
// reference. What the guest has written may read as a table by chance, and a refcount block
// or another table by its make.
func (c *run) lostL2(off qcow2.HostOffset) (ok, blank bool) {
	s := c.prober()
	table := make([]byte, c.g.ClusterSize())
	if !c.readLost(table, off) || !c.format().L2Table(table) {
		return false, false
	}
	if sniff.Zero(table) {
		return true, true
	}
	ts := s.begin(&l2table{times: 1}, table, nil)
	for i := range ts.entries {
		j, named := s.again(ts, i)
		if !named {
			continue
		}
		for k := range j.n {
			if cl := j.first + qcow2.HostCluster(k); !c.lacks(cl) && !c.claimedAstray(cl) || c.g.HostOffset(cl) == off {
				return false, false
			}
		}
	}
	return true, false
}
