package repair

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Entries that lead nowhere, or to what is no table, become unallocated: the guest
// sees zeros there, or the backing file. What they led to is lost for good when its
// clusters are given back, so this is only done when it was asked for; and never
// to an entry to which a lost table may belong.

// lostEntry tells how an entry at fault is given up.
type lostEntry struct {
	become func(e uint64) uint64 // what stands there afterwards
	// data: the entry should lead to data. Otherwise all that it covers is lost.
	data bool
}

func unallocated(uint64) uint64 { return 0 }

var lostData = lostEntry{unallocated, true}

// lostEntries are faults of single entries.
var lostEntries = map[problem.Code]lostEntry{
	problem.L1Unaligned: {become: unallocated}, problem.L1PastEnd: {become: unallocated},
	problem.L2Unaligned: lostData, problem.L2PastEnd: lostData, problem.CompressedMisplaced: lostData,
	problem.CompressedWithDataFile: lostData, problem.L2ToHeader: lostData,
	problem.CompressedUnreadable: lostData,
	// Of subclusters without a place only those are lost.
	problem.SubclusterUnplaced: {become: func(e uint64) uint64 {
		return uint64(qcow2.NewSubclusterBitmap(0, qcow2.SubclusterBitmap(e).Zeros()))
	}},
}

// giveUpMappings gives up entries of L1 and L2 tables.
func (s *session) giveUpMappings(ctx context.Context) (changed bool, err error) {
	if !s.losing() {
		return false, nil
	}
	tables := make(map[qcow2.HostOffset]*problem.Finding) // that are none
	twice := make(map[qcow2.HostOffset]*problem.Finding)  // that have two places
	waiting := s.slotsOfLostTables()
	if err := s.findSharers(ctx); err != nil {
		return false, err
	}
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Unlisted || f.Repair != problem.RepairLossy {
			continue
		}
		did := false
		lost, isEntry := lostEntries[f.Code]
		switch culprit := f.Cluster != nil && (f.Structure == problem.StructL2Table || f.Code == problem.L2TableShared); {
		case isEntry && f.Code.About() == problem.AboutL1Entry:
			did, err = s.giveUp(f, lost, s.g.L2Coverage(), waiting)
		case f.Code == problem.L2TableShared && culprit:
			twice[s.g.HostOffset(*f.Cluster)] = f
		case f.Code == problem.NotAnL2Table, culprit && f.Code.Is(problem.Overlap):
			tables[s.g.HostOffset(*f.Cluster)] = f
		case isEntry:
			did, err = s.giveUp(f, lost, s.g.ClusterSize(), nil)
		}
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	if len(tables)+len(twice) == 0 || changed {
		return changed, nil // or else an entry might be given up twice
	}
	return s.giveUpTables(ctx, tables, twice, waiting)
}

// losing tells whether lossy repairs were asked for.
func (s *session) losing() bool { return s.opts.AllowDataLoss && s.opts.everything() }

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
func (s *session) giveUp(f *problem.Finding, entry lostEntry, covers uint64, spared map[qcow2.HostOffset]bool) (changed bool, err error) {
	// What is being given up may be what lies in the wrong place.
	if s.shared(f.Extent, problem.StructL2Table) {
		return false, nil
	}
	x := f.Extent
	step := 8
	whole := s.g.ExtendedL2 && f.Structure != problem.StructL1Table && f.Code != problem.SubclusterUnplaced
	if whole {
		step = 16
		x.Length = (x.Length + 15) &^ 15
	}
	raw, err := s.bytes(x)
	if err != nil {
		return false, err
	}
	var lost ranges // of what the finding is about
	for at := 0; at+step <= len(raw); at += step {
		e := binary.BigEndian.Uint64(raw[at:])
		will := entry.become(e)
		if spared[x.Offset+qcow2.HostOffset(at)] || will == e {
			continue
		}
		changed = true
		putWord(raw[at:], will)
		behind := uint64(at/step) * covers
		if !entry.data {
			s.loseGuest(f, behind, covers)
			continue
		}
		var b qcow2.SubclusterBitmap
		if whole {
			b = qcow2.SubclusterBitmap(binary.BigEndian.Uint64(raw[at+8:]))
			// What reads as zeros does so without a place.
			keep := b.Zeros()
			if qcow2.L2Entry(e).Compressed() {
				keep = 0
			}
			putWord(raw[at+8:], uint64(qcow2.NewSubclusterBitmap(0, keep)))
		}
		for from, length := range check.LostParts(s.g, qcow2.L2Entry(e), b, s.h.ZeroFlag()) {
			lost.add(behind+from, length)
		}
	}
	s.loseFrom(f, lost)
	if !changed {
		return false, nil
	}
	reason := "give up what cannot be found: " + reasonFor(f)
	if f.Repair == problem.RepairSafe {
		reason = "drop the place of a cluster that nobody reads"
	}
	return true, s.o.write(x.Offset, raw, intent{reason: reason, codes: []problem.Code{f.Code}})
}

