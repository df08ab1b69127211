package repair

import (
	"context"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// A table that nothing refers to any more is hung back where there is one place only
// that it can come from, and where it is the only one that can:
//
//   - an L2 table, at an L1 entry whose value is one flipped bit away, or which is the
//     only one of its disk without a table;
//   - an L1 table, where its offset, in the header or in a snapshot's entry, is one
//     flipped bit away, and every entry of it names what reads as an L2 table and
//     lacks a reference;
//
//   - a snapshot table that the header does not lead to, or not to all of, where its
//     entries make sense, and own what nothing else does.
//
// Nothing is ever hung where something else hangs that makes sense.

// reattach hangs lost tables back.
func (s *session) reattach(ctx context.Context) (changed bool, err error) {
	if !s.opts.Reattach || !s.opts.everything() || !s.ev.Complete || s.ev.Table == nil {
		return false, nil
	}
	changed, err = s.reattachSnapshots()
	if changed || err != nil {
		return changed, err // which L1 tables are lost is known better afterwards
	}
	changed, err = s.reattachL1s(ctx)
	if changed || err != nil {
		return changed, err // which L2 tables are lost is known better afterwards
	}
	claims := make(map[qcow2.HostOffset]int) // by slot
	for _, t := range s.ev.LostTables {
		claims[t.Slot.Offset]++
	}
	for _, t := range s.ev.LostTables {
		if t.Slot.Length != 8 || claims[t.Slot.Offset] > 1 || s.shared(t.Slot, problem.StructL2Table) {
			continue
		}
		if s.first.Counts.Get(s.g.HostCluster(t.Offset)) > 0 {
			continue // what the repair itself has given up is not what was lost
		}
		var e [8]byte
		putWord(e[:], uint64(qcow2.NewL1Entry(t.Offset, false))) // COPIED follows from the references
		why := intent{reason: fmt.Sprintf("hang the lost L2 table at %v back: %s", t.Offset, t.Why), codes: []problem.Code{problem.OrphanL2Table}}
		s.said.Reattached = append(s.said.Reattached, t.Slot.Offset)
		if err := s.o.write(t.Slot.Offset, e[:], why); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// reattachSnapshots leads the header back to the snapshots that it does not lead to.
func (s *session) reattachSnapshots() (changed bool, err error) {
	l := s.ev.LostSnapshots
	field := qcow2.Extent{Offset: qcow2.FieldNbSnapshots, Length: 12}
	if l == nil || s.headerShared(problem.StructSnapshotTable, problem.StructL1Table) {
		return false, nil
	}
	var b [12]byte
	putHalf(b[:], l.Count)
	putWord(b[4:], uint64(l.Table))
	why := intent{reason: fmt.Sprintf("lead the header back to the snapshot table at %v with its %d entries, whose L1 tables nothing else refers to", l.Table, l.Count), codes: []problem.Code{problem.SnapshotsOrphaned}}
	return true, s.o.write(field.Offset, b[:], why)
}

// maxStrayPointers is for how many pointers a table is looked for.
const maxStrayPointers = 64

// pointer is a field that names an L1 table.
type pointer struct {
	name    string
	field   qcow2.Extent
	offset  qcow2.HostOffset
	entries uint64
	codes   []problem.Code
}

// reattachL1s leads pointers to L1 tables back to their tables.
func (s *session) reattachL1s(ctx context.Context) (changed bool, err error) {
	for i, p := range s.strayPointers() {
		if i == maxStrayPointers {
			break
		}
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		var found []qcow2.HostOffset
		for bit := range 56 {
			if off := p.offset ^ qcow2.HostOffset(1)<<bit; s.ev.IsLostL1(off, p.entries) {
				found = append(found, off)
			}
		}
		if len(found) != 1 || s.shared(p.field, problem.StructL1Table) {
			continue
		}
		var b [8]byte
		putWord(b[:], uint64(found[0]))
		why := intent{reason: fmt.Sprintf("lead %s back to its L1 table: the clusters at %v, one bit away, read as one, and what they name lacks just these references", p.name, found[0]), codes: p.codes}
		s.said.Reattached = append(s.said.Reattached, p.field.Offset)
		if err := s.o.write(p.field.Offset, b[:], why); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// strayPointers gives the pointers to L1 tables whose tables do not make sense where
// they lead.
func (s *session) strayPointers() (all []pointer) {
	if len(s.ev.Doubts) == 0 {
		return nil
	}
	pointers := make([]pointer, 1, 1+len(s.ev.Snapshots)) // by check.SnapshotRef
	pointers[0] = pointer{
		name: "the header", field: qcow2.Extent{Offset: qcow2.FieldL1TableOffset, Length: 8},
		offset: s.h.L1TableOffset, entries: uint64(s.h.L1Size),
	}
	for i := range s.ev.Snapshots {
		snap := &s.ev.Snapshots[i]
		pointers = append(pointers, pointer{
			name:   "snapshot " + snapshotLabel(snap),
			field:  qcow2.Extent{Offset: snap.EntryOffset + qcow2.SnapshotFieldL1TableOffset, Length: 8},
			offset: snap.L1TableOffset, entries: uint64(snap.L1Size),
		})
	}
	misread := make([]bool, len(pointers))
	for _, l := range s.ev.L1Tables() {
		misread[l.Of] = l.Misread
	}
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Unlisted || int(f.Of) >= len(pointers) || f.Of == 0 && f.Code != problem.L1Misplaced && f.Extent != pointers[0].field && !s.headerShared() && !misread[0] {
			continue
		}
		if f.Code.Is(problem.ThroughL1 | problem.LeadsToL1) {
			pointers[f.Of].codes = append(pointers[f.Of].codes, f.Code)
		}
	}
	tried := 0
	for i := range pointers {
		p := &pointers[i]
		if p.entries == 0 || p.entries > qcow2.MaxL1Entries {
			continue
		}
		if len(p.codes) == 0 {
			if tried++; tried > maxStrayPointers || !misread[i] && !s.emptyL1(p) {
				continue
			}
			p.codes = append(p.codes, problem.OwnerUnknown)
		}
		slices.Sort(p.codes)
		p.codes = slices.Compact(p.codes)
		all = append(all, *p)
	}
	return all
}

// emptyL1 tells whether a pointer leads to zeros.
func (s *session) emptyL1(p *pointer) bool {
	x := qcow2.Extent{Offset: p.offset, Length: p.entries * 8}
	if s.g.PastEnd(x.Offset, x.Length, s.img.Size()) {
		return false
	}
	zero, err := s.img.IsZero(x)
	return err == nil && zero
}
