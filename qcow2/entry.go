package qcow2

import "math/bits"

// Masks of the on-disk entries. Numbers are bit positions in the big-endian
// 64-bit word, bit 0 the least significant, as in the specification.
const (
	flagCopied     = uint64(1) << 63
	flagCompressed = uint64(1) << 62
	flagZero       = uint64(1)

	// offsetMask covers bits 9-55: a host offset in L1, L2 and bitmap table
	// entries.
	offsetMask = uint64(0x00ff_ffff_ffff_fe00)

	l1ReservedMask     = uint64(0x7f00_0000_0000_01ff) // bits 0-8 and 56-62
	l2ReservedMask     = uint64(0x3f00_0000_0000_01fe) // bits 1-8 and 56-61
	refTableReserved   = uint64(0x1ff)                 // bits 0-8
	bitmapReservedLow  = uint64(0x1fe)                 // bits 1-8
	bitmapReservedHigh = uint64(0xff00_0000_0000_0000) // bits 56-63
)

// SubclustersPerCluster is the number of subclusters in a cluster of an image
// with extended L2 entries.
const SubclustersPerCluster = 32

// L1Entry points to an L2 table (specification: "L1 table entry").
type L1Entry uint64

// Offset is where the L2 table starts (bits 9-55); 0 means that nothing in
// this part of the disk is allocated.
func (e L1Entry) Offset() HostOffset { return HostOffset(uint64(e) & offsetMask) }

// Copied tells that the L2 table has a refcount of exactly one and may be
// written in place. Only meaningful in the active L1 table.
func (e L1Entry) Copied() bool { return uint64(e)&flagCopied != 0 }

// Reserved gives the reserved bits (0-8 and 56-62) that are set.
func (e L1Entry) Reserved() uint64 { return uint64(e) & l1ReservedMask }

// NewL1Entry makes an entry from an offset (bits 9-55) and the COPIED flag.
func NewL1Entry(o HostOffset, copied bool) L1Entry {
	e := uint64(o) & offsetMask
	if copied {
		e |= flagCopied
	}
	return L1Entry(e)
}

// RefTableEntry points to a refcount block (specification: "Refcount table
// entry"). Unlike L1 and L2 entries its offset goes up to bit 63.
type RefTableEntry uint64

// Offset is where the refcount block starts (bits 9-63); 0 means that every
// refcount of the block is 0.
func (e RefTableEntry) Offset() HostOffset { return HostOffset(uint64(e) &^ refTableReserved) }

// Reserved gives the reserved bits (0-8) that are set.
func (e RefTableEntry) Reserved() uint64 { return uint64(e) & refTableReserved }

// BitmapTableEntry describes one cluster of a bitmap's data (specification:
// "Bitmap table").
type BitmapTableEntry uint64

// Offset is where the data cluster starts (bits 9-55); 0 means that it is not
// stored, and AllOnes tells how it reads.
func (e BitmapTableEntry) Offset() HostOffset { return HostOffset(uint64(e) & offsetMask) }

// AllOnes is bit 0: a cluster that is not stored reads as ones. Together with
// an offset it is reserved.
func (e BitmapTableEntry) AllOnes() bool { return uint64(e)&flagZero != 0 }

// ReservedLow gives the reserved bits 1-8 that are set.
func (e BitmapTableEntry) ReservedLow() uint64 { return uint64(e) & bitmapReservedLow }

// ReservedHigh gives the reserved bits 56-63 that are set.
func (e BitmapTableEntry) ReservedHigh() uint64 { return uint64(e) & bitmapReservedHigh }

// NewBitmapTableEntry makes an entry that points to a stored data cluster.
func NewBitmapTableEntry(o HostOffset) BitmapTableEntry {
	return BitmapTableEntry(uint64(o) & offsetMask)
}

// AllOnesEntry is the bitmap table entry of a cluster of ones that is not
// stored.
const AllOnesEntry = BitmapTableEntry(flagZero)

// L2Entry is the first 64 bits of an L2 table entry: the whole entry, or with
// extended L2 entries its descriptor, which a [SubclusterBitmap] follows.
type L2Entry uint64

