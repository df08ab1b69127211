package rescue

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// activeDisk finds the L1 table of the disk. Other L1 tables that are in use are those of
// snapshots.
func (s *search) activeDisk(ctx context.Context, l1s []l1table) error {
	m := &s.m
	if s.h0 != nil && s.headerL1() {
		return nil
	}
	if s.h0 != nil {
		m.h.L1TableOffset, m.h.L1Size = 0, 0
	}
	l1s = s.outside(l1s)
	if len(l1s) == 0 {
		if s.mapsNothing() {
			return nil
		}
		return s.placeTables(ctx)
	}
	i, why, sure := choose(l1s)
	for k := range l1s {
		s.f.own(l1s[k].off, l1s[k].room*8)
	}
	if doubt := s.doubts(l1s, i); doubt != "" {
		if !s.opts.AcceptGuesses {
			// They are those of snapshots, and the disk's own is gone.
			m.fact("L1 table", SourceAssumed, doubt, "gone")
			if len(m.snapshots) == 0 {
				s.rescueSnapshots(l1s)
			}
			return s.placeTables(ctx)
		}
		why, sure = doubt, false
	}
	active := l1s[i]
	if !active.start {
		s.guess("L1 table", fmt.Sprintf("what was found at %v may be only a part of it: before it are zeros that it may begin with", active.off))
	}
	if !sure {
		s.guess("L1 table", why)
	}
	m.h.L1TableOffset, m.h.L1Size = active.off, uint32(len(active.entries))
	s.active = active
	m.fact("L1 table", SourceFound, why, "%v, %d L2 tables", active.off, active.named)
	if len(m.snapshots) > 0 {
		s.vouchSnapshots()
	} else {
		s.rescueSnapshots(slices.Delete(slices.Clone(l1s), i, i+1))
	}
	if s.f.refs == nil {
		return nil // a table that it does not name may be left over
	}
	return s.placeTables(ctx)
}

// mapsNothing tells that the disk is empty: the refcounts count no L2 table.
func (s *search) mapsNothing() bool {
	f := s.f
	if f.refs == nil {
		return false
	}
	for i := range f.tables {
		off := f.tables[i].off
		if f.refs.get(off) != 0 && !f.roots.has(uint64(f.g.HostCluster(off))) {
			return false
		}
	}
	s.m.l1 = []qcow2.L1Entry{}
	s.holes = s.h0 != nil || s.countedPastEnd()
	s.m.fact("L1 table", SourceFound, "the refcounts count no L2 table, so that the disk is empty", "empty")
	return true
}

// doubts says why an L1 table need not be the active disk's, or "". What a snapshot has
// of a disk has lost its COPIED flags when the snapshot was taken, so that a table that has
// one is the disk's own; the disk's L1 table names it.
func (s *search) doubts(l1s []l1table, best int) string {
	f := s.f
	if f.refs != nil && l1s[best].wrong > 0 {
		return "the COPIED flags of what it leads to contradict the refcounts"
	}
	named := make(map[qcow2.HostOffset]bool)
	for i := range l1s {
		for _, e := range l1s[i].entries {
			named[e.Offset()] = true
		}
	}
	own := 0
	for _, e := range l1s[best].entries {
		if t, ok := f.table(e.Offset()); e != 0 && ok && t.copied > 0 {
			own++
		}
	}
	for i := range f.tables {
		t := &f.tables[i]
		if t.copied == 0 || named[t.off] || f.roots.has(uint64(f.g.HostCluster(t.off))) ||
			f.refs != nil && (f.refs.get(t.off) == 0 || f.claimed.has(uint64(f.g.HostCluster(t.off)))) {
			continue
		}
		if f.refs != nil || own == 0 {
			return fmt.Sprintf("the L2 table at %v is the disk's alone, and no L1 table that was found leads to it", t.off)
		}
	}
	return ""
}

// headerL1 takes the L1 table that the header leads to, if it is one.
func (s *search) headerL1() bool {
	f, h := s.f, s.h0
	b, err := f.readEntries(h.L1TableOffset, uint64(h.L1Size))
	if err != nil || h.L1Size > qcow2.MaxL1Entries || h.L1TableOffset == 0 || !f.g.Aligned(h.L1TableOffset) {
		return false
	}
	l := l1table{off: h.L1TableOffset, room: uint64(h.L1Size), start: true}
	bad := 0
	for i := 0; i < len(b); i += 8 {
		e := qcow2.L1Entry(binary.BigEndian.Uint64(b[i:]))
		l.entries = append(l.entries, e)
		if e == 0 {
			continue
		}
		if _, is := f.table(e.Offset()); is {
			l.named++
		} else if e.Reserved() != 0 || !f.g.Aligned(e.Offset()) || uint64(e.Offset()) >= f.size {
			bad++
		}
	}
	if sniff.Zero(b) && len(f.tables) > 0 || bad > 0 && l.named == 0 {
		return false
	}
	s.active = l
	if uint64(l.off)+l.room*8 > f.size {
		s.m.l1 = l.entries // its end is cut off
	}
	return true
}

// outside drops L1 tables that lie in clusters which L2 tables map: a guest can have
// images of its own.
func (s *search) outside(l1s []l1table) []l1table {
	out := slices.DeleteFunc(slices.Clone(l1s), func(l l1table) bool {
		return s.f.claimed.has(uint64(s.f.g.HostCluster(l.off)))
	})
	if len(out) == 0 && s.f.refs == nil && len(s.m.snapshots) == 0 {
		return l1s
	}
	return out
}

