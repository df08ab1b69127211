package rescue

import (
	"encoding/binary"
	"slices"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// l1table is an L1 table that was found, or a piece of the file that can be one.
type l1table struct {
	off     qcow2.HostOffset
	entries []qcow2.L1Entry // up to the last one that leads to a table
	// room is how many entries there can be before something else follows.
	room uint64
	// start tells that the table begins at off for certain: another cluster before it
	// would belong to something else.
	start bool
	named int // entries that lead to a cluster that reads as an L2 table
	wrong int // entries whose COPIED flag contradicts the refcounts
	// copied is how many entries have the flag.
	copied int
}

// findL1s looks for L1 tables: clusters of which each entry leads to an L2 table of its
// own, or to zeros.
func (f *finder) findL1s() []l1table {
	var pieces []l1table
	for off := range f.scan.clusters(f.g.ClusterBits, sniff.ShapeTable) {
		if off == 0 {
			continue
		}
		if f.refs != nil && f.refs.get(off) == 0 {
			continue // left over
		}
		if l, ok := f.l1Piece(off); ok {
			pieces = append(pieces, l)
		}
	}
	return f.join(pieces)
}

// l1Piece tells whether a cluster, or what is used of it, is a part of an L1 table.
func (f *finder) l1Piece(off qcow2.HostOffset) (l l1table, ok bool) {
	b, ok := f.read(off, f.g.ClusterSize())
	if !ok {
		return l, false
	}
	b = slices.Clone(b[:lastSector(b)])
	return f.l1From(b, off)
}

// lastSector gives how much of a cluster can be a part of an L1 table, in whole sectors.
func lastSector(b []byte) int {
	for i := 0; i+qcow2.SectorSize <= len(b); i += qcow2.SectorSize {
		sector := b[i : i+qcow2.SectorSize]
		for k := 0; k < len(sector); k += 8 {
			if e := qcow2.L1Entry(binary.BigEndian.Uint64(sector[k:])); e.Reserved() != 0 || e != 0 && e.Offset() == 0 {
				return i
			}
		}
	}
	return len(b)
}

// l1From takes bytes as an L1 table. It is one if its entries lead to clusters of the
// file, no two to one, and some of them read as L2 tables; the others must be all zeros.
func (f *finder) l1From(b []byte, off qcow2.HostOffset) (l l1table, ok bool) {
	l = l1table{off: off, room: uint64(len(b) / 8)}
	last := 0
	var named []qcow2.HostOffset
	for i := 0; i+8 <= len(b); i += 8 {
		e := qcow2.L1Entry(binary.BigEndian.Uint64(b[i:]))
		l.entries = append(l.entries, e)
		if e == 0 {
			continue
		}
		to := e.Offset()
		if e.Reserved() != 0 || !f.g.Aligned(to) || to == 0 || to == off || uint64(to) >= f.pastLimit() {
			return l, false
		}
		last = len(l.entries)
		named = append(named, to)
		if e.Copied() {
			l.copied++
		}
	}
	l.entries = l.entries[:last]
	n := len(named)
	if n == 0 || len(sortedOffsets(named)) < n {
		return l, false
	}
	for _, to := range named {
		if _, is := f.table(to); is {
			l.named++
		}
	}
	// Most are no tables where an L2 table is looked at, which leads to data.
	if l.named == 0 || n > 4*l.named+64 {
		return l, false
	}
	for _, to := range named {
		if _, is := f.table(to); is {
			continue
		}
		if uint64(to) < f.size && !f.zero(to) && !f.blank(to) {
			return l, false
		}
	}
	return l, l.named > 0
}

// blank tells whether a cluster is an L2 table that leads nowhere: each of its entries
// says that the cluster reads as zeros.
func (f *finder) blank(off qcow2.HostOffset) bool {
	b, ok := f.read(off, f.g.ClusterSize())
	if !ok {
		return false
	}
	width := int(f.g.L2EntrySize())
	for i := 0; i < len(b); i += width {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(b[i:]))
		if width == 8 && e&^1 != 0 || width == 16 && (e != 0 || uint32(binary.BigEndian.Uint64(b[i+8:])) != 0) {
			return false
		}
	}
	return true
}

