package check

import "github.com/qcheck/qcheck/qcow2"

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
	case c.snapshotL1Usable(s):
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
		c.loseWindows(n, whole, all-whole)
	}
}

// losePastTable notes that an L2 table lies past the end of the file, or a part of it.
func (c *run) losePastTable(n uint32, index uint64, offset qcow2.HostOffset) {
	c.claimPastEnd(StructL2Table, offset, c.g.ClusterSize())
	whole := uint64(0)
	if size := uint64(c.img.Size()); uint64(offset) < size {
		whole = (size - uint64(offset)) / c.g.L2EntrySize()
	}
	from := index*c.g.L2Coverage() + whole<<c.g.ClusterBits
	c.loseFrom(n, from, (c.g.L2Entries()-whole)<<c.g.ClusterBits)
}

func (c *run) loseWindows(n uint32, first, count uint64) {
	c.loseFrom(n, first*c.g.L2Coverage(), count*c.g.L2Coverage())
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
