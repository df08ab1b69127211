package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// alloc takes the first run of n free clusters, with a refcount of 1 each, and
// sees to it that there are refcount blocks for them.
func (b *builder) alloc(n uint64) qcow2.HostCluster {
	for {
		for b.refcount(b.hint) != 0 {
			b.hint++
		}
		first, run := b.hint, uint64(0)
		for at := b.hint; run < n; at++ {
			if b.refcount(at) != 0 {
				first, run = at+1, 0
			} else {
				run++
			}
		}
		if b.coverRun(first, n) {
			b.addRefs(first, n, 1)
			return first
		}
	}
}

// coverRun tells whether refcount blocks cover the clusters. Where one is
// missing it is placed in the first free cluster, as QEMU does it (the block may
// hold its own refcount), and the caller must look for free clusters again.
func (b *builder) coverRun(first qcow2.HostCluster, n uint64) bool {
	per := b.g.RefcountBlockEntries()
	lo, hi := uint64(first)/per, (uint64(first)+n-1)/per
	// The first free cluster's own block comes first: without it no other block
	// could be counted there.
	if b.placeBlock(uint64(b.hint) / per) {
		return false
	}
	for i := lo; i <= hi; i++ {
		if b.placeBlock(i) {
			return false
		}
	}
	return true
}

// placeBlock puts refcount block i into the first free cluster, unless it is
// there already.
func (b *builder) placeBlock(i uint64) bool {
	if i < uint64(len(b.blocks)) && b.blocks[i] != 0 {
		return false
	}
	for uint64(len(b.blocks)) <= i {
		b.blocks = append(b.blocks, 0)
	}
	b.blocks[i] = b.hint
	b.addRefs(b.hint, 1, 1)
	return true
}

func (b *builder) refcount(c qcow2.HostCluster) uint32 {
	if uint64(c) >= uint64(len(b.refs)) {
		return 0
	}
	return b.refs[c]
}

// addRefs adds references to clusters; a cluster with none left is free.
func (b *builder) addRefs(first qcow2.HostCluster, n uint64, delta int32) {
	if end := uint64(first) + n; end > uint64(len(b.refs)) {
		b.refs = append(b.refs, make([]uint32, end-uint64(len(b.refs)))...)
	}
	for c := first; c < first+qcow2.HostCluster(n); c++ {
		b.refs[c] += uint32(delta)
		if b.refs[c] == 0 {
			b.hint = min(b.hint, c)
			if c == b.g.HostCluster(b.compressedEnd) {
				b.compressedEnd = 0 // the rest of the cluster is free for others too
			}
		}
	}
}

// place allocates clusters for length bytes of a structure.
func (b *builder) place(length uint64) qcow2.Extent {
	if length == 0 {
		return qcow2.Extent{}
	}
	return qcow2.Extent{Offset: b.g.HostOffset(b.alloc(b.g.Clusters(length))), Length: length}
}

// release gives up the clusters of a structure.
func (b *builder) release(x qcow2.Extent) {
	if x.Length != 0 {
		b.addRefs(b.g.HostCluster(x.Offset), b.g.Clusters(x.Length), -1)
	}
}

// writeRefcounts writes the refcount blocks and the refcount table.
func (b *builder) writeRefcounts() error {
	per := b.g.RefcountBlockEntries()
	most := uint64(1)<<min(b.g.RefcountBits(), 63) - 1
	table := make([]byte, uint64(b.refTableClusters)*b.g.ClusterSize())
	for i, block := range b.blocks {
		if block == 0 {
			continue
		}
		putUint64(table[i*8:], uint64(b.g.HostOffset(block)))
		buf := make([]byte, b.g.ClusterSize())
		lo := uint64(i) * per
		for c := lo; c < min(lo+per, uint64(len(b.refs))); c++ {
			if uint64(b.refs[c]) > most {
				return fmt.Errorf("cluster %d has %d references, more than a refcount of %d bits can hold",
					c, b.refs[c], b.g.RefcountBits())
			}
			putRefcount(buf, b.g.RefcountOrder, c-lo, uint64(b.refs[c]))
		}
		b.img.write(buf, b.g.HostOffset(block))
	}
	b.img.write(table, b.img.refTable.Offset)
	return nil
}

// putRefcount sets entry i of a refcount block.
func putRefcount(block []byte, order uint, i, value uint64) {
	if order >= 3 {
		n := uint64(1) << (order - 3)
		for k := range n {
			block[i*n+k] = byte(value >> (8 * (n - 1 - k)))
		}
		return
	}
	width := uint64(1) << order
	shift := i * width % 8
	mask := byte((1<<width - 1) << shift)
	at := i * width / 8
	block[at] = block[at]&^mask | byte(value<<shift)
}
