package check

import (
	"context"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// Evidence is what a check has learned of an image besides its findings, as far
// as a repair needs it.
type Evidence struct {
	// Findings are those of the result, and up to [Options.Keep] more of each code.
	Findings []problem.Finding
	// Counts are the references that were found.
	Counts *refcount.Counts
	// Table is what the file says; nil where the refcount table cannot be read.
	Table *refcount.Table
	// Blocks are the refcount blocks that can be trusted, by index in the
	// refcount table.
	Blocks []refcount.Block
	// Complete tells that every reference was counted.
	Complete bool
	// Doubts are the structures that may own clusters nobody could find. While
	// there is one no refcount may be lowered.
	Doubts []Doubt

	Snapshots     []qcow2.Snapshot    // the entries that could be read
	SnapshotTable qcow2.Extent        // from the first entry's start to the last one's end
	Bitmaps       []qcow2.BitmapEntry // the entries that could be read

	// LostTables are the L2 tables that no L1 entry names any more (MAP020).
	LostTables []LostTable
	// LostSnapshots is a snapshot table that the header does not lead to, or not to
	// all of (SNP008); nil where there is none.
	LostSnapshots *LostSnapshots

	// Mends are bytes that lead to bitmaps, as they must be: whatever else is wrong
	// with bitmaps is judged anew when they are in place.
	Mends []Mend

	run *run
}

// LostTable is a cluster that reads as an L2 table, and that nothing refers to.
type LostTable struct {
	Offset qcow2.HostOffset
	// Slot is the L1 entry where it belongs; its length is 0 where that cannot be
	// told. Why says what speaks for it.
	Slot qcow2.Extent
	Why  string
	// Snapshot is the ID, escaped, of the snapshot whose L1 table that is, and
	// Index the entry's.
	Snapshot string
	Of       problem.SnapshotRef
	Index    uint32
}

// L1Table is an L1 table that was read.
type L1Table struct {
	Snapshot string // ID, escaped; empty for the active disk
	Of       problem.SnapshotRef
	Offset   qcow2.HostOffset
	// Misread tells that what lies there is likely none.
	Misread bool
	Entries uint64       // 0 where it lies in the place of something else
	Ref     qcow2.Extent // the bytes of the file that lead to it
}

// L1Tables gives the L1 tables that were read, as far as they were; the active one is
// number 0 and can have no entries.
func (e *Evidence) L1Tables() []L1Table {
	all := make([]L1Table, 0, len(e.run.l1s))
	for i := range e.run.l1s {
		l := &e.run.l1s[i]
		all = append(all, L1Table{Snapshot: l.snapshot, Of: l.of, Offset: l.extent.Offset, Misread: l.misread, Entries: l.entries, Ref: l.ref})
	}
	return all
}

// Inspect is [Run] that gives the evidence too.
func Inspect(ctx context.Context, img *qcow2.Image, opts Options) (*Result, *Evidence, error) {
	c := newRun(ctx, img, opts)
	res, err := c.check()
	e := &Evidence{
		Findings: c.kept,
		Counts:   c.counts, Table: c.table, Complete: !c.uncounted && err == nil, Doubts: c.doubts,
		Snapshots: c.snapshots, SnapshotTable: c.snapshotTable, Bitmaps: c.bitmaps, LostTables: c.lostTables, LostSnapshots: c.lostSnapshots, Mends: c.mends, run: c,
	}
	if c.table != nil {
		e.Blocks = c.table.Blocks()
	}
	return res, e, err
}

// RefTableUsable tells whether the refcount table is where the header says, so
// that its entries can be mended where they stand.
func (e *Evidence) RefTableUsable() bool {
	return e.run.refTableUsable() && len(e.run.refTableHoles) == 0
}

// UnusableEntries gives the entries of the refcount table, by index, whose block
// is not there or cannot be trusted.
func (e *Evidence) UnusableEntries() []uint64 {
	out := slices.Clone(e.run.badBlocks)
	for _, b := range e.run.blocks {
		if b.bad {
			out = append(out, b.index)
		}
	}
	slices.Sort(out)
	return out
}

// CutTables gives the tables that the end of the file cuts. They were read as far as they
// go. An L1 table is one only where the end of the file is known to be missing.
func (e *Evidence) CutTables() []CutTable {
	return slices.DeleteFunc(slices.Clone(e.run.cutTables), func(t CutTable) bool { return t.Code == problem.FileTruncated && !e.run.truncated })
}

// WasInFile tells whether a place past the end of the file is one that the file can have
// had before it was cut.
func (e *Evidence) WasInFile(offset qcow2.HostOffset, length uint64) bool {
	return e.run.wasInFile(offset, length)
}

// Reserved tells whether a cluster is kept for something although nothing refers
// to it, so that its refcount must not be lowered.
func (e *Evidence) Reserved(cl qcow2.HostCluster) bool { return e.run.isReserved(cl) }

// Contested tells whether two structures lie in a place, so that nothing may be
// written there. Structures that are named besides do not count, if they are the ones
// that are likely not to belong there.
func (e *Evidence) Contested(x qcow2.Extent, besides ...problem.Structure) (found bool) {
	e.run.contestants(x, func(culprit problem.Structure) bool {
		found = !slices.Contains(besides, culprit)
		return !found
	})
	return found
}

// Lacks tells whether a cluster has a refcount for which a reference is missing.
func (e *Evidence) Lacks(cl qcow2.HostCluster) bool { return e.Table != nil && e.run.lacks(cl) }

// IsLostL1 tells whether so many entries at an offset are those of an L1 table that nothing
// refers to, and that names something.
func (e *Evidence) IsLostL1(off qcow2.HostOffset, entries uint64) bool {
	ok, blank := e.run.lostL1(off, entries)
	return ok && !blank
}

// MetadataAt gives the metadata structure that takes a cluster.
func (e *Evidence) MetadataAt(cl qcow2.HostCluster) (Owner, bool) { return e.run.metadataAt(cl) }