// choose tells which of some L1 tables is the active disk's, why, and whether that is sure.
func choose(l1s []l1table) (best int, why string, sure bool) {
	if len(l1s) == 1 {
		return 0, "it is the only one", true
	}
	count := func(i int) int { return l1s[i].wrong + l1s[i].sharedCopied(l1s, i) }
	for i := range l1s {
		if a, b := count(i), count(best); a < b || a == b && l1s[i].named > l1s[best].named {
			best = i
		}
	}
	for i := range l1s {
		if i == best || count(i) > count(best) || within(&l1s[i], &l1s[best]) {
			continue
		}
		return best, fmt.Sprintf("it is one of %d, and nothing tells for certain which one is the active disk's", len(l1s)), false
	}
	return best, fmt.Sprintf("of %d it is the one whose COPIED flags agree with what shares its tables", len(l1s)), true
}

// sharedCopied counts the entries that say of an L2 table that it is theirs alone, and that
// another L1 table has too. The active disk has none such.
func (l *l1table) sharedCopied(l1s []l1table, self int) (n int) {
	for k := range l1s {
		if k == self {
			continue
		}
		other := make(map[qcow2.HostOffset]bool)
		for _, e := range l1s[k].entries {
			if e != 0 {
				other[e.Offset()] = true
			}
		}
		for _, e := range l.entries {
			if e.Copied() && other[e.Offset()] {
				n++
			}
		}
	}
	return n
}

// within tells whether one L1 table says nothing that another one does not: it is from
// before the disk grew, or of a snapshot after which nothing was written.
func within(a, b *l1table) bool {
	if len(a.entries) > len(b.entries) {
		return false
	}
	for i, e := range a.entries {
		if e != 0 && e.Offset() != b.entries[i].Offset() {
			return false
		}
	}
	return true
}

// rescueSnapshots makes snapshots of L1 tables that no snapshot table leads to.
func (s *search) rescueSnapshots(l1s []l1table) {
	m := &s.m
	for i := range l1s {
		l := &l1s[i]
		if s.f.refs == nil || !l.start {
			m.fact("snapshot", SourceGuess, "without refcounts nothing tells whether it is in use; it is left out", "L1 table at %v", l.off)
			continue
		}
		if s.f.refs.get(l.off) == 0 {
			continue
		}
		n := len(m.snapshots) + 1
		m.snapshots = append(m.snapshots, qcow2.Snapshot{
			L1TableOffset: l.off, L1Size: uint32(len(l.entries)),
			ID: []byte(fmt.Sprint(n)), Name: []byte(fmt.Sprintf("rescued-%d", n)),
		})
		s.rescued = append(s.rescued, l.room)
		m.newSnapshots = true
		m.fact("snapshot", SourceFound, "its L1 table is in use, and not the active disk's", "rescued-%d: L1 table at %v, %d L2 tables", n, l.off, l.named)
	}
}

// vouchSnapshots drops a snapshot table that may be left over from before: where there are
// no refcounts, the active disk must say of something that it has in common with the
// snapshots that it is not its alone.
func (s *search) vouchSnapshots() {
	if s.f.refs != nil || s.h0 != nil {
		return
	}
	shared, alone := 0, 0
	active := make(map[qcow2.HostOffset]qcow2.L1Entry)
	for _, e := range s.active.entries {
		if e != 0 {
			active[e.Offset()] = e
		}
	}
	for i := range s.m.snapshots {
		sn := &s.m.snapshots[i]
		b, err := s.f.readEntries(sn.L1TableOffset, uint64(sn.L1Size))
		if err != nil {
			continue
		}
		for k := 0; k < len(b); k += 8 {
			e := qcow2.L1Entry(binary.BigEndian.Uint64(b[k:]))
			if e == 0 {
				continue
			}
			if a, is := active[e.Offset()]; is {
				if a.Copied() {
					alone++
				} else {
					shared++
				}
				continue
			}
			if k/8 < len(s.active.entries) && s.active.entries[k/8] != 0 {
				x, y := s.sharedData(e.Offset(), s.active.entries[k/8].Offset())
				shared, alone = shared+x, alone+y
			}
		}
	}
	if alone > 0 || shared == 0 {
		s.m.fact("snapshots", SourceGuess, "without refcounts nothing tells whether the snapshot table is in use; it is left out", "%d", len(s.m.snapshots))
		if !s.opts.AcceptGuesses {
			s.m.snapshots, s.m.h.NbSnapshots, s.m.h.SnapshotsOffset = nil, 0, 0
		}
	}
}

// sharedData counts the clusters that two L2 tables for one part of the disk have in common,
// by whether the active one says that they are its alone.
func (s *search) sharedData(snapshot, active qcow2.HostOffset) (shared, alone int) {
	of := make(map[uint64]qcow2.L2Entry)
	s.f.eachTarget(active, func(i uint64, e qcow2.L2Entry, _ qcow2.Extent) { of[i] = e })
	s.f.eachTarget(snapshot, func(i uint64, e qcow2.L2Entry, _ qcow2.Extent) {
		if a, ok := of[i]; ok && !e.Compressed() && !a.Compressed() && a.Offset() == e.Offset() {
			if a.Copied() {
				alone++
			} else {
				shared++
			}
		}
	})
	return shared, alone
}
