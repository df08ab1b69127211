package repair

import (
	"context"
	"encoding/binary"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// word is how one 64-bit entry at fault becomes what it should be.
type word func(s *session, f *check.Finding, e uint64) uint64

const (
	bitCopied = uint64(1) << 63
	bitZero   = uint64(1)
)

// words mends entries one by one, by code. Each gets every 8 bytes of the
// finding's extent.
var words = map[check.Code]word{
	check.MAP001: func(s *session, f *check.Finding, e uint64) uint64 { return e &^ qcow2.L1Entry(e).Reserved() },
	check.MAP005: func(s *session, f *check.Finding, e uint64) uint64 {
		return e &^ qcow2.L2Entry(e).Reserved(s.h.ZeroFlag())
	},
	// Only those that read as zeros are safe: nothing is read from their place.
	check.MAP006: func(s *session, f *check.Finding, e uint64) uint64 { return bitZero },
	check.MAP009: func(s *session, f *check.Finding, e uint64) uint64 { return e &^ bitCopied },
	check.MAP012: (*session).separateSubclusters,
	// The bitmap of a compressed entry.
	check.MAP013: func(s *session, f *check.Finding, e uint64) uint64 { return 0 },
	check.REF001: func(s *session, f *check.Finding, e uint64) uint64 { return e &^ qcow2.RefTableEntry(e).Reserved() },
	check.BMT001: func(s *session, f *check.Finding, e uint64) uint64 {
		return e &^ qcow2.BitmapTableEntry(e).ReservedLow()
	},
	check.BMT002: func(s *session, f *check.Finding, e uint64) uint64 {
		return e &^ qcow2.BitmapTableEntry(e).ReservedHigh()
	},
}

// fixEntries mends table entries in place where nothing is lost by it.
func (s *session) fixEntries(context.Context) (changed bool, err error) {
	for i := range s.res.Findings {
		f := &s.res.Findings[i]
		if f.Repair == check.RepairSafe && (f.Code == check.MAP007 || f.Code == check.MAP010) && !f.Rest && s.inScope(f) {
			did, err := s.giveUp(f, s.placeless(), s.g.ClusterSize(), nil)
			if err != nil {
				return changed, err
			}
			changed = changed || did
			continue
		}
		mend := words[f.Code]
		lossy := f.Repair == check.RepairLossy && s.losing() && (f.Code == check.MAP001 || f.Code == check.MAP005 || f.Code == check.MAP009 || f.Code == check.MAP012)
		if mend == nil || f.Rest || f.Repair != check.RepairSafe && !lossy || !s.inScope(f) {
			continue
		}
		if f.Code.AboutBitmaps() && (s.staleBitmaps() || s.ev.Counts.Get(s.g.HostCluster(f.Extent.Offset)) != 1) {
			continue // what lies there may be something else's, see fixBitmaps
		}
		did, err := s.rewrite(f, mend, reasons[f.Code])
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

// placeless drops the place of a cluster past the end of the file that nobody reads: it
// reads as zeros, or lies past the end of the disk.
func (s *session) placeless() lostEntry {
	if s.g.ExtendedL2 || !s.h.ZeroFlag() {
		return unallocated // the subcluster bitmap says what is zero
	}
	return func(e uint64) uint64 {
		if !qcow2.L2Entry(e).Compressed() && qcow2.L2Entry(e).Zero() {
			return bitZero
		}
		return 0
	}
}

// separateSubclusters decides on subclusters that are both allocated and zero. One of the
// two bits is wrong. What holds nothing but zeros reads as such either way; where there
// is data, it is not dropped.
func (s *session) separateSubclusters(f *check.Finding, e uint64) uint64 {
	b := qcow2.SubclusterBitmap(e)
	allocated, zeros := b.Allocated(), b.Zeros()
	raw, err := s.bytes(qcow2.Extent{Offset: f.Extent.Offset - 8, Length: 8})
	if err != nil || f.Extent.Length != 8 {
		return e
	}
	size := s.g.SubclusterSize()
	for i := range qcow2.SubclustersPerCluster {
		if b.Conflicts()>>i&1 == 0 {
			continue
		}
		at := qcow2.L2Entry(word64(raw)).Offset() + qcow2.HostOffset(uint64(i)*size)
		zero, err := s.img.IsZero(qcow2.Extent{Offset: at, Length: size})
		switch {
		case err != nil || s.h.HasDataFile():
			return e
		case zero:
			allocated &^= 1 << i
		default:
			zeros &^= 1 << i
		}
	}
	return uint64(qcow2.NewSubclusterBitmap(allocated, zeros))
}

var reasons = map[check.Code]string{
	check.MAP001: "clear reserved bits", check.MAP005: "clear reserved bits", check.REF001: "clear reserved bits",
	check.BMT001: "clear reserved bits", check.BMT002: "clear reserved bits",
	check.MAP006: "drop the place of a cluster that reads as zeros", check.MAP007: "drop the place of a cluster that nobody reads", check.MAP010: "drop the place of a cluster that nobody reads", check.MAP009: "clear COPIED of compressed data",
	check.MAP012: "say of each subcluster whether it is data or zero", check.MAP013: "clear the subcluster bitmap of compressed data",
	check.MAP004: "set COPIED as the references are", check.MAP008: "set COPIED as the references are",
}

// inScope tells whether the finding is one that was asked for.
func (s *session) inScope(f *check.Finding) bool {
	switch s.opts.scope() {
	case ScopeBitmaps:
		return f.Code.AboutBitmaps()
	case ScopeRefcounts:
		return f.Code == check.REF001 || f.Code == check.MAP004 || f.Code == check.MAP008
	case ScopeLeaks:
		return false
	}
	return true
}

// rewrite mends each 8 bytes of a finding's extent.
func (s *session) rewrite(f *check.Finding, mend word, reason string) (changed bool, err error) {
	if s.shared(f.Extent) {
		return false, nil
	}
	raw, err := s.bytes(f.Extent)
	if err != nil {
		return false, err
	}
	for at := 0; at+8 <= len(raw); at += 8 {
		e := binary.BigEndian.Uint64(raw[at:])
		if will := mend(s, f, e); will != e {
			binary.BigEndian.PutUint64(raw[at:], will)
			changed = true
		}
	}
	if !changed {
		return false, nil
	}
	return true, s.o.write(f.Extent.Offset, raw, intent{reason: reason, codes: []check.Code{f.Code}})
}
