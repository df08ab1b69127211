package rescue

import (
	"github.com/qcheck/qcheck/qcow2"
)

// findBitmaps finds the bitmap directory where the header does not lead to one.
func (s *search) findBitmaps() {
	f, m := s.f, &s.m
	if s.h0 != nil && m.bitmaps != nil {
		x := m.bitmaps
		if f.g.Aligned(x.DirectoryOffset) && x.DirectoryOffset != 0 && uint64(x.DirectoryOffset) < f.size {
			if d := f.bitmapsAt(x.DirectoryOffset); d != nil && d.ext.NbBitmaps >= x.NbBitmaps {
				s.ownBitmaps(d)
				return // as the header says
			}
		}
	}
	if s.h0 != nil && m.bitmaps == nil && !m.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps) || m.h.Version == 2 {
		return
	}
	d, several := f.findBitmaps()
	if d == nil {
		return
	}
	if several && f.refs == nil {
		m.fact("bitmaps", SourceGuess, "there are several bitmap directories, and no refcounts to tell which one is in use; none is taken", "%d", len(d.entries))
		return
	}
	s.bitmaps = d
	s.ownBitmaps(d)
	m.fact("bitmap directory", SourceFound, "its entries parse exactly", "%v, %d bitmaps", d.ext.DirectoryOffset, len(d.entries))
}

func (s *search) ownBitmaps(d *bitmapDirectory) {
	s.f.own(d.ext.DirectoryOffset, d.ext.DirectorySize)
	for _, e := range d.entries {
		s.f.own(e.TableOffset, uint64(e.TableSize)*8)
	}
}

// fitBitmaps leads to the bitmaps that were found. That the header vouched for them is not
// known any more, so they are marked in use: QEMU shows them as inconsistent, and a repair
// with --bitmap-policy=all-dirty makes them usable.
func (s *search) fitBitmaps() {
	d, m := s.bitmaps, &s.m
	if d == nil {
		return
	}
	m.bitmaps = &d.ext
	vouched := s.h0 != nil && m.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps)
	m.h.AutoclearFeatures |= qcow2.AutoclearBitmaps
	if vouched {
		return
	}
	var all []byte
	for i := range d.entries {
		d.entries[i].Flags |= qcow2.BitmapInUse
		all = append(all, d.entries[i].Encode()...)
	}
	s.edits = append(s.edits, Change{Offset: d.ext.DirectoryOffset, New: all, Reason: "bitmaps are marked in use: nothing vouches for them"})
	m.fact("bitmaps", SourceFound, "nothing is left that vouches for their content", "marked in use")
}
