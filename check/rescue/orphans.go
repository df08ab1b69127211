package rescue

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Orphan is a part of the file that holds data which belongs nowhere any more.
type Orphan struct {
	Offset qcow2.HostOffset
	Length uint64 // bytes
}

// maxOrphans bounds the list of orphans.
const maxOrphans = 1 << 20

// orphans finds the clusters that hold something, that are in use as far as the refcounts
// are known, and that nothing in the image to be leads to.
func (s *search) orphans(ctx context.Context, p *Plan) error {
	f, g := s.f, s.f.g
	img, err := qcow2.Open(p.image, p.image.size)
	if err != nil {
		return err
	}
	owned := newClusterSet(g.Clusters(f.size))
	p.used, p.clusterBits = owned, g.ClusterBits
	mark := func(off qcow2.HostOffset, length uint64) {
		if length == 0 || uint64(off) >= f.size {
			return
		}
		first, n := g.ClusterSpan(off, min(length, f.size-uint64(off)))
		p.end = max(p.end, int64(g.HostOffset(first+qcow2.HostCluster(n))))
		for i := range n {
			owned.set(uint64(first) + i)
		}
	}
	s.markMapping(img, mark)
	s.markBitmaps(img, mark)
	mark(0, g.ClusterSize())
	if s.m.luks != nil {
		mark(s.m.luks.Offset, s.m.luks.Length)
	}
	if f.refs != nil {
		mark(f.refs.off, uint64(f.refs.clusters)*g.ClusterSize())
		for _, b := range f.refs.table.Blocks() {
			mark(b.Offset, g.ClusterSize())
		}
	}
	for at := qcow2.HostOffset(0); uint64(at) < f.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, end := img.NextData(at)
		start &^= qcow2.HostOffset(g.ClusterSize() - 1)
		if uint64(start) >= f.size || uint64(end) > f.size && uint64(start) >= f.size {
			break
		}
		end = min(end, qcow2.HostOffset(f.size))
		for at = max(at, start); at < end; at += qcow2.HostOffset(g.ClusterSize()) {
			if !owned.has(uint64(g.HostCluster(at))) && s.holdsData(at) {
				p.orphan(at, min(g.ClusterSize(), f.size-uint64(at)))
			}
		}
	}
	return nil
}

// holdsData tells whether a cluster that nothing leads to holds data.
func (s *search) holdsData(off qcow2.HostOffset) bool {
	f := s.f
	if f.refs != nil && f.refs.get(off) == 0 {
		return false
	}
	if f.refs == nil && s.metadataLike(off) {
		return false // left over, as of refcounts
	}
	b, ok := f.read(off, f.g.ClusterSize())
	return ok && !sniff.Zero(b)
}

// metadataLike tells whether a cluster looks like a refcount table, or a block of refcounts
// that are nearly all 0 or 1.
func (s *search) metadataLike(off qcow2.HostOffset) bool {
	f := s.f
	b, ok := f.read(off, f.g.ClusterSize())
	if !ok {
		return false
	}
	some := false
	for i := 0; i+8 <= len(b); i += 8 {
		w := binary.BigEndian.Uint64(b[i:])
		if w == 0 {
			continue
		}
		some = true
		if w&^0x0003_0003_0003_0003 != 0 && (w&511 != 0 || w>>63 != 0 || w >= f.size) {
			return false
		}
	}
	return some
}

// markMapping marks what the active disk and the snapshots lead to.
func (s *search) markMapping(img *qcow2.Image, mark func(qcow2.HostOffset, uint64)) {
	g := s.f.g
	table := func(off qcow2.HostOffset, n uint64) {
		mark(off, n*8)
		for _, e := range qcow2.ReadL1(img, off, n).All() {
			if !g.Aligned(e.Offset()) || e.Offset() == 0 {
				continue
			}
			mark(e.Offset(), g.ClusterSize())
			if !s.f.dataFile {
				s.f.eachTarget(e.Offset(), func(_ uint64, _ qcow2.L2Entry, x qcow2.Extent) { mark(x.Offset, x.Length) })
			}
		}
	}
	table(img.Header.L1TableOffset, uint64(img.Header.L1Size))
	t := qcow2.ReadSnapshotTable(img)
	mark(t.Extent.Offset, t.Extent.Length)
	for i := range t.Snapshots {
		table(t.Snapshots[i].L1TableOffset, uint64(t.Snapshots[i].L1Size))
	}
}

// markBitmaps marks the clusters of bitmaps.
func (s *search) markBitmaps(img *qcow2.Image, mark func(qcow2.HostOffset, uint64)) {
	if s.m.bitmaps == nil {
		return
	}
	d := qcow2.ReadBitmapDirectory(img, *s.m.bitmaps)
	mark(d.Extent.Offset, d.Extent.Length)
	for _, e := range d.Entries {
		n := min(uint64(e.TableSize), qcow2.MaxBitmapTableEntries)
		mark(e.TableOffset, n*8)
		for _, t := range qcow2.ScanTable[qcow2.BitmapTableEntry](img, e.TableOffset, n).All() {
			if t.Offset() != 0 {
				mark(t.Offset(), s.f.g.ClusterSize())
			}
		}
	}
}

// orphan adds a part of the file to the list.
func (p *Plan) orphan(off qcow2.HostOffset, n uint64) {
	if k := len(p.Orphans) - 1; k >= 0 && p.Orphans[k].Offset+qcow2.HostOffset(p.Orphans[k].Length) == off {
		p.Orphans[k].Length += n
		return
	}
	if len(p.Orphans) >= maxOrphans {
		p.Incomplete = true
		return
	}
	p.Orphans = append(p.Orphans, Orphan{Offset: off, Length: n})
}
