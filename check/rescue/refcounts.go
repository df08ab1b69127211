package rescue

import (
	"encoding/binary"
	"slices"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// refcounts are those of the file, where they were found. They are only evidence: which
// of two structures is the one in use, and which is left over from before.
type refcounts struct {
	off      qcow2.HostOffset // of the table
	clusters uint32           // of the table
	order    uint
	table    *refcount.Table
	g        qcow2.Geometry
}

// get gives the refcount of the cluster at an offset; 0 where it cannot be told.
func (r *refcounts) get(off qcow2.HostOffset) uint64 {
	n, err := r.table.Get(r.g.HostCluster(off))
	if err != nil {
		return 0
	}
	return n
}

// reader makes the file a [refcount.Reader].
type reader struct{ r *patched }

func (r reader) ReadAt(p []byte, off qcow2.HostOffset) error { return r.r.readBase(p, int64(off)) }

// findRefcounts looks for the refcount table: it leads to a block that counts the table,
// itself, and the header once, and nothing past the end of the file. Where a place is
// known, only that is looked at.
func (f *finder) findRefcounts(at qcow2.HostOffset, order int) {
	var best *refcounts
	bestScore := 0
	try := func(off qcow2.HostOffset) {
		for o := range uint(qcow2.MaxRefcountOrder + 1) {
			if order >= 0 && o != uint(order) {
				continue
			}
			if r := f.refcountsAt(off, o); r != nil {
				if s := f.agreement(r) + 1; s > bestScore {
					best, bestScore = r, s
				}
			}
		}
	}
	if at != 0 {
		try(at)
	} else {
		for off := range f.scan.clusters(f.g.ClusterBits, sniff.ShapeTable) {
			if off != 0 {
				try(off)
			}
		}
	}
	f.refs = best
}

// refcountsAt tells whether a refcount table is at an offset, for refcounts of a width.
func (f *finder) refcountsAt(off qcow2.HostOffset, order uint) *refcounts {
	g := f.g
	g.RefcountOrder = order
	var head [8]byte
	if f.r.readBase(head[:], int64(off)) != nil {
		return nil
	}
	first := qcow2.RefTableEntry(binary.BigEndian.Uint64(head[:]))
	if first == 0 || first.Reserved() != 0 || !g.Aligned(first.Offset()) || uint64(first.Offset()) >= f.size || first.Offset() == off {
		return nil
	}
	perBlock := g.RefcountBlockEntries()
	need := (g.Clusters(f.size) + perBlock - 1) / perBlock
	clusters := g.Clusters(need * 8)
	if clusters*g.ClusterSize() > qcow2.MaxRefcountTableSize && clusters > 1 {
		return nil
	}
	raw, ok := f.read(off, clusters*g.ClusterSize())
	if !ok {
		return nil
	}
	var blocks []refcount.Block
	for i := range uint64(len(raw) / 8) {
		e := qcow2.RefTableEntry(binary.BigEndian.Uint64(raw[i*8:]))
		if e == 0 {
			continue
		}
		if e.Reserved() != 0 || !g.Aligned(e.Offset()) || uint64(e.Offset()) >= f.pastLimit() {
			return nil
		}
		blocks = append(blocks, refcount.Block{Index: i, Offset: e.Offset()})
	}
	r := &refcounts{off: off, clusters: uint32(clusters), order: order, g: g, table: refcount.NewTable(reader{f.r}, g, blocks, nil)}
	if r.get(0) != 1 || r.get(off) != 1 || r.get(first.Offset()) != 1 {
		return nil
	}
	return r
}

// agreement tells how many of some L2 tables are counted, and -1 where few are.
func (f *finder) agreement(r *refcounts) int {
	const most = 1024
	n, counted := 0, 0
	for i := 0; i < len(f.tables); i += len(f.tables)/most + 1 {
		n++
		if c := r.get(f.tables[i].off); c > 0 && c < 1<<16 {
			counted++
		}
	}
	if counted*2 < n {
		return -1
	}
	if !f.counts(r) {
		return -1
	}
	// Refcounts of another width would seem to count what lies past the end.
	past := f.g.Clusters(f.size)
	for cl := past; cl < past+64; cl++ {
		if c, err := r.table.Get(qcow2.HostCluster(cl)); err == nil && c != 0 {
			if r.order < narrow {
				return -1
			}
			return counted / 2
		}
	}
	return counted
}

// dropRefcounts takes the refcount table and its blocks, which can read like L2 tables,
// from these.
func (f *finder) dropRefcounts() {
	if f.refs == nil {
		return
	}
	not := make(map[qcow2.HostOffset]bool)
	for i := range uint64(f.refs.clusters) {
		not[f.refs.off+qcow2.HostOffset(i*f.g.ClusterSize())] = true
	}
	for _, b := range f.refs.table.Blocks() {
		not[b.Offset] = true
	}
	f.tables = slices.DeleteFunc(f.tables, func(t l2table) bool { return not[t.off] })
}

// counts tells whether refcounts count most of what some L2 tables lead to.
func (f *finder) counts(r *refcounts) bool {
	const tables, targets = 16, 64
	if f.dataFile {
		return true
	}
	n, counted := 0, 0
	for i := 0; i < len(f.tables); i += len(f.tables)/tables + 1 {
		if r.get(f.tables[i].off) == 0 {
			continue
		}
		of := 0
		f.eachTarget(f.tables[i].off, func(_ uint64, _ qcow2.L2Entry, x qcow2.Extent) {
			if of++; of > targets || uint64(x.Offset) >= f.size {
				return
			}
			n++
			if r.get(x.Offset) > 0 {
				counted++
			}
		})
	}
	if r.order < narrow {
		return n >= 4 && counted == n
	}
	return 4*counted >= 3*n
}

// narrow is the log2 of the width below which many bytes can be taken for refcounts.
const narrow = 3
