package sniff

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// Bounds on what is read in search of bitmaps that were lost, in all.
const (
	maxTried     = 1 << 18 // clusters and table entries
	maxDirectory = 1 << 22 // bytes of one directory
)

// Directory is a bitmap directory that nothing leads to.
type Directory struct {
	Offset  qcow2.HostOffset
	Size    uint64 // bytes
	Entries []qcow2.BitmapEntry
	// Clusters are all that it owns: its own, those of the tables and of the data,
	// each once.
	Clusters []Run
}

// Extension gives what the bitmaps extension must say to lead to the directory.
func (d *Directory) Extension() qcow2.BitmapsExtension {
	return qcow2.BitmapsExtension{NbBitmaps: uint32(len(d.Entries)), DirectorySize: d.Size, DirectoryOffset: d.Offset}
}

// Directory tells whether a bitmap directory starts at a cluster that nothing leads
// to. Where something follows its entries in their last cluster, which may be left over
// from what was there before, the extension must give their number or their size;
// said is nil where there is none.
func (s *Sniffer) Directory(cl qcow2.HostCluster, said *qcow2.BitmapsExtension) (d Directory, ok bool) {
	d.Offset = s.g.HostOffset(cl)
	if !s.startsDirectory(d.Offset) {
		return d, false
	}
	room := uint64(0)
	for room < maxDirectory && s.tried < maxTried && s.Unowned(cl+qcow2.HostCluster(room>>s.g.ClusterBits)) {
		room += s.g.ClusterSize()
		s.tried++
	}
	names := make(map[string]bool)
	taken := make(map[qcow2.HostCluster]bool)
	for len(d.Entries) < qcow2.MaxBitmaps {
		e, ok := s.entryAt(d.Offset+qcow2.HostOffset(d.Size), room-d.Size)
		if !ok || names[string(e.Name)] {
			break
		}
		runs, ok := s.tableOf(e, taken)
		if !ok {
			break
		}
		names[string(e.Name)] = true
		d.Entries = append(d.Entries, *e)
		d.Clusters = append(d.Clusters, runs...)
		d.Size += e.EntrySize()
	}
	if len(d.Entries) == 0 {
		return d, false
	}
	first, n := s.g.ClusterSpan(d.Offset, d.Size)
	for i := range n {
		if taken[first+qcow2.HostCluster(i)] {
			return d, false
		}
	}
	d.Clusters = append(d.Clusters, Run{First: first, N: n, Kind: BitmapDirectory})
	if said != nil && (said.NbBitmaps == uint32(len(d.Entries)) || said.DirectorySize == d.Size) {
		return d, true
	}
	end := s.g.HostOffset(first + qcow2.HostCluster(n))
	zero, err := s.img.IsZero(qcow2.Extent{Offset: d.Offset + qcow2.HostOffset(d.Size), Length: uint64(end-d.Offset) - d.Size})
	return d, zero && err == nil
}

// entryAt reads the entry of a bitmap directory that stands at an offset, with so many
// bytes to go.
func (s *Sniffer) entryAt(off qcow2.HostOffset, room uint64) (*qcow2.BitmapEntry, bool) {
	const most = qcow2.BitmapHeadSize + qcow2.MaxBitmapName + 8
	b, err := s.img.ReadExtent(qcow2.Extent{Offset: off, Length: min(room, most)}, most)
	if err != nil {
		return nil, false
	}
	e, err := qcow2.DecodeBitmapEntry(b, off)
	return &e, err == nil && s.BitmapEntry(&e)
}

// startsDirectory tells whether an entry of a bitmap directory stands at an offset. It
// takes one small read to find out that none does.
func (s *Sniffer) startsDirectory(off qcow2.HostOffset) bool {
	head := s.head[:]
	if s.img.ReadAt(head, off) != nil {
		return false
	}
	e, _ := qcow2.DecodeBitmapEntry(head, off)
	return e.NameSize > 0 && e.EntrySize() <= maxDirectory && e.TableSize > 0 && e.Type == qcow2.BitmapDirtyTracking &&
		e.Flags&^qcow2.BitmapFlagsKnown == 0 && e.TableOffset != 0 && s.inFile(e.TableOffset)
}

// tableOf gives the clusters of a bitmap's table and data, where they are nobody
// else's, none of those taken, and the table has the size that the disk takes; these
// are then taken, too.
func (s *Sniffer) tableOf(e *qcow2.BitmapEntry, taken map[qcow2.HostCluster]bool) ([]Run, bool) {
	if uint64(e.TableSize) != s.entriesFor(e.GranularityBits) && !e.Flags.Has(qcow2.BitmapInUse) {
		return nil, false
	}
	runs, _, ok := s.Table(e.TableOffset, uint64(e.TableSize))
	if !ok {
		return nil, false
	}
	for _, r := range runs {
		for i := range r.N {
			if taken[r.First+qcow2.HostCluster(i)] {
				return nil, false
			}
		}
	}
	for _, r := range runs {
		for i := range r.N {
			taken[r.First+qcow2.HostCluster(i)] = true
		}
	}
	return runs, true
}

// Table tells whether a bitmap's table of so many entries is at an offset, to which
// nothing leads: every entry is sound, and each cluster of the table and of the data
// lacks a reference and is named once. stored is how many clusters of data it names: a
// table without any is nothing but zeros or ones.
func (s *Sniffer) Table(off qcow2.HostOffset, entries uint64) (runs []Run, stored int, ok bool) {
	if off == 0 || entries == 0 || !s.inFile(off) || s.g.PastEnd(off, entries*8, int64(s.size)) {
		return nil, 0, false
	}
	first, n := s.g.ClusterSpan(off, entries*8)
	for cl := first; cl < first+qcow2.HostCluster(n); cl++ {
		if s.tried++; s.tried > maxTried || !s.Unowned(cl) {
			return nil, 0, false
		}
	}
	if s.tried += entries; s.tried > maxTried {
		return nil, 0, false
	}
	scan := qcow2.ScanTable[qcow2.BitmapTableEntry](s.img, off, entries)
	for _, e := range scan.All() {
		if !s.bitmapTableEntry(e) {
			return nil, 0, false
		}
		if e.Offset() == 0 {
			continue
		}
		cl := s.g.HostCluster(e.Offset())
		if !s.Unowned(cl) {
			return nil, 0, false
		}
		stored++
		if k := len(runs); k > 0 && runs[k-1].First+qcow2.HostCluster(runs[k-1].N) == cl {
			runs[k-1].N++
			continue
		}
		runs = append(runs, Run{First: cl, N: 1, Kind: BitmapData})
	}
	if len(scan.Unreadable()) > 0 {
		return nil, 0, false
	}
	runs = append(runs, Run{First: first, N: n, Kind: BitmapTable})
	return runs, stored, !overlap(runs)
}

// overlap tells whether two runs share a cluster.
func overlap(runs []Run) bool {
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	for i := 1; i < len(sorted); i++ {
		if sorted[i].First < sorted[i-1].First+qcow2.HostCluster(sorted[i-1].N) {
			return true
		}
	}
	return false
}
