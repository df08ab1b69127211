package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Snapshots that nothing leads to any more (SNP008): the header counts too few, or leads
// elsewhere. Their table is known by its content: entries that make sense, each with an L1
// table of its own that nothing refers to, whose L2 tables, and what those name, lack just
// these references. Without that, entries are what an earlier table has left behind.

// LostSnapshots is a snapshot table that the header does not lead to, or not to all of.
type LostSnapshots struct {
	Table     qcow2.HostOffset
	Count     uint32           // entries, those that are known already included
	Snapshots []qcow2.Snapshot // those that nothing leads to
}

// maxLostSnapshots bounds the entries that are looked for.
const maxLostSnapshots = 1 << 10

// findLostSnapshots looks for them, given what clusters have no owner.
func (c *run) findLostSnapshots(leaks []unowned) {
	if c.h.HasDataFile() {
		return
	}
	if c.h.NbSnapshots > 0 && (!c.snapshotTableUsable() || c.snapshotStop) {
		c.findSnapshotTable(leaks)
		return
	}
	// Behind the last entry, or where the table starts if there is none.
	x := c.snapshotTable
	if c.h.NbSnapshots == 0 {
		x.Offset = c.h.SnapshotsOffset
	}
	if x.Offset == 0 || !c.g.Aligned(x.Offset) {
		return
	}
	lost := c.lostEntries(x.Offset+qcow2.HostOffset(x.Length+7)&^7, maxLostSnapshots)
	if len(lost) > 0 {
		c.reportLostSnapshots(LostSnapshots{
			Table: x.Offset, Count: c.h.NbSnapshots + uint32(len(lost)), Snapshots: lost,
		}, at(qcow2.FieldNbSnapshots, 4), problem.Number(c.h.NbSnapshots))
	}
}

// findSnapshotTable looks for a table of as many entries as the header counts, at the start
// of a cluster that nothing refers to.
func (c *run) findSnapshotTable(leaks []unowned) {
	if c.h.NbSnapshots > maxLostSnapshots {
		return
	}
	var found []LostSnapshots
	probes := 0
	for _, l := range leaks {
		if l.references > 0 {
			continue
		}
		for k := range l.n {
			if probes++; probes > maxProbes || c.ctx.Err() != nil {
				return
			}
			off := c.g.HostOffset(l.first + qcow2.HostCluster(k))
			if c.img.IsHole(off, c.g.ClusterSize()) {
				continue
			}
			lost := c.lostEntries(off, int(c.h.NbSnapshots))
			if len(lost) != int(c.h.NbSnapshots) {
				continue
			}
			last := &lost[len(lost)-1]
			if c.unownedRange(at(off, uint64(last.EntryOffset-off)+snapshotSize(last))) {
				found = append(found, LostSnapshots{Table: off, Count: c.h.NbSnapshots, Snapshots: lost})
			}
		}
	}
	if len(found) == 1 {
		c.reportLostSnapshots(found[0], at(qcow2.FieldSnapshotsOffset, 8), problem.Hex(c.h.SnapshotsOffset))
	}
}

// lostEntries gives the entries from an offset on, at most so many, whose L1 tables are lost.
func (c *run) lostEntries(from qcow2.HostOffset, most int) (lost []qcow2.Snapshot) {
	for len(lost) < most {
		next := c.snapshotChain(from, 1)
		if next == nil {
			break
		}
		s := next[0]
		if ok, _ := c.lostL1(s.L1TableOffset, uint64(s.L1Size)); !ok || slices.ContainsFunc(lost, func(o qcow2.Snapshot) bool { return o.L1TableOffset == s.L1TableOffset }) {
			break
		}
		lost = append(lost, s)
		from += qcow2.HostOffset(s.EntrySize)
	}
	return lost
}

func (c *run) reportLostSnapshots(l LostSnapshots, field qcow2.Extent, value problem.Value) {
	const named = 8
	var names []string
	for i := range l.Snapshots {
		if i == named {
			names = append(names, fmt.Sprintf("%d more", len(l.Snapshots)-named))
			break
		}
		s := &l.Snapshots[i]
		names = append(names, fmt.Sprintf("%s (name %s)", Excerpt(s.ID), Excerpt(s.Name)))
	}
	f := problem.Finding{Code: problem.SnapshotsOrphaned, Extent: field, Value: value, Count: uint64(len(l.Snapshots))}
	if field.Offset == qcow2.FieldNbSnapshots {
		f.Expected = problem.Number(l.Count)
		f.Message = problem.Say("nb_snapshots is %d, but the table at %v carries on with entries whose L1 tables nothing else refers to: snapshot %s",
			c.h.NbSnapshots, l.Table, strings.Join(names, ", "))
		// A deletion that was cut short can look like this as well, where the new table was
		// written over an earlier one.
		f.Severity = problem.InDoubt
		f.Message.And("; it may also be what an interrupted deletion has left behind")
	} else {
		f.Expected = problem.Hex(l.Table)
		f.Message = problem.Say("the header does not lead to the snapshot table, which is at %v: nothing refers to its clusters, and its entries make sense: snapshot %s",
			l.Table, strings.Join(names, ", "))
	}
	c.report(f)
	c.lostSnapshots = &l
	for i := range l.Snapshots {
		s := &l.Snapshots[i]
		c.doubt(Owner{Structure: problem.StructL1Table, Snapshot: snapshotName(i, s), Of: problem.SnapshotEntry(int(l.Count) - len(l.Snapshots) + i)},
			fmt.Sprintf("its entry at %v is not one of those that the header leads to", s.EntryOffset))
	}
}
