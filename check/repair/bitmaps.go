package repair

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Bitmaps are mended by deciding what the directory should hold, and comparing
// that with what it holds. Where they differ in more than bits that mean nothing,
// a new directory is written to fresh clusters, with new tables for the bitmaps
// that need one, and the extension and autoclear bit 0 are switched to it: until
// then the old directory stands as it was, so that a sound bitmap is valid at
// every instant. What the old structures took loses its references; a later
// round gives it back.
//
// What is changed in place is harmless at every instant: reserved flags, padding,
// and table entries that say the same in another way.

// bitmapFixer is one round of mending the bitmaps.
type bitmapFixer struct {
	*session
	at      *qcow2.Extension // the bitmaps extension
	ext     qcow2.BitmapsExtension
	stale   bool // autoclear bit 0 is clear
	bitmaps []*bitmapFix
	missing []*problem.Finding // entries that could not be read
	codes   []problem.Code     // what is wrong besides single bitmaps
	alloc   *allocator
}

// bitmapFix is a bitmap, what is wrong with it, and what becomes of it.
type bitmapFix struct {
	qcow2.BitmapEntry
	raw []byte // the entry as it stands, nil where it does not end where it says
	// bad are faults that leave the content open to doubt, name those of the
	// name, and tidy those that are mended and nothing is lost.
	bad, name, tidy []problem.Code
	inUse           bool

	// tableLost tells that nothing of the table can be taken over; badEntries
	// that some of it can.
	tableLost, badEntries bool

	drop   string // why it is removed; empty if it is not
	what   string // what is done about it; empty for nothing
	table  tableKind
	needed uint64 // entries of the new table
	out    []byte // the entry as it will be
}

// tableKind is where a bitmap's table comes from.
type tableKind uint8

const (
	tableKept  tableKind = iota // as it is, where it is
	tableZeros                  // a new one that names no data
	tableSound                  // a new one with the sound entries of the old one
	tableOnes                   // a new one of ones
)

func (b *bitmapFix) label() string {
	if len(b.Name) == 0 {
		return "the bitmap without a name"
	}
	return "bitmap " + check.Excerpt(b.Name)
}

// faults are the codes of everything that is wrong with the bitmap.
func (b *bitmapFix) faults() []problem.Code { return slices.Concat(b.bad, b.name, b.tidy) }

// fixBitmaps does what the findings about bitmaps ask for.
func (s *session) fixBitmaps(ctx context.Context) (changed bool, err error) {
	if !s.opts.bitmaps() || s.headerShared() || !slices.ContainsFunc(s.ev.Findings, concernsBitmaps) {
		return false, nil
	}
	ext := s.img.Extension(qcow2.ExtBitmaps)
	if ext == nil {
		if s.res.Has(problem.BitmapsOrphaned) && !s.o.bitmapsGone {
			if s.opts.policy() != PolicyRemove {
				return false, nil // they are there, and the bit may vouch for them
			}
			s.lose("the bitmaps of a directory to which the header has no room to lead")
			s.o.bitmapsGone = true
		}
		if !s.res.Has(problem.BitmapExtensionMissing) {
			return false, nil
		}
		s.o.bitmapsGone = true
		return true, s.setAutoclear(false, problem.BitmapExtensionMissing, "there are no bitmaps")
	}
	f := &bitmapFixer{session: s, at: ext}
	if ext.Length != qcow2.BitmapsExtensionSize && !ext.Overruns() {
		return f.fixLength()
	}
	if !s.img.ExtensionsComplete {
		return false, nil // which bytes are an extension's is not known
	}
	f.ext = qcow2.DecodeBitmapsExtension(ext.Data)
	f.stale = s.staleBitmaps()
	if s.unreadable(problem.StructBitmapDirectory) {
		return false, nil // it may be readable another time
	}
	if err := f.judge(ctx); err != nil {
		return false, err
	}
	if s.h.Version == 2 {
		// Nothing can say that the bitmaps of a version 2 image are true, or
		// mark them as what they are.
		for _, b := range f.bitmaps {
			b.drop = "an image of version 2 cannot have bitmaps"
		}
	} else {
		if f.stale && s.h.DiskTooLarge(s.g) && s.opts.policy() != PolicyRemove {
			return false, nil // to vouch for them is to vouch for what is not mended
		}
		f.decide()
	}
	if changed, err = f.write(); changed || err != nil {
		return changed, err
	}
	return f.fixData(ctx)
}

// staleBitmaps tells that nothing vouches for the bitmaps: what they name may be
// somebody else's by now.
func (s *session) staleBitmaps() bool { return !s.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps) }

