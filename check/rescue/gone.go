package rescue

import (
	"encoding/binary"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// mostBad is how many entries of a sector of an L2 table may be wrong for the others to be
// relied on.
const mostBad = 2

// dropBroken takes L2 tables from the active disk, or parts of them, in whose place something
// else lies: what they seem to map is not what they mapped. Without that a guest would
// read data that belongs elsewhere.
func (s *search) dropBroken() {
	f := s.f
	var entries []qcow2.L1Entry
	for i, e := range s.active.entries {
		if e == 0 {
			continue
		}
		off := e.Offset()
		if _, is := f.table(off); is || !f.g.Aligned(off) || uint64(off) >= f.size || e.Reserved() != 0 {
			continue // in order, or seen to by the repair
		}
		if f.zero(off) || f.blank(off) {
			s.zeroTables = append(s.zeroTables, uint64(i))
			continue
		}
		if s.cutSectors(uint64(i), off) {
			continue
		}
		if entries == nil {
			entries = slices.Clone(s.active.entries)
		}
		entries[i] = 0
		s.miss(uint64(i)*f.g.L2Coverage(), f.g.L2Coverage(), "something else lies in the place of its L2 table")
	}
	if entries != nil {
		s.m.l1, s.active.entries = entries, entries
	}
}

// cutSectors clears the sectors of an L2 table that hold something else, if most of it is
// left.
func (s *search) cutSectors(index uint64, off qcow2.HostOffset) bool {
	f, g := s.f, s.f.g
	b, ok := f.read(off, g.ClusterSize())
	if !ok {
		return false
	}
	b = slices.Clone(b)
	width := int(g.L2EntrySize())
	var bad []int
	for at := 0; at < len(b); at += qcow2.SectorSize {
		if f.badEntries(b[at:at+qcow2.SectorSize], width) > mostBad {
			bad = append(bad, at)
		}
	}
	if 2*len(bad) > len(b)/qcow2.SectorSize || len(b) == qcow2.SectorSize {
		return false
	}
	per := uint64(qcow2.SectorSize/width) << g.ClusterBits
	for _, at := range bad {
		clear(b[at : at+qcow2.SectorSize])
		s.miss(index*g.L2Coverage()+uint64(at/qcow2.SectorSize)*per, per, "something else lies in the place of a part of its L2 table")
	}
	if len(bad) > 0 {
		s.edits = append(s.edits, Change{Offset: off, New: b, Reason: "a part of an L2 table that is none any more"})
	}
	return true
}

// badEntries counts the entries of a part of an L2 table that cannot be in order.
func (f *finder) badEntries(b []byte, width int) (n int) {
	for i := 0; i+width <= len(b); i += width {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(b[i:]))
		switch off := uint64(e.Offset()); {
		case e == 0:
		case width == 16 && qcow2.SubclusterBitmap(binary.BigEndian.Uint64(b[i+8:])).Conflicts() != 0:
			n++
		case e.Compressed():
			if d := f.g.Compressed(e); e.Copied() || uint64(d.Offset) >= f.pastLimit() || uint64(d.Offset) < f.g.ClusterSize() {
				n++
			}
		case e.Reserved(width == 8) != 0, off&(f.g.ClusterSize()-1) != 0, off >= f.pastLimit(), off == 0 && e.Copied() && !f.dataFile:
			n++
		}
	}
	return n
}

// miss notes a part of the disk that does not come back.
func (s *search) miss(offset, length uint64, why string) {
	if k := len(s.missing) - 1; k >= 0 && s.missing[k].Why == why && s.missing[k].Offset+s.missing[k].Length == offset {
		s.missing[k].Length += length
		return
	}
	s.missing = append(s.missing, Missing{Offset: offset, Length: length, Why: why})
}

// missHoles notes what the L1 table does not map where something that belongs there may
// have been left out.
func (s *search) missHoles() {
	if !s.holes {
		return
	}
	cover := s.f.g.L2Coverage()
	for i := range s.f.g.L1EntriesFor(s.m.h.Size) {
		if i >= uint64(len(s.active.entries)) {
			s.miss(i*cover, s.m.h.Size-i*cover, "no L2 table that was found maps it; it may have been empty")
			return
		}
		if s.active.entries[i] == 0 {
			s.miss(i*cover, min(cover, s.m.h.Size-i*cover), "no L2 table that was found maps it; it may have been empty")
		}
	}
}

// missZeroTables notes what L2 tables of zeros may have mapped, where there is data that
// belongs nowhere. Compressed data that belongs nowhere can share its clusters with data
// that other tables map, and is not seen then.
func (s *search) missZeroTables(orphans bool) {
	if !orphans && s.f.refs != nil && len(s.f.packed) == 0 && !s.countedPastEnd() {
		return
	}
	cover := s.f.g.L2Coverage()
	for _, i := range s.zeroTables {
		if i*cover < s.m.h.Size {
			s.miss(i*cover, min(cover, s.m.h.Size-i*cover), "its L2 table is all zeros")
		}
	}
}

// countedPastEnd tells that the refcounts count clusters past the end of the file: it was
// cut.
func (s *search) countedPastEnd() bool {
	const most = 4096
	past := s.f.g.Clusters(s.f.size)
	for cl := past; cl < past+most; cl++ {
		if n, err := s.f.refs.table.Get(qcow2.HostCluster(cl)); err == nil && n > 0 {
			return true
		}
	}
	return false
}
