package rescue

import (
	"encoding/binary"
	"slices"
	"sort"

	"github.com/bits-and-blooms/bitset"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// l2table is a cluster that reads as an L2 table.
type l2table struct {
	off    qcow2.HostOffset
	mapped uint32 // entries that lead to data
	past   uint32 // those of them that lead past the end of the file
	plain  uint32 // those of them that are not compressed
	copied uint32 // and those of these that have the COPIED flag
	// identity tells that every entry leads to the offset that it maps, as with an
	// external data file; index is then the place of the table.
	identity bool
	index    uint64
}

// finder knows the structures of a file under one geometry.
type finder struct {
	r    *patched // the file, nothing changed
	size uint64
	scan *scan
	g    qcow2.Geometry
	// tables are the clusters that read as L2 tables, in the order of the file.
	tables   []l2table
	dataFile bool // host offsets are those of an external data file
	buf      []byte

	packed  []packed // some compressed clusters, to try out
	refs    *refcounts
	claimed *clusterSet // clusters that an L2 table maps, and roots
	roots   *clusterSet // clusters of structures that are no L2 tables
}

// packed is where compressed data lies.
type packed struct{ x qcow2.Extent }

// maxPacked is how many compressed clusters are tried out.
const maxPacked = 16

// pastLimit is how far past the end of the file an entry may lead for its table to be
// taken for one: the file may have been cut.
func (f *finder) pastLimit() uint64 {
	if f.dataFile {
		return 1 << 55
	}
	return 64*f.size + 1<<30
}

// findTables looks at every cluster of which a sector can be part of an L2 table.
func (f *finder) findTables() {
	shape := sniff.ShapeTable
	if f.g.ExtendedL2 {
		shape = sniff.ShapeExtended
	}
	f.tables, f.packed = nil, nil
	for off := range f.scan.clusters(f.g.ClusterBits, shape) {
		if off == 0 {
			continue
		}
		b, ok := f.read(off, f.g.ClusterSize())
		if !ok {
			continue
		}
		if t, ok := f.judge(b, off); ok {
			f.tables = append(f.tables, t)
		}
	}
}

// read reads bytes of the file. They are valid until the next call; past the end of the
// file they are zeros.
func (f *finder) read(off qcow2.HostOffset, n uint64) ([]byte, bool) {
	if uint64(off) >= f.size {
		return nil, false
	}
	if uint64(len(f.buf)) < n {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	return b, f.r.readBase(b, int64(off)) == nil
}

// judge tells whether a cluster is an L2 table: each entry is one that could be in order,
// and some lead to data.
func (f *finder) judge(b []byte, at qcow2.HostOffset) (t l2table, ok bool) {
	t = l2table{off: at, identity: true}
	width := int(f.g.L2EntrySize())
	first := true
	zeroFlag := !f.g.ExtendedL2
	for i := 0; i+width <= len(b); i += width {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(b[i:]))
		if width == 16 {
			sub := qcow2.SubclusterBitmap(binary.BigEndian.Uint64(b[i+8:]))
			if sub.Conflicts() != 0 || e.Compressed() && sub != 0 || e == 0 && sub.Allocated() != 0 {
				return t, false
			}
		}
		if e == 0 {
			continue
		}
		if e.Compressed() {
			if !f.judgePacked(e, &t) {
				return t, false
			}
			continue
		}
		off := uint64(e.Offset())
		switch {
		case e.Reserved(zeroFlag) != 0, off&(f.g.ClusterSize()-1) != 0, off >= f.pastLimit(), qcow2.HostOffset(off) == at && !f.dataFile:
			return t, false
		case off == 0 && e.Copied() && !f.dataFile:
			return t, false
		case off == 0 && !e.Copied():
			continue // reads as zeros
		case off >= f.size && e.Zero() && !f.dataFile:
			return t, false
		}
		t.mapped++
		t.plain++
		if e.Copied() {
			t.copied++
		}
		if off >= f.size {
			t.past++
		}
		index, within := off/f.g.L2Coverage(), off%f.g.L2Coverage()
		if first {
			t.index, first = index, false
		}
		if index != t.index || within>>f.g.ClusterBits != uint64(i/width) {
			t.identity = false
		}
	}
	if f.dataFile && !t.identity {
		return t, false
	}
	return t, t.mapped > 0 && (f.dataFile || t.past < t.mapped || t.past <= 4 || uint64(at)*2 > f.size)
}

// judgePacked looks at the entry of a compressed cluster.
func (f *finder) judgePacked(e qcow2.L2Entry, t *l2table) bool {
	d := f.g.Compressed(e)
	off := uint64(d.Offset)
	if e.Copied() || f.dataFile || off >= f.pastLimit() || off < f.g.ClusterSize() || d.Sectors > f.g.ClusterSize()/qcow2.SectorSize+1 {
		return false
	}
	t.mapped++
	t.identity = false
	if off >= f.size {
		t.past++
	} else if len(f.packed) < maxPacked {
		f.packed = append(f.packed, packed{qcow2.Extent{Offset: d.Offset, Length: d.Length()}})
	}
	return true
}

// unpack tries to decompress some of the compressed clusters, and gives how many there
// are and how many of them each method makes a cluster of.
func (f *finder) unpack() (tried, zlib, zstd int) {
	dst := make([]byte, f.g.ClusterSize())
	for _, p := range f.packed {
		src, ok := f.read(p.x.Offset, p.x.Length)
		if !ok {
			continue
		}
		tried++
		switch {
		case qcow2.Decompress(qcow2.CompressionZstd, dst, src) == nil:
			zstd++
		case qcow2.Decompress(qcow2.CompressionZlib, dst, src) == nil:
			zlib++
		}
	}
	return tried, zlib, zstd
}

// table finds the L2 table at an offset.
func (f *finder) table(off qcow2.HostOffset) (*l2table, bool) {
	i := sort.Search(len(f.tables), func(i int) bool { return f.tables[i].off >= off })
	if i == len(f.tables) || f.tables[i].off != off {
		return nil, false
	}
	return &f.tables[i], true
}

// claim notes which clusters of the file the L2 tables map. Of a cluster that was
// overwritten with a table of another image some are wrong, so this only ever speaks
// against something.
func (f *finder) claim() {
	f.claimed = newClusterSet(f.g.Clusters(f.size))
	f.roots = newClusterSet(f.g.Clusters(f.size))
	if f.dataFile {
		return
	}
	for i := range f.tables {
		if f.refs != nil && f.refs.get(f.tables[i].off) == 0 {
			continue // left over
		}
		f.eachTarget(f.tables[i].off, func(_ uint64, _ qcow2.L2Entry, x qcow2.Extent) {
			first, n := f.g.ClusterSpan(x.Offset, x.Length)
			for k := range n {
				f.claimed.set(uint64(first) + k)
			}
		})
	}
}

// eachTarget gives each entry of an L2 table that leads to data, with its place there.
func (f *finder) eachTarget(table qcow2.HostOffset, yield func(i uint64, e qcow2.L2Entry, x qcow2.Extent)) {
	b, ok := f.read(table, f.g.ClusterSize())
	if !ok {
		return
	}
	width := f.g.L2EntrySize()
	for i := range f.g.L2Entries() {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(b[i*width:]))
		switch {
		case e.Compressed():
			d := f.g.Compressed(e)
			yield(i, e, qcow2.Extent{Offset: d.Offset, Length: d.Length()})
		case e.Offset() != 0 || f.dataFile && e.Copied():
			yield(i, e, qcow2.Extent{Offset: e.Offset(), Length: f.g.ClusterSize()})
		}
	}
}

