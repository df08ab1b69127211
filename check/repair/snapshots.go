package repair

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// fixSnapshots completes the extra data that snapshots of a version 3 image must
// have. The table becomes longer by it, so it is written anew, and the header
// switched to it.
func (s *session) fixSnapshots(context.Context) (bool, error) {
	if !s.opts.everything() || !s.res.Has(check.SNP003) || len(s.ev.Snapshots) != int(s.h.NbSnapshots) {
		return false, nil
	}
	for i := range s.res.Findings {
		if f := &s.res.Findings[i]; f.Code == check.SNP001 || f.Code == check.SNP004 {
			return false, nil // an entry is not known whole, so the table cannot be written anew
		}
	}
	var table []byte
	for i := range s.ev.Snapshots {
		snap := s.ev.Snapshots[i]
		if len(snap.ExtraData) < qcow2.SnapshotExtraV3 {
			size, ok := snap.DiskSize()
			if !ok {
				size = s.h.Size
			}
			snap.ExtraData = append([]byte(nil), snap.ExtraData...)
			snap.SetExtra(snap.VMState(), size)
		}
		table = append(table, snap.Encode()...)
	}
	a := newAllocator(s.o, s.ev, s.g)
	off, err := a.take(s.g.Clusters(uint64(len(table))))
	if err != nil {
		return false, err
	}
	codes := []check.Code{check.SNP003}
	if err := s.o.write(off, table, intent{reason: "a snapshot table with complete entries", codes: codes}); err != nil {
		return false, err
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(off))
	return true, s.o.write(qcow2.FieldSnapshotsOffset, b[:], intent{reason: "use the new snapshot table", codes: codes})
}
