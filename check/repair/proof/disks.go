package proof

import (
	"bytes"
	"iter"
	"slices"
	"sort"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// disk is the active disk or that of a snapshot, before and after.
type disk struct {
	of       problem.SnapshotRef // in the table as it was before
	name     string              // for a reader
	size     uint64
	l1, then l1
	// found tells that the L1 table is hung back, so that all of the disk comes up.
	found bool
}

func (d *disk) String() string { return d.name }

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
		name: "the disk", size: a.Size, l1: l1{a.L1TableOffset, uint64(a.L1Size)}, then: l1{b.L1TableOffset, uint64(b.L1Size)},
		found: p.reattached[qcow2.FieldL1TableOffset],
	}
	if p.before.Result.Has(problem.L1TooSmall) && a.L1TableOffset == b.L1TableOffset {
		// It was cut off: the entries behind l1_size are evidence, too.
		active.l1.entries = max(active.l1.entries, active.then.entries)
	}
	m := newMapping(p)
	defer m.close()
	if err := m.disk(&active); err != nil {
		return err
	}
	if err := p.declaredKept(&active); err != nil {
		return err
	}
	found, err := p.snapshots(m)
	if err != nil {
		return err
	}
	if err := m.finish(); err != nil {
		return err
	}
	if err := p.hungBack(m.later); err != nil {
		return err
	}
	return p.foundSnapshots(found)
}

// hungBack holds that nothing referred to tables that are hung back, and that what they say
// stays.
func (p *prover) hungBack(all []hung) error {
	if len(all) == 0 {
		return nil
	}
	p.owned.freeze()
	for _, h := range all {
		if !p.unownedBefore(qcow2.Extent{Offset: h.table, Length: p.g.ClusterSize()}) {
			return refuse(h.table, "an L2 table is hung back that was not lost")
		}
	}
	m := newMapping(p)
	defer m.close()
	for _, h := range all {
		if _, err := m.window(&h.disk, h.index, h.table, h.table, false); err != nil {
			return err
		}
	}
	return m.finish()
}

