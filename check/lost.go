package check

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// An unreferenced cluster is a leak only when nothing can own it. Most owners
// that were lost show: an entry that leads nowhere, a table that cannot be read.
// Some do not, and are looked for here before anything is called a leak:
//
//   - a lost L2 table (MAP020): an unreferenced cluster that reads as one, where
//     some L1 table has room for it;
//   - a structure that was wiped, or is looked for in the wrong place: it reads
//     as zeros, as an empty one does, while unreferenced clusters hold data.

const (
	// maxProbes bounds the unreferenced clusters whose first sector is read in
	// search of an L2 table, and maxContent those that are read in search of
	// data.
	maxProbes  = 1 << 16
	maxContent = 1 << 10
	// maxLostTables bounds the lost tables that are remembered.
	maxLostTables = 1 << 12
)

// l1slot is an L1 entry that leads to no L2 table.
type l1slot struct {
	l1    uint32
	index uint32
	entry qcow2.L1Entry // what stands there; 0 for a hole
}

// unowned is a run of clusters that have a refcount but fewer references.
type unowned struct {
	first                qcow2.HostCluster
	n                    uint64
	refcount, references uint64
}

// findLost looks for structures that own what nobody owns, and notes doubts.
func (c *run) findLost(leaks []unowned, cut bool) error {
	if len(leaks) == 0 {
		return nil
	}
	c.findLostSnapshots(leaks)
	if err := c.findLostBitmaps(leaks, cut); err != nil {
		return err
	}
	for _, r := range c.lostBitmapRuns {
		c.explain(r.First, r.N)
	}
	if err := c.findLostTables(leaks, cut); err != nil {
		return err
	}
	slices.SortFunc(c.explained, func(a, b clusterRun) int { return cmp.Compare(a.first, b.first) })
	c.findWiped(leaks, cut)
	suspects := c.blankOwners()
	if len(suspects) == 0 {
		return nil
	}
	if at, found := c.holdsData(leaks, cut); found {
		c.doubt(suspects[0], fmt.Sprintf("it reads as empty, while data lies in clusters with references missing (%s)", c.clusterRange(at, 1)))
	}
	return nil
}

// blankOwners gives structures that read as zeros where that may be the trace of
// a loss: empty L2 and L1 tables, and data that lies where no cluster has been
// allocated.
func (c *run) blankOwners() []Owner {
	var owners []Owner
	for _, idx := range c.blank {
		if t := &c.tables[idx]; c.mapsLacking(t) {
			owners = append(owners, c.tableOwner(t))
		}
	}
	for _, n := range c.blankL1s {
		owners = append(owners, c.l1s[n].owner())
	}
	if c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) {
		return owners // refcounts of new clusters are expected to be missing
	}
	for _, cl := range c.unallocated {
		if zero, err := c.img.IsZero(at(c.g.HostOffset(cl), c.g.ClusterSize())); err == nil && zero {
			owners = append(owners, Owner{Structure: problem.StructDataCluster, Path: problem.ToClusterAt(cl, c.g.HostOffset(cl))})
			break
		}
	}
	return owners
}

// holdsData looks for a cluster with a reference missing that has a byte that is not
// zero: one without any, or data or an L2 table, which a snapshot may have shared.
// Where too many would have to be read, or one cannot be, it is taken to hold
// data.
func (c *run) holdsData(leaks []unowned, cut bool) (qcow2.HostCluster, bool) {
	budget := maxContent
	for _, l := range leaks {
		for k := range l.n {
			cl := l.first + qcow2.HostCluster(k)
			if o, meta := c.metadataAt(cl); l.references > 0 && meta && o.Structure != problem.StructL2Table || c.isExplained(cl) {
				continue
			}
			x := at(c.g.HostOffset(cl), c.g.ClusterSize())
			if c.img.IsHole(x.Offset, x.Length) {
				// The rest of the run may be a hole as well, and a long one.
				if c.img.IsHole(x.Offset, (l.n-k)*c.g.ClusterSize()) {
					break
				}
				continue
			}
			if budget--; budget < 0 {
				return cl, true
			}
			if zero, err := c.img.IsZero(x); err != nil || !zero {
				return cl, true
			}
		}
	}
	if cut && len(leaks) > 0 {
		return leaks[len(leaks)-1].first, true
	}
	return 0, false
}

