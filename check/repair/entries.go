package repair

import (
	"context"
	"encoding/binary"
	"math/bits"

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
		r := qcow2.L2Entry(e).Reserved(s.h.ZeroFlag())
		if bits.OnesCount64(r) > 1 && !s.losing() || s.h.Version == 2 && looksLikeVersion3(s.img.Head()) {
			return e // what stands there is most likely another kind of entry
		}
		return e &^ r
	},
	// Only those that read as zeros are safe: nothing is read from their place.
	check.MAP006: func(s *session, f *check.Finding, e uint64) uint64 { return bitZero },
	check.MAP007: func(s *session, f *check.Finding, e uint64) uint64 {
		if s.g.ExtendedL2 {
			return 0 // the subcluster bitmap says what is zero
		}
		return bitZero
	},
	check.MAP009: func(s *session, f *check.Finding, e uint64) uint64 {
		if !decompresses(s.img, qcow2.L2Entry(e)) {
			return e // it may be that it is not compressed at all
		}
		return e &^ bitCopied
	},
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
		mend := words[f.Code]
		lossy := f.Repair == check.RepairLossy && s.losing() && (f.Code == check.MAP001 || f.Code == check.MAP005 || f.Code == check.MAP009)
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

// fixSubclusters settles subclusters that are both allocated and zero, by what is stored
// there: what is not zero was written by somebody.
func (s *session) fixSubclusters(context.Context) (changed bool, err error) {
	for i := range s.res.Findings {
		f := &s.res.Findings[i]
		lossy := f.Repair == check.RepairLossy && s.losing()
		if f.Code != check.MAP012 || f.Rest || f.Repair != check.RepairSafe && !lossy || !s.inScope(f) || s.h.HasDataFile() || s.shared(f.Extent) {
			continue
		}
		for at := f.Extent.Offset; at+8 <= f.Extent.Offset+qcow2.HostOffset(f.Extent.Length); at += 16 {
			did, err := s.fixSubcluster(f, at-8)
			if err != nil {
				return changed, err
			}
			changed = changed || did
		}
	}
	return changed, nil
}

// fixSubcluster settles those of one entry.
func (s *session) fixSubcluster(f *check.Finding, entry qcow2.HostOffset) (changed bool, err error) {
	raw, err := s.bytes(qcow2.Extent{Offset: entry, Length: 16})
	if err != nil {
		return false, err
	}
	off, b := qcow2.L2Entry(word64(raw)).Offset(), qcow2.SubclusterBitmap(word64(raw[8:]))
	if off == 0 || b.Conflicts() == 0 || !s.g.Aligned(off) {
		return false, nil
	}
	allocated, zeros := b.Allocated(), b.Zeros()
	for k := range 32 {
		if b.Conflicts()>>k&1 == 0 {
			continue
		}
		x := qcow2.Extent{Offset: off + qcow2.HostOffset(uint64(k)*s.g.SubclusterSize()), Length: s.g.SubclusterSize()}
		zero, err := s.img.IsZero(x)
		switch {
		case err != nil:
			return false, nil
		case zero:
			allocated &^= 1 << k
		default:
			zeros &^= 1 << k
		}
	}
	putWord(raw[8:], uint64(qcow2.NewSubclusterBitmap(allocated, zeros)))
	return true, s.o.write(entry+8, raw[8:], intent{reason: reasons[check.MAP012], codes: []check.Code{f.Code}})
}

var reasons = map[check.Code]string{
	check.MAP001: "clear reserved bits", check.MAP005: "clear reserved bits", check.REF001: "clear reserved bits",
	check.BMT001: "clear reserved bits", check.BMT002: "clear reserved bits",
	check.MAP006: "drop the place of a cluster that reads as zeros", check.MAP007: "drop the place of a cluster that reads as zeros", check.MAP009: "clear COPIED of compressed data",
	check.MAP012: "keep what is stored in subclusters, and let those of zeros be zero", check.MAP013: "clear the subcluster bitmap of compressed data",
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
	step := 8
	if s.g.ExtendedL2 && f.Code == check.MAP007 {
		step = 16 // every other word is a subcluster bitmap
	}
	for at := 0; at+8 <= len(raw); at += step {
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
