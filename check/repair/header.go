package repair

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// fixHeader mends header fields where what is meant is beyond doubt.
func (s *session) fixHeader(context.Context) (changed bool, err error) {
	if !s.opts.everything() || s.headerShared() {
		return false, nil
	}
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Unlisted || f.Repair != problem.RepairSafe {
			continue
		}
		did, err := s.fixHeaderField(f)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

func (s *session) fixHeaderField(f *problem.Finding) (bool, error) {
	switch f.Code {
	case problem.AutoclearUnknown:
		return true, s.setField64(qcow2.FieldAutoclearFeatures, uint64(s.h.AutoclearFeatures&qcow2.AutoclearKnown), f, "clear autoclear features that nobody knows")
	case problem.L1TooSmall:
		return s.growL1(f)
	case problem.SnapshotTableMisplaced: // safe only without snapshots: the place means nothing
		return true, s.setField64(qcow2.FieldSnapshotsOffset, 0, f, "there is no snapshot table")
	case problem.HeaderPaddingSet:
		return true, s.zero(f, "clear the header's padding")
	case problem.RawExternalMisused: // safe only without a data file
		return true, s.setField64(qcow2.FieldAutoclearFeatures, uint64(s.h.AutoclearFeatures&^qcow2.AutoclearRawData), f, "there is no data file that could be raw")
	}
	return false, nil
}

// setField64 writes a header field of 8 bytes.
func (s *session) setField64(field qcow2.HostOffset, v uint64, f *problem.Finding, reason string) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	return s.o.write(field, b[:], intent{reason: reason, codes: []problem.Code{f.Code}})
}

// zero clears the bytes at fault.
func (s *session) zero(f *problem.Finding, reason string) error {
	return s.o.write(f.Extent.Offset, make([]byte, f.Extent.Length), intent{reason: reason, codes: []problem.Code{f.Code}})
}

// growL1 makes the L1 table long enough for the disk, where the clusters that it
// has hold the missing entries. What stands there is either zero, and so
// unallocated, or the entries that a wrong l1_size had cut off.
func (s *session) growL1(f *problem.Finding) (bool, error) {
	needed := s.h.L1Needed(s.g)
	have := s.g.Clusters(uint64(s.h.L1Size)*8) * s.g.ClusterSize() / 8
	if needed > qcow2.MaxL1Entries || !s.ev.Complete || s.opts.sizeOpen {
		return false, nil
	}
	if needed > have && !s.ownsMore(have, needed) {
		return s.moveL1(f, needed)
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(needed))
	return true, s.o.write(qcow2.FieldL1Size, b[:], intent{reason: "count the L1 entries that the disk takes", codes: []problem.Code{f.Code}})
}

// ownsMore tells whether the clusters behind those of the L1 table, up to so many
// entries, are its own: each has a refcount for which no reference was found, and
// reads as entries that name such clusters.
func (s *session) ownsMore(have, needed uint64) bool {
	x := qcow2.Extent{Offset: s.h.L1TableOffset + qcow2.HostOffset(have*8), Length: (needed - have) * 8}
	if s.h.L1TableOffset == 0 || s.ev.Table == nil || s.g.PastEnd(x.Offset, x.Length, s.img.Size()) {
		return false
	}
	first, n := s.g.ClusterSpan(x.Offset, x.Length)
	for cl := first; cl < first+qcow2.HostCluster(n); cl++ {
		if s.ev.Counts.Get(cl) > 0 || !s.ev.Lacks(cl) {
			return false
		}
	}
	for _, e := range qcow2.ReadL1(s.img, x.Offset, needed-have).All() {
		if to := e.Offset(); to != 0 && (e.Reserved() != 0 || !s.g.Aligned(to) || !s.ev.Lacks(s.g.HostCluster(to))) {
			return false
		}
	}
	return true
}

// moveL1 writes the L1 table to clusters where there is room for all entries. Those
// that are added are unallocated.
func (s *session) moveL1(f *problem.Finding, needed uint64) (bool, error) {
	table := make([]byte, s.g.Clusters(needed*8)*s.g.ClusterSize())
	if s.h.L1Size > 0 {
		old := qcow2.Extent{Offset: s.h.L1TableOffset, Length: uint64(s.h.L1Size) * 8}
		if s.shared(old) || s.g.PastEnd(old.Offset, old.Length, s.img.Size()) {
			return false, nil
		}
		raw, err := s.bytes(old)
		if err != nil {
			return false, err
		}
		copy(table, raw)
	}
	off, err := newAllocator(s).take(s.g.Clusters(needed * 8))
	if err != nil {
		return false, err
	}
	codes := []problem.Code{f.Code}
	if err := s.o.write(off, table, intent{reason: "an L1 table with all entries that the disk takes", codes: codes}); err != nil {
		return false, err
	}
	var b [12]byte
	putHalf(b[:], uint32(needed))
	putWord(b[4:], uint64(off))
	return true, s.o.write(qcow2.FieldL1Size, b[:], intent{reason: "use the new L1 table", codes: codes})
}

// fixMarks takes the dirty and the corrupt mark off, when nothing is left that
// they could warn of.
func (s *session) fixMarks(context.Context) (bool, error) {
	if s.h.Version == 2 || !s.opts.everything() {
		return false, nil
	}
	features := s.h.IncompatibleFeatures
	stale, corrupt := false, s.res.Totals.Errors > 0
	for i := range s.ev.Findings {
		switch f := &s.ev.Findings[i]; f.Code {
		case problem.MarkedDirty, problem.MarkedCorrupt:
		case problem.RefcountTooLow, problem.RefcountOverflow, problem.RefcountMissing:
			stale, corrupt = true, true
		case problem.TableWiped:
			// As with a lost table.
			stale = stale || f.Severity == problem.InDoubt
			corrupt = corrupt || f.Severity == problem.Corruption
		case problem.OrphanL2Table:
			// While the image is dirty the table may be what an operation has left
			// behind; what tells so must not go before that is settled.
			stale = stale || f.Severity == problem.InDoubt && s.h.NbSnapshots == 0
			corrupt = corrupt || f.Severity == problem.Corruption
		default:
			corrupt = corrupt || f.Severity == problem.Corruption
		}
	}
	var codes []problem.Code
	if !stale && !corrupt && features.Has(qcow2.IncompatDirty) {
		features &^= qcow2.IncompatDirty
		codes = append(codes, problem.MarkedDirty)
	}
	if !corrupt && features.Has(qcow2.IncompatCorrupt) {
		features &^= qcow2.IncompatCorrupt
		codes = append(codes, problem.MarkedCorrupt)
	}
	if len(codes) == 0 {
		return false, nil
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(features))
	return true, s.o.write(qcow2.FieldIncompatibleFeatures, b[:], intent{reason: "the image is sound again", codes: codes})
}
