package repair

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// contentFits tells whether what is stored is as a patch has it: compressed data
// decompresses.
func (c *corrector) contentFits(ctx context.Context, img *qcow2.Image, res *check.Result, ev *check.Evidence, p *patch) (bool, error) {
	switch p.kind {
	case placeL2:
		at := p.at &^ 7
		was, is := c.word(at, 8), c.word(at, 8)
		if was == nil {
			return false, nil
		}
		copy(is[p.at-at:], p.new)
		before, now := qcow2.L2Entry(word64(was)), qcow2.L2Entry(word64(is))
		if now.Compressed() {
			return decompresses(img, now), nil
		}
		return !before.Compressed() || !decompresses(img, before), nil
	case placeHeader:
		end := p.at + qcow2.HostOffset(len(p.new))
		if p.at > qcow2.FieldCompressionType || end <= qcow2.FieldIncompatibleFeatures || res.CompressedClusters == 0 {
			return true, nil
		}
		t := *c.session
		t.img, t.h, t.g, t.ev = img, &img.Header, img.Geometry, ev
		zlib, zstd, err := t.tryCompressed(ctx)
		if img.Header.CompressionType == qcow2.CompressionZstd {
			return zstd, err
		}
		return zlib, err
	}
	return true, nil
}

// decompresses tells whether an L2 entry names data that decompresses to a cluster.
func decompresses(img *qcow2.Image, e qcow2.L2Entry) bool {
	d := img.Geometry.Compressed(e)
	if img.Geometry.PastEnd(d.Offset, d.Length(), img.Size()) {
		return false
	}
	src := make([]byte, d.Length())
	if img.ReadAt(src, d.Offset) != nil {
		return false
	}
	return qcow2.Decompress(img.Header.CompressionType, make([]byte, img.Geometry.ClusterSize()), src) == nil
}

// decide chooses among patches with which everything agrees, where what is stored says
// more than the metadata.
func (c *corrector) decide(rivals []solution) (*solution, bool, error) {
	if len(rivals) != 2 {
		return nil, false, nil
	}
	a, b := &rivals[0], &rivals[1]
	switch {
	case a.kind == placeL2Bitmap && b.kind == placeL2Bitmap && a.at&^15 == b.at&^15:
		return c.subcluster(a, b)
	case a.kind == placeL2 && b.kind == placeL2 && !c.g.ExtendedL2:
		return c.inOrder(a, b)
	}
	return nil, false, nil
}

// subcluster decides for a subcluster that is both allocated and zero by what is stored
// there: zeros read the same either way; anything else was written by somebody.
func (c *corrector) subcluster(a, b *solution) (*solution, bool, error) {
	entry := a.at &^ 15
	raw := c.word(entry, 16)
	if raw == nil {
		return nil, false, nil
	}
	both := qcow2.SubclusterBitmap(word64(raw[8:])).Conflicts()
	if both == 0 || both&(both-1) != 0 {
		return nil, false, nil
	}
	k := 0
	for both>>k != 1 {
		k++
	}
	off := qcow2.L2Entry(word64(raw)).Offset()
	x := qcow2.Extent{Offset: off + qcow2.HostOffset(uint64(k)*c.g.SubclusterSize()), Length: c.g.SubclusterSize()}
	zero, err := c.img.IsZero(x)
	if err != nil || off == 0 || c.h.HasDataFile() {
		return nil, false, nil
	}
	// The upper half of the bitmap holds the bits of zeros.
	isZeroBit := func(s *solution) bool { return s.at%8 < 4 }
	if isZeroBit(b) {
		a, b = b, a
	}
	if !isZeroBit(a) || isZeroBit(b) {
		return nil, false, nil
	}
	if zero && c.h.CryptMethod != qcow2.CryptNone {
		return b, true, nil // nothing was ever written there
	}
	return a, true, nil
}