// findLostTables searches the unreferenced clusters for L2 tables, when an L1
// table has a place for one.
func (c *run) findLostTables(leaks []unowned, cut bool) error {
	if c.h.HasDataFile() {
		return nil
	}
	slots := c.openSlots()
	probes := 0
	sector := make([]byte, min(qcow2.SectorSize, c.g.ClusterSize()))
	table := make([]byte, c.g.ClusterSize())
	s := newScanner(c)
	strays := 0
	for i := range c.tables {
		if c.tables[i].skip {
			strays++
		}
	}
	for _, l := range leaks {
		if l.references > 0 {
			continue
		}
		for k := range l.n {
			cl := l.first + qcow2.HostCluster(k)
			off := c.g.HostOffset(cl)
			if _, known := c.knownOfBitmaps(cl); known {
				continue
			}
			if probes++; probes > maxProbes {
				cut = true
				break
			}
			if probes%256 == 0 && c.ctx.Err() != nil {
				return c.ctx.Err()
			}
			if c.img.IsHole(off, c.g.ClusterSize()) || c.img.ReadAt(sector, off) != nil {
				continue
			}
			if !c.format().L2Table(sector) {
				if c.isOldSnapshotTable(off) {
					c.explain(cl, 1)
				}
				continue
			}
			if c.img.ReadAt(table, off) != nil || !c.format().L2Table(table) {
				continue
			}
			if c.isL1Copy(table) {
				c.explain(cl, 1)
				continue
			}
			if c.isLostL1(table) {
				c.explain(cl, 1)
				c.doubt(Owner{Structure: problem.StructL1Table, Path: problem.ToCluster(cl)}, "it reads as one, and nothing refers to it")
				continue
			}
			if len(slots) == 0 {
				continue
			}
			if t := s.ownsUnowned(table, strays); t.entries > 0 {
				c.reportLostTable(cl, t, slots)
			}
		}
	}
	if cut {
		c.doubt(Owner{Structure: problem.StructL2Table}, "there are too many unreferenced clusters to search them for a lost table")
	}
	return nil
}

// knownOfBitmaps tells what a cluster without an owner is of the bitmaps that were found.
func (c *run) knownOfBitmaps(cl qcow2.HostCluster) (sniff.Kind, bool) {
	if c.sniffer == nil {
		return 0, false
	}
	return c.sniffer.Known(cl)
}

// openSlots gives the L1 entries that a lost table may belong to: those that
// lead nowhere, and holes within the disk. Of the holes there may be many; a few
// will do.
func (c *run) openSlots() []l1slot {
	// Where the end of the file is missing, an entry that leads there is not wrong.
	slots := slices.DeleteFunc(slices.Clone(c.badSlots), func(s l1slot) bool {
		return c.truncated && c.g.Aligned(s.entry.Offset()) && c.wasInFile(s.entry.Offset(), c.g.ClusterSize()) &&
			!qcow2.RangeFits(uint64(s.entry.Offset()), c.g.ClusterSize(), uint64(c.img.Size()))
	})
	for i := range c.tables {
		if t := &c.tables[i]; t.skip {
			slots = append(slots, l1slot{l1: t.l1, index: t.window, entry: qcow2.NewL1Entry(t.offset, false)})
		}
	}
	const holesKept = 2
	for n := range c.l1s {
		l := &c.l1s[n]
		holes, next := 0, uint64(0)
		needed := min(l.entries, c.h.L1Needed(c.g))
		hole := func(to uint64) {
			for ; next < to && holes < holesKept; next++ {
				slots = append(slots, l1slot{l1: uint32(n), index: uint32(next)})
				holes++
			}
			next = to + 1
		}
		for i := range qcow2.ReadL1(c.img, l.extent.Offset, needed).All() {
			if hole(i); holes == holesKept {
				break
			}
		}
		hole(needed)
		if n >= maxBlank {
			break
		}
	}
	return slots
}

