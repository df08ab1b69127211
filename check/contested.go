package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Where two structures lie in one cluster nothing may be written: what is right for
// the one destroys the other. A repair first has to lead one of them elsewhere, or
// to give it up.

// contest is a run of clusters in which a structure lies where it is likely not to
// belong, and another one, which is metadata.
type contest struct {
	clusterRun
	culprit problem.Structure
}

// contested notes that two structures lie in one place.
func (c *run) contested(culprit problem.Structure, first qcow2.HostCluster, n uint64) {
	if k := len(c.contests); k > 0 {
		if last := &c.contests[k-1]; last.culprit == culprit && last.end() == first {
			last.n += n
			return
		}
	}
	c.contests = append(c.contests, contest{clusterRun{first, n}, culprit})
	c.contestsSorted = false
}

// contestants yields the culprits of what touches an extent.
func (c *run) contestants(x qcow2.Extent, yield func(problem.Structure) bool) {
	if len(c.contests) == 0 {
		return
	}
	if !c.contestsSorted {
		slices.SortFunc(c.contests, func(a, b contest) int { return cmp.Compare(a.first, b.first) })
		// The end of the ones before tells where a search has to begin.
		c.contestEnds = c.contestEnds[:0]
		end := qcow2.HostCluster(0)
		for _, k := range c.contests {
			end = max(end, k.end())
			c.contestEnds = append(c.contestEnds, end)
		}
		c.contestsSorted = true
	}
	first, n := c.g.ClusterSpan(x.Offset, max(x.Length, 1))
	i, _ := slices.BinarySearch(c.contestEnds, first+1)
	for ; i < len(c.contests) && c.contests[i].first < first+qcow2.HostCluster(n); i++ {
		if k := c.contests[i]; k.end() > first && !yield(k.culprit) {
			return
		}
	}
}

// isContested tells whether two structures lie where an extent is; wrong refcount
// blocks may not count.
func (c *run) isContested(x qcow2.Extent, besideBlocks bool) (found bool) {
	c.contestants(x, func(culprit problem.Structure) bool {
		found = !besideBlocks || culprit != problem.StructRefcountBlock
		return !found
	})
	return found
}

// settleRepairs takes back promises of a safe repair that only all findings together
// show not to hold: where bytes would have to be written in a place that two
// structures share, but for the entries of a refcount table on which a wrong block
// lies, since that table can be written anew; in what is read as an L2 table while
// another one is lost; for entries of a snapshot table that is not known whole; for
// extensions where it is not known which bytes are whose; and for a file that does not
// even have its header. Nor is there a policy for what bitmaps hold of a disk that is
// larger than any can be; where they are not true any more nothing is done about them.
// Nothing is written to what is no L1 table, and snapshots that were found are not given up.
// And the bit that vouches for bitmaps is not cleared while they are there.
func (c *run) settleRepairs(all []problem.Finding) {
	broken, cut, lost, stale, wiped, homeless := false, false, false, false, false, false
	beyond := c.img.GeometryOK && c.h.DiskTooLarge(c.g)
	for i := range all {
		broken = broken || all[i].Code == problem.SnapshotTableShort || all[i].Code == problem.SnapshotEntryOversized
		cut = cut || all[i].Code == problem.HeaderCut
		stale = stale || all[i].Code == problem.BitmapsStale
		homeless = homeless || all[i].Code == problem.BitmapsOrphaned && all[i].Repair == problem.RepairNone
		lost = lost || all[i].Code == problem.OrphanL2Table && all[i].Severity == problem.InDoubt && c.h.NbSnapshots == 0
		wiped = wiped || all[i].Code == problem.TableWiped && all[i].Severity == problem.InDoubt
	}
	for i := range all {
		f := &all[i]
		switch {
		case f.Repair == problem.RepairPolicy && beyond && f.Code.Is(problem.HidesBitmap):
			f.Repair = problem.RepairNone
		case f.Code == problem.SnapshotTableMisplaced && c.lostSnapshots != nil:
			f.Repair = problem.RepairReattach // they are not given up while they can be led back to
		case f.Repair != problem.RepairSafe:
		case cut, !c.img.ExtensionsComplete && (f.Code == problem.ExtensionLength || f.Code == problem.ExtensionUnused),
			beyond && stale && f.Code.AboutBitmaps(), homeless && f.Code == problem.BitmapExtensionMissing:
			f.Repair = problem.RepairNone
		case wiped && f.Code == problem.MarkedDirty:
			f.Repair = problem.RepairNone // without it nothing would explain the wiped table
		case lost && f.Code == problem.MarkedDirty:
			f.Repair = problem.RepairReattach // while it may be due to this that the table is lost
		case f.Code == problem.RefcountTooLow && len(c.doubts) > 0 && c.nearUnowned(f):
			f.Repair = problem.RepairLossy // it tells which reference is the wrong one
		case broken && f.Code == problem.SnapshotFieldsMissing,
			// A table that is lost may have been lost to a pointer that leads to data.
			len(c.lostTables) > 0 && (f.Code == problem.L2ReservedBits || f.Code == problem.CompressedCopied || f.Code == problem.SubclusterConflict),
			!f.Unlisted && f.Extent.Length > 0 && c.isContested(f.Extent, f.Structure == problem.StructRefcountTable || f.Code == problem.RefcountBlockOverlap):
			f.Repair = problem.RepairLossy
		}
		if c.hasMisread && f.Repair == problem.RepairLossy && c.namedByMisread(f) {
			f.Repair = problem.RepairNone // what lies there is no L1 table, and is not written to
		}
	}
}
