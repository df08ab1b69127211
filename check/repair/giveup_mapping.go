package repair

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Entries that lead nowhere, or to what is no table, become unallocated: the guest
// sees zeros there, or the backing file. What they led to is lost for good when its
// clusters are given back, so this is only done when it was asked for; and never
// to an entry to which a lost table may belong.

// lostEntry tells how an entry at fault is given up: what stands there afterwards.
type lostEntry func(e uint64) uint64

var unallocated lostEntry = func(uint64) uint64 { return 0 }

// lostL2 are faults of single L2 entries.
var lostL2 = map[check.Code]lostEntry{
	check.MAP006: unallocated, check.MAP007: unallocated, check.MAP010: unallocated,
	check.MAP011: unallocated, check.MAP014: unallocated,
	// Of subclusters without a place only those are lost.
	check.MAP013: func(e uint64) uint64 {
		return uint64(qcow2.NewSubclusterBitmap(0, qcow2.SubclusterBitmap(e).Zeros()))
	},
}

// giveUpMappings gives up entries of L1 and L2 tables.
func (s *session) giveUpMappings(ctx context.Context) (changed bool, err error) {
	if !s.losing() {
		return false, nil
	}
	tables := make(map[qcow2.HostOffset]*check.Finding) // that are none
	waiting := s.slotsOfLostTables()
	for i := range s.res.Findings {
		f := &s.res.Findings[i]
		if f.Rest || f.Repair != check.RepairLossy {
			continue
		}
		did := false
		switch culprit := f.Structure == check.StructL2Table && f.Cluster != nil; {
		case f.Code == check.MAP002, f.Code == check.MAP003, f.Code == check.MAP018:
			did, err = s.giveUp(f, unallocated, s.g.L2Coverage(), waiting)
		case f.Code == check.MAP021, culprit && isOverlap(f.Code):
			tables[s.g.HostOffset(*f.Cluster)] = f
		case lostL2[f.Code] != nil:
			did, err = s.giveUp(f, lostL2[f.Code], s.g.ClusterSize(), nil)
		}
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	if len(tables) == 0 || changed {
		return changed, nil // or else an entry might be given up twice
	}
	return s.giveUpTables(ctx, tables, waiting)
}

// losing tells whether lossy repairs were asked for.
func (s *session) losing() bool { return s.opts.AllowDataLoss && s.opts.everything() }

// isOverlap tells of a code that says that two structures lie in one place.
func isOverlap(c check.Code) bool {
	return c == check.MAP016 || c == check.REF004 || c == check.BMT006
}

// slotsOfLostTables gives the places of L1 entries that a lost table may belong to.
func (s *session) slotsOfLostTables() map[qcow2.HostOffset]bool {
	if s.opts.Reattach {
		return nil // what could be hung back was
	}
	m := make(map[qcow2.HostOffset]bool)
	for _, t := range s.ev.LostTables {
		if t.Slot.Length > 0 {
			m[t.Slot.Offset] = true
		}
	}
	return m
}

// giveUp makes something else of each entry of a finding, which covers so many bytes
// of the disk, but for those that are spared.
func (s *session) giveUp(f *check.Finding, become lostEntry, covers uint64, spared map[qcow2.HostOffset]bool) (changed bool, err error) {
	// What is being given up may be what lies in the wrong place.
	if s.shared(f.Extent, check.StructL2Table, check.StructDataCluster) {
		return false, nil
	}
	x := f.Extent
	whole := s.g.ExtendedL2 && f.Structure != check.StructL1Table && f.Code != check.MAP013
	if whole {
		x.Length = s.g.L2EntrySize()
	}
	raw, err := s.bytes(x)
	if err != nil {
		return false, err
	}
	lost := uint64(0)
	for at := 0; at+8 <= len(raw); at += 8 {
		e := binary.BigEndian.Uint64(raw[at:])
		will := become(e)
		if spared[x.Offset+qcow2.HostOffset(at)] || will == e {
			continue
		}
		changed = true
		binary.BigEndian.PutUint64(raw[at:], will)
		if !whole || at == 0 {
			s.loseGuest(f, lost, covers)
		}
		lost += covers
	}
	if !changed {
		return false, nil
	}
	return true, s.o.write(x.Offset, raw, intent{reason: "give up what cannot be found: " + reasonFor(f), codes: []check.Code{f.Code}})
}

// reasonFor words what is wrong with an entry.
func reasonFor(f *check.Finding) string {
	r, _ := check.Lookup(f.Code)
	return r.Title
}

// loseGuest notes that a part of a disk is lost, behind so many bytes of where the
// finding begins.
func (s *session) loseGuest(f *check.Finding, behind, length uint64) {
	if f.GuestOffset == nil {
		s.lose("%s: %s", f.Path, reasonFor(f))
		return
	}
	s.loseRange(f.Snapshot, uint64(*f.GuestOffset)+behind, length, reasonFor(f))
}

// loseRange notes that a part of a disk is lost.
func (s *session) loseRange(snapshot string, from, length uint64, why string) {
	disk := "the disk"
	if snapshot != "" {
		disk = "snapshot " + snapshot
	}
	*s.lost = append(*s.lost, lostThing{disk: disk, from: from, length: length, why: why})
}

// giveUpTables clears every L1 entry that names one of the tables.
func (s *session) giveUpTables(ctx context.Context, tables map[qcow2.HostOffset]*check.Finding, spared map[qcow2.HostOffset]bool) (changed bool, err error) {
	for l := range s.l1Tables() {
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		for i, e := range qcow2.ReadL1(s.img, l.offset, l.entries).All() {
			f := tables[e.Offset()]
			at := qcow2.Extent{Offset: l.offset + qcow2.HostOffset(i*8), Length: 8}
			if f == nil || e.Offset() == 0 || spared[at.Offset] || s.shared(at, check.StructL2Table, check.StructDataCluster) {
				continue
			}
			changed = true
			s.loseRange(l.snapshot, i*s.g.L2Coverage(), s.g.L2Coverage(), reasonFor(f))
			why := intent{reason: fmt.Sprintf("give up l1[%d]: %s", i, reasonFor(f)), codes: []check.Code{f.Code}}
			if err := s.o.write(at.Offset, make([]byte, 8), why); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// l1 is an L1 table that is read.
type l1 struct {
	snapshot string // as findings name it; empty for the active disk
	offset   qcow2.HostOffset
	entries  uint64
}

// l1Tables gives the L1 tables that can be read, each place once.
func (s *session) l1Tables() func(yield func(l1) bool) {
	return func(yield func(l1) bool) {
		seen := make(map[qcow2.HostOffset]bool)
		for i, l := range s.ev.L1Tables() {
			if l.Entries == 0 || i > 0 && seen[l.Offset] {
				continue
			}
			seen[l.Offset] = true
			if !yield(l1{snapshot: l.Snapshot, offset: l.Offset, entries: l.Entries}) {
				return
			}
		}
	}
}

// lostThing is something that is lost: a part of a disk, or, without a disk, what
// why says.
type lostThing struct {
	disk         string
	from, length uint64
	why          string
}

// lostWords words what is lost; parts of a disk that adjoin are one.
func lostWords(lost []lostThing) []string {
	var out []string
	for i := 0; i < len(lost); i++ {
		t := lost[i]
		if t.disk == "" {
			out = append(out, t.why)
			continue
		}
		for i+1 < len(lost) && lost[i+1].disk == t.disk && lost[i+1].from == t.from+t.length && lost[i+1].why == t.why {
			i++
			t.length += lost[i].length
		}
		out = append(out, fmt.Sprintf("guest data of %s from 0x%x to 0x%x: %s", t.disk, t.from, t.from+t.length, t.why))
	}
	return slices.Clip(out)
}
