package repair

import (
	"context"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// giveUpHeader gives up what a header field names and what cannot be found.
func (s *session) giveUpHeader(context.Context) (changed bool, err error) {
	if !s.losing() || s.headerShared() {
		return false, nil
	}
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Unlisted || f.Repair != problem.RepairLossy {
			continue
		}
		did := false
		switch f.Code {
		case problem.BackingNameMisplaced:
			did = true
			s.said.Backing = true
			s.lose("the name of the backing file, and with it all that the disk shows of that file")
			err = s.o.write(qcow2.FieldBackingFileOffset, make([]byte, 12), intent{reason: "there is no backing file any more", codes: []problem.Code{f.Code}})
		case problem.L1Misplaced:
			did, err = s.shortenL1(f)
		}
		if err != nil {
			return changed, err
		}
		if did {
			return true, nil // two findings can be about one field
		}
	}
	return changed, nil
}

// shortenL1 makes an L1 table that is larger than it can be as long as the disk
// needs it, if it is where it can be. Entries behind that, of the state of a virtual
// machine, are lost.
func (s *session) shortenL1(f *problem.Finding) (bool, error) {
	needed := s.h.L1Needed(s.g)
	if needed == 0 || needed >= uint64(s.h.L1Size) || s.h.L1TableOffset == 0 || !s.g.Aligned(s.h.L1TableOffset) ||
		needed > qcow2.MaxL1Entries || s.g.PastEnd(s.h.L1TableOffset, needed*8, s.img.Size()) {
		return false, nil
	}
	s.said.Behind = true
	s.lose("what the L1 table may have mapped behind the end of the disk: it had %d entries", s.h.L1Size)
	var b [4]byte
	putHalf(b[:], uint32(needed))
	return true, s.o.write(qcow2.FieldL1Size, b[:], intent{reason: "make the L1 table as long as the disk takes", codes: []problem.Code{f.Code}})
}
