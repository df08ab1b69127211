package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Magic is the first four bytes of every qcow2 image: "QFI\xfb".
const Magic = 0x514649fb

// Lengths of the header in bytes (specification: "Header").
const (
	HeaderLengthV2 = 72
	// HeaderLengthV3 is the least that a version 3 header may have; optional
	// fields follow.
	HeaderLengthV3 = 104
	// HeaderLengthCompression is the length that QEMU writes: up to the
	// compression type and its padding.
	HeaderLengthCompression = 112
)

// Offsets of header fields, for those who must name the bytes at fault.
const (
	FieldMagic                 = 0
	FieldVersion               = 4
	FieldBackingFileOffset     = 8
	FieldBackingFileSize       = 16
	FieldClusterBits           = 20
	FieldSize                  = 24
	FieldCryptMethod           = 32
	FieldL1Size                = 36
	FieldL1TableOffset         = 40
	FieldRefcountTableOffset   = 48
	FieldRefcountTableClusters = 56
	FieldNbSnapshots           = 60
	FieldSnapshotsOffset       = 64
	FieldIncompatibleFeatures  = 72
	FieldCompatibleFeatures    = 80
	FieldAutoclearFeatures     = 88
	FieldRefcountOrder         = 96
	FieldHeaderLength          = 100
	FieldCompressionType       = 104
)

// CryptMethod is how guest data is encrypted.
type CryptMethod uint32

// The encryption methods of the specification.
const (
	CryptNone CryptMethod = 0
	CryptAES  CryptMethod = 1
	CryptLUKS CryptMethod = 2
)

// CompressionType is the method of all compressed clusters of an image.
type CompressionType uint8

// The compression types of the specification.
const (
	CompressionZlib CompressionType = 0
	CompressionZstd CompressionType = 1
)

// Features is one of the three feature bit fields of a version 3 header.
type Features uint64

// Bits of the feature fields.
const (
	IncompatDirty       Features = 1 << 0 // refcounts may be stale
	IncompatCorrupt     Features = 1 << 1 // must not be written to
	IncompatDataFile    Features = 1 << 2 // guest data is in another file
	IncompatCompression Features = 1 << 3 // compression type is not zlib
	IncompatExtendedL2  Features = 1 << 4 // L2 entries with subclusters
	IncompatKnown                = IncompatDirty | IncompatCorrupt | IncompatDataFile | IncompatCompression | IncompatExtendedL2

	CompatLazyRefcounts Features = 1 << 0
	CompatKnown                  = CompatLazyRefcounts

	AutoclearBitmaps Features = 1 << 0 // the bitmaps extension is consistent
	AutoclearRawData Features = 1 << 1 // the data file is a raw image by itself
	AutoclearKnown            = AutoclearBitmaps | AutoclearRawData
)

// Has tells whether every bit of f is set.
func (s Features) Has(f Features) bool { return s&f == f }

// Header is the image header with the specification's fields, decoded but not
// judged: any value that fits its field may stand here. For a version 2 image
// the version 3 fields hold what the specification lets one assume.
type Header struct {
	Version               uint32
	BackingFileOffset     HostOffset // 0: no backing file
	BackingFileSize       uint32     // bytes
	ClusterBits           uint32
	Size                  uint64 // virtual disk size in bytes
	CryptMethod           CryptMethod
	L1Size                uint32 // entries
	L1TableOffset         HostOffset
	RefcountTableOffset   HostOffset
	RefcountTableClusters uint32
	NbSnapshots           uint32
	SnapshotsOffset       HostOffset

	// Version 3 and higher.
	IncompatibleFeatures Features
	CompatibleFeatures   Features
	AutoclearFeatures    Features
	RefcountOrder        uint32
	HeaderLength         uint32 // bytes

	// CompressionType counts only where HeaderLength is above 104.
	CompressionType CompressionType
	// Tail is what follows the compression type up to HeaderLength (or as
	// much of it as was given): padding, and fields of later versions.
	Tail []byte
}

