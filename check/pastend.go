package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// ClusterRun is a run of host clusters.
type ClusterRun struct {
	First qcow2.HostCluster
	N     uint64
}

// maxNamed is how much of a structure past the end of the file [Evidence.NamedPastEnd]
// gives, in bytes: none of a sound image is larger.
const maxNamed = qcow2.MaxL1Size

// NamedPastEnd gives the clusters past the end of the file that something in it names
// all the same, in order and merged. What a repair puts there would come to be what
// the wrong pointer leads to. Of pointers that are not listed one by one (see
// [Options.Keep]) nothing is known.
func (e *Evidence) NamedPastEnd() []ClusterRun {
	c := e.run
	var runs []ClusterRun
	end := qcow2.HostCluster(c.g.Clusters(uint64(c.img.Size())))
	add := func(offset qcow2.HostOffset, length uint64) {
		if !qcow2.RangeFits(uint64(offset), max(length, 1), qcow2.MaxImageLength) {
			return // no file reaches there
		}
		first, n := c.g.ClusterSpan(offset, max(1, min(length, maxNamed)))
		if last := first + qcow2.HostCluster(n); last > end {
			first = max(first, end)
			runs = append(runs, ClusterRun{first, uint64(last - first)})
		}
	}
	h := c.h
	add(h.L1TableOffset, uint64(h.L1Size)*8)
	add(h.SnapshotsOffset, uint64(h.NbSnapshots)*qcow2.SnapshotHeadSize)
	add(h.RefcountTableOffset, uint64(h.RefcountTableClusters)*c.g.ClusterSize())
	for i := range c.snapshots {
		add(c.snapshots[i].L1TableOffset, uint64(c.snapshots[i].L1Size)*8)
	}
	if ext := c.img.Extension(qcow2.ExtBitmaps); ext != nil && len(ext.Data) >= qcow2.BitmapsExtensionSize {
		d := qcow2.DecodeBitmapsExtension(ext.Data)
		add(d.DirectoryOffset, d.DirectorySize)
	}
	for i := range c.bitmaps {
		add(c.bitmaps[i].TableOffset, uint64(c.bitmaps[i].TableSize)*8)
	}
	// Tables on which something else lies were not read, and may be once that is gone.
	unread := 0
	for i := range c.tables {
		t := &c.tables[i]
		if !t.skip || unread >= maxBlank {
			continue
		}
		unread++
		for _, e := range qcow2.ScanTable[qcow2.L2Entry](c.img, t.offset, c.g.ClusterSize()/8).All() {
			if off := e.Offset(); !e.Compressed() && c.g.Aligned(off) && uint64(off) >= uint64(c.img.Size()) {
				add(off, c.g.ClusterSize())
			}
		}
	}
	for i := range c.kept {
		f := &c.kept[i]
		if !f.Code.Is(problem.LeadsPastEnd) {
			continue
		}
		// A run that has a value has it in every entry.
		if v, ok := f.Value.Num(); ok {
			add(c.pastEnd(f.Code, v))
			continue
		}
		for k, v := range qcow2.ScanTable[qcow2.L1Entry](c.img, f.Extent.Offset, f.Extent.Length/8).All() {
			if k%2 == 1 && f.Code.About() == problem.AboutL2Entry && c.g.ExtendedL2 {
				continue // a subcluster bitmap
			}
			add(c.pastEnd(f.Code, uint64(v)))
		}
	}
	slices.SortFunc(runs, func(a, b ClusterRun) int { return cmp.Compare(a.First, b.First) })
	merged := runs[:0]
	for _, r := range runs {
		if k := len(merged); k > 0 && r.First <= merged[k-1].First+qcow2.HostCluster(merged[k-1].N) {
			last := &merged[k-1]
			last.N = max(last.N, uint64(r.First-last.First)+r.N)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// pastEnd is what an entry leads to that a finding of the code is about.
func (c *run) pastEnd(code problem.Code, entry uint64) (offset qcow2.HostOffset, length uint64) {
	switch code {
	case problem.CompressedMisplaced:
		d := c.g.Compressed(qcow2.L2Entry(entry))
		return d.Offset, d.Length()
	case problem.RefcountEntryPastEnd:
		return qcow2.RefTableEntry(entry).Offset(), c.g.ClusterSize()
	}
	return qcow2.L1Entry(entry).Offset(), c.g.ClusterSize() // the offset has the same bits in all three
}
