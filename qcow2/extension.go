package qcow2

import (
	"bytes"
	"encoding/binary"
)

// ExtensionType is the type of a header extension.
type ExtensionType uint32

// The extension types of the specification.
const (
	ExtEnd           ExtensionType = 0x00000000
	ExtBackingFormat ExtensionType = 0xe2792aca
	ExtFeatureNames  ExtensionType = 0x6803f857
	ExtBitmaps       ExtensionType = 0x23852875
	ExtCrypto        ExtensionType = 0x0537be77
	ExtDataFile      ExtensionType = 0x44415441
)

// Lengths of extensions in bytes.
const (
	extensionHead         = 8 // type and length
	BitmapsExtensionSize  = 24
	CryptoExtensionSize   = 16
	FeatureNameSize       = 48
	MaxBackingFormat      = 15 // QEMU's limit for the backing format's name
	extensionPaddingUnits = 8
)

// Extension is a header extension as it stands in the file.
type Extension struct {
	Type   ExtensionType
	Offset HostOffset // of its head (type and length); the data follows 8 bytes on
	Length uint32     // bytes of data, as claimed
	// Data is as much of the data as lies in the extension area: shorter than
	// Length when the extension overruns it.
	Data []byte
}

// DataOffset is where the extension's data starts.
func (e Extension) DataOffset() HostOffset { return e.Offset + extensionHead }

// Overruns tells that the extension claims more than the extension area holds.
func (e Extension) Overruns() bool { return uint64(e.Length) > uint64(len(e.Data)) }

// ExtensionArea gives the bytes in which the header extensions must lie: from
// the header's end to the backing file name, or to the end of the first
// cluster. It is empty when the backing file name starts within the header; QEMU
// then ignores every extension.
//
// Where header_length is one that cannot be (below 104, not a multiple of 8,
// beyond the first cluster), the header is taken to have the length that QEMU
// writes, so that one wrong field does not hide the extensions.
func (h *Header) ExtensionArea(g Geometry) Extent {
	end := g.ClusterSize()
	if h.BackingFileOffset != 0 && uint64(h.BackingFileOffset) < end {
		end = uint64(h.BackingFileOffset)
	}
	start := uint64(h.HeaderLength)
	if !h.HeaderLengthOK(g) {
		start = HeaderLengthCompression
	}
	if start >= end {
		return Extent{Offset: HostOffset(min(start, end))}
	}
	return Extent{Offset: HostOffset(start), Length: end - start}
}

// HeaderLengthOK tells whether header_length is one that the specification
// allows: 72 in version 2, else at least 104, a multiple of 8, and within the
// first cluster.
func (h *Header) HeaderLengthOK(g Geometry) bool {
	if h.Version == 2 {
		return h.HeaderLength == HeaderLengthV2
	}
	return h.HeaderLength >= HeaderLengthV3 && h.HeaderLength%8 == 0 && uint64(h.HeaderLength) <= g.ClusterSize()
}

// DecodeExtensions walks the header extensions in area, which starts at offset
// base of the file. It ends at the end marker, at the end of the area, or at
// an extension that overruns it, which is the last one returned. complete
// tells whether the walk ended in order: neither overrun, nor with a rest of the
// area (1 to 7 bytes) that is too short for the head of another extension.
func DecodeExtensions(area []byte, base HostOffset) (exts []Extension, complete bool) {
	at := uint64(0)
	for RangeFits(at, extensionHead, uint64(len(area))) {
		typ := ExtensionType(binary.BigEndian.Uint32(area[at:]))
		length := binary.BigEndian.Uint32(area[at+4:])
		ext := Extension{Type: typ, Offset: base + HostOffset(at), Length: length}
		rest := area[at+extensionHead:]
		ext.Data = rest[:min(uint64(length), uint64(len(rest)))]
		if typ == ExtEnd && !ext.Overruns() {
			return exts, true
		}
		exts = append(exts, ext)
		if ext.Overruns() {
			return exts, false
		}
		at = uint64(ext.End() - base)
	}
	return exts, at >= uint64(len(area))
}

// End is where the next extension starts, if the area goes that far.
func (e Extension) End() HostOffset {
	return e.DataOffset() + HostOffset((uint64(e.Length)+extensionPaddingUnits-1)&^(extensionPaddingUnits-1))
}