// lostTable is what an unreferenced cluster holds that may be an L2 table.
type lostTable struct {
	entries int // those that name clusters; 0: it is none
	// sole tells that every entry but those of compressed data, and there is such
	// a one, has COPIED set, and that what it names has a refcount of one and no
	// reference: nothing but this table ever owned it.
	sole bool
	// data tells that something is stored there that does not read as zeros.
	data bool
	// copied and bare count the entries of clusters with a refcount of one and no reference,
	// compressed data aside, that have COPIED set and that have not. The active disk's have
	// it, those of a table that a snapshot had for itself have not.
	copied, bare int
	runs         []clusterRun // what it owns
	// shared is an entry, at index sharedAt, of a cluster that another table names too; 0
	// where there is none.
	shared   qcow2.L2Entry
	sharedAt int
}

// ownsUnowned looks at what may be an L2 table. Every cluster that its entries
// name must have a refcount for which no reference was found. A reference from an
// L1 entry to what is no L2 table is none.
//
// The table of a bitmap reads as an L2 table, too, but for COPIED: while bitmaps
// may have been lost, a table without a single COPIED flag is taken for theirs.
func (s *scanner) ownsUnowned(table []byte, strays int) lostTable {
	ts := s.begin(&l2table{times: 1}, table, nil)
	copied := !slices.ContainsFunc(s.c.doubts, func(d Doubt) bool { return d.Owner.isBitmap() })
	var t lostTable
	shared, plain := false, 0
	tries := maxContent / 16
	for i := range ts.entries {
		j, ok := s.again(ts, i)
		if !ok {
			continue
		}
		for k := range j.n {
			cl := j.first + qcow2.HostCluster(k)
			refcount, references := s.c.onDisk(cl), s.c.counts.Get(cl)
			if refcount <= references {
				if strays--; strays < 0 {
					return lostTable{}
				}
			}
			shared = shared || references > 0 || refcount != 1 && !j.entry.Compressed()
			if refcount == 1 && references == 0 && !j.entry.Compressed() {
				if j.entry.Copied() {
					t.copied++
				} else {
					t.bare++
				}
			}
		}
		t.runs = append(t.runs, clusterRun{j.first, j.n})
		if t.shared == 0 && s.c.counts.Get(j.first) > 0 && !s.c.claimedAstray(j.first) {
			t.shared, t.sharedAt = j.entry, i
		}
		copied = copied || j.entry.Copied() || j.entry.Compressed()
		if !j.entry.Compressed() {
			shared = shared || !j.entry.Copied()
			plain++
		}
		t.entries++
		if !t.data && !shared && !(s.zeroFlag && j.entry.Zero()) && tries > 0 {
			tries--
			zero, err := s.c.img.IsZero(at(s.c.g.HostOffset(j.first), s.c.g.ClusterSize()))
			t.data = err != nil || !zero
		}
	}
	if !copied {
		return lostTable{}
	}
	t.sole = !shared && plain > 0
	return t
}

