package rescue

import (
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/rescue/landmarks"
	"github.com/qcheck/qcheck/qcow2"
)

// virtualSize finds how large the disk is.
func (s *search) virtualSize() {
	m, g := &s.m, s.f.g
	least := max(s.leastSize(), s.longTable())
	from, to := uint64(0), uint64(1)<<62
	if s.bitmaps != nil {
		from, to = s.bitmaps.sizes(g)
	}
	fits := func(size uint64) bool { return size >= least && size >= from && size <= to && size > 0 }
	set := func(size uint64, source Source, why string) {
		m.h.Size = size
		m.fact("virtual size", source, why, "%d", size)
	}
	switch {
	case s.opts.VirtualSize != 0:
		set(s.opts.VirtualSize, SourceUser, "")
	case s.h0 != nil:
		m.h.Size = s.h0.Size
	case s.opts.Sibling != nil && s.opts.Sibling.Header.Size >= least:
		set(s.opts.Sibling.Header.Size, SourceSibling, "")
	default:
		s.findSize(least, fits, set, from, to)
	}
	need := g.L1EntriesFor(m.h.Size)
	if s.h0 != nil && m.h.Size == s.h0.Size && m.l1 == nil && m.h.L1TableOffset == s.h0.L1TableOffset {
		return
	}
	s.lengthenL1(need)
}

// findSize goes by what the disk, snapshots and bitmaps say.
func (s *search) findSize(least uint64, fits func(uint64) bool, set func(uint64, Source, string), from, to uint64) {
	mark, ok := s.diskSays()
	if ok && mark.Exact && fits(mark.Bytes) {
		set(mark.Bytes, SourceFound, mark.Why)
		return
	}
	for i := len(s.m.snapshots) - 1; i >= 0; i-- {
		if n, known := s.m.snapshots[i].DiskSize(); known && fits(n) {
			set(n, SourceFound, fmt.Sprintf("it is that of snapshot %q", s.m.snapshots[i].Name))
			return
		}
	}
	cover := s.f.g.L2Coverage()
	size, why := s.f.g.L1EntriesFor(max(least, 1))*cover, "rounded up: the L1 table has no more entries in use; the disk may have been smaller, or larger and empty there"
	if ok && mark.Bytes > size {
		size, why = mark.Bytes, "at least: "+mark.Why
	}
	if from <= to {
		if size < from {
			size, why = from+min(cover-1, to-from), "rounded up: a bitmap tells that the disk is that long at least"
		}
		if size > to {
			size, why = to, "rounded up: a bitmap tells that the disk is no longer"
		}
	}
	size = max(size, least) &^ (qcow2.SectorSize - 1)
	s.m.h.Size = size
	s.m.fact("virtual size", SourceAssumed, why, "%d", size)
}

// leastSize gives the end of the last cluster of the disk that leads to data, less what of
// it may lie past the end of the disk.
func (s *search) leastSize() uint64 {
	g := s.f.g
	for i := len(s.active.entries) - 1; i >= 0; i-- {
		e := s.active.entries[i]
		if e == 0 {
			continue
		}
		last, some := uint64(0), false
		s.f.eachTarget(e.Offset(), func(k uint64, _ qcow2.L2Entry, _ qcow2.Extent) { last, some = k, true })
		if some {
			return uint64(i)*g.L2Coverage() + last<<g.ClusterBits + qcow2.SectorSize
		}
	}
	return 0
}

// longTable gives how long the disk must be for its L1 table to take more than a cluster:
// in bytes, or 0. It says nothing of a table that was made longer for the VM state of a
// snapshot.
func (s *search) longTable() uint64 {
	g := s.f.g
	if n := g.ClusterSize() / 8; s.f.refs != nil && s.active.room > n && len(s.m.snapshots) == 0 {
		return (s.active.room-n)*g.L2Coverage() + qcow2.SectorSize
	}
	return 0
}

// lengthenL1 makes the L1 table as long as the disk takes.
func (s *search) lengthenL1(need uint64) {
	m := &s.m
	n := max(need, uint64(len(s.active.entries)))
	if n > qcow2.MaxL1Entries {
		n = max(qcow2.MaxL1Entries, uint64(len(s.active.entries)))
	}
	if m.l1 == nil && n > s.active.room {
		m.l1 = slices.Clone(s.active.entries)
	}
	if m.l1 != nil {
		m.l1 = append(m.l1, make([]qcow2.L1Entry, n-uint64(len(m.l1)))...)
	}
	m.h.L1Size = uint32(n)
	for i, room := range s.rescued {
		sn := &m.snapshots[i]
		size := m.h.Size
		if need > max(room, uint64(sn.L1Size)) {
			size = max(room, uint64(sn.L1Size)) * s.f.g.L2Coverage()
		}
		sn.L1Size = max(sn.L1Size, uint32(min(need, room)))
		sn.SetExtra(0, size)
	}
}

// looksAt is how much of the disk's beginning is shown to who reads partition tables.
const looksAt = 16 << 20

// diskSays asks what the disk holds how long it is.
func (s *search) diskSays() (landmarks.Size, bool) {
	if s.m.luks != nil || s.f.dataFile {
		return landmarks.Size{}, false
	}
	if s.saysSize {
		return s.said, true
	}
	marks := landmarks.New(s.f.g.L2Coverage())
	shown := uint64(0)
	for i, e := range s.active.entries {
		if e == 0 {
			continue
		}
		marks.Known(uint64(i), uint64(i))
		if shown < looksAt {
			shown += s.show(marks, uint64(i), e.Offset(), looksAt-shown)
		}
	}
	return marks.DiskSize()
}

// show shows the data that an L2 table maps to the scanner, and gives how much it was.
func (s *search) show(marks *landmarks.Scanner, piece uint64, table qcow2.HostOffset, most uint64) (shown uint64) {
	var list []lookAt
	s.f.eachEntry(table, func(i uint64, e qcow2.L2Entry, sub qcow2.SubclusterBitmap) {
		list = append(list, lookAt{table, i << s.f.g.ClusterBits, e, sub})
	})
	data := make([]byte, s.f.g.ClusterSize())
	for _, w := range list {
		if shown >= most {
			break
		}
		if s.clusterData(w.e, w.sub, data) {
			marks.Look(piece, w.at, data)
			shown += uint64(len(data))
		}
	}
	return shown
}

// clusterData reads a guest cluster, as far as this file has it.
func (s *search) clusterData(e qcow2.L2Entry, sub qcow2.SubclusterBitmap, data []byte) bool {
	switch {
	case e.Compressed():
		d := s.f.g.Compressed(e)
		if uint64(d.Offset) >= s.f.size {
			return false
		}
		src := make([]byte, min(d.Length(), s.f.size-uint64(d.Offset)))
		return s.r.readBase(src, int64(d.Offset)) == nil && qcow2.Decompress(s.m.h.CompressionType, data, src) == nil
	case e.Offset() == 0 || uint64(e.Offset()) >= s.f.size || e.Zero() && !s.f.g.ExtendedL2:
		return false
	}
	if s.r.readBase(data, int64(e.Offset())) != nil {
		return false
	}
	if s.f.g.ExtendedL2 {
		n := s.f.g.SubclusterSize()
		for i := range uint64(qcow2.SubclustersPerCluster) {
			if sub.Allocated()>>i&1 == 0 {
				clear(data[i*n : (i+1)*n])
			}
		}
	}
	return true
}