// Errors of [DecodeHeader] and [Open].
var (
	// ErrNotQcow2 means that the file does not start with the qcow2 magic.
	ErrNotQcow2 = errors.New("not a qcow2 image")
	// ErrQcow1 means that it is an image of the format that came before, which has the
	// same magic and is another one all the same. It wraps [ErrNotQcow2].
	ErrQcow1 = fmt.Errorf("%w, but the older format qcow (version 1); qemu-img convert reads it", ErrNotQcow2)
)

// qcow1 tells whether what follows version 1 is a header of the format qcow, and not one
// of qcow2 whose version is wrong: 3 is one bit from 1. At bytes 32 and 33 qcow has the
// bits of a cluster and of an L2 table, and then two of padding, where qcow2 has the
// method of encryption, at most 2.
func qcow1(b []byte) bool {
	clusterBits, l2Bits := b[32], b[33]
	return 9 <= clusterBits && clusterBits <= 16 && 9-3 <= l2Bits && l2Bits <= 16-3 && b[34] == 0 && b[35] == 0
}

// DecodeHeader decodes the header at the start of b. Bytes that b does not
// have are taken as zero, as QEMU does for a short file. The only errors are
// [ErrNotQcow2] and [ErrQcow1]. For a version other than 2 and 3 the fields are those of
// version 3, since later versions can only add to them.
func DecodeHeader(b []byte) (Header, error) {
	var fixed [HeaderLengthCompression]byte
	copy(fixed[:], b)
	be := binary.BigEndian
	u32 := func(at int) uint32 { return be.Uint32(fixed[at:]) }
	u64 := func(at int) uint64 { return be.Uint64(fixed[at:]) }
	if u32(FieldMagic) != Magic {
		return Header{}, ErrNotQcow2
	}
	if u32(FieldVersion) == 1 && qcow1(fixed[:]) {
		return Header{}, ErrQcow1
	}
	h := Header{
		Version:               u32(FieldVersion),
		BackingFileOffset:     HostOffset(u64(FieldBackingFileOffset)),
		BackingFileSize:       u32(FieldBackingFileSize),
		ClusterBits:           u32(FieldClusterBits),
		Size:                  u64(FieldSize),
		CryptMethod:           CryptMethod(u32(FieldCryptMethod)),
		L1Size:                u32(FieldL1Size),
		L1TableOffset:         HostOffset(u64(FieldL1TableOffset)),
		RefcountTableOffset:   HostOffset(u64(FieldRefcountTableOffset)),
		RefcountTableClusters: u32(FieldRefcountTableClusters),
		NbSnapshots:           u32(FieldNbSnapshots),
		SnapshotsOffset:       HostOffset(u64(FieldSnapshotsOffset)),
		RefcountOrder:         4,
		HeaderLength:          HeaderLengthV2,
	}
	if h.Version == 2 {
		return h, nil
	}
	h.IncompatibleFeatures = Features(u64(FieldIncompatibleFeatures))
	h.CompatibleFeatures = Features(u64(FieldCompatibleFeatures))
	h.AutoclearFeatures = Features(u64(FieldAutoclearFeatures))
	h.RefcountOrder = u32(FieldRefcountOrder)
	h.HeaderLength = u32(FieldHeaderLength)
	if h.HeaderLength > FieldCompressionType {
		h.CompressionType = CompressionType(fixed[FieldCompressionType])
		if end := min(uint64(h.HeaderLength), uint64(len(b))); end > FieldCompressionType+1 {
			h.Tail = append([]byte(nil), b[FieldCompressionType+1:end]...)
		}
	}
	return h, nil
}