// inOrder decides between two L2 entries that name one cluster, where another one, a bit
// away, is named by none: the entry is the flipped one that breaks a run of entries in
// which guest and host clusters follow each other, if with the other one two runs would
// be broken.
func (c *corrector) inOrder(a, b *solution) (*solution, bool, error) {
	first, second := a.at&^7, b.at&^7
	was1, was2 := c.word(first, 8), c.word(second, 8)
	if was1 == nil || was2 == nil || first == second || !bytes.Equal(was1, was2) {
		return nil, false, nil
	}
	is1, is2 := c.word(first, 8), c.word(second, 8)
	copy(is1[a.at-first:], a.new)
	copy(is2[b.at-second:], b.new)
	if !bytes.Equal(is1, is2) {
		return nil, false, nil
	}
	near := second - first
	if first > second {
		near = first - second
	}
	if near < 8*leastApart {
		return nil, false, nil
	}
	taken, free := qcow2.L2Entry(word64(was1)).Offset(), qcow2.L2Entry(word64(is1)).Offset()
	forA := c.neighbours(first, free) + c.neighbours(second, taken)
	forB := c.neighbours(first, taken) + c.neighbours(second, free)
	switch {
	case forA >= leastNeighbours && forB == 0:
		return a, true, nil
	case forB >= leastNeighbours && forA == 0:
		return b, true, nil
	}
	return nil, false, nil
}

const (
	// leastApart is how many entries must lie between two that name one cluster: writes
	// of a guest that come at the same time may change places, and then look the same.
	leastApart = 16
	// leastNeighbours is how many of the four entries beside the two must be in order.
	leastNeighbours = 3
)

// neighbours counts the entries beside one that would be in order with it if it named off.
func (c *corrector) neighbours(entry, off qcow2.HostOffset) (n int) {
	cs := qcow2.HostOffset(c.g.ClusterSize())
	if entry&(cs-1) != 0 {
		n += c.follows(entry-8, off-cs)
	}
	if (entry+8)&(cs-1) != 0 {
		n += c.follows(entry+8, off+cs)
	}
	return n
}

func (c *corrector) follows(entry, off qcow2.HostOffset) int {
	raw := c.word(entry, 8)
	if raw == nil {
		return 0
	}
	if e := qcow2.L2Entry(binary.BigEndian.Uint64(raw)); !e.Compressed() && e.Offset() == off {
		return 1
	}
	return 0
}

// listFields lists fields with the value that follows from others.
func (c *corrector) listFields() {
	field := func(at qcow2.HostOffset, n int, v uint64, what string, kind placeKind) {
		old := c.word(at, n)
		if old == nil {
			return
		}
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], v)
		c.list = append(c.list, patch{at: at, old: old, new: bytes.Clone(b[8-n:]), what: what, kind: kind, whole: true})
	}
	if c.h.Version >= 3 {
		for _, n := range []uint64{104, 112} {
			field(qcow2.FieldHeaderLength, 4, n, "header field header_length", placeHeader)
		}
		for n := range uint64(qcow2.MaxRefcountOrder + 1) {
			field(qcow2.FieldRefcountOrder, 4, n, "header field refcount_order", placeHeader)
		}
	}
	for n := uint64(qcow2.MinClusterBits); n <= qcow2.MaxClusterBits; n++ {
		field(qcow2.FieldClusterBits, 4, n, "header field cluster_bits", placeHeader)
	}
	if !c.img.GeometryOK {
		return
	}
	if needed := c.h.L1Needed(c.g); needed <= qcow2.MaxL1Entries {
		field(qcow2.FieldL1Size, 4, needed, "header field l1_size", placeHeader)
	}
	if k := len(c.ev.Blocks); k > 0 {
		field(qcow2.FieldRefcountTableClusters, 4, c.g.Clusters((c.ev.Blocks[k-1].Index+1)*8), "header field refcount_table_clusters", placeHeader)
	}
	for i := range min(len(c.ev.Snapshots), maxPlaces) {
		s := &c.ev.Snapshots[i]
		if size, ok := s.DiskSize(); ok {
			field(s.EntryOffset+qcow2.SnapshotFieldL1Size, 4, c.g.L1EntriesFor(size), "l1_size of a snapshot", placeOther)
		}
	}
}