// Copied tells that the cluster has a refcount of exactly one and may be
// written in place. Only meaningful below the active L1 table.
func (e L2Entry) Copied() bool { return uint64(e)&flagCopied != 0 }

// Compressed tells that this is a compressed cluster descriptor.
func (e L2Entry) Compressed() bool { return uint64(e)&flagCompressed != 0 }

// Zero is bit 0 of a standard descriptor: the cluster reads as zeros, whatever
// its offset holds. Reserved in version 2 and with extended L2 entries.
func (e L2Entry) Zero() bool { return uint64(e)&flagZero != 0 }

// Offset is the host offset of a standard descriptor (bits 9-55).
func (e L2Entry) Offset() HostOffset { return HostOffset(uint64(e) & offsetMask) }

// Reserved gives the reserved bits of a standard descriptor that are set: bits
// 1-8 and 56-61, and bit 0 too where zeroFlag is false (version 2, extended L2
// entries).
func (e L2Entry) Reserved(zeroFlag bool) uint64 {
	mask := l2ReservedMask
	if !zeroFlag {
		mask |= flagZero
	}
	return uint64(e) & mask
}

// NewL2Entry makes a standard descriptor.
func NewL2Entry(o HostOffset, copied, zero bool) L2Entry {
	e := uint64(o) & offsetMask
	if copied {
		e |= flagCopied
	}
	if zero {
		e |= flagZero
	}
	return L2Entry(e)
}

// CompressedDescriptor is what a compressed L2 entry says (specification:
// "Compressed Clusters Descriptor").
type CompressedDescriptor struct {
	Offset  HostOffset // first byte of the compressed data; need not be aligned
	Sectors uint64     // sectors used, the one that holds Offset included
}

// Length is the number of bytes from Offset to the end of the last sector.
// The compressed data may end before it.
func (d CompressedDescriptor) Length() uint64 {
	return d.Sectors*SectorSize - uint64(d.Offset)%SectorSize
}

// compressedShift is x of the specification, 62 - (cluster_bits - 8): bits
// below it are the offset, bits from it to 61 count additional sectors.
func (g Geometry) compressedShift() uint { return 62 - (g.ClusterBits - 8) }

// Compressed takes a compressed entry apart. The offset may have bits above
// 55 set when cluster_bits is below 14; that is for the caller to judge.
func (g Geometry) Compressed(e L2Entry) CompressedDescriptor {
	x := g.compressedShift()
	raw := uint64(e) &^ (flagCopied | flagCompressed)
	return CompressedDescriptor{
		Offset:  HostOffset(raw & (1<<x - 1)),
		Sectors: raw>>x + 1,
	}
}

// NewCompressedEntry makes a compressed entry from the place and the length
// (bytes, at least 1, at most a cluster plus what the first sector wastes) of
// the compressed data.
func (g Geometry) NewCompressedEntry(o HostOffset, length uint64) L2Entry {
	x := g.compressedShift()
	additional := (uint64(o)+length-1)/SectorSize - uint64(o)/SectorSize
	return L2Entry(flagCompressed | additional<<x | uint64(o)&(1<<x-1))
}

// SubclusterBitmap is the second word of an extended L2 entry.
type SubclusterBitmap uint64

// Allocated gives bits 0-31: the subclusters whose data is in this image.
func (b SubclusterBitmap) Allocated() uint32 { return uint32(b) }

// Zeros gives bits 32-63: the subclusters that read as zeros.
func (b SubclusterBitmap) Zeros() uint32 { return uint32(b >> 32) }

// Conflicts gives the subclusters that are said to be both allocated and zero,
// which the specification forbids.
func (b SubclusterBitmap) Conflicts() uint32 { return b.Allocated() & b.Zeros() }

// ConflictCount is the number of subclusters in conflict, 0 to 32.
func (b SubclusterBitmap) ConflictCount() int { return bits.OnesCount32(b.Conflicts()) }

// NewSubclusterBitmap joins the two halves.
func NewSubclusterBitmap(allocated, zeros uint32) SubclusterBitmap {
	return SubclusterBitmap(uint64(zeros)<<32 | uint64(allocated))
}
