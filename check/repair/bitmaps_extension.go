package repair

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair/proof"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// leadToBitmaps leads the extension, or entries of the directory, back to bitmaps that
// were found.
func (s *session) leadToBitmaps(context.Context) (changed bool, err error) {
	if !s.opts.bitmaps() || len(s.ev.Mends) == 0 || s.o.bitmapsGone {
		return false, nil
	}
	for _, m := range s.ev.Mends {
		if s.shared(qcow2.Extent{Offset: m.At, Length: uint64(len(m.Put))}) {
			continue
		}
		if err := s.o.write(m.At, m.Put, intent{reason: m.Why, codes: []problem.Code{m.Code}}); err != nil {
			return changed, err
		}
		changed = true
		if m.Directory.DirectoryOffset != 0 {
			s.said.Directory = m.Directory
		}
		if m.Table != 0 {
			s.said.Tables = append(s.said.Tables, proof.Pointer{Entry: m.Entry, Table: m.Table})
			if err := s.distrust(&m); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// distrust marks a bitmap in use whose table was found only after something else had been
// mended: before that nothing said that it is the one.
func (s *session) distrust(m *check.Mend) error {
	if slices.ContainsFunc(s.first.Mends, func(f check.Mend) bool { return f.Entry == m.Entry && f.Table == m.Table }) {
		return nil
	}
	raw, err := s.bytes(qcow2.Extent{Offset: m.Entry + qcow2.BitmapFieldFlags, Length: 4})
	if err != nil {
		return err
	}
	putHalf(raw, binary.BigEndian.Uint32(raw)|uint32(qcow2.BitmapInUse))
	return s.o.write(m.Entry+qcow2.BitmapFieldFlags, raw, intent{reason: "mark the bitmap in use, since it may be out of date", codes: []problem.Code{m.Code}})
}

// setAutoclear sets or clears autoclear bit 0: whether the bitmaps count.
func (s *session) setAutoclear(on bool, code problem.Code, reason string) error {
	v := s.h.AutoclearFeatures &^ qcow2.AutoclearBitmaps
	if on {
		v |= qcow2.AutoclearBitmaps
	}
	var b [8]byte
	putWord(b[:], uint64(v))
	return s.o.write(qcow2.FieldAutoclearFeatures, b[:], intent{reason: reason, codes: []problem.Code{code}})
}

// removeExtension removes the bitmaps extension, and clears autoclear bit 0. The
// extensions behind it move up, byte for byte.
func (f *bitmapFixer) removeExtension(codes ...problem.Code) error {
	why := intent{reason: "remove the bitmaps extension", codes: codes}
	f.o.bitmapsGone = true
	if f.h.Version > 2 && f.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps) {
		code := problem.BitmapExtensionMissing
		if len(codes) > 0 {
			code = codes[0]
		}
		if err := f.setAutoclear(false, code, "there are no bitmaps any more"); err != nil {
			return err
		}
	}
	return f.rewriteExtensions(why, func(e *qcow2.Extension) ([]byte, error) {
		if e.Type == qcow2.ExtBitmaps {
			return nil, nil
		}
		return f.bytes(qcow2.Extent{Offset: e.Offset, Length: uint64(e.End() - e.Offset)})
	})
}

// fixLength is for a bitmaps extension of the wrong length. Where its bytes are
// those of a sound one they stay, and the length becomes what it must be;
// else nothing leads to the bitmaps, and it is removed.
func (f *bitmapFixer) fixLength() (changed bool, err error) {
	if f.res.Has(problem.ExtensionDuplicate) {
		return false, nil // first there must be one only
	}
	area := f.h.ExtensionArea(f.g)
	raw, err := f.bytes(area)
	if err != nil {
		return false, err
	}
	at := uint64(f.at.Offset - area.Offset)
	if qcow2.RangeFits(at, 8+qcow2.BitmapsExtensionSize, area.Length) && f.leadsToDirectory(qcow2.DecodeBitmapsExtension(raw[at+8:])) {
		return f.setLength(raw, at)
	}
	if !f.img.ExtensionsComplete {
		return false, nil
	}
	f.lose("every bitmap: the bitmaps extension does not lead to the bitmap directory")
	return true, f.removeExtension(problem.ExtensionLength)
}

// leadsToDirectory tells whether an extension leads to something that has an entry
// of a bitmap directory at its start, whatever else may be wrong.
func (f *bitmapFixer) leadsToDirectory(ext qcow2.BitmapsExtension) bool {
	if ext.DirectoryOffset == 0 || !f.g.Aligned(ext.DirectoryOffset) || uint64(ext.DirectoryOffset) >= uint64(f.img.Size()) {
		return false
	}
	ext.NbBitmaps, ext.DirectorySize = qcow2.MaxBitmaps, qcow2.MaxBitmapDirectorySize
	format := sniff.FormatOf(f.img)
	for i, e := range qcow2.ReadBitmapDirectory(f.img, ext).Entries {
		if i == maxEntriesTried {
			break
		}
		if format.BitmapEntry(&e) {
			return true
		}
	}
	return false
}

// maxEntriesTried is how many entries may be damaged before one that is not.
const maxEntriesTried = 16

// setLength gives the extension at raw[at:] its length. What follows its data
// are further extensions, if they read as such; else it is surplus.
func (f *bitmapFixer) setLength(raw []byte, at uint64) (changed bool, err error) {
	why := intent{reason: "give the bitmaps extension its length", codes: []problem.Code{problem.ExtensionLength}}
	base := f.h.ExtensionArea(f.g).Offset
	raw = slices.Clone(raw)
	putHalf(raw[at+4:], qcow2.BitmapsExtensionSize)
	exts, complete := qcow2.DecodeExtensions(raw, base)
	all := complete && len(exts) >= len(f.img.Extensions)
	for i := range f.img.Extensions {
		old := &f.img.Extensions[i]
		all = all && slices.ContainsFunc(exts, func(e qcow2.Extension) bool { return e.Type == old.Type && e.Offset == old.Offset })
	}
	switch {
	case all, f.at.Length < qcow2.BitmapsExtensionSize && complete:
		return true, f.o.write(f.at.Offset+4, raw[at+4:at+8], why)
	case f.at.Length < qcow2.BitmapsExtensionSize || !f.img.ExtensionsComplete:
		return false, nil // what follows would be written over, or is not known
	}
	return true, f.rewriteExtensions(why, func(e *qcow2.Extension) ([]byte, error) {
		if e.Offset == f.at.Offset {
			return raw[at : at+8+qcow2.BitmapsExtensionSize], nil
		}
		return f.bytes(qcow2.Extent{Offset: e.Offset, Length: uint64(e.End() - e.Offset)})
	})
}
