package repair

import (
	"context"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// fixExtensions removes header extensions that name what the image does not use, and
// what is left over of a feature name table at its end.
func (s *session) fixExtensions(context.Context) (bool, error) {
	if !s.opts.everything() || s.headerShared() || !s.img.ExtensionsComplete {
		return false, nil
	}
	become := make(map[qcow2.HostOffset]uint64) // how many bytes of data are left, by extension
	var codes []problem.Code
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Unlisted || f.Repair != problem.RepairSafe {
			continue
		}
		at := slices.IndexFunc(s.img.Extensions, func(e qcow2.Extension) bool {
			return f.Extent.Offset >= e.Offset && f.Extent.Offset < e.End()
		})
		if at < 0 {
			continue
		}
		switch e := &s.img.Extensions[at]; {
		case f.Code == problem.ExtensionUnused:
			become[e.Offset] = 0
		case f.Code == problem.ExtensionLength && e.Type == qcow2.ExtFeatureNames:
			become[e.Offset] = uint64(e.Length) / qcow2.FeatureNameSize * qcow2.FeatureNameSize
		default:
			continue
		}
		codes = append(codes, f.Code)
	}
	if len(become) == 0 {
		return false, nil
	}
	slices.Sort(codes)
	why := intent{reason: "keep the header extensions that say something", codes: slices.Compact(codes)}
	return true, s.rewriteExtensions(why, func(e *qcow2.Extension) ([]byte, error) {
		n, found := become[e.Offset]
		if found && n == 0 {
			return nil, nil
		}
		raw, err := s.bytes(qcow2.Extent{Offset: e.Offset, Length: uint64(e.End() - e.Offset)})
		if found && err == nil {
			raw = raw[:8+n] // a multiple of 8, as 48 is
			putHalf(raw[4:], uint32(n))
		}
		return raw, err
	})
}

// rewriteExtensions puts what keep makes of each extension in its place. What is
// left over at the end becomes zeros, which end the extensions.
func (s *session) rewriteExtensions(why intent, keep func(*qcow2.Extension) ([]byte, error)) error {
	exts := s.img.Extensions
	area := s.h.ExtensionArea(s.g)
	// The padding of the last one may be cut off by the end of the area.
	end := min(exts[len(exts)-1].End(), area.Offset+qcow2.HostOffset(area.Length))
	var out []byte
	for i := range exts {
		b, err := keep(&exts[i])
		if err != nil {
			return err
		}
		out = append(out, b...)
	}
	length := int(end - exts[0].Offset)
	if len(out) > length {
		out = out[:length]
	}
	out = append(out, make([]byte, length-len(out))...)
	return s.o.write(exts[0].Offset, out, why)
}
