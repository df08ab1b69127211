package check

import (
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// leadBack gives the bytes of the header that lead to a directory: the extension as it
// must be, where it stands or where it stood, or behind the others. Where there is none
// it says why.
func (c *run) leadBack(ext *qcow2.Extension, d *sniff.Directory) (m *Mend, why string) {
	want := d.Extension()
	data := want.Encode()
	whole := qcow2.EncodeExtension(qcow2.ExtBitmaps, data)
	m = &Mend{Code: problem.BitmapsOrphaned, Directory: want, Why: fmt.Sprintf("lead the bitmaps extension back to the directory at %v", d.Offset)}
	area := c.h.ExtensionArea(c.g)
	raw, err := c.img.ReadExtent(area, area.Length)
	if err != nil || uint64(len(raw)) < area.Length {
		return nil, "the header extensions cannot be read"
	}
	put := func(off qcow2.HostOffset, b []byte, only func(old, is byte) bool) bool {
		if at := uint64(off - area.Offset); qcow2.RangeFits(at, uint64(len(b)), area.Length) && c.keepsExtensions(raw, at, b, only) {
			m.At, m.Put = off, b
			return true
		}
		return false
	}
	anything := func(byte, byte) bool { return true }
	if ext != nil {
		if len(ext.Data) == qcow2.BitmapsExtensionSize && !ext.Overruns() {
			m.At, m.Put = ext.DataOffset(), data
			return m, ""
		}
		if put(ext.Offset, whole, anything) {
			return m, ""
		}
		return nil, "what follows the damaged bitmaps extension is not known"
	}
	for i := range c.img.Extensions { // its type may be damaged
		e := &c.img.Extensions[i]
		if extensionName(e.Type) == unknownExtension(e.Type) && string(e.Data) == string(data) && put(e.Offset, whole[:4], anything) {
			return m, ""
		}
	}
	end := area.Offset
	if n := len(c.img.Extensions); n > 0 {
		end = c.img.Extensions[n-1].End()
	}
	switch {
	case !c.img.ExtensionsComplete || !c.h.HeaderLengthOK(c.g):
		return nil, "which bytes of the header are an extension's is not known"
	case put(end, whole, func(old, is byte) bool { return old == 0 || old == is }):
		return m, ""
	}
	return nil, fmt.Sprintf("the header has no room for an extension of %d bytes that leads to them", len(whole))
}

// keepsExtensions tells whether the header extensions are in order when bytes are
// put into their area, and whether those that were read before are still there. Each
// byte that is replaced must be one that may be.
func (c *run) keepsExtensions(raw []byte, at uint64, b []byte, may func(old, is byte) bool) bool {
	for i := range b {
		if !may(raw[at+uint64(i)], b[i]) {
			return false
		}
	}
	will := slices.Clone(raw)
	copy(will[at:], b)
	base := c.h.ExtensionArea(c.g).Offset
	exts, complete := qcow2.DecodeExtensions(will, base)
	put := qcow2.Extent{Offset: base + qcow2.HostOffset(at), Length: uint64(len(b))}
	for i := range c.img.Extensions {
		old := &c.img.Extensions[i]
		kept := slices.ContainsFunc(exts, func(e qcow2.Extension) bool { return e.Type == old.Type && e.Offset == old.Offset })
		if !kept && !extentsOverlap(put, qcow2.Extent{Offset: old.Offset, Length: 8}) {
			return false
		}
	}
	n := 0
	for i := range exts {
		if exts[i].Type == qcow2.ExtBitmaps {
			n++
		}
	}
	return complete && n == 1
}
