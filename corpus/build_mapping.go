package corpus

import (
	"fmt"
	"math/rand/v2"

	"github.com/qcheck/qcheck/qcow2"
)

// growL1 makes the L1 table at least n entries long. It moves when its clusters
// cannot hold it.
func (b *builder) growL1(n uint64) {
	if n <= uint64(len(b.l1)) {
		return
	}
	b.l1 = append(b.l1, make([]*l2table, n-uint64(len(b.l1)))...)
	if b.g.Clusters(n*8) != b.g.Clusters(b.l1At.Length) {
		old := b.l1At
		b.l1At = b.place(n * 8)
		b.release(old)
	}
	b.l1At.Length = n * 8
}

// table gives the L2 table for a guest cluster, to be changed: it is made where
// there is none, and copied where a snapshot shares it.
func (b *builder) table(gc uint64) (*l2table, uint64) {
	per := b.g.L2Entries()
	b.growL1(gc/per + 1)
	t := b.l1[gc/per]
	switch {
	case t == nil:
		t = &l2table{cluster: b.alloc(1), e: make([]qcow2.L2Entry, per)}
		if b.g.ExtendedL2 {
			t.sub = make([]qcow2.SubclusterBitmap, per)
		}
	case b.refcount(t.cluster) > 1:
		b.addRefs(t.cluster, 1, -1)
		t = &l2table{cluster: b.alloc(1), e: append([]qcow2.L2Entry(nil), t.e...),
			sub: append([]qcow2.SubclusterBitmap(nil), t.sub...)}
	}
	b.l1[gc/per] = t
	return t, gc % per
}

// free gives up what an entry refers to.
func (b *builder) free(e qcow2.L2Entry) { b.refer(e, -1) }

// refer adds references to the clusters that an entry takes.
func (b *builder) refer(e qcow2.L2Entry, delta int32) {
	switch {
	case e.Compressed():
		d := b.g.Compressed(e)
		first, n := b.g.ClusterSpan(d.Offset, d.Length())
		b.addRefs(first, n, delta)
	case e.Offset() != 0 && b.spec.DataFile == nil:
		b.addRefs(b.g.HostCluster(e.Offset()), 1, delta)
	}
}

// hostCluster gives a cluster for the data of a guest cluster, to be written to;
// fresh tells that it is another one than before.
func (b *builder) hostCluster(gc uint64, e qcow2.L2Entry) (off qcow2.HostOffset, fresh bool) {
	if b.spec.DataFile != nil {
		return qcow2.HostOffset(gc << b.g.ClusterBits), !e.Copied()
	}
	if !e.Compressed() && e.Offset() != 0 && b.refcount(b.g.HostCluster(e.Offset())) == 1 {
		return e.Offset(), false
	}
	end := len(b.refs)
	c := b.alloc(1)
	b.free(e)
	if int(c) < end {
		// It held something before.
		b.img.fill(int64(b.g.HostOffset(c)), int64(b.g.ClusterSize()), 0)
	}
	return b.g.HostOffset(c), true
}

// entry makes the descriptor of an allocated cluster.
func (b *builder) entry(off qcow2.HostOffset) qcow2.L2Entry {
	return qcow2.NewL2Entry(off, b.spec.DataFile != nil, false)
}

// guestBytes reads what the guest sees.
func (b *builder) guestBytes(off, n uint64) []byte {
	p := make([]byte, n)
	b.guest.read(p, int64(off))
	return p
}

// store writes what the guest sees of a range to its place in a host cluster.
func (b *builder) store(guest uint64, host qcow2.HostOffset, n uint64) {
	p := b.guestBytes(guest, n)
	if b.crypt != nil {
		b.crypt.encrypt(p, guest, uint64(host))
	}
	b.data.WriteAt(p, int64(host))
}

// span calls f for each cluster of a range, with the part of it that is in the
// range.
func (b *builder) span(off, n uint64, f func(gc, lo, hi uint64)) {
	size := b.g.ClusterSize()
	for at := off; at < off+n; {
		gc := at / size
		hi := min(off+n, (gc+1)*size)
		f(gc, at-gc*size, hi-gc*size)
		at = hi
	}
}