// EncodeExtension gives the bytes of an extension, head and padding included.
func EncodeExtension(typ ExtensionType, data []byte) []byte {
	b := make([]byte, extensionHead, extensionHead+len(data)+extensionPaddingUnits)
	binary.BigEndian.PutUint32(b, uint32(typ))
	binary.BigEndian.PutUint32(b[4:], uint32(len(data)))
	b = append(b, data...)
	for len(b)%extensionPaddingUnits != 0 {
		b = append(b, 0)
	}
	return b
}

// BitmapsExtension is the header extension that points to the bitmap directory
// (specification: "Bitmaps extension").
type BitmapsExtension struct {
	NbBitmaps       uint32
	Reserved        uint32
	DirectorySize   uint64 // bytes
	DirectoryOffset HostOffset
}

// Offsets of the fields within the bitmaps extension's data.
const (
	BitmapsExtNbBitmaps       = 0
	BitmapsExtReserved        = 4
	BitmapsExtDirectorySize   = 8
	BitmapsExtDirectoryOffset = 16
)

// DecodeBitmapsExtension decodes the extension's data; bytes that are missing
// are taken as zero.
func DecodeBitmapsExtension(data []byte) BitmapsExtension {
	var b [BitmapsExtensionSize]byte
	copy(b[:], data)
	be := binary.BigEndian
	return BitmapsExtension{
		NbBitmaps:       be.Uint32(b[BitmapsExtNbBitmaps:]),
		Reserved:        be.Uint32(b[BitmapsExtReserved:]),
		DirectorySize:   be.Uint64(b[BitmapsExtDirectorySize:]),
		DirectoryOffset: HostOffset(be.Uint64(b[BitmapsExtDirectoryOffset:])),
	}
}

// Encode gives the 24 bytes of the extension's data.
func (e BitmapsExtension) Encode() []byte {
	b := make([]byte, BitmapsExtensionSize)
	be := binary.BigEndian
	be.PutUint32(b[BitmapsExtNbBitmaps:], e.NbBitmaps)
	be.PutUint32(b[BitmapsExtReserved:], e.Reserved)
	be.PutUint64(b[BitmapsExtDirectorySize:], e.DirectorySize)
	be.PutUint64(b[BitmapsExtDirectoryOffset:], uint64(e.DirectoryOffset))
	return b
}

// CryptoExtension points to the encryption header (specification: "Full disk
// encryption header pointer").
type CryptoExtension struct {
	Offset HostOffset
	Length uint64 // bytes
}

// DecodeCryptoExtension decodes the extension's data; bytes that are missing
// are taken as zero.
func DecodeCryptoExtension(data []byte) CryptoExtension {
	var b [CryptoExtensionSize]byte
	copy(b[:], data)
	return CryptoExtension{
		Offset: HostOffset(binary.BigEndian.Uint64(b[0:])),
		Length: binary.BigEndian.Uint64(b[8:]),
	}
}

// Encode gives the 16 bytes of the extension's data.
func (e CryptoExtension) Encode() []byte {
	b := make([]byte, CryptoExtensionSize)
	binary.BigEndian.PutUint64(b[0:], uint64(e.Offset))
	binary.BigEndian.PutUint64(b[8:], e.Length)
	return b
}

// FeatureType tells which of the three feature fields a name belongs to.
type FeatureType uint8

// The feature types of the feature name table.
const (
	FeatureIncompatible FeatureType = 0
	FeatureCompatible   FeatureType = 1
	FeatureAutoclear    FeatureType = 2
)

// FeatureName is an entry of the feature name table.
type FeatureName struct {
	Type FeatureType
	Bit  uint8
	Name string
}

// DecodeFeatureNames decodes the whole entries of a feature name table.
func DecodeFeatureNames(data []byte) []FeatureName {
	var names []FeatureName
	for ; len(data) >= FeatureNameSize; data = data[FeatureNameSize:] {
		name, _, _ := bytes.Cut(data[2:FeatureNameSize], []byte{0})
		names = append(names, FeatureName{Type: FeatureType(data[0]), Bit: data[1], Name: string(name)})
	}
	return names
}

// EncodeFeatureNames gives the data of a feature name table; names longer than
// 46 bytes are cut.
func EncodeFeatureNames(names []FeatureName) []byte {
	b := make([]byte, 0, len(names)*FeatureNameSize)
	for _, n := range names {
		var e [FeatureNameSize]byte
		e[0], e[1] = byte(n.Type), n.Bit
		copy(e[2:], n.Name)
		b = append(b, e[:]...)
	}
	return b
}
