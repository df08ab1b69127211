package repair

import (
	"context"
	"encoding/binary"
	"math/bits"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// word is how one 64-bit entry at fault becomes what it should be.
type word func(s *session, f *problem.Finding, e uint64) uint64

// entryFix is how entries of a code are fixed one by one, each by itself.
type entryFix struct {
	fix    word // gets every 8 bytes of the finding's extent
	reason string
	// lossy: done as well where the rest of the entry is in doubt, if that is asked for.
	lossy bool
	// counts: part of a repair of refcounts alone.
	counts bool
}

const (
	bitCopied = uint64(1) << 63
	bitZero   = uint64(1)
)

var entryFixes = map[problem.Code]entryFix{
	problem.L1ReservedBits: {lossy: true, reason: "clear reserved bits",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 { return e &^ qcow2.L1Entry(e).Reserved() }},
	problem.L2ReservedBits: {lossy: true, reason: "clear reserved bits",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 {
			r := qcow2.L2Entry(e).Reserved(s.h.ZeroFlag())
			if bits.OnesCount64(r) > 1 && !s.losing() || s.h.Version == 2 && looksLikeVersion3(s.img.Head()) {
				return e // what stands there is most likely another kind of entry
			}
			return e &^ r
		}},
	// Only those that read as zeros are safe: nothing is read from their place.
	problem.L2Unaligned: {reason: "drop the place of a cluster that reads as zeros",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 { return bitZero }},
	problem.CompressedCopied: {lossy: true, reason: "clear COPIED of compressed data",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 {
			if !decompresses(s.img, qcow2.L2Entry(e)) {
				return e // it may be that it is not compressed at all
			}
			return e &^ bitCopied
		}},
	problem.SubclusterConflict: {lossy: true, reason: "say of each subcluster whether it is data or zero",
		fix: (*session).separateSubclusters},
	problem.SubclusterUnplaced: {reason: "clear the subcluster bitmap of compressed data",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 { return 0 }},
	problem.RefcountEntryReserved: {counts: true, reason: "clear reserved bits",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 { return e &^ qcow2.RefTableEntry(e).Reserved() }},
	problem.BitmapLowReserved: {reason: "clear reserved bits",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 {
			return e &^ qcow2.BitmapTableEntry(e).ReservedLow()
		}},
	problem.BitmapHighReserved: {reason: "clear reserved bits",
		fix: func(s *session, f *problem.Finding, e uint64) uint64 {
			return e &^ qcow2.BitmapTableEntry(e).ReservedHigh()
		}},
}

// copiedFix is for COPIED flags, when every refcount is right.
var copiedFix = entryFix{counts: true, reason: "set COPIED as the references are", fix: (*session).asReferenced}

// fixEntries fixes table entries in place where nothing is lost by it.
func (s *session) fixEntries(context.Context) (changed bool, err error) {
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Repair == problem.RepairSafe && (f.Code == problem.L2PastEnd || f.Code == problem.CompressedMisplaced) && !f.Unlisted && s.opts.everything() {
			did, err := s.giveUp(f, s.placeless(), s.g.ClusterSize(), nil)
			if err != nil {
				return changed, err
			}
			changed = changed || did
			continue
		}
		fix, ok := entryFixes[f.Code]
		lossy := f.Repair == problem.RepairLossy && s.losing() && fix.lossy
		if !ok || f.Unlisted || f.Repair != problem.RepairSafe && !lossy || !s.inScope(f, fix) {
			continue
		}
		if f.Code.AboutBitmaps() && (s.staleBitmaps() || s.ev.Counts.Get(s.g.HostCluster(f.Extent.Offset)) != 1) {
			continue // what lies there may be something else's, see fixBitmaps
		}
		did, err := s.rewrite(f, fix)
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
		return lostData // the subcluster bitmap says what is zero
	}
	return lostEntry{data: true, become: func(e uint64) uint64 {
		if !qcow2.L2Entry(e).Compressed() && qcow2.L2Entry(e).Zero() {
			return bitZero
		}
		return 0
	}}
}

// separateSubclusters decides on subclusters that are both allocated and zero. One of the
// two bits is wrong. What holds nothing but zeros reads as such either way; where there
// is data, it is not dropped.
func (s *session) separateSubclusters(f *problem.Finding, e uint64) uint64 {
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

// inScope tells whether the finding is one that was asked for.
func (s *session) inScope(f *problem.Finding, fix entryFix) bool {
	switch s.opts.scope() {
	case ScopeBitmaps:
		return f.Code.AboutBitmaps()
	case ScopeRefcounts:
		return fix.counts
	case ScopeLeaks:
		return false
	}
	return true
}

// rewrite fixes each 8 bytes of a finding's extent.
func (s *session) rewrite(f *problem.Finding, fix entryFix) (changed bool, err error) {
	if s.shared(f.Extent) {
		return false, nil
	}
	raw, err := s.bytes(f.Extent)
	if err != nil {
		return false, err
	}
	for at := 0; at+8 <= len(raw); at += 8 {
		e := binary.BigEndian.Uint64(raw[at:])
		if will := fix.fix(s, f, e); will != e {
			binary.BigEndian.PutUint64(raw[at:], will)
			changed = true
		}
	}
	if !changed {
		return false, nil
	}
	return true, s.o.write(f.Extent.Offset, raw, intent{reason: fix.reason, codes: []problem.Code{f.Code}})
}
