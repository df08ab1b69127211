package rescue

import (
	"bytes"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// snapshotTable is a snapshot table that was found.
type snapshotTable struct {
	off       qcow2.HostOffset
	length    uint64 // bytes
	snapshots []qcow2.Snapshot
}

// maxTableBytes bounds how much of a snapshot table or a bitmap directory is read.
const maxTableBytes = 4 << 20

// findSnapshots looks for the snapshot table: entries that parse one after the other,
// whose L1 tables are L1 tables. Of several it takes the one that the refcounts count, and
// of those the one with the most entries.
func (f *finder) findSnapshots() (best *snapshotTable, several bool) {
	for _, off := range f.scan.snapshots {
		if !f.g.Aligned(off) || off == 0 || f.refs != nil && f.refs.get(off) == 0 {
			continue
		}
		t := f.snapshotsAt(off)
		if t == nil {
			continue
		}
		several = several || best != nil
		if best == nil || len(t.snapshots) > len(best.snapshots) {
			best = t
		}
	}
	return best, several
}

// snapshotsAt reads the snapshot table at an offset, as far as its entries make sense.
func (f *finder) snapshotsAt(off qcow2.HostOffset) *snapshotTable {
	n := min(f.size-uint64(off), maxTableBytes)
	raw := make([]byte, n)
	if f.r.readBase(raw, int64(off)) != nil {
		return nil
	}
	t := &snapshotTable{off: off}
	ids := make(map[string]bool)
	for at := uint64(0); at < n && len(t.snapshots) < qcow2.MaxSnapshots; {
		s, err := qcow2.DecodeSnapshot(raw[at:], off+qcow2.HostOffset(at))
		if err != nil || len(s.ID) == 0 || ids[string(s.ID)] || !f.snapshotUsable(&s) {
			break
		}
		ids[string(s.ID)] = true
		t.snapshots = append(t.snapshots, s)
		at += s.EntrySize
		t.length = at
	}
	if len(t.snapshots) == 0 {
		return nil
	}
	return t
}

// snapshotUsable tells whether a snapshot's L1 table is where its entry says.
func (f *finder) snapshotUsable(s *qcow2.Snapshot) bool {
	if s.L1Size == 0 || s.L1Size > qcow2.MaxL1Entries || !f.g.Aligned(s.L1TableOffset) || s.L1TableOffset == 0 ||
		bytes.IndexByte(s.ID, 0) >= 0 || bytes.IndexByte(s.Name, 0) >= 0 || s.DateNsec >= 1e9 ||
		!qcow2.RangeFits(uint64(s.L1TableOffset), uint64(s.L1Size)*8, f.size+f.g.ClusterSize()) ||
		f.refs != nil && f.refs.get(s.L1TableOffset) == 0 {
		return false
	}
	b := make([]byte, uint64(s.L1Size)*8)
	if f.r.readBase(b, int64(s.L1TableOffset)) != nil {
		return false
	}
	if sniff.Zero(b) {
		return true
	}
	_, ok := f.l1From(b, s.L1TableOffset)
	return ok
}

// bitmapDirectory is a bitmap directory that was found.
type bitmapDirectory struct {
	ext     qcow2.BitmapsExtension
	entries []qcow2.BitmapEntry
}

// findBitmaps looks for the bitmap directory: entries that parse exactly, and whose tables
// are tables.
func (f *finder) findBitmaps() (best *bitmapDirectory, several bool) {
	for _, off := range f.scan.bitmaps {
		if !f.g.Aligned(off) || off == 0 || f.refs != nil && f.refs.get(off) == 0 ||
			f.claimed != nil && f.claimed.has(uint64(f.g.HostCluster(off))) {
			continue
		}
		d := f.bitmapsAt(off)
		if d == nil {
			continue
		}
		several = several || best != nil
		if best == nil || len(d.entries) > len(best.entries) {
			best = d
		}
	}
	return best, several
}

func (f *finder) bitmapsAt(off qcow2.HostOffset) *bitmapDirectory {
	n := min(f.size-uint64(off), maxTableBytes)
	raw := make([]byte, n)
	if f.r.readBase(raw, int64(off)) != nil {
		return nil
	}
	d := &bitmapDirectory{ext: qcow2.BitmapsExtension{DirectoryOffset: off}}
	names := make(map[string]bool)
	for at := uint64(0); at < n && len(d.entries) < qcow2.MaxBitmaps; {
		e, err := qcow2.DecodeBitmapEntry(raw[at:], off+qcow2.HostOffset(at))
		if err != nil || names[string(e.Name)] || !f.bitmapUsable(&e) {
			break
		}
		names[string(e.Name)] = true
		d.entries = append(d.entries, e)
		at += e.EntrySize()
		d.ext.DirectorySize = at
	}
	d.ext.NbBitmaps = uint32(len(d.entries))
	if len(d.entries) == 0 {
		return nil
	}
	return d
}

// bitmapUsable tells whether a bitmap's entry is one as QEMU writes it, and its table one.
func (f *finder) bitmapUsable(e *qcow2.BitmapEntry) bool {
	if e.TableOffset == 0 || !f.g.Aligned(e.TableOffset) || e.TableSize == 0 || e.TableSize > qcow2.MaxBitmapTableEntries ||
		e.Flags&^qcow2.BitmapFlagsKnown != 0 || e.Type != qcow2.BitmapDirtyTracking ||
		e.GranularityBits < qcow2.MinBitmapGranularity || e.GranularityBits > qcow2.MaxBitmapGranularity ||
		len(e.Name) == 0 || bytes.IndexByte(e.Name, 0) >= 0 || !sniff.Zero(e.Padding) ||
		!qcow2.RangeFits(uint64(e.TableOffset), uint64(e.TableSize)*8, f.size+f.g.ClusterSize()) ||
		f.refs != nil && f.refs.get(e.TableOffset) == 0 {
		return false
	}
	// A table is at most 1 GiB by its claim, and no larger than the file: the first part
	// tells.
	b := make([]byte, min(uint64(e.TableSize)*8, 1<<20))
	if f.r.readBase(b, int64(e.TableOffset)) != nil {
		return false
	}
	for i := 0; i+8 <= len(b); i += 8 {
		t := tableEntry(b[i:])
		if t.ReservedLow()|t.ReservedHigh() != 0 || t.Offset() != 0 && t.AllOnes() || !f.g.Aligned(t.Offset()) || uint64(t.Offset()) >= f.pastLimit() {
			return false
		}
	}
	return true
}

// sizes gives the range in which the size of the disk lies if the bitmaps are those of
// the disk as it is, in bytes: from is part of it, to is the last one.
func (d *bitmapDirectory) sizes(g qcow2.Geometry) (from, to uint64) {
	to = 1 << 62
	for _, e := range d.entries {
		if e.Flags.Has(qcow2.BitmapInUse) {
			continue // it may be from before the disk was resized
		}
		per := g.ClusterSize() * 8 << e.GranularityBits // bytes of the disk for each table entry
		if per == 0 || per > 1<<52 {
			continue
		}
		from, to = max(from, (uint64(e.TableSize)-1)*per+1), min(to, uint64(e.TableSize)*per)
	}
	return from, to
}

// findLUKS looks for the header of an encrypted image: one that no L2 table maps. A guest
// can have such headers too.
func (f *finder) findLUKS() *qcow2.CryptoExtension {
	for _, off := range f.scan.luks {
		if !f.g.Aligned(off) || off == 0 || f.claimed != nil && f.claimed.has(uint64(f.g.HostCluster(off))) ||
			f.refs != nil && f.refs.get(off) == 0 {
			continue
		}
		b, ok := f.read(off, f.g.ClusterSize())
		if !ok {
			continue
		}
		if len(b) < qcow2.LUKSHeaderSize {
			more := make([]byte, qcow2.LUKSHeaderSize)
			if f.r.readBase(more, int64(off)) != nil {
				continue
			}
			b = more
		}
		h := qcow2.DecodeLUKSHeader(b)
		length := uint64(h.PayloadOffset) * qcow2.SectorSize
		if !h.MagicOK() || h.Version != 1 || length == 0 || length > 64<<20 {
			continue
		}
		return &qcow2.CryptoExtension{Offset: off, Length: length}
	}
	return nil
}

// own notes clusters that belong to something, so that nothing else is looked for in them.
func (f *finder) own(off qcow2.HostOffset, length uint64) {
	if length == 0 || !qcow2.RangeFits(uint64(off), length, f.size+f.g.ClusterSize()) {
		return
	}
	first, n := f.g.ClusterSpan(off, length)
	for i := range n {
		f.claimed.set(uint64(first) + i)
		f.roots.set(uint64(first) + i)
	}
}
