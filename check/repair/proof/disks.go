package proof

import (
	"bytes"
	"iter"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// disk is the active disk or that of a snapshot, before and after.
type disk struct {
	snapshot string // its ID, escaped; empty for the active disk
	size     uint64
	l1, then l1
	// found tells that the L1 table is hung back, so that all of the disk comes up.
	found bool
}

type l1 struct {
	offset  qcow2.HostOffset
	entries uint64
}

func (l l1) extent() qcow2.Extent {
	return qcow2.Extent{Offset: l.offset, Length: min(l.entries, qcow2.MaxL1Entries) * 8}
}

// slot gives the place of an entry.
func (l l1) slot(i uint64) qcow2.HostOffset { return l.offset + qcow2.HostOffset(i*8) }

// disks holds that every disk stays, and goes through the mapping of each.
func (p *prover) disks() error {
	a, b := &p.was.Header, &p.is.Header
	active := disk{
		size: a.Size, l1: l1{a.L1TableOffset, uint64(a.L1Size)}, then: l1{b.L1TableOffset, uint64(b.L1Size)},
		found: slices.Contains(p.plan.Reattached, qcow2.FieldL1TableOffset),
	}
	m := newMapping(p)
	defer m.close()
	if err := m.disk(&active); err != nil {
		return err
	}
	if err := p.snapshots(m); err != nil {
		return err
	}
	if err := m.finish(); err != nil {
		return err
	}
	return p.kept(&active)
}

// snapshots holds that the snapshot table has, in their order, all that it had but for
// those that are given up.
func (p *prover) snapshots(m *mapping) error {
	was := p.before.Snapshots
	is := qcow2.ReadSnapshotTable(p.is)
	table := qcow2.Extent{Offset: p.was.Header.SnapshotsOffset, Length: 1}
	for i := range was {
		// As far as it makes sense.
		size := qcow2.SnapshotHeadSize + len(was[i].ExtraData) + len(was[i].ID) + len(was[i].Name)
		end := was[i].EntryOffset + qcow2.HostOffset(size)
		table.Length = max(table.Length, uint64(end-table.Offset))
	}
	next := is.Snapshots
	if a, b := &p.was.Header, &p.is.Header; a.SnapshotsOffset == b.SnapshotsOffset && a.NbSnapshots == b.NbSnapshots && !p.v.touches(table) {
		next = was // what could be made of it stays
	}
	for i := range was {
		s := &was[i]
		id := check.Escape(s.ID)
		gone := slices.Contains(p.plan.Snapshots, s.EntryOffset)
		if len(next) == 0 || !p.sameSnapshot(s, &next[0]) {
			if !gone {
				return refuse(s.EntryOffset, "%s disappears, or is not what it was", "snapshot "+id)
			}
			m.walkOnly(l1{s.L1TableOffset, uint64(s.L1Size)})
			continue
		}
		t := &next[0]
		next = next[1:]
		if gone && !slices.ContainsFunc(was[i+1:], func(o qcow2.Snapshot) bool { return p.sameSnapshot(&o, s) }) {
			return refuse(s.EntryOffset, "snapshot %s is declared lost and is kept", id)
		}
		d := disk{
			snapshot: id, size: p.was.Header.Size,
			l1: l1{s.L1TableOffset, uint64(s.L1Size)}, then: l1{t.L1TableOffset, uint64(t.L1Size)},
		}
		for _, o := range p.plan.Reattached {
			d.found = d.found || o == s.EntryOffset+qcow2.SnapshotFieldL1TableOffset || o == t.EntryOffset+qcow2.SnapshotFieldL1TableOffset
		}
		if n, ok := s.DiskSize(); ok {
			d.size = n
		}
		if err := m.disk(&d); err != nil {
			return err
		}
		if err := p.kept(&d); err != nil {
			return err
		}
	}
	if len(next) > 0 && !p.allowed.DataLoss {
		return refuse(next[0].EntryOffset, "snapshot %s appears", check.Escape(next[0].ID))
	}
	return nil
}

// sameSnapshot tells whether two entries are of one snapshot. Where its L1 table is does
// not matter here: what it maps is compared.
func (p *prover) sameSnapshot(a, b *qcow2.Snapshot) bool {
	size := func(s *qcow2.Snapshot) uint64 {
		if n, ok := s.DiskSize(); ok {
			return n
		}
		return p.was.Header.Size
	}
	renamed := slices.Contains(p.plan.Renamed, a.EntryOffset)
	return (renamed || bytes.Equal(a.ID, b.ID)) && bytes.Equal(a.Name, b.Name) && a.DateSec == b.DateSec && a.DateNsec == b.DateNsec &&
		a.VMClockNsec == b.VMClockNsec && a.VMState() == b.VMState() && size(a) == size(b)
}

// declared tells whether a part of a disk is declared lost.
func (p *prover) declared(snapshot string, off, length uint64) bool {
	if !p.allowed.DataLoss {
		return false
	}
	for _, r := range p.lost[snapshot] {
		if r.Offset <= off && off < r.Offset+r.Length {
			n := min(length, r.Offset+r.Length-off)
			if off, length = off+n, length-n; length == 0 {
				return true
			}
		}
	}
	return length == 0
}

// kept holds that nothing is declared lost of which every entry that leads to it stays as
// it is.
func (p *prover) kept(d *disk) error {
	cover := p.g.L2Coverage()
	for _, r := range p.lost[d.snapshot] {
		end := r.Offset + r.Length
		for off := r.Offset; off < end; {
			if p.ctx.Err() != nil {
				return p.ctx.Err()
			}
			i := off / cover
			window := (i + 1) * cover
			a, b := p.l1Entry(p.was, d.l1, i), p.l1Entry(p.is, d.then, i)
			if a.Offset() != b.Offset() {
				off = window
				continue
			}
			at := a.Offset() + qcow2.HostOffset(off%cover>>p.g.ClusterBits*p.g.L2EntrySize())
			if a.Offset() == 0 || !p.v.touches(qcow2.Extent{Offset: at, Length: p.g.L2EntrySize()}) {
				return refuse(at, "guest data of %s at 0x%x is declared lost and is kept", diskName(d.snapshot), off)
			}
			off += p.g.ClusterSize()
		}
	}
	return nil
}

// l1Entry reads one entry.
func (p *prover) l1Entry(img *qcow2.Image, l l1, i uint64) qcow2.L1Entry {
	if i >= l.entries {
		return 0
	}
	for _, e := range qcow2.ScanTable[qcow2.L1Entry](img, l.slot(i), 1).All() {
		return e
	}
	return 0
}

// pairs gives the entries of two L1 tables by their index, where one is not zero.
func (p *prover) pairs(a, b l1) iter.Seq2[uint64, [2]qcow2.L1Entry] {
	scan := func(img *qcow2.Image, l l1) iter.Seq2[uint64, qcow2.L1Entry] {
		return qcow2.ReadL1(img, l.offset, l.entries).All()
	}
	return func(yield func(uint64, [2]qcow2.L1Entry) bool) {
		if x := a.extent(); a == b && !p.v.touches(x) {
			for i, e := range scan(p.was, a) {
				if !yield(i, [2]qcow2.L1Entry{e, e}) {
					return
				}
			}
			return
		}
		next, stop := iter.Pull2(scan(p.is, b))
		defer stop()
		k, then, more := next()
		for i, e := range scan(p.was, a) {
			for more && k < i {
				if !yield(k, [2]qcow2.L1Entry{0, then}) {
					return
				}
				k, then, more = next()
			}
			both := [2]qcow2.L1Entry{e, 0}
			if more && k == i {
				both[1] = then
				k, then, more = next()
			}
			if !yield(i, both) {
				return
			}
		}
		for more {
			if !yield(k, [2]qcow2.L1Entry{0, then}) {
				return
			}
			k, then, more = next()
		}
	}
}