// inDisk checks that a range lies within the disk, and that it is made up of
// whole units (or ends with the disk).
func (b *builder) inDisk(off, n, unit uint64) error {
	if !qcow2.RangeFits(off, n, b.img.size) {
		return fmt.Errorf("%d bytes at %d are not within a disk of %d bytes", n, off, b.img.size)
	}
	if off%unit != 0 || (off+n)%unit != 0 && off+n != b.img.size {
		return fmt.Errorf("%d bytes at %d are not whole units of %d bytes", n, off, unit)
	}
	return nil
}

// subclusters gives the mask of the subclusters that a part of a cluster
// touches.
func (b *builder) subclusters(lo, hi uint64) uint32 {
	sub := b.g.SubclusterSize()
	first, end := lo/sub, (hi+sub-1)/sub
	return uint32(1<<end - 1<<first)
}

func (w Write) do(b *builder) error {
	if err := b.inDisk(w.Offset, w.Length, 1); err != nil {
		return err
	}
	if w.Compressed {
		if err := b.inDisk(w.Offset, w.Length, b.g.ClusterSize()); err != nil {
			return err
		}
		if b.spec.DataFile != nil || b.spec.Crypt != 0 {
			return fmt.Errorf("no compressed clusters with a data file or encryption")
		}
	}
	w.fill(b.guest)
	var err error
	b.span(w.Offset, w.Length, func(gc, lo, hi uint64) {
		if w.Compressed && err == nil {
			var done bool
			if done, err = b.writeCompressed(gc); done {
				return
			}
		}
		b.writeCluster(gc, lo, hi)
	})
	return err
}

// writeCluster gives a part of a guest cluster a place of its own and stores
// what the guest sees of it, together with the rest of a cluster that had none.
func (b *builder) writeCluster(gc, lo, hi uint64) {
	t, i := b.table(gc)
	old := t.e[i]
	host, fresh := b.hostCluster(gc, old)
	base := gc << b.g.ClusterBits
	t.e[i] = b.entry(host)
	if t.sub == nil {
		// The guest sees the rest of the cluster as before, wherever that was.
		if fresh || old.Zero() {
			lo, hi = 0, b.g.ClusterSize()
		}
		b.store(base+lo, host+qcow2.HostOffset(lo), hi-lo)
		return
	}
	touched := b.subclusters(lo, hi)
	kept := t.sub[i].Allocated()
	if old.Compressed() {
		touched = ^uint32(0)
	}
	t.sub[i] = qcow2.NewSubclusterBitmap(kept|touched, t.sub[i].Zeros()&^touched)
	if fresh {
		touched |= kept
	}
	size := b.g.SubclusterSize()
	for k := range uint64(qcow2.SubclustersPerCluster) {
		if touched>>k&1 != 0 {
			b.store(base+k*size, host+qcow2.HostOffset(k*size), size)
		}
	}
}

// unmap makes a guest cluster one without data.
func (b *builder) unmap(gc uint64, zero bool) {
	t, i := b.table(gc)
	b.free(t.e[i])
	t.e[i] = 0
	if t.sub != nil {
		t.sub[i] = 0
	}
	switch {
	case !zero || b.h.Version == 2:
	case t.sub != nil:
		t.sub[i] = qcow2.NewSubclusterBitmap(0, ^uint32(0))
	default:
		t.e[i] = qcow2.NewL2Entry(0, false, true)
	}
}

func (z Zero) do(b *builder) error {
	if err := b.inDisk(z.Offset, z.Length, b.g.SubclusterSize()); err != nil {
		return err
	}
	if b.h.Version == 2 && (z.Keep || b.base != nil) {
		return fmt.Errorf("version 2 has no zero clusters")
	}
	b.guest.fill(int64(z.Offset), int64(z.Length), 0)
	b.span(z.Offset, z.Length, func(gc, lo, hi uint64) {
		whole := lo == 0 && (hi == b.g.ClusterSize() || gc<<b.g.ClusterBits+hi == b.img.size)
		if whole && !z.Keep {
			b.unmap(gc, true)
			return
		}
		t, i := b.table(gc)
		if !z.Keep && t.e[i] == 0 {
			t.sub[i] = qcow2.NewSubclusterBitmap(0, t.sub[i].Zeros()|b.subclusters(lo, hi))
			return
		}
		b.zeroKept(t, i, gc, b.subclusters(lo, hi))
	})
	return nil
}