// concernsBitmaps tells whether something can be done about a finding here.
func concernsBitmaps(f problem.Finding) bool {
	if f.Code == problem.BitmapsOrphaned {
		return true // they can be given up
	}
	return (f.Code.AboutBitmaps() || f.Code == problem.QEMUCrash || f.Code == problem.ExtensionLength || onBlock(&f)) &&
		(f.Repair == problem.RepairSafe || f.Repair == problem.RepairPolicy)
}

// onBlock tells of a finding that a bitmap's table or data lies where a refcount block
// is.
func onBlock(f *problem.Finding) bool {
	return f.Code == problem.RefcountBlockOverlap && f.Structure.OfBitmaps()
}

// unreadable tells whether something of a structure could not be read.
func (s *session) unreadable(what problem.Structure) bool {
	return slices.ContainsFunc(s.ev.Findings, func(f problem.Finding) bool {
		return f.Severity == problem.Trouble && f.Structure == what
	})
}

// judge sorts the findings to the bitmaps that they are about.
func (f *bitmapFixer) judge(ctx context.Context) error {
	for i := range f.ev.Bitmaps {
		e := f.ev.Bitmaps[i]
		f.bitmaps = append(f.bitmaps, &bitmapFix{BitmapEntry: e, inUse: e.Flags.Has(qcow2.BitmapInUse)})
	}
	tables := false
	for i := range f.ev.Findings {
		finding := &f.ev.Findings[i]
		switch code := finding.Code; {
		case code == problem.BitmapTrailingBits || code == problem.BitmapDataUniform || finding.Unlisted && code.About() == problem.AboutBitmapData:
			// See fixData.
		case code == problem.QEMUCrash || code.About() == problem.AboutBitmap:
			if b := f.entryAt(finding.Extent.Offset); b != nil {
				b.take(finding)
			} else if code == problem.BitmapEntryBroken {
				f.missing = append(f.missing, finding)
			}
		case code.About() == problem.AboutBitmapExtension:
			f.codes = append(f.codes, code)
		case code.AboutBitmaps() || onBlock(finding):
			tables = true
		}
	}
	reserved := slices.Contains(f.codes, problem.BitmapExtensionReserved)
	for _, b := range f.bitmaps {
		if reserved { // what it says of the bitmaps nobody knows
			b.bad = append(b.bad, problem.BitmapExtensionReserved)
		}
		if f.stale {
			b.bad = append(b.bad, problem.BitmapsStale)
			b.tableLost = true // what is there may be somebody else's by now
		}
		if b.mended() {
			continue
		}
		var err error
		if b.raw, err = f.bytes(qcow2.Extent{Offset: b.EntryOffset, Length: b.EntrySize()}); err != nil {
			return err
		}
	}
	if tables && !f.stale {
		return f.judgeTables(ctx)
	}
	return nil
}

// mended tells that the entry is not as it stands in the file.
func (b *bitmapFix) mended() bool { return slices.Contains(b.bad, problem.BitmapEntryBroken) }

// take notes a finding about the bitmap's directory entry.
func (b *bitmapFix) take(f *problem.Finding) {
	switch f.Code {
	case problem.BitmapFlagsReserved, problem.BitmapEntryPadding:
		b.tidy = append(b.tidy, f.Code)
	case problem.BitmapNameLength, problem.BitmapNameDuplicate:
		b.name = append(b.name, f.Code)
	case problem.BitmapExtraData, problem.BitmapInUse, problem.BitmapTableElsewhere:
		// Nothing is wrong with those, or nothing can be done here.
	case problem.BitmapNameDangerous:
		if f.Repair == problem.RepairPolicy { // a NUL, at which QEMU cuts the name
			b.name = append(b.name, f.Code)
		}
	case problem.BitmapSizeMismatch:
		if f.Severity != problem.Note {
			b.bad, b.badEntries = append(b.bad, f.Code), true
		}
	case problem.BitmapTableMisplaced, problem.BitmapTableSize:
		b.bad, b.tableLost = append(b.bad, f.Code), true
	default:
		b.bad = append(b.bad, f.Code)
	}
}

// entryAt gives the bitmap whose directory entry has a byte.
func (f *bitmapFixer) entryAt(o qcow2.HostOffset) *bitmapFix {
	i, found := slices.BinarySearchFunc(f.bitmaps, o, func(b *bitmapFix, o qcow2.HostOffset) int {
		return cmp.Compare(b.EntryOffset, o)
	})
	if !found {
		i--
	}
	if i < 0 || uint64(o-f.bitmaps[i].EntryOffset) >= max(f.bitmaps[i].EntrySize(), qcow2.BitmapHeadSize) {
		return nil
	}
	return f.bitmaps[i]
}

// cString is a name as QEMU takes it, up to the first NUL.
func cString(name []byte) string {
	s, _, _ := bytes.Cut(name, []byte{0})
	return string(s)
}
