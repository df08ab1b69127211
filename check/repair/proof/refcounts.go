package proof

import (
	"bytes"
	"maps"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// refcounts are those of one image: its blocks by their index.
type refcounts struct {
	p      *prover
	img    *qcow2.Image
	there  bool // there is a table
	blocks map[uint64]qcow2.HostOffset
	broken map[uint64]bool // indexes whose block cannot be read
}

func (p *prover) readRefcounts(img *qcow2.Image) refcounts {
	h := &img.Header
	r := refcounts{p: p, img: img, blocks: make(map[uint64]qcow2.HostOffset), broken: make(map[uint64]bool)}
	size := uint64(h.RefcountTableClusters) * p.g.ClusterSize()
	x := qcow2.Extent{Offset: h.RefcountTableOffset, Length: size}
	if x.Offset == 0 || !p.g.Aligned(x.Offset) || size == 0 || size > qcow2.MaxRefcountTableSize || !p.inFile(img, x) {
		return r
	}
	r.there = true
	scan := qcow2.ScanTable[qcow2.RefTableEntry](img, x.Offset, size/8)
	for i, e := range scan.All() {
		if o := e.Offset(); o != 0 && p.g.Aligned(o) && p.inFile(img, qcow2.Extent{Offset: o, Length: p.g.ClusterSize()}) {
			r.blocks[i] = o
		} else {
			r.broken[i] = true
		}
	}
	for _, u := range scan.Unreadable() {
		for at := u.Offset; at < u.Offset+qcow2.HostOffset(u.Length); at += 8 {
			r.broken[uint64(at-x.Offset)/8] = true
		}
	}
	return r
}

// sure tells that the refcount of a cluster can be read.
func (r *refcounts) sure(c qcow2.HostCluster) bool {
	return r.there && !r.broken[uint64(c)/r.p.g.RefcountBlockEntries()]
}

// free tells that a cluster has the refcount 0.
func (r *refcounts) free(c qcow2.HostCluster) bool {
	per := r.p.g.RefcountBlockEntries()
	if !r.sure(c) {
		return false
	}
	block, ok := r.blocks[uint64(c)/per]
	if !ok {
		return true
	}
	var b [8]byte
	bit := uint64(c) % per << r.p.g.RefcountOrder
	at := bit / 64 * 8
	if r.img.ReadAt(b[:], block+qcow2.HostOffset(at)) != nil {
		return false
	}
	return r.p.g.RefcountBlock(b[:]).Get(int((bit-at*8)>>r.p.g.RefcountOrder)) == 0
}

// read gives a block; without one every refcount is 0.
func (r *refcounts) read(index uint64, b []byte) error {
	if o, ok := r.blocks[index]; ok {
		return r.img.ReadAt(b, o)
	}
	clear(b)
	return nil
}

// refcounts finds out which clusters become free. Where the refcounts could not be
// read before, every cluster that is not a hole counts as used.
func (p *prover) refcounts() error {
	if !p.was.Header.RefcountOrderOK() {
		return nil
	}
	p.refs = p.readRefcounts(p.was)
	is := p.readRefcounts(p.is)
	clusters := p.g.Clusters(uint64(p.was.Size()))
	per := p.g.RefcountBlockEntries()
	if !p.refs.there {
		for i := uint64(0); i*per < clusters && is.there; i++ {
			p.refs.broken[i] = true
		}
	}
	all := make(map[uint64]bool)
	for i := range p.refs.blocks {
		all[i] = true
	}
	for i := range p.refs.broken {
		all[i] = true
	}
	a, b := make([]byte, p.g.ClusterSize()), make([]byte, p.g.ClusterSize())
	for _, i := range slices.Sorted(maps.Keys(all)) {
		if p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		o, there := p.refs.blocks[i]
		if there && is.blocks[i] == o && !p.v.touched.has(p.g.HostCluster(o)) || is.broken[i] {
			continue
		}
		if err := p.refs.read(i, a); err != nil {
			clear(a)
			there = false
		}
		if err := is.read(i, b); err != nil {
			return err
		}
		p.compareBlock(i*per, a, b, !there)
	}
	return nil
}

// compareBlock finds the clusters that become free among those of a block, whose first
// one is given. Unsure tells that what was there could not be read.
func (p *prover) compareBlock(first uint64, a, b []byte, unsure bool) {
	end := p.g.Clusters(uint64(p.was.Size()))
	old, now := p.g.RefcountBlock(a), p.g.RefcountBlock(b)
	step := 8 << 3 >> p.g.RefcountOrder
	for i := 0; i < now.Len() && first+uint64(i) < end; {
		if at := i << p.g.RefcountOrder / 8; !unsure && i%step == 0 && bytes.Equal(a[at:at+8], b[at:at+8]) {
			i += step
			continue
		}
		c := qcow2.HostCluster(first + uint64(i))
		if now.Get(i) == 0 && (old.Get(i) > 0 || unsure && !p.was.IsHole(p.g.HostOffset(c), p.g.ClusterSize())) {
			p.freed.add(c, 1)
		}
		i++
	}
}