// zeroKept makes subclusters (or the cluster) zero that stay allocated.
func (b *builder) zeroKept(t *l2table, i, gc uint64, mask uint32) {
	host, fresh := b.hostCluster(gc, t.e[i])
	if t.sub == nil {
		t.e[i] = b.entry(host) | qcow2.NewL2Entry(0, false, true)
		return
	}
	kept := t.sub[i].Allocated()
	if t.e[i].Compressed() {
		kept = ^uint32(0)
	}
	kept &^= mask
	t.e[i] = b.entry(host)
	t.sub[i] = qcow2.NewSubclusterBitmap(kept, t.sub[i].Zeros()&^kept|mask)
	size := b.g.SubclusterSize()
	for k := range uint64(qcow2.SubclustersPerCluster) {
		if fresh && kept>>k&1 != 0 {
			b.store(gc<<b.g.ClusterBits+k*size, host+qcow2.HostOffset(k*size), size)
		}
	}
}

func (d Discard) do(b *builder) error {
	if err := b.inDisk(d.Offset, d.Length, b.g.ClusterSize()); err != nil {
		return err
	}
	if b.h.Version == 2 && b.base != nil && !d.Full {
		return fmt.Errorf("version 2 has no zero clusters")
	}
	b.discard(d.Offset, d.Length, d.Full)
	return nil
}

func (b *builder) discard(off, n uint64, full bool) {
	b.guest.fill(int64(off), int64(n), 0)
	if full && b.base != nil {
		b.span(off, n, func(gc, lo, hi uint64) {
			p := make([]byte, hi-lo)
			b.base.read(p, int64(gc<<b.g.ClusterBits+lo))
			b.guest.WriteAt(p, int64(gc<<b.g.ClusterBits+lo))
		})
	}
	b.span(off, n, func(gc, _, _ uint64) {
		per := b.g.L2Entries()
		if gc/per >= uint64(len(b.l1)) || b.l1[gc/per] == nil {
			if full || b.base == nil {
				return
			}
		}
		b.unmap(gc, !full)
	})
}

func (m Map) do(b *builder) error {
	if err := b.inDisk(m.Offset, m.Length, b.g.ClusterSize()); err != nil {
		return err
	}
	if b.base != nil || b.crypt != nil {
		return fmt.Errorf("clusters are mapped unwritten only where that reads as zeros")
	}
	first, n := m.Offset>>b.g.ClusterBits, b.g.Clusters(m.Length)
	for i := range n {
		b.table(first + i) // all tables first, as preallocation leaves them
	}
	order := shuffled(n, m.Shuffle)
	for i := range n {
		gc := first + order(i)
		t, k := b.table(gc)
		if t.e[k].Compressed() || t.e[k].Offset() != 0 || t.e[k].Copied() {
			continue
		}
		host, _ := b.hostCluster(gc, t.e[k])
		t.e[k] = b.entry(host)
		if t.sub != nil {
			t.sub[k] = qcow2.NewSubclusterBitmap(^uint32(0), 0)
		}
	}
	return nil
}

// shuffled gives a permutation of 0 to n-1; seed 0 leaves all in place.
func shuffled(n, seed uint64) func(uint64) uint64 {
	if seed == 0 {
		return func(i uint64) uint64 { return i }
	}
	p := make([]uint32, n)
	for i := range p {
		p[i] = uint32(i)
	}
	r := rand.New(rand.NewPCG(seed, seed))
	r.Shuffle(len(p), func(i, k int) { p[i], p[k] = p[k], p[i] })
	return func(i uint64) uint64 { return uint64(p[i]) }
}

func (r Reserve) do(b *builder) error {
	if r.Clusters == 0 || b.img.reserved[r.Name].Length != 0 {
		return fmt.Errorf("%q is taken or empty", r.Name)
	}
	b.img.reserved[r.Name] = b.place(r.Clusters << b.g.ClusterBits)
	return nil
}
