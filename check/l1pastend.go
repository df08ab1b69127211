package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// An L1 table, or an L2 table, that the end of the file cuts is read as far as it goes.

// l1Readable is how many entries of the active L1 table can be read: all of them, or those
// before the end of the file where that cuts the table, or none.
func (c *run) l1Readable() uint64 {
	if c.l1Usable() {
		return uint64(c.h.L1Size)
	}
	p := c.l1Pointer()
	if !c.img.GeometryOK || p.count == 0 || p.count > p.max || p.offset == 0 || !c.g.Aligned(p.offset) {
		return 0
	}
	return c.entriesInFile(p.offset, min(p.count, c.h.L1Needed(c.g)))
}

// snapshotL1Readable is the same for the L1 table of a snapshot.
func (c *run) snapshotL1Readable(s *qcow2.Snapshot) uint64 {
	switch {
	case s.L1Size == 0 || s.L1TableOffset == 0 || !c.g.Aligned(s.L1TableOffset) || s.L1Size > qcow2.MaxL1Entries:
		return 0
	case c.format().SnapshotL1Usable(s):
		return uint64(s.L1Size)
	}
	entries := uint64(s.L1Size)
	if needed, _ := c.snapshotL1Needed(s); needed > 0 {
		entries = min(entries, needed)
	}
	return c.entriesInFile(s.L1TableOffset, entries)
}

// entriesInFile is how many entries of a table that the end of the file cuts are whole. One
// that is only said to be longer than its disk needs was not cut, nor was one that would
// reach where no file has ever reached.
func (c *run) entriesInFile(offset qcow2.HostOffset, entries uint64) uint64 {
	size := uint64(c.img.Size())
	if uint64(offset) >= size || uint64(offset)+entries*8 <= size || !c.wasInFile(offset, entries*8) {
		return 0
	}
	return min(entries, (size-uint64(offset))/8)
}

// losePastL1 notes what is gone of a disk with the part of its L1 table that lies past the
// end of the file.
func (c *run) losePastL1(n uint32) {
	l := &c.l1s[n]
	if l.entries == 0 {
		return
	}
	all := l.needed
	if n == 0 {
		all = min(uint64(c.h.L1Size), c.h.L1Needed(c.g))
	}
	whole := min(all, (uint64(c.img.Size())-uint64(l.extent.Offset))/8)
	if whole < all {
		length := uint64(c.h.L1Size) * 8
		if n > 0 {
			length = all * 8
		}
		c.cut(CutTable{Extent: at(l.extent.Offset, length), EntrySize: 8, Code: problem.FileTruncated}, n, whole*c.g.L2Coverage(), (all-whole)*c.g.L2Coverage())
	}
}

// losePastTable notes that an L2 table lies past the end of the file, or a part of it.
func (c *run) losePastTable(n uint32, index uint64, offset qcow2.HostOffset) {
	c.claimPastEnd(problem.StructL2Table, offset, c.g.ClusterSize())
	from, size := index*c.g.L2Coverage(), uint64(c.img.Size())
	if uint64(offset) >= size {
		c.loseFrom(n, from, c.g.L2Coverage())
		return
	}
	whole := (size - uint64(offset)) / c.g.L2EntrySize()
	c.cut(CutTable{Extent: at(offset, c.g.ClusterSize()), EntrySize: c.g.L2EntrySize(), Code: problem.L1PastEnd}, n, from+whole<<c.g.ClusterBits, (c.g.L2Entries()-whole)<<c.g.ClusterBits)
}

// CutTable is a table that the end of the file cuts.
type CutTable struct {
	Extent    qcow2.Extent // as it was
	EntrySize uint64       // bytes
	Code      problem.Code // of the finding that says so
	// The part of a disk that the missing entries were for.
	Of           problem.SnapshotRef
	Snapshot     string // as findings name it; empty for the active disk
	From, Length uint64 // bytes
}

// cut notes a table that the end of the file cuts, and what is gone with its rest.
func (c *run) cut(t CutTable, l1 uint32, from, length uint64) {
	c.loseFrom(l1, from, length)
	if len(c.cutTables) < maxBlank {
		t.Of, t.Snapshot, t.From, t.Length = c.l1s[l1].of, c.l1s[l1].snapshot, from, length
		c.cutTables = append(c.cutTables, t)
	}
}

// loseFrom notes that nothing is known any more of a part of a disk.
func (c *run) loseFrom(n uint32, from, length uint64) {
	end := uint64(1) << 63 // a snapshot's disk can have had another size
	if n == 0 {
		end = c.h.Size
	}
	if from < end {
		c.past.lose(lostRange{l1: n, from: from, length: min(length, end-from), table: true})
	}
}
