package repair

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// separateData gives guest data that is said to lie where metadata is a copy of its
// own. The guest reads what it read before; what either of the two has written over
// the other is lost already.
func (s *session) separateData(context.Context) (changed bool, err error) {
	if !s.losing() || !s.ev.Complete || s.snapshotsToFind() {
		return false, nil
	}
	alloc := newAllocator(s)
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Code != problem.MetadataOverlap || f.Unlisted || f.Structure != problem.StructDataCluster || f.Repair != problem.RepairLossy || f.Extent.Length != 8 {
			continue
		}
		did, err := s.separate(f, alloc)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

// separate makes the L2 entry of a finding name a copy of what it names.
func (s *session) separate(f *problem.Finding, alloc *allocator) (bool, error) {
	if s.shared(f.Extent, problem.StructDataCluster) {
		return false, nil
	}
	raw, err := s.bytes(f.Extent)
	if err != nil {
		return false, err
	}
	e := qcow2.L2Entry(binary.BigEndian.Uint64(raw))
	first, n := s.g.HostCluster(e.Offset()), uint64(1)
	if e.Compressed() {
		d := s.g.Compressed(e)
		first, n = s.g.ClusterSpan(d.Offset, d.Length())
	}
	if first == 0 && !e.Compressed() {
		return false, nil
	}
	to, err := alloc.take(n)
	if err != nil {
		return false, err
	}
	data, err := s.bytes(qcow2.Extent{Offset: s.g.HostOffset(first), Length: n * s.g.ClusterSize()})
	if err != nil {
		return false, err
	}
	codes := []problem.Code{f.Code}
	if err := s.o.write(to, data, intent{reason: "a copy of guest data that lies where metadata is", codes: codes}); err != nil {
		return false, err
	}
	will := uint64(e) - uint64(s.g.HostOffset(first)) + uint64(to)
	if !e.Compressed() {
		will &^= bitCopied // the references decide on it when all is in place
	}
	binary.BigEndian.PutUint64(raw, will)
	s.loseGuest(f, 0, s.g.ClusterSize())
	return true, s.o.write(f.Extent.Offset, raw, intent{reason: "name the copy", codes: codes})
}