// Encode gives the header's bytes: 72 for version 2, HeaderLength for version
// 3 (at least 104; a HeaderLength below that writes 104 bytes). Tail is cut or
// filled with zeros to fit.
func (h *Header) Encode() []byte {
	n := HeaderLengthV2
	if h.Version != 2 {
		n = max(int(h.HeaderLength), HeaderLengthV3)
	}
	b := make([]byte, n)
	be := binary.BigEndian
	be.PutUint32(b[FieldMagic:], Magic)
	be.PutUint32(b[FieldVersion:], h.Version)
	be.PutUint64(b[FieldBackingFileOffset:], uint64(h.BackingFileOffset))
	be.PutUint32(b[FieldBackingFileSize:], h.BackingFileSize)
	be.PutUint32(b[FieldClusterBits:], h.ClusterBits)
	be.PutUint64(b[FieldSize:], h.Size)
	be.PutUint32(b[FieldCryptMethod:], uint32(h.CryptMethod))
	be.PutUint32(b[FieldL1Size:], h.L1Size)
	be.PutUint64(b[FieldL1TableOffset:], uint64(h.L1TableOffset))
	be.PutUint64(b[FieldRefcountTableOffset:], uint64(h.RefcountTableOffset))
	be.PutUint32(b[FieldRefcountTableClusters:], h.RefcountTableClusters)
	be.PutUint32(b[FieldNbSnapshots:], h.NbSnapshots)
	be.PutUint64(b[FieldSnapshotsOffset:], uint64(h.SnapshotsOffset))
	if h.Version == 2 {
		return b
	}
	be.PutUint64(b[FieldIncompatibleFeatures:], uint64(h.IncompatibleFeatures))
	be.PutUint64(b[FieldCompatibleFeatures:], uint64(h.CompatibleFeatures))
	be.PutUint64(b[FieldAutoclearFeatures:], uint64(h.AutoclearFeatures))
	be.PutUint32(b[FieldRefcountOrder:], h.RefcountOrder)
	be.PutUint32(b[FieldHeaderLength:], h.HeaderLength)
	if n > FieldCompressionType {
		b[FieldCompressionType] = byte(h.CompressionType)
		copy(b[FieldCompressionType+1:], h.Tail)
	}
	return b
}

// Known tells whether the version is one that this package knows: 2 or 3.
func (h *Header) Known() bool { return h.Version == 2 || h.Version == 3 }

// HasDataFile tells whether guest data is in an external data file.
func (h *Header) HasDataFile() bool { return h.IncompatibleFeatures.Has(IncompatDataFile) }

// ExtendedL2 tells whether L2 entries are 128 bits wide.
func (h *Header) ExtendedL2() bool { return h.IncompatibleFeatures.Has(IncompatExtendedL2) }

// ZeroFlag tells whether bit 0 of a standard cluster descriptor means "reads
// as zeros"; it is reserved in version 2 and with extended L2 entries.
func (h *Header) ZeroFlag() bool { return h.Version != 2 && !h.ExtendedL2() }

// Geometry gives the image's geometry; ok is false when cluster_bits is outside
// of what QEMU or the specification allow, so that nothing beyond the header can
// be located. Extended L2 entries with too small clusters still give a geometry,
// and so does a refcount_order above 6: RefcountOrder is then 0, and
// [Header.RefcountOrderOK] tells that no refcount can be decoded.
func (h *Header) Geometry() (g Geometry, ok bool) {
	if h.ClusterBits < MinClusterBits || h.ClusterBits > MaxClusterBits {
		return Geometry{}, false
	}
	g = Geometry{ClusterBits: uint(h.ClusterBits), ExtendedL2: h.ExtendedL2()}
	if h.RefcountOrderOK() {
		g.RefcountOrder = uint(h.RefcountOrder)
	}
	return g, true
}

// RefcountOrderOK tells whether refcount_order is one that the specification
// allows: 0 to 6.
func (h *Header) RefcountOrderOK() bool { return h.RefcountOrder <= MaxRefcountOrder }

// L1Needed is the number of L1 entries that the virtual size takes.
func (h *Header) L1Needed(g Geometry) uint64 { return g.L1EntriesFor(h.Size) }

// L1EntriesFor is the number of L1 entries that a disk of size bytes takes.
func (g Geometry) L1EntriesFor(size uint64) uint64 {
	cover := g.L2Coverage()
	n := size / cover
	if size%cover != 0 {
		n++
	}
	return n
}

// DiskTooLarge tells that the virtual size takes more L1 entries than QEMU allows, so
// that there can be no such disk (qcow2_do_open).
func (h *Header) DiskTooLarge(g Geometry) bool { return h.L1Needed(g) > MaxL1Entries }

// SectorAlignedSize is the virtual size as QEMU uses it: rounded down to whole
// sectors.
func (h *Header) SectorAlignedSize() uint64 { return h.Size &^ (SectorSize - 1) }
