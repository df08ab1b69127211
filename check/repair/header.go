package repair

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// fixHeader mends header fields where what is meant is beyond doubt.
func (s *session) fixHeader(context.Context) (changed bool, err error) {
	if !s.opts.everything() {
		return false, nil
	}
	for i := range s.res.Findings {
		f := &s.res.Findings[i]
		if f.Rest || f.Repair != check.RepairSafe {
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

func (s *session) fixHeaderField(f *check.Finding) (bool, error) {
	switch f.Code {
	case check.HDR008:
		return true, s.setField64(qcow2.FieldAutoclearFeatures, uint64(s.h.AutoclearFeatures&qcow2.AutoclearKnown), f, "clear autoclear features that nobody knows")
	case check.HDR011:
		return s.growL1(f)
	case check.HDR014: // safe only without snapshots: the place means nothing
		return true, s.setField64(qcow2.FieldSnapshotsOffset, 0, f, "there is no snapshot table")
	case check.HDR017:
		return true, s.zero(f, "clear the header's padding")
	case check.HDR018: // safe only without a data file
		return true, s.setField64(qcow2.FieldAutoclearFeatures, uint64(s.h.AutoclearFeatures&^qcow2.AutoclearRawData), f, "there is no data file that could be raw")
	}
	return false, nil
}

// setField64 writes a header field of 8 bytes.
func (s *session) setField64(field qcow2.HostOffset, v uint64, f *check.Finding, reason string) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	return s.o.write(field, b[:], intent{reason: reason, codes: []check.Code{f.Code}})
}

// zero clears the bytes at fault.
func (s *session) zero(f *check.Finding, reason string) error {
	return s.o.write(f.Extent.Offset, make([]byte, f.Extent.Length), intent{reason: reason, codes: []check.Code{f.Code}})
}

// growL1 makes the L1 table long enough for the disk, where the clusters that it
// has hold the missing entries. What stands there is either zero, and so
// unallocated, or the entries that a wrong l1_size had cut off.
func (s *session) growL1(f *check.Finding) (bool, error) {
	needed := s.h.L1Needed(s.g)
	have := s.g.Clusters(uint64(s.h.L1Size)*8) * s.g.ClusterSize() / 8
	if s.h.L1Size == 0 || needed > have || needed > qcow2.MaxL1Entries {
		return false, nil
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(needed))
	return true, s.o.write(qcow2.FieldL1Size, b[:], intent{reason: "count the L1 entries that the disk takes", codes: []check.Code{f.Code}})
}

// fixMarks takes the dirty and the corrupt mark off, when nothing is left that
// they could warn of.
func (s *session) fixMarks(context.Context) (bool, error) {
	if s.h.Version == 2 || !s.opts.everything() {
		return false, nil
	}
	features := s.h.IncompatibleFeatures
	stale, corrupt := false, s.res.Totals.Errors > 0
	for i := range s.res.Findings {
		switch f := &s.res.Findings[i]; f.Code {
		case check.HDR006, check.HDR007:
		case check.REF005, check.REF007, check.REF008:
			stale, corrupt = true, true
		default:
			corrupt = corrupt || f.Severity == check.Corruption
		}
	}
	var codes []check.Code
	if !stale && !corrupt && features.Has(qcow2.IncompatDirty) {
		features &^= qcow2.IncompatDirty
		codes = append(codes, check.HDR006)
	}
	if !corrupt && features.Has(qcow2.IncompatCorrupt) {
		features &^= qcow2.IncompatCorrupt
		codes = append(codes, check.HDR007)
	}
	if len(codes) == 0 {
		return false, nil
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(features))
	return true, s.o.write(qcow2.FieldIncompatibleFeatures, b[:], intent{reason: "the image is sound again", codes: codes})
}
