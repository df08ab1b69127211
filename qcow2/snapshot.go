package qcow2

import (
	"encoding/binary"
	"errors"
)

// Layout of a snapshot table entry (specification: "Snapshots").
const (
	SnapshotHeadSize = 40 // bytes before the extra data
	// SnapshotExtraV3 is the extra data that a version 3 image must have: the
	// 64-bit VM state size and the disk size.
	SnapshotExtraV3 = 16

	SnapshotFieldL1TableOffset = 0
	SnapshotFieldL1Size        = 8
	SnapshotFieldIDSize        = 12
	SnapshotFieldNameSize      = 14
	SnapshotFieldVMStateSize   = 32
	SnapshotFieldExtraDataSize = 36
)

// ErrShort means that an entry does not fit into the bytes at hand.
var ErrShort = errors.New("entry is cut short")

// Snapshot is an entry of the snapshot table, as it stands in the file.
type Snapshot struct {
	L1TableOffset  HostOffset
	L1Size         uint32 // entries
	ID             []byte
	Name           []byte
	DateSec        uint32 // seconds since the Epoch
	DateNsec       uint32
	VMClockNsec    uint64
	VMStateSize32  uint32 // bytes; see VMState
	ExtraDataSize  uint32 // bytes, as claimed
	ExtraData      []byte
	EntryOffset    HostOffset // where the entry stands in the file
	EntrySize      uint64     // bytes, padding included
	IDSize, NmSize uint16     // as claimed; ID and Name have these lengths
}

// DecodeSnapshot decodes the entry at the start of b, which stands at offset in
// the file. The head is always decoded when b has it. The error is [ErrShort]
// when b ends before the entry does (its padding may be missing), or when the
// extra data is larger than maxExtra bytes; EntrySize is then what the entry
// claims.
func DecodeSnapshot(b []byte, offset HostOffset) (Snapshot, error) {
	s := Snapshot{EntryOffset: offset}
	if len(b) < SnapshotHeadSize {
		return s, ErrShort
	}
	be := binary.BigEndian
	s.L1TableOffset = HostOffset(be.Uint64(b[SnapshotFieldL1TableOffset:]))
	s.L1Size = be.Uint32(b[SnapshotFieldL1Size:])
	s.IDSize = be.Uint16(b[SnapshotFieldIDSize:])
	s.NmSize = be.Uint16(b[SnapshotFieldNameSize:])
	s.DateSec = be.Uint32(b[16:])
	s.DateNsec = be.Uint32(b[20:])
	s.VMClockNsec = be.Uint64(b[24:])
	s.VMStateSize32 = be.Uint32(b[SnapshotFieldVMStateSize:])
	s.ExtraDataSize = be.Uint32(b[SnapshotFieldExtraDataSize:])
	size := uint64(SnapshotHeadSize) + uint64(s.ExtraDataSize) + uint64(s.IDSize) + uint64(s.NmSize)
	s.EntrySize = (size + 7) &^ 7
	if size > uint64(len(b)) {
		rest := b[SnapshotHeadSize:]
		s.ExtraData = clone(rest[:min(uint64(s.ExtraDataSize), uint64(len(rest)), MaxSnapshotExtraData)])
		return s, ErrShort
	}
	rest := b[SnapshotHeadSize:size]
	s.ExtraData, rest = clone(rest[:s.ExtraDataSize]), rest[s.ExtraDataSize:]
	s.ID, s.Name = clone(rest[:s.IDSize]), clone(rest[s.IDSize:])
	return s, nil
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// Encode gives the entry's bytes with padding. The sizes are taken from ID,
// Name and ExtraData.
func (s *Snapshot) Encode() []byte {
	size := SnapshotHeadSize + len(s.ExtraData) + len(s.ID) + len(s.Name)
	b := make([]byte, (size+7)&^7)
	be := binary.BigEndian
	be.PutUint64(b[SnapshotFieldL1TableOffset:], uint64(s.L1TableOffset))
	be.PutUint32(b[SnapshotFieldL1Size:], s.L1Size)
	be.PutUint16(b[SnapshotFieldIDSize:], uint16(len(s.ID)))
	be.PutUint16(b[SnapshotFieldNameSize:], uint16(len(s.Name)))
	be.PutUint32(b[16:], s.DateSec)
	be.PutUint32(b[20:], s.DateNsec)
	be.PutUint64(b[24:], s.VMClockNsec)
	be.PutUint32(b[SnapshotFieldVMStateSize:], s.VMStateSize32)
	be.PutUint32(b[SnapshotFieldExtraDataSize:], uint32(len(s.ExtraData)))
	at := SnapshotHeadSize
	for _, part := range [][]byte{s.ExtraData, s.ID, s.Name} {
		at += copy(b[at:], part)
	}
	return b
}

// VMState is the size of the VM state in bytes: the 64-bit field of the extra
// data where present, else the 32-bit one.
func (s *Snapshot) VMState() uint64 {
	if len(s.ExtraData) >= 8 {
		return binary.BigEndian.Uint64(s.ExtraData)
	}
	return uint64(s.VMStateSize32)
}

// DiskSize is the virtual disk size of the snapshot in bytes; ok is false where
// the extra data does not hold it (the image's size is then meant).
func (s *Snapshot) DiskSize() (size uint64, ok bool) {
	if len(s.ExtraData) >= SnapshotExtraV3 {
		return binary.BigEndian.Uint64(s.ExtraData[8:]), true
	}
	return 0, false
}

// SetExtra fills the extra data of version 3 and keeps what follows it.
func (s *Snapshot) SetExtra(vmState, diskSize uint64) {
	if len(s.ExtraData) < SnapshotExtraV3 {
		s.ExtraData = append(s.ExtraData, make([]byte, SnapshotExtraV3-len(s.ExtraData))...)
	}
	binary.BigEndian.PutUint64(s.ExtraData, vmState)
	binary.BigEndian.PutUint64(s.ExtraData[8:], diskSize)
}
