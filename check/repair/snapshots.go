package repair

import (
	"context"

	"github.com/qcheck/qcheck/check/problem"
)

// fixSnapshots completes the extra data that snapshots of a version 3 image must
// have. The table becomes longer by it, so it is written anew, and the header
// switched to it.
func (s *session) fixSnapshots(context.Context) (bool, error) {
	if !s.opts.everything() || !s.res.Has(problem.SnapshotFieldsMissing) || len(s.ev.Snapshots) != int(s.h.NbSnapshots) || s.headerShared() {
		return false, nil
	}
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		switch {
		case f.Code == problem.SnapshotTableShort, f.Code == problem.SnapshotEntryOversized:
			return false, nil // an entry is not known whole, so the table cannot be written anew
		case f.Code == problem.SnapshotFieldsMissing && f.Repair != problem.RepairSafe:
			return false, nil // something else lies there
		}
	}
	for i := range s.ev.Snapshots {
		if e := &s.ev.Snapshots[i]; oddText(e.ID) || oddText(e.Name) {
			return false, nil // it is the size of the extra data that is wrong, and they stand elsewhere
		}
	}
	return true, s.writeSnapshots(s.ev.Snapshots, []problem.Code{problem.SnapshotFieldsMissing})
}