// snapshots holds that the snapshot table has, in their order, all that it had but for
// those that are given up. It gives those that have come up behind them.
func (p *prover) snapshots(m *mapping) (found []qcow2.Snapshot, err error) {
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
	gone := setOf(p.plan.Snapshots)
	for i := range was {
		s := &was[i]
		if i%(1<<8) == 0 && p.ctx.Err() != nil {
			return nil, p.ctx.Err()
		}
		if gone[s.EntryOffset] {
			if err := m.walkOnly(l1{s.L1TableOffset, uint64(s.L1Size)}); err != nil {
				return nil, err
			}
			continue
		}
		if len(next) == 0 || !p.sameSnapshot(s, &next[0]) {
			return nil, refuse(s.EntryOffset, "snapshot %s disappears, or is not what it was", check.Escape(s.ID))
		}
		t := &next[0]
		next = next[1:]
		d := p.snapshotDisk(i, s)
		d.then = l1{t.L1TableOffset, uint64(t.L1Size)}
		d.found = p.reattached[s.EntryOffset+qcow2.SnapshotFieldL1TableOffset] || p.reattached[t.EntryOffset+qcow2.SnapshotFieldL1TableOffset]
		if err := m.disk(&d); err != nil {
			return nil, err
		}
		if err := p.declaredKept(&d); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// snapshotDisk is the disk of entry i of the snapshot table.
func (p *prover) snapshotDisk(i int, s *qcow2.Snapshot) disk {
	l := l1{s.L1TableOffset, uint64(s.L1Size)}
	d := disk{of: problem.SnapshotEntry(i), name: "snapshot " + check.Shorten(check.Escape(s.ID)), size: p.was.Header.Size, l1: l, then: l}
	if n, ok := s.DiskSize(); ok {
		d.size = n
	}
	return d
}

// foundSnapshots holds that the snapshots that have come up were there, and that nothing
// led to them.
func (p *prover) foundSnapshots(found []qcow2.Snapshot) error {
	if len(found) == 0 {
		return nil
	}
	known := func(o qcow2.Snapshot) bool { return p.sameSnapshot(&o, &found[0]) }
	if len(p.plan.Snapshots) > 0 && slices.ContainsFunc(p.before.Snapshots, known) {
		return refuse(found[0].EntryOffset, "snapshot %s is declared lost and is kept", check.Escape(found[0].ID))
	}
	if !p.allowed.Reattach || !p.before.Result.Has(problem.SnapshotsOrphaned) {
		return refuse(found[0].EntryOffset, "snapshot %s appears", check.Escape(found[0].ID))
	}
	p.owned.freeze()
	for i := range found {
		s := &found[i]
		for _, x := range []qcow2.Extent{{Offset: s.EntryOffset, Length: s.EntrySize}, {Offset: s.L1TableOffset, Length: uint64(s.L1Size) * 8}} {
			// The first entries of the table are known.
			own := x.Offset == s.L1TableOffset || len(p.before.Snapshots) == 0
			if x.Length > 0 && own && !p.unownedBefore(x) {
				return refuse(x.Offset, "snapshot %s appears, and what it lies in was not lost", check.Escape(s.ID))
			}
		}
	}
	m := newMapping(p)
	defer m.close()
	for i := range found {
		s := &found[i]
		d := p.snapshotDisk(len(p.before.Snapshots)+i, s)
		p.back[d.of] = true
		p.referenceExtent(d.l1.extent(), true)
		p.referenceExtent(qcow2.Extent{Offset: s.EntryOffset, Length: s.EntrySize}, true)
		if err := m.disk(&d); err != nil {
			return err
		}
		if err := p.declaredKept(&d); err != nil {
			return err
		}
	}
	return m.finish()
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
	renamed := p.renamed[a.EntryOffset]
	return (renamed || bytes.Equal(a.ID, b.ID)) && bytes.Equal(a.Name, b.Name) && a.DateSec == b.DateSec && a.DateNsec == b.DateNsec &&
		a.VMClockNsec == b.VMClockNsec && a.VMState() == b.VMState() && size(a) == size(b)
}

// declared tells whether a part of a disk is declared lost.
func (p *prover) declared(of problem.SnapshotRef, off, length uint64) bool {
	if !p.allowed.DataLoss {
		return false
	}
	all := p.lost[of]
	i := sort.Search(len(all), func(i int) bool { return all[i].Offset+all[i].Length > off })
	return i < len(all) && all[i].Offset <= off && length <= all[i].Offset+all[i].Length-off
}

// declaredKept holds that nothing is declared lost of which every entry that leads to it
// stays as it is.
func (p *prover) declaredKept(d *disk) error {
	cover := p.g.L2Coverage()
	was, is := l1Reader{img: p.was, l: d.l1}, l1Reader{img: p.is, l: d.then}
	n := 0
	for _, r := range p.lost[d.of] {
		end := r.Offset + r.Length
		for off := r.Offset; off < end; {
			if n++; n%(1<<12) == 0 && p.ctx.Err() != nil {
				return p.ctx.Err()
			}
			i := off / cover
			window := (i + 1) * cover
			a, b := was.at(i), is.at(i)
			if a.Offset() != b.Offset() || p.past(d.l1.slot(i), 8) {
				off = window
				continue
			}
			at := a.Offset() + qcow2.HostOffset(off%cover>>p.g.ClusterBits*p.g.L2EntrySize())
			if a.Offset() != 0 && p.past(at, p.g.L2EntrySize()) {
				off = window // and all behind it
				continue
			}
			if a.Offset() == 0 || !p.v.touches(qcow2.Extent{Offset: at, Length: p.g.L2EntrySize()}) {
				return refuse(at, "guest data of %s at 0x%x is declared lost and is kept", d, off)
			}
			off = off&^(p.g.ClusterSize()-1) + p.g.ClusterSize()
		}
	}
	return nil
}

// past tells whether an entry was past the end of the file, or partly, and is in it now:
// the file has grown so that the table is whole.
func (p *prover) past(at qcow2.HostOffset, length uint64) bool {
	end := uint64(at) + length
	return p.allowed.DataLoss && end > uint64(p.v.baseSize) && end <= uint64(p.v.size)
}

// l1Reader reads entries of an L1 table, a part of it at once.
type l1Reader struct {
	img   *qcow2.Image
	l     l1
	from  uint64
	chunk []qcow2.L1Entry
}

func (r *l1Reader) at(i uint64) qcow2.L1Entry {
	if i >= min(r.l.entries, qcow2.MaxL1Entries) {
		return 0
	}
	if r.chunk == nil || i < r.from || i-r.from >= uint64(len(r.chunk)) {
		if r.chunk == nil {
			r.chunk = make([]qcow2.L1Entry, 1<<9)
		}
		clear(r.chunk)
		r.from = i &^ (uint64(len(r.chunk)) - 1)
		for k, e := range qcow2.ReadL1(r.img, r.l.slot(r.from), min(uint64(len(r.chunk)), r.l.entries-r.from)).All() {
			r.chunk[k] = e
		}
	}
	return r.chunk[i-r.from]
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
