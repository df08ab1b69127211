package check

import (
	"iter"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// What a reader of the whole file asks of a check, one that copies its metadata or draws
// a map of it: which clusters belong to whom, and whether what lies there is what
// ought to.

// Owned is a run of clusters that a metadata structure takes.
type Owned struct {
	Owner  Owner
	Extent qcow2.Extent // whole clusters
	// Suspect tells that the content is not that of such a structure, or was not
	// looked at since something else lies there. It may be guest data.
	Suspect bool
}

// Metadata gives the clusters of all metadata structures, in the order of the file. A
// cluster that two structures take comes twice.
func (e *Evidence) Metadata() iter.Seq[Owned] {
	c := e.run
	return func(yield func(Owned) bool) {
		for _, p := range c.listPlaces() {
			x := at(c.g.HostOffset(p.first), uint64(p.n)<<c.g.ClusterBits)
			if !yield(Owned{Owner: c.placeOwner(p), Extent: x, Suspect: c.suspectPlace(p, x)}) {
				return
			}
		}
	}
}

// suspectPlace tells whether what lies at a place may be something else.
func (c *run) suspectPlace(p place, x qcow2.Extent) bool {
	switch p.kind {
	case placeTable:
		t := &c.tables[p.index]
		return t.skip || c.l1s[t.l1].misread || c.isContested(x, false) && !c.readsAs(x, c.format().L2Table)
	case placeBlock:
		b := &c.blocks[p.index]
		return (b.bad || c.isContested(x, false)) && !c.countsLikeBlock(b)
	}
	o := c.owners[c.meta[p.index].owner]
	switch o.Structure {
	case problem.StructL1Table:
		return slices.ContainsFunc(c.l1s, func(l l1table) bool { return l.of == o.Of && l.misread })
	case problem.StructBitmapDirectory:
		return c.traces.astray
	case problem.StructBitmapData:
		return c.isContested(x, false)
	case problem.StructBitmapTable:
		return c.isContested(x, false) && !c.readsAs(x, c.format().BitmapTable)
	}
	return false
}

// readsAs tells whether every cluster of an extent reads as f says.
func (c *run) readsAs(x qcow2.Extent, f func([]byte) bool) bool {
	b := make([]byte, c.g.ClusterSize())
	for off := x.Offset; uint64(off-x.Offset) < x.Length; off += qcow2.HostOffset(len(b)) {
		if c.img.ReadAt(b, off) != nil || !f(b) {
			return false
		}
	}
	return true
}

// countsLikeBlock tells whether most of the refcounts in a block are those of the
// references that were found.
func (c *run) countsLikeBlock(b *refBlock) bool {
	raw := make([]byte, c.g.ClusterSize())
	if !c.h.RefcountOrderOK() || c.img.ReadAt(raw, b.offset) != nil {
		return false
	}
	block, same, other := c.g.RefcountBlock(raw), 0, 0
	base := b.index * c.g.RefcountBlockEntries()
	for i := range c.g.RefcountBlockEntries() {
		switch is, want := block.Get(int(i)), c.counts.Get(qcow2.HostCluster(base+i)); {
		case is == 0 && want == 0:
		case is == want:
			same++
		default:
			other++
		}
	}
	return same >= other
}

// Recovered gives the clusters, in no order, of metadata that nothing leads to any more,
// and that were recognised by their content.
func (e *Evidence) Recovered() []sniff.Run {
	c := e.run
	runs := slices.Clone(c.lostBitmapRuns)
	add := func(off qcow2.HostOffset, length uint64) {
		first, n := c.g.ClusterSpan(off, length)
		runs = append(runs, sniff.Run{First: first, N: n})
	}
	for i := range c.lostTables {
		add(c.lostTables[i].Offset, 1)
	}
	if l := c.lostSnapshots; l != nil {
		for i := range l.Snapshots {
			s := &l.Snapshots[i]
			add(s.EntryOffset, s.EntrySize)
			add(s.L1TableOffset, uint64(s.L1Size)*8)
			for _, entry := range qcow2.ReadL1(c.img, s.L1TableOffset, uint64(s.L1Size)).All() {
				if ok, _ := c.lostL2(entry.Offset()); ok {
					add(entry.Offset(), 1)
				}
			}
		}
	}
	return runs
}

// ReservedRuns gives the clusters that nothing refers to and that are kept for something
// all the same: what stale bitmaps name, for one.
func (e *Evidence) ReservedRuns() (runs []sniff.Run) {
	for _, r := range e.run.reserved {
		for k := range r.n {
			cl := r.first + qcow2.HostCluster(k)
			if e.Counts.Get(cl) > 0 {
				continue
			}
			if i := len(runs) - 1; i >= 0 && runs[i].First+qcow2.HostCluster(runs[i].N) == cl {
				runs[i].N++
			} else {
				runs = append(runs, sniff.Run{First: cl, N: 1})
			}
		}
	}
	return runs
}

// OldTable tells whether a cluster that nothing refers to holds what a table was replaced
// with another for: a copy of an L1 table, an earlier snapshot table.
func (e *Evidence) OldTable(cl qcow2.HostCluster) bool {
	c := e.run
	b := make([]byte, c.g.ClusterSize())
	off := c.g.HostOffset(cl)
	return c.counts.Get(cl) == 0 && c.img.ReadAt(b, off) == nil && (c.isL1Copy(b) || c.isOldSnapshotTable(off))
}

// Unreferenced gives the runs of clusters with a refcount that nothing refers to, in the
// order of the file; doubt tells that they may belong to something that was lost, so that
// they are no leaks. Of very many only the first are given.
func (e *Evidence) Unreferenced() (runs []sniff.Run, doubt bool) {
	for _, u := range e.run.unowned {
		if u.references == 0 {
			runs = append(runs, sniff.Run{First: u.first, N: u.n})
		}
	}
	return runs, len(e.Doubts) > 0
}

// Overlaps gives the runs of clusters in which two structures lie that exclude each
// other, in no order. Of very many not all are given.
func (e *Evidence) Overlaps() (runs []sniff.Run) {
	var end qcow2.HostCluster // of the metadata so far
	for _, p := range e.run.listPlaces() {
		if p.first < end {
			runs = append(runs, sniff.Run{First: p.first, N: uint64(min(p.end(), end) - p.first)})
		}
		end = max(end, p.end())
	}
	for _, k := range e.run.contests {
		runs = append(runs, sniff.Run{First: k.first, N: k.n})
	}
	for _, cl := range e.run.sharedData {
		runs = append(runs, sniff.Run{First: cl, N: 1})
	}
	return runs
}
