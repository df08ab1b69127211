package sniff

import (
	"bytes"
	"encoding/binary"

	"github.com/qcheck/qcheck/qcow2"
)

// Format judges bytes by themselves: whether they could be a structure of an image
// that is in order. It knows nothing of refcounts.
type Format struct {
	g         qcow2.Geometry
	version   uint32
	zeroFlag  bool
	size      uint64 // of the file, in bytes
	entrySize int    // of L2 entries
}

// FormatOf gives the format of an image whose geometry is known.
func FormatOf(img *qcow2.Image) Format {
	return Format{
		g: img.Geometry, version: img.Header.Version, zeroFlag: img.Header.ZeroFlag(),
		size: uint64(img.Size()), entrySize: int(img.Geometry.L2EntrySize()),
	}
}

// Zero tells whether all bytes are zero.
func Zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// L2Table tells whether bytes may be part of an L2 table: every entry is one that
// could be in order. The table of a bitmap reads like one, too.
func (f *Format) L2Table(b []byte) bool {
	for i := 0; i+f.entrySize <= len(b); i += f.entrySize {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(b[i:]))
		if f.entrySize == 16 && qcow2.SubclusterBitmap(binary.BigEndian.Uint64(b[i+8:])).Conflicts() != 0 {
			return false
		}
		if e.Compressed() {
			d := f.g.Compressed(e)
			if e.Copied() || uint64(d.Offset) >= f.size || uint64(d.Offset) < f.g.ClusterSize() {
				return false
			}
			continue
		}
		off := e.Offset()
		if e.Reserved(f.zeroFlag) != 0 || !f.g.Aligned(off) || uint64(off) >= f.size || off == 0 && e.Copied() {
			return false
		}
	}
	return true
}

// L1Table tells whether bytes may be part of an L1 table, which names something.
func (f *Format) L1Table(b []byte) bool {
	named := false
	for i := 0; i+8 <= len(b); i += 8 {
		e := qcow2.L1Entry(binary.BigEndian.Uint64(b[i:]))
		off := e.Offset()
		if e.Reserved() != 0 || !f.inFile(off) || off == 0 && e.Copied() {
			return false
		}
		named = named || off != 0
	}
	return named
}

// BitmapTable tells whether bytes may be part of a bitmap's table.
func (f *Format) BitmapTable(b []byte) bool {
	for i := 0; i+8 <= len(b); i += 8 {
		if !f.bitmapTableEntry(qcow2.BitmapTableEntry(binary.BigEndian.Uint64(b[i:]))) {
			return false
		}
	}
	return true
}

func (f *Format) bitmapTableEntry(e qcow2.BitmapTableEntry) bool {
	return e.ReservedLow()|e.ReservedHigh() == 0 && f.inFile(e.Offset()) && (e.Offset() == 0 || !e.AllOnes())
}

// inFile tells whether a cluster that starts at an offset is in the file; offset 0
// stands for none.
func (f *Format) inFile(off qcow2.HostOffset) bool {
	return f.g.Aligned(off) && uint64(off) < f.size
}

// BitmapEntry tells whether an entry of a bitmap directory holds what one holds that
// is in order, as far as it tells by itself.
func (f *Format) BitmapEntry(e *qcow2.BitmapEntry) bool {
	return e.TableOffset != 0 && f.inFile(e.TableOffset) &&
		e.TableSize != 0 && e.TableSize <= qcow2.MaxBitmapTableEntries &&
		e.Flags&^qcow2.BitmapFlagsKnown == 0 && e.Type == qcow2.BitmapDirtyTracking && e.GranularityBits < 64 &&
		len(e.Name) > 0 && len(e.Name) <= qcow2.MaxBitmapName && bytes.IndexByte(e.Name, 0) < 0 && Zero(e.Padding)
}

// BlankBitmapEntry tells whether an entry of a bitmap directory is made of zeros, as
// after its cluster was discarded.
func BlankBitmapEntry(e *qcow2.BitmapEntry) bool {
	return e.TableOffset == 0 && e.TableSize == 0 && e.Flags == 0 && e.Type == 0 && e.GranularityBits == 0 &&
		e.NameSize == 0 && e.ExtraDataSize == 0
}

// Snapshot tells whether an entry of a snapshot table holds what one that QEMU wrote
// holds.
func (f *Format) Snapshot(s *qcow2.Snapshot) bool {
	need, known := f.SnapshotL1Needed(s)
	return f.g.Aligned(s.L1TableOffset) && f.SnapshotL1Usable(s) && uint64(s.L1Size) >= need &&
		(s.L1Size > 0 || known) && (f.version == 2 || s.ExtraDataSize >= qcow2.SnapshotExtraV3) &&
		len(s.ID) > 0 && bytes.IndexByte(s.ID, 0) < 0 && bytes.IndexByte(s.Name, 0) < 0 && s.DateNsec < 1e9
}

// SnapshotL1Usable tells whether a snapshot's L1 table can be where its entry says.
func (f *Format) SnapshotL1Usable(s *qcow2.Snapshot) bool {
	if s.L1Size == 0 {
		return true // as of a disk of size 0; its place means nothing
	}
	return s.L1TableOffset != 0 && f.inFile(s.L1TableOffset) && s.L1Size <= qcow2.MaxL1Entries &&
		!f.g.PastEnd(s.L1TableOffset, uint64(s.L1Size)*8, int64(f.size))
}

// SnapshotL1Needed is how many L1 entries a snapshot's disk and VM state take; known
// tells that its entry says how large the disk is.
func (f *Format) SnapshotL1Needed(s *qcow2.Snapshot) (need uint64, known bool) {
	disk, known := s.DiskSize()
	if !known {
		return 0, false
	}
	need = f.g.L1EntriesFor(disk)
	if state := s.VMState(); state > 0 {
		need += f.g.L1EntriesFor(state)
	}
	return need, true
}

// BlankSnapshot tells whether an entry of a snapshot table is made of zeros.
func BlankSnapshot(s *qcow2.Snapshot) bool {
	return s.L1TableOffset == 0 && s.L1Size == 0 && s.IDSize == 0 && s.NmSize == 0 && s.ExtraDataSize == 0 &&
		s.DateSec == 0 && s.DateNsec == 0 && s.VMClockNsec == 0 && s.VMStateSize32 == 0
}

// maxBlockEntries is how many of a refcount block's first refcounts are looked at.
const maxBlockEntries = 1 << 16

// RefcountBlock tells whether bytes count something for every cluster that has a
// reference, and nothing for those past the end of the file, were they the block of an
// index of the refcount table. used tells that they count anything.
func (f *Format) RefcountBlock(b []byte, index uint64, references func(qcow2.HostCluster) uint64) (fits, used bool) {
	block := f.g.RefcountBlock(b)
	base := index * f.g.RefcountBlockEntries()
	for i := range min(f.g.RefcountBlockEntries(), maxBlockEntries) {
		counted := block.Get(int(i)) > 0
		used = used || counted
		switch cl := qcow2.HostCluster(base + i); {
		case uint64(cl) >= f.g.Clusters(f.size):
			if counted {
				return false, used
			}
		case !counted && references(cl) > 0:
			return false, used
		}
	}
	return true, used
}
