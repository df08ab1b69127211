package repair

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// fixCopied sets COPIED in the entries of the active disk as the references are.
func (s *session) fixCopied(context.Context) (changed bool, err error) {
	if !s.ev.Complete {
		return false, nil
	}
	tables := false
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		switch {
		case f.Code != problem.L1Copied && f.Code != problem.L2Copied, !s.inScope(f, copiedFix):
			continue
		case f.Code == problem.L2Copied && !s.h.HasDataFile():
			tables = true // there can be millions that are not joined
			continue
		case f.Unlisted:
			continue
		}
		did, err := s.rewrite(f, copiedFix)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	if !tables {
		return changed, nil
	}
	did, err := s.fixCopiedL2()
	return changed || did, err
}

// asReferenced is an entry with COPIED as the references to what it names ask for. With an
// external data file nothing is counted, and every cluster is the only one of its kind.
func (s *session) asReferenced(f *problem.Finding, e uint64) uint64 {
	off := qcow2.L2Entry(e).Offset() // bits 9-55, as in an L1 entry
	if s.twins[s.g.HostCluster(off)] || off == 0 && s.inDoubt() {
		return e // it tells that there was a cluster
	}
	if s.h.HasDataFile() && f.Code == problem.L2Copied || off != 0 && s.ev.ShouldBeCopied(s.g.HostCluster(off)) {
		return e | bitCopied
	}
	return e &^ bitCopied
}

// fixCopiedL2 turns the flag in every L2 entry where it is wrong.
func (s *session) fixCopiedL2() (changed bool, err error) {
	err = s.ev.WrongCopied(func(table qcow2.HostOffset, entries []uint32) error {
		// From the first to the last of them: the end of the table may be cut off.
		size := s.g.L2EntrySize()
		first := uint64(entries[0]) * size
		x := qcow2.Extent{Offset: table + qcow2.HostOffset(first), Length: uint64(entries[len(entries)-1])*size + 8 - first}
		if s.shared(x) {
			return nil
		}
		raw, err := s.bytes(x)
		if err != nil {
			return err
		}
		did := false
		for _, i := range entries {
			entry := raw[uint64(i)*size-first:]
			if s.twins[s.g.HostCluster(qcow2.L2Entry(word64(entry)).Offset())] {
				continue
			}
			did = true
			binary.BigEndian.PutUint64(entry, binary.BigEndian.Uint64(entry)^bitCopied)
		}
		if !did {
			return nil
		}
		changed = true
		return s.o.write(x.Offset, raw, intent{reason: copiedFix.reason, codes: []problem.Code{problem.L2Copied}})
	})
	return changed, err
}
