package repair

import (
	"context"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// completeTables makes tables whole that the end of the file cuts: what is missing of them
// reads as zeros from then on, as it does for QEMU today, and the rest of their entries
// stays. What is gone with the missing ones is said.
func (s *session) completeTables(context.Context) (changed bool, err error) {
	if !s.losing() || s.o.device {
		return false, nil
	}
	size := s.o.size
	end := size
	for _, t := range s.ev.CutTables() {
		from := qcow2.HostOffset(uint64(size) &^ (t.EntrySize - 1))
		// The entry in which the file ends leads to what is somebody else's.
		if n := size - int64(from); n > 0 && from >= t.Extent.Offset && !changed {
			b := make([]byte, n)
			if err := s.o.write(from, b, intent{reason: "clear the entry in which the file ends", codes: []problem.Code{t.Code}}); err != nil {
				return false, err
			}
		}
		changed = true
		s.loseRange(t.Snapshot, t.Of, t.From, t.Length, reasonCut)
		end = max(end, int64(s.g.Clusters(uint64(t.Extent.Offset)+t.Extent.Length)<<s.g.ClusterBits))
	}
	s.o.size = end
	return changed, nil
}

const reasonCut = "the end of the file is missing, and with it the entries for this part"
