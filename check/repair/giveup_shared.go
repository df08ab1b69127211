package repair

import (
	"context"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// What is given up of an L2 table that snapshots share is lost for all of them.

// l1Slot is an entry of an L1 table.
type l1Slot struct {
	snapshot string // as findings name it; empty for the active disk
	of       problem.SnapshotRef
	index    uint64
}

// findSharers looks up who has the L2 tables of which entries are about to be given up.
func (s *session) findSharers(ctx context.Context) error {
	s.sharers = make(map[qcow2.HostOffset][]l1Slot)
	for i := range s.ev.Findings {
		if f := &s.ev.Findings[i]; !f.Unlisted && f.Repair == problem.RepairLossy && lostEntries[f.Code].data {
			s.sharers[s.tableOf(f)] = nil
		}
	}
	if len(s.sharers) == 0 {
		return nil
	}
	for l := range s.l1Tables() {
		for i, e := range qcow2.ReadL1(s.img, l.offset, l.entries).All() {
			if i%(1<<16) == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if slots, wanted := s.sharers[e.Offset()]; wanted {
				s.sharers[e.Offset()] = append(slots, l1Slot{l.snapshot, l.of, i})
			}
		}
	}
	return nil
}

// tableOf is the place of the L2 table that a finding is about an entry of.
func (s *session) tableOf(f *problem.Finding) qcow2.HostOffset {
	return f.Extent.Offset &^ qcow2.HostOffset(s.g.ClusterSize()-1)
}

// ranges are parts of a disk, in order.
type ranges []check.GuestRange

func (r *ranges) add(from, length uint64) {
	if k := len(*r) - 1; k >= 0 && (*r)[k].Offset+(*r)[k].Length == from {
		(*r)[k].Length += length
		return
	}
	*r = append(*r, check.GuestRange{Offset: from, Length: length})
}

// loseFrom notes what is lost with entries of an L2 table, for everybody who has it. Parts
// are given by where they begin behind the first entry of the finding.
func (s *session) loseFrom(f *problem.Finding, lost ranges) {
	if len(lost) == 0 {
		return
	}
	slots := s.sharers[s.tableOf(f)]
	if len(slots) == 0 {
		for _, r := range lost {
			s.loseGuest(f, r.Offset, r.Length)
		}
		return
	}
	first := uint64(f.Extent.Offset-s.tableOf(f)) / s.g.L2EntrySize() * s.g.ClusterSize()
	for _, slot := range slots {
		for _, r := range lost {
			s.loseRange(slot.snapshot, slot.of, slot.index*s.g.L2Coverage()+first+r.Offset, r.Length, reasonFor(f))
		}
	}
}
