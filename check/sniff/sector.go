package sniff

import (
	"encoding/binary"

	"github.com/qcheck/qcheck/qcow2"
)

// Shape is what a sector can be a part of when nothing is known of its image, not even
// the size of its clusters.
type Shape uint8

// The shapes. A sector can have several, or none.
const (
	// ShapeTable: every word is zero or an entry of an L1 or L2 table, a refcount table or
	// a bitmap's table.
	ShapeTable Shape = 1 << iota
	// ShapeExtended: every pair of words is an entry of an L2 table with subclusters.
	ShapeExtended
	// ShapeSnapshots: an entry of a snapshot table begins here.
	ShapeSnapshots
	// ShapeBitmaps: an entry of a bitmap directory begins here.
	ShapeBitmaps
	// ShapeLUKS: a LUKS header begins here.
	ShapeLUKS
	// ShapeHeader: the header of a qcow2 image begins here.
	ShapeHeader
)

// Bits of words that no entry of a table has; see the masks of package qcow2.
const (
	wordReserved = uint64(0x3f00_0000_0000_01fe)
	wordOffset   = uint64(0x00ff_ffff_ffff_fe00)
)

// ShapeOf gives the shapes of a sector of a file of size bytes. A sector of zeros has none.
func ShapeOf(b []byte, size uint64) (s Shape) {
	if tableWords(b) {
		s |= ShapeTable
	}
	if extendedWords(b) {
		s |= ShapeExtended
	}
	be := binary.BigEndian
	switch be.Uint32(b) {
	case qcow2.Magic:
		return s | ShapeHeader
	case 0x4c554b53: // "LUKS"
		if string(b[:len(qcow2.LUKSMagic)]) == qcow2.LUKSMagic {
			return s | ShapeLUKS
		}
	}
	if off := be.Uint64(b); off != 0 && off%qcow2.SectorSize == 0 && off < size {
		if snapshotHead(b) {
			s |= ShapeSnapshots
		}
		if bitmapHead(b) {
			s |= ShapeBitmaps
		}
	}
	return s
}

// tableWord tells whether a word can be an entry of a table, or the first half of one.
func tableWord(w uint64, zeroFlag bool) bool {
	e := qcow2.L2Entry(w)
	switch {
	case e.Compressed():
		return !e.Copied() && w&^(3<<62) != 0
	case w&wordReserved != 0 || e.Zero() && !zeroFlag:
		return false
	}
	return w&wordOffset != 0 || w == 1 || w == 1<<63
}

// tableWords tells whether a sector holds entries, and nothing else.
func tableWords(b []byte) (some bool) {
	for i := 0; i+8 <= len(b); i += 8 {
		w := binary.BigEndian.Uint64(b[i:])
		if w == 0 {
			continue
		}
		if !tableWord(w, true) {
			return false
		}
		some = true
	}
	return some
}

// extendedWords tells whether a sector holds entries with subclusters, and nothing else.
func extendedWords(b []byte) (some bool) {
	for i := 0; i+16 <= len(b); i += 16 {
		w, sub := binary.BigEndian.Uint64(b[i:]), qcow2.SubclusterBitmap(binary.BigEndian.Uint64(b[i+8:]))
		if w == 0 && sub == 0 {
			continue
		}
		e := qcow2.L2Entry(w)
		switch {
		case w != 0 && !tableWord(w, false), sub.Conflicts() != 0, w == 0 && sub.Allocated() != 0, e.Compressed() && sub != 0:
			return false
		}
		some = true
	}
	return some
}

// snapshotHead tells whether an entry of a snapshot table as QEMU writes it begins with
// these bytes.
func snapshotHead(b []byte) bool {
	s, err := qcow2.DecodeSnapshot(b, 0)
	return err == nil && s.L1Size > 0 && s.L1Size <= qcow2.MaxL1Entries && len(s.ID) > 0 && printable(s.ID) && printable(s.Name) &&
		s.DateNsec < 1e9 && len(s.ExtraData)%8 == 0
}

// bitmapHead tells whether an entry of a bitmap directory begins with these bytes.
func bitmapHead(b []byte) bool {
	e, _ := qcow2.DecodeBitmapEntry(b, 0)
	return e.NameSize > 0 && e.NameSize <= qcow2.MaxBitmapName && e.TableSize > 0 && e.TableSize <= qcow2.MaxBitmapTableEntries &&
		e.Type == qcow2.BitmapDirtyTracking && e.Flags&^qcow2.BitmapFlagsKnown == 0 &&
		e.GranularityBits >= qcow2.MinBitmapGranularity && e.GranularityBits <= qcow2.MaxBitmapGranularity
}

// printable tells whether a name holds no control characters.
func printable(name []byte) bool {
	for _, c := range name {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return true
}