// join puts pieces together that follow each other, with nothing but zeros between them
// that belong to nothing else.
func (f *finder) join(pieces []l1table) []l1table {
	var out []l1table
	for _, p := range pieces {
		if k := len(out) - 1; k >= 0 && f.joins(&out[k], &p) {
			continue
		}
		p.start = f.begins(&p)
		out = append(out, p)
	}
	for i := range out {
		f.extend(&out[i])
		f.compare(&out[i])
	}
	return out
}

// extend takes clusters of zeros behind a table for a part of it: QEMU makes a table just
// as long as its disk takes, so that they tell of the disk's size.
func (f *finder) extend(l *l1table) {
	end := l.off + qcow2.HostOffset(l.room*8)
	for f.g.Aligned(end) && l.room < qcow2.MaxL1Entries && f.vacant(end) {
		l.room += f.g.ClusterSize() / 8
		end += qcow2.HostOffset(f.g.ClusterSize())
	}
}

// joins adds a piece to a table if it belongs to it.
func (f *finder) joins(l, p *l1table) bool {
	end := l.off + qcow2.HostOffset(l.room*8)
	if !f.g.Aligned(end) || end > p.off {
		return false
	}
	for off := end; off < p.off; off += qcow2.HostOffset(f.g.ClusterSize()) {
		if uint64(off-end) > qcow2.MaxL1Size || !f.vacant(off) {
			return false
		}
	}
	entries := uint64(p.off-l.off)/8 + uint64(len(p.entries))
	if entries > qcow2.MaxL1Entries {
		return false
	}
	var named []qcow2.HostOffset
	n := 0
	for _, e := range slices.Concat(l.entries, p.entries) {
		if e != 0 {
			named = append(named, e.Offset())
			n++
		}
	}
	if len(sortedOffsets(named)) < n {
		return false // another table, which names some that this one does
	}
	gap := int(uint64(p.off-l.off)/8) - len(l.entries)
	l.entries = append(append(l.entries, make([]qcow2.L1Entry, gap)...), p.entries...)
	l.room = uint64(p.off-l.off)/8 + p.room
	l.named += p.named
	l.copied += p.copied
	return true
}

// vacant tells whether a cluster is all zeros, in use, and belongs to nothing that is
// known.
func (f *finder) vacant(off qcow2.HostOffset) bool {
	if f.refs == nil || f.refs.get(off) != 1 || f.claimed != nil && f.claimed.has(uint64(f.g.HostCluster(off))) {
		return false
	}
	return f.zero(off)
}

// begins moves the start of a table to where it must be, and tells whether that is
// certain. An L1 table can begin with clusters of zeros.
func (f *finder) begins(l *l1table) bool {
	size := qcow2.HostOffset(f.g.ClusterSize())
	at := l.off
	for at > size && uint64(l.off-at) < qcow2.MaxL1Size && f.vacant(at-size) {
		at -= size
	}
	if n := uint64(l.off-at) / 8; n > 0 {
		l.entries = append(make([]qcow2.L1Entry, n), l.entries...)
		l.room += n
		l.off = at
		return true
	}
	if f.refs != nil {
		return true
	}
	// Without refcounts: what lies before it must be something.
	if l.off <= size || !f.zero(l.off-size) {
		return l.off > size
	}
	return f.g.L2Coverage()*f.g.ClusterSize()/8 >= 1<<40 // no disk begins with a tebibyte of nothing
}

// compare holds the COPIED flags of a table and of the L2 tables that it names against the
// refcounts: only in the active disk's do they agree.
func (f *finder) compare(l *l1table) {
	const most = 64 // L2 tables
	if f.refs == nil {
		return
	}
	looked := 0
	for _, e := range l.entries {
		if e == 0 {
			continue
		}
		if e.Copied() != (f.refs.get(e.Offset()) == 1) {
			l.wrong++
		}
		if _, is := f.table(e.Offset()); !is || looked >= most {
			continue
		}
		looked++
		var wrong []qcow2.HostOffset
		f.eachTarget(e.Offset(), func(_ uint64, e qcow2.L2Entry, x qcow2.Extent) {
			if !e.Compressed() && len(wrong) < 1000 && !f.dataFile && e.Copied() != (f.refs.get(x.Offset) == 1) {
				wrong = append(wrong, x.Offset)
			}
		})
		l.wrong += len(wrong)
	}
}
