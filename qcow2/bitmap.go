package qcow2

import "encoding/binary"

// Layout of a bitmap directory entry (specification: "Bitmap directory").
const (
	BitmapHeadSize = 24 // bytes before the extra data

	BitmapFieldTableOffset     = 0
	BitmapFieldTableSize       = 8
	BitmapFieldFlags           = 12
	BitmapFieldType            = 16
	BitmapFieldGranularityBits = 17
	BitmapFieldNameSize        = 18
	BitmapFieldExtraDataSize   = 20
)

// BitmapFlags is the flags field of a bitmap directory entry.
type BitmapFlags uint32

// The flags of the specification.
const (
	BitmapInUse               BitmapFlags = 1 << 0 // not saved correctly
	BitmapAuto                BitmapFlags = 1 << 1 // enabled: records writes
	BitmapExtraDataCompatible BitmapFlags = 1 << 2 // unknown extra data may be ignored
	BitmapFlagsKnown                      = BitmapInUse | BitmapAuto | BitmapExtraDataCompatible
)

// Has tells whether every flag of f is set.
func (s BitmapFlags) Has(f BitmapFlags) bool { return s&f == f }

// BitmapDirtyTracking is the only bitmap type there is.
const BitmapDirtyTracking = 1

// BitmapEntry is an entry of the bitmap directory, as it stands in the file.
type BitmapEntry struct {
	TableOffset     HostOffset
	TableSize       uint32 // entries
	Flags           BitmapFlags
	Type            uint8
	GranularityBits uint8
	NameSize        uint16 // bytes, as claimed
	ExtraDataSize   uint32 // bytes, as claimed
	ExtraData       []byte
	Name            []byte
	Padding         []byte
	EntryOffset     HostOffset // where the entry stands in the file
}

// EntrySize is the size of the entry in bytes, padding included, as it claims.
func (e *BitmapEntry) EntrySize() uint64 {
	return (BitmapHeadSize + uint64(e.ExtraDataSize) + uint64(e.NameSize) + 7) &^ 7
}

// DecodeBitmapEntry decodes the entry at the start of b, which stands at offset
// in the file. When b ends before the entry does the error is [ErrShort], and
// the head is still decoded where b has it. The slices of the entry share b's
// memory.
func DecodeBitmapEntry(b []byte, offset HostOffset) (BitmapEntry, error) {
	e := BitmapEntry{EntryOffset: offset}
	if len(b) < BitmapHeadSize {
		return e, ErrShort
	}
	be := binary.BigEndian
	e.TableOffset = HostOffset(be.Uint64(b[BitmapFieldTableOffset:]))
	e.TableSize = be.Uint32(b[BitmapFieldTableSize:])
	e.Flags = BitmapFlags(be.Uint32(b[BitmapFieldFlags:]))
	e.Type = b[BitmapFieldType]
	e.GranularityBits = b[BitmapFieldGranularityBits]
	e.NameSize = be.Uint16(b[BitmapFieldNameSize:])
	e.ExtraDataSize = be.Uint32(b[BitmapFieldExtraDataSize:])
	extraEnd := BitmapHeadSize + uint64(e.ExtraDataSize)
	nameEnd := extraEnd + uint64(e.NameSize)
	if extraEnd <= uint64(len(b)) {
		e.ExtraData = b[BitmapHeadSize:extraEnd:extraEnd]
	}
	if nameEnd <= uint64(len(b)) {
		e.Name = b[extraEnd:nameEnd:nameEnd]
	}
	if e.EntrySize() > uint64(len(b)) {
		return e, ErrShort
	}
	e.Padding = b[nameEnd:e.EntrySize():e.EntrySize()]
	return e, nil
}

// Encode gives the entry's bytes with zero padding. The sizes are taken from
// Name and ExtraData.
func (e *BitmapEntry) Encode() []byte {
	size := BitmapHeadSize + len(e.ExtraData) + len(e.Name)
	b := make([]byte, (size+7)&^7)
	be := binary.BigEndian
	be.PutUint64(b[BitmapFieldTableOffset:], uint64(e.TableOffset))
	be.PutUint32(b[BitmapFieldTableSize:], e.TableSize)
	be.PutUint32(b[BitmapFieldFlags:], uint32(e.Flags))
	b[BitmapFieldType] = e.Type
	b[BitmapFieldGranularityBits] = e.GranularityBits
	be.PutUint16(b[BitmapFieldNameSize:], uint16(len(e.Name)))
	be.PutUint32(b[BitmapFieldExtraDataSize:], uint32(len(e.ExtraData)))
	copy(b[BitmapHeadSize+copy(b[BitmapHeadSize:], e.ExtraData):], e.Name)
	return b
}

// BitmapBits is the number of bits of a bitmap over a disk of size bytes, one
// for each 1<<granularityBits bytes, the last one possibly for fewer.
func BitmapBits(size uint64, granularityBits uint) uint64 {
	if granularityBits >= 64 {
		return min(size, 1)
	}
	n := size >> granularityBits
	if size&(1<<granularityBits-1) != 0 {
		n++
	}
	return n
}

// BitmapTableEntries is the number of table entries, one for each cluster of
// bitmap data, that a bitmap of the given number of bits takes.
func (g Geometry) BitmapTableEntries(bits uint64) uint64 {
	bytes := bits / 8
	if bits%8 != 0 {
		bytes++
	}
	return g.Clusters(bytes)
}

// BitmapFits tells whether QEMU takes the table of a bitmap of that granularity for a
// virtual disk of size bytes (block/qcow2-bitmap.c, check_dir_entry): it has a
// limit for the table's entries and for the data that they may name.
func (g Geometry) BitmapFits(size uint64, granularityBits uint) bool {
	n := g.BitmapTableEntries(BitmapBits(size, granularityBits))
	return n <= MaxBitmapTableEntries && n <= MaxBitmapPhysicalSize>>g.ClusterBits
}