// reportLostTable reports an L2 table that no L1 entry names, with what speaks
// for the place where it belongs.
func (c *run) reportLostTable(cl qcow2.HostCluster, t lostTable, slots []l1slot) {
	off := c.g.HostOffset(cl)
	f := problem.Finding{Code: problem.OrphanL2Table, Extent: at(off, c.g.ClusterSize()), Cluster: ptr(cl), Value: problem.Hex(off)}
	slot, evidence := placeFor(off, c.slotsFor(&t, slots))
	c.explain(cl, 1)
	for _, r := range t.runs {
		c.explain(r.first, r.n)
	}
	lost := LostTable{Offset: off, Why: evidence}
	if slot != nil {
		l := &c.l1s[slot.l1]
		f.Path, f.Snapshot, f.Of = problem.ToL1Entry(uint64(slot.index)), l.snapshot, l.of
		f.GuestOffset = ptr(c.windowStart(slot.index))
		lost.Slot, lost.Snapshot, lost.Of, lost.Index = l.entry(uint64(slot.index)), l.snapshot, l.of, slot.index
	}
	f.Message = problem.Say("no reference leads to %s, but it reads as an L2 table with %d entries, for clusters that nothing else refers to; %s",
		c.clusterRange(cl, 1), t.entries, evidence)
	if slot == nil && !c.strayL1() {
		f.Repair = problem.RepairNone // it is known to be of no use
	}
	if !c.guestHasLost(t) {
		f.Severity = problem.InDoubt
		f.Message.And("; it may also be what an interrupted operation has left behind")
	} else {
		c.guestHasLostAny = true
	}
	c.report(f)
	if len(c.lostTables) < maxLostTables {
		c.lostTables = append(c.lostTables, lost)
	}
	c.doubt(Owner{Structure: problem.StructL2Table, Path: problem.ToCluster(cl)}, "no L1 entry names it any more")
}

// guestHasLost tells whether a lost table can only be a part of the active disk
// that has come off, so that the guest reads something else than it has written.
// It is not certain where an operation that was cut short leaves such a table as
// well: the deletion of a snapshot (its tables have no COPIED flags, since they
// were shared), the return to a snapshot (which then is there still), the emptying
// of an overlay (under the dirty bit). While somebody writes nothing is certain.
func (c *run) guestHasLost(t lostTable) bool {
	return t.sole && (t.data || c.h.BackingFileOffset != 0) && c.h.NbSnapshots == 0 && c.lostSnapshots == nil &&
		!c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) && !c.opts.Live
}

// slotsFor gives the places that may be a lost table's: one of the active disk's has COPIED set
// for what it alone owns, one that a snapshot had for itself never has; and two tables that share a
// cluster name it at the same place of the disk. While the dirty bit is set nothing can be told
// by refcounts.
func (c *run) slotsFor(t *lostTable, slots []l1slot) []l1slot {
	dirty := c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty)
	var fit []l1slot
	for _, s := range slots {
		active := s.l1 == 0
		if t.shared != 0 && !c.namesAt(s.index, t.sharedAt, t.shared) {
			continue
		}
		if dirty || active && t.bare == 0 || !active && t.copied == 0 {
			fit = append(fit, s)
		}
	}
	return fit
}

// placeFor chooses the L1 entry that a lost table at off belongs to, if one can
// be told.
func placeFor(off qcow2.HostOffset, slots []l1slot) (*l1slot, string) {
	var near []*l1slot
	for i := range slots {
		if s := &slots[i]; s.entry != 0 && bits.OnesCount64(uint64(s.entry.Offset())^uint64(off)) == 1 {
			near = append(near, s)
		}
	}
	switch {
	case len(near) == 1:
		return near[0], fmt.Sprintf("it belongs to l1[%d], whose entry differs from its place in one bit", near[0].index)
	case len(slots) == 1 && slots[0].entry == 0:
		return &slots[0], fmt.Sprintf("it belongs to l1[%d], the only entry that is empty", slots[0].index)
	case len(slots) == 1:
		return &slots[0], fmt.Sprintf("it belongs to l1[%d], the only entry that leads nowhere", slots[0].index)
	}
	if len(slots) == 0 {
		return nil, "where it belongs cannot be told, since no L1 table that could be its own has an entry without a table"
	}
	return nil, "where it belongs cannot be told from it alone, since several L1 entries have no table"
}
