package qcow2

import "fmt"

// The four kinds of address in a qcow2 image are different types, so that a
// guest offset can never be used where a host offset is meant. Conversions
// between offsets and clusters go through [Geometry], which knows the cluster
// size.

// HostOffset is a byte offset in the image file.
type HostOffset uint64

// GuestOffset is a byte offset in the virtual disk (or, past its end, in the
// VM state that snapshots keep there).
type GuestOffset uint64

// HostCluster is the index of a cluster in the image file: cluster 0 holds the
// header.
type HostCluster uint64

// GuestCluster is the index of a cluster of the virtual disk.
type GuestCluster uint64

// String gives the offset in hexadecimal, as all messages show offsets.
func (o HostOffset) String() string { return fmt.Sprintf("0x%x", uint64(o)) }

// String gives the offset in hexadecimal, as all messages show offsets.
func (o GuestOffset) String() string { return fmt.Sprintf("0x%x", uint64(o)) }

// Extent is a range of bytes of the image file. A zero Length is an empty
// extent.
type Extent struct {
	Offset HostOffset
	Length uint64 // bytes
}

// RangeFits reports whether length bytes from offset on lie within size bytes.
// It is the one guard for ranges that an image claims: it cannot wrap.
func RangeFits(offset, length, size uint64) bool {
	return offset <= size && length <= size-offset
}

// PastEnd tells whether the range reaches beyond a file of size bytes by a
// whole cluster or more. QEMU allows the last cluster of an image to be
// partly missing (it reads as zeros) and so do we; see
// qcow2_inc_refcounts_imrt.
func (g Geometry) PastEnd(offset HostOffset, length uint64, size int64) bool {
	if length == 0 {
		return uint64(offset) > uint64(size)
	}
	limit := uint64(size) + g.ClusterSize() - 1
	return !RangeFits(uint64(offset), length, limit)
}

// Geometry holds what the header's cluster_bits and feature bits fix for the
// whole image. The zero Geometry is not usable; [Header.Geometry] makes one.
type Geometry struct {
	ClusterBits   uint // 9 to 21 (the specification sets no upper bound, QEMU does)
	RefcountOrder uint // 0 to 6: refcounts are 1<<RefcountOrder bits wide
	ExtendedL2    bool // L2 entries are 128 bits and have 32 subclusters
}

// ClusterSize is the size of a host or guest cluster in bytes.
func (g Geometry) ClusterSize() uint64 { return 1 << g.ClusterBits }

// L2EntrySize is the size of an L2 entry in bytes: 8, or 16 with extended L2
// entries.
func (g Geometry) L2EntrySize() uint64 {
	if g.ExtendedL2 {
		return 16
	}
	return 8
}

// L2Entries is the number of entries in an L2 table, which is one cluster.
func (g Geometry) L2Entries() uint64 { return g.ClusterSize() / g.L2EntrySize() }

// L2Coverage is how many bytes of the virtual disk one L2 table maps: at most
// 2^39 (2 MiB clusters).
func (g Geometry) L2Coverage() uint64 { return g.ClusterSize() * g.L2Entries() }

// SubclusterSize is the size in bytes of a subcluster: a 32nd of a cluster
// with extended L2 entries, a cluster otherwise.
func (g Geometry) SubclusterSize() uint64 {
	if g.ExtendedL2 {
		return g.ClusterSize() / SubclustersPerCluster
	}
	return g.ClusterSize()
}

// RefcountBits is the width of a refcount in bits: 1, 2, 4, … 64.
func (g Geometry) RefcountBits() uint { return 1 << g.RefcountOrder }

// RefcountBlockEntries is the number of refcounts in a refcount block, which
// is one cluster.
func (g Geometry) RefcountBlockEntries() uint64 {
	return g.ClusterSize() * 8 / uint64(g.RefcountBits())
}

// HostCluster gives the cluster that the byte at o lies in.
func (g Geometry) HostCluster(o HostOffset) HostCluster {
	return HostCluster(o >> g.ClusterBits)
}

// GuestCluster gives the guest cluster that the byte at o lies in.
func (g Geometry) GuestCluster(o GuestOffset) GuestCluster {
	return GuestCluster(o >> g.ClusterBits)
}

// HostOffset gives the first byte of a host cluster.
func (g Geometry) HostOffset(c HostCluster) HostOffset {
	return HostOffset(c) << g.ClusterBits
}

// GuestOffset gives the first byte of a guest cluster.
func (g Geometry) GuestOffset(c GuestCluster) GuestOffset {
	return GuestOffset(c) << g.ClusterBits
}

// Aligned tells whether o is the first byte of a cluster.
func (g Geometry) Aligned(o HostOffset) bool {
	return uint64(o)&(g.ClusterSize()-1) == 0
}

// Clusters gives how many clusters n bytes take, rounded up, without wrapping.
func (g Geometry) Clusters(n uint64) uint64 {
	c := n >> g.ClusterBits
	if n&(g.ClusterSize()-1) != 0 {
		c++
	}
	return c
}

// ClusterSpan gives the first host cluster that a range of bytes touches, and
// how many it touches; an empty range touches none. The range must not wrap.
func (g Geometry) ClusterSpan(offset HostOffset, length uint64) (first HostCluster, n uint64) {
	first = g.HostCluster(offset)
	if length == 0 {
		return first, 0
	}
	last := g.HostCluster(offset + HostOffset(length-1))
	return first, uint64(last-first) + 1
}