// reasonFor words what is wrong with an entry.
func reasonFor(f *problem.Finding) string {
	r, _ := problem.Lookup(f.Code)
	return r.Title
}

// loseGuest notes that a part of a disk is lost, behind so many bytes of where the
// finding begins.
func (s *session) loseGuest(f *problem.Finding, behind, length uint64) {
	if f.GuestOffset == nil {
		s.lose("%s: %s", f.Path, reasonFor(f))
		return
	}
	s.loseRange(f.Snapshot, f.Of, uint64(*f.GuestOffset)+behind, length, reasonFor(f))
}

// maxTurns is among how many of the last losses one is looked for that goes on.
const maxTurns = 128

// loseRange notes that a part of a disk is lost.
func (s *session) loseRange(snapshot string, of problem.SnapshotRef, from, length uint64, why string) {
	if of == 0 { // what lies past the end of the disk is no part of it
		if from >= s.h.Size {
			return
		}
		length = min(length, s.h.Size-from)
	}
	of = s.original(of)
	// Those of disks that share a table take turns.
	for i := len(*s.lost) - 1; i >= max(len(*s.lost)-maxTurns, 0); i-- {
		if last := &(*s.lost)[i]; last.guest != nil && last.guest.Of == of && last.guest.Offset+last.guest.Length == from && last.why == why {
			last.guest.Length += length
			return
		}
	}
	*s.lost = append(*s.lost, lostThing{guest: &GuestRange{Snapshot: snapshot, Of: of, Offset: from, Length: length}, why: why})
}

// giveUpTables clears every L1 entry that names one of the tables, or, of those that
// have two places, all but the entries for the first one.
func (s *session) giveUpTables(ctx context.Context, tables, twice map[qcow2.HostOffset]*problem.Finding, spared map[qcow2.HostOffset]bool) (changed bool, err error) {
	place := make(map[qcow2.HostOffset]uint64) // of those that have two
	for l := range s.l1Tables() {
		if s.shared(qcow2.Extent{Offset: l.offset, Length: l.entries * 8}, problem.StructL2Table) {
			continue
		}
		w := clearing{session: s}
		for i, e := range qcow2.ReadL1(s.img, l.offset, l.entries).All() {
			if i%(1<<16) == 0 && ctx.Err() != nil {
				return changed, ctx.Err()
			}
			off := e.Offset()
			f := tables[off]
			if again := twice[off]; f == nil && again != nil {
				if first, seen := place[off]; !seen {
					place[off] = i
				} else if first != i {
					f = again
				}
			}
			at := l.offset + qcow2.HostOffset(i*8)
			if f == nil || off == 0 || spared[at] {
				continue
			}
			changed = true
			s.loseRange(l.snapshot, l.of, i*s.g.L2Coverage(), s.g.L2Coverage(), reasonFor(f))
			if err := w.clear(at, f); err != nil {
				return changed, err
			}
		}
		if err := w.flush(); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// clearing clears entries of 8 bytes, those that adjoin with one write.
type clearing struct {
	*session
	x    qcow2.Extent
	code problem.Code
}

func (w *clearing) clear(at qcow2.HostOffset, f *problem.Finding) error {
	if w.x.Length > 0 && (w.x.Offset+qcow2.HostOffset(w.x.Length) != at || w.code != f.Code) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if w.x.Length == 0 {
		w.x.Offset, w.code = at, f.Code
	}
	w.x.Length += 8
	return nil
}

func (w *clearing) flush() error {
	n := w.x.Length
	w.x.Length = 0
	if n == 0 {
		return nil
	}
	r, _ := problem.Lookup(w.code)
	return w.o.write(w.x.Offset, make([]byte, n), intent{reason: "give up: " + r.Title, codes: []problem.Code{w.code}})
}

// l1 is an L1 table that is read.
type l1 struct {
	snapshot string // as findings name it; empty for the active disk
	of       problem.SnapshotRef
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
			if !yield(l1{snapshot: l.Snapshot, of: l.Of, offset: l.Offset, entries: l.Entries}) {
				return
			}
		}
	}
}

// lostThing is something that is lost: a part of a disk, or what why says.
type lostThing struct {
	guest *GuestRange
	why   string
}

// noteLost says in a plan what is lost.
func (p *Plan) noteLost(lost []lostThing) {
	for _, t := range lost {
		if t.guest == nil {
			p.Lost = append(p.Lost, t.why)
			continue
		}
		disk := "the disk"
		if t.guest.Of != 0 {
			disk = "snapshot " + check.Shorten(t.guest.Snapshot)
		}
		p.Lost = append(p.Lost, fmt.Sprintf("guest data of %s from 0x%x to 0x%x: %s", disk, t.guest.Offset, t.guest.Offset+t.guest.Length, t.why))
		p.LostGuest = append(p.LostGuest, *t.guest)
	}
}
