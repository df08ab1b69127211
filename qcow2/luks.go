package qcow2

import (
	"bytes"
	"encoding/binary"
)

// Layout of a LUKS1 header, which the specification's full disk encryption
// header pointer leads to (LUKS On-Disk Format Specification 1.2, "partition
// header"). All offsets in it are in sectors from its own start.
const (
	LUKSHeaderSize  = 592 // bytes
	LUKSMagic       = "LUKS\xba\xbe"
	LUKSKeySlots    = 8
	LUKSKeySlotSize = 48 // bytes

	LUKSFieldMagic         = 0
	LUKSFieldVersion       = 6
	LUKSFieldCipherName    = 8
	LUKSFieldCipherMode    = 40
	LUKSFieldHashSpec      = 72
	LUKSFieldPayloadOffset = 104
	LUKSFieldKeyBytes      = 108
	LUKSFieldUUID          = 168
	LUKSFieldKeySlots      = 208

	// Offsets within a key slot.
	LUKSSlotFieldActive         = 0
	LUKSSlotFieldIterations     = 4
	LUKSSlotFieldMaterialOffset = 40
	LUKSSlotFieldStripes        = 44

	// What a key slot's active field may hold.
	LUKSSlotEnabled  = 0x00ac71f3
	LUKSSlotDisabled = 0x0000dead
)

// LUKSHeader is the part of a LUKS1 header that tells where its pieces are;
// decoded, not judged. Salts, digests and key material are not decoded: nothing
// here can decrypt.
type LUKSHeader struct {
	Magic      [6]byte
	Version    uint16
	CipherName string // up to the first NUL, as all strings here
	CipherMode string
	HashSpec   string
	// PayloadOffset is where the encrypted data would start in a LUKS volume,
	// in sectors. In a qcow2 image it is only where the header with its key
	// material ends.
	PayloadOffset uint32
	KeyBytes      uint32 // length of the master key in bytes
	UUID          string
	KeySlots      [LUKSKeySlots]LUKSKeySlot
}

// LUKSKeySlot is a key slot of a LUKS1 header.
type LUKSKeySlot struct {
	State          uint32 // LUKSSlotEnabled or LUKSSlotDisabled
	Iterations     uint32
	MaterialOffset uint32 // sectors from the start of the LUKS header
	Stripes        uint32
}

// Enabled tells whether the slot holds a key.
func (s LUKSKeySlot) Enabled() bool { return s.State == LUKSSlotEnabled }

// Material is where the slot's key material stands, relative to the start of
// the LUKS header, for a master key of keyBytes: the key in as many stripes.
func (s LUKSKeySlot) Material(keyBytes uint32) (offset, length uint64) {
	return uint64(s.MaterialOffset) * SectorSize, uint64(keyBytes) * uint64(s.Stripes)
}

// MagicOK tells whether the magic is that of LUKS.
func (h *LUKSHeader) MagicOK() bool { return string(h.Magic[:]) == LUKSMagic }

// DecodeLUKSHeader decodes the LUKS1 header at the start of b; bytes that b does
// not have are taken as zero. Where magic or version are others, the fields mean
// nothing.
func DecodeLUKSHeader(b []byte) LUKSHeader {
	var fixed [LUKSHeaderSize]byte
	copy(fixed[:], b)
	be := binary.BigEndian
	text := func(at, n int) string {
		s, _, _ := bytes.Cut(fixed[at:at+n], []byte{0})
		return string(s)
	}
	h := LUKSHeader{
		Magic:         [6]byte(fixed[LUKSFieldMagic:]),
		Version:       be.Uint16(fixed[LUKSFieldVersion:]),
		CipherName:    text(LUKSFieldCipherName, 32),
		CipherMode:    text(LUKSFieldCipherMode, 32),
		HashSpec:      text(LUKSFieldHashSpec, 32),
		PayloadOffset: be.Uint32(fixed[LUKSFieldPayloadOffset:]),
		KeyBytes:      be.Uint32(fixed[LUKSFieldKeyBytes:]),
		UUID:          text(LUKSFieldUUID, 40),
	}
	for i := range h.KeySlots {
		slot := fixed[LUKSFieldKeySlots+i*LUKSKeySlotSize:]
		h.KeySlots[i] = LUKSKeySlot{
			State:          be.Uint32(slot[LUKSSlotFieldActive:]),
			Iterations:     be.Uint32(slot[LUKSSlotFieldIterations:]),
			MaterialOffset: be.Uint32(slot[LUKSSlotFieldMaterialOffset:]),
			Stripes:        be.Uint32(slot[LUKSSlotFieldStripes:]),
		}
	}
	return h
}