// eachEntry is eachTarget with the bitmap of subclusters, which is all ones where there are
// none, or the cluster is compressed.
func (f *finder) eachEntry(table qcow2.HostOffset, yield func(i uint64, e qcow2.L2Entry, sub qcow2.SubclusterBitmap)) {
	f.eachTarget(table, func(i uint64, e qcow2.L2Entry, _ qcow2.Extent) {
		sub := qcow2.SubclusterBitmap(0xffffffff)
		if f.g.ExtendedL2 && !e.Compressed() {
			sub = qcow2.SubclusterBitmap(binary.BigEndian.Uint64(f.buf[i*16+8:]))
		}
		yield(i, e, sub)
	})
}

// zero tells whether a cluster of the file is all zeros.
func (f *finder) zero(off qcow2.HostOffset) bool {
	b, ok := f.read(off, f.g.ClusterSize())
	return ok && sniff.Zero(b)
}

// clusterSet is a set of the clusters of a file.
type clusterSet struct{ in *bitset.BitSet }

func newClusterSet(n uint64) *clusterSet { return &clusterSet{bitset.New(uint(n))} }

// set puts a cluster into the set; one past the end of the file is left out, since the
// set would grow for it.
func (b *clusterSet) set(i uint64) {
	if i < uint64(b.in.Len()) {
		b.in.Set(uint(i))
	}
}

func (b *clusterSet) has(i uint64) bool { return i < uint64(b.in.Len()) && b.in.Test(uint(i)) }

// sortedOffsets gives offsets in order, each once.
func sortedOffsets(list []qcow2.HostOffset) []qcow2.HostOffset {
	slices.Sort(list)
	return slices.Compact(list)
}

// tableEntry decodes the entry of a bitmap's table.
func tableEntry(b []byte) qcow2.BitmapTableEntry {
	return qcow2.BitmapTableEntry(binary.BigEndian.Uint64(b))
}
