package check

import (
	"bytes"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Nothing but the sizes in a snapshot's entry leads to the next one. Where one of
// them is wrong, or the table was wiped or is looked for in the wrong place, what
// is read as entries is something else, and what the snapshots own seems to be
// nobody's. So entries are looked at twice: those that make no sense are not
// taken for snapshots when others can be found that do.

// snapshotTable is the snapshot table with what was made of it.
type snapshotTable struct {
	qcow2.SnapshotTable
	mended int  // the entry whose sizes are wrong; -1 for none
	blank  bool // the entry at Stop is made of zeros
}

// readSnapshotTable reads the table. Where an entry's sizes are wrong this is
// reported here.
func (c *run) readSnapshotTable() snapshotTable {
	t := snapshotTable{SnapshotTable: qcow2.ReadSnapshotTable(c.img), mended: -1}
	sound := 0
	for sound < len(t.Snapshots) && c.format().Snapshot(&t.Snapshots[sound]) {
		sound++
	}
	if sound == len(t.Snapshots) && !t.Stop.Early() {
		return t
	}
	c.hopeless()
	// The entry that does not make sense may be the wrong one, or the one that
	// leads there.
	for i := min(sound, int(c.h.NbSnapshots)-2); i >= max(0, sound-1); i-- {
		switch {
		case i < len(t.Snapshots):
			if c.mendSnapshots(&t, i, &t.Snapshots[i]) {
				return t
			}
		case t.Partial != nil:
			if c.mendSnapshots(&t, i, t.Partial) {
				return t
			}
		}
	}
	for i := range t.Snapshots {
		if s := &t.Snapshots[i]; sniff.BlankSnapshot(s) {
			t.Stop = qcow2.TableStop{Index: i, Extent: at(s.EntryOffset, t.Extent.Length-uint64(s.EntryOffset-t.Extent.Offset))}
			t.Snapshots, t.Partial, t.blank = t.Snapshots[:i], nil, true
			break
		}
	}
	return t
}

// mendReach is how far behind an entry the next one is looked for, in bytes: the
// longest that QEMU writes has a name and an ID of 255 bytes each.
const mendReach = 1024

// mendSnapshots looks for the entries behind entry i, other than where its sizes
// lead, and takes them over if all of them make sense.
func (c *run) mendSnapshots(t *snapshotTable, i int, s *qcow2.Snapshot) bool {
	missing := int(c.h.NbSnapshots) - i - 1
	if missing > qcow2.MaxSnapshots {
		return false
	}
	for size := uint64(qcow2.SnapshotHeadSize + 8); size <= mendReach; size += 8 {
		next := s.EntryOffset + qcow2.HostOffset(size)
		rest := c.snapshotChain(next, missing)
		if rest == nil {
			continue
		}
		if size == s.EntrySize {
			return false // whatever is wrong with the entry, its sizes are not
		}
		field := at(s.EntryOffset+qcow2.SnapshotFieldIDSize, 4)
		if s.ExtraDataSize < qcow2.SnapshotExtraV3 || uint64(s.ExtraDataSize) > size {
			field = at(s.EntryOffset+qcow2.SnapshotFieldExtraDataSize, 4)
		}
		f := problem.Finding{
			Code: problem.SnapshotEntryOversized, Path: problem.ToSnapshot(i), Extent: field,
			Message: problem.Say("entry %d of %d claims %d bytes (%d of extra data, %d of ID, %d of name), but the next entry follows after %d",
				i+1, c.h.NbSnapshots, s.EntrySize, s.ExtraDataSize, s.IDSize, s.NmSize, size),
		}
		wrong := c.mendedSnapshot(s, size)
		f.Snapshot, f.Of = snapshotName(i, &wrong), problem.SnapshotEntry(i)
		c.report(f)
		t.Snapshots = append(append(t.Snapshots[:i:i], wrong), rest...)
		t.mended, t.Partial = i, nil
		t.Stop = qcow2.TableStop{Index: len(t.Snapshots)}
		last := &t.Snapshots[len(t.Snapshots)-1]
		t.Extent.Length = uint64(last.EntryOffset-t.Extent.Offset) + snapshotSize(last)
		return true
	}
	return false
}

// snapshotSize is the size of an entry without its padding.
func snapshotSize(s *qcow2.Snapshot) uint64 {
	return qcow2.SnapshotHeadSize + uint64(s.ExtraDataSize) + uint64(s.IDSize) + uint64(s.NmSize)
}

// snapshotChain gives the n entries that start at an offset, if all of them make
// sense; otherwise nil.
func (c *run) snapshotChain(from qcow2.HostOffset, n int) []qcow2.Snapshot {
	var chain []qcow2.Snapshot
	for range n {
		b, err := c.img.ReadExtent(at(from, uint64(2*mendReach)), 2*mendReach)
		if err != nil {
			return nil
		}
		s, err := qcow2.DecodeSnapshot(b, from)
		if err != nil || !c.format().Snapshot(&s) {
			return nil
		}
		chain = append(chain, s)
		from += qcow2.HostOffset(s.EntrySize)
	}
	return chain
}

// mendedSnapshot makes the best of an entry of which it is known that it has size
// bytes: its head stands, and with it what the snapshot owns.
func (c *run) mendedSnapshot(s *qcow2.Snapshot, size uint64) qcow2.Snapshot {
	m := *s
	m.ExtraData, m.ID, m.Name, m.EntrySize = nil, nil, nil, size
	b, err := c.img.ReadExtent(at(s.EntryOffset, size), mendReach)
	if err != nil || uint64(len(b)) < size {
		return m
	}
	// QEMU writes 16 or 24 bytes of extra data.
	for _, extra := range []uint64{uint64(s.ExtraDataSize), 16, 24} {
		id, name := uint64(s.IDSize), uint64(s.NmSize)
		if at := qcow2.SnapshotHeadSize + extra; at+id <= size && (extra == 16 || extra == 24) {
			m.ExtraData, m.ID = b[qcow2.SnapshotHeadSize:at], b[at:at+id]
			m.Name = b[at+id : min(size, at+id+name)]
			if at+id+name <= size && size-at-id-name < 8 {
				break // all sizes go together
			}
		}
	}
	m.Name = bytes.TrimRight(m.Name, "\x00")
	return m
}
