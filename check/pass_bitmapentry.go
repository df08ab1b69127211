package check

import (
	"bytes"
	"cmp"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// checkEntries tests each entry by itself, and that their names differ.
func (p *bitmapsPass) checkEntries() error {
	names := make(map[string]*bitmap, len(p.bitmaps))
	for i, b := range p.bitmaps {
		if i%ctxStride == 0 && p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		if !b.partial {
			p.checkFlags(b)
		}
		if !b.partial && !b.mended {
			p.checkExtraData(b)
			p.checkName(b, names)
		}
		p.checkTablePlace(b)
	}
	return nil
}

// entryFinding makes a finding about a field of the bitmap's entry.
func (b *bitmap) entryFinding(code problem.Code, field qcow2.HostOffset, n int, value, expected problem.Value, format string, args ...any) problem.Finding {
	f := problem.Finding{
		Code: code, Extent: b.field(field, n), Bitmap: b.name, Path: problem.ToBitmap(b.index), Value: value, Expected: expected,
		Message: problem.Say("%s: ", b.label()),
	}
	f.Message.And(format, args...)
	return f
}

// checkFlags tests the flags, the type and the granularity.
func (p *bitmapsPass) checkFlags(b *bitmap) {
	bad := func(code problem.Code, field qcow2.HostOffset, n int, value, expected problem.Value, why string) {
		p.report(b.entryFinding(code, field, n, value, expected, "%s", why))
		if b.badEntry == "" {
			b.badEntry = why
		}
	}
	if r := b.Flags &^ qcow2.BitmapFlagsKnown; r != 0 {
		bad(problem.BitmapFlagsReserved, qcow2.BitmapFieldFlags, 4, problem.Hex(b.Flags), problem.Hex(b.Flags&qcow2.BitmapFlagsKnown), fmt.Sprintf("reserved flags 0x%x are set", uint32(r)))
	}
	switch {
	case b.Type == qcow2.BitmapDirtyTracking:
	case b.Flags.Has(qcow2.BitmapAuto):
		// Not BMD006 as well: this is the same type, and the worse of the two.
		bad(problem.BitmapAutoOnOther, qcow2.BitmapFieldFlags, 5, problem.Number(b.Type), problem.Number(qcow2.BitmapDirtyTracking),
			fmt.Sprintf("its type is %d, and it is enabled, which only dirty tracking bitmaps (type %d) can be", b.Type, qcow2.BitmapDirtyTracking))
	default:
		bad(problem.BitmapTypeUnknown, qcow2.BitmapFieldType, 1, problem.Number(b.Type), problem.Number(qcow2.BitmapDirtyTracking),
			fmt.Sprintf("its type is %d, but dirty tracking (%d) is the only one there is", b.Type, qcow2.BitmapDirtyTracking))
	}
	if g := b.GranularityBits; !b.granularityOK() {
		why := fmt.Sprintf("granularity_bits is %d; the format allows 0 to 63", g)
		if g <= 63 {
			why = fmt.Sprintf("granularity_bits is %d, which the format allows, but QEMU takes %d to %d and refuses the image for it", g, qcow2.MinBitmapGranularity, qcow2.MaxBitmapGranularity)
		}
		b.badEntry = cmp.Or(b.badEntry, why)
		f := b.entryFinding(problem.BitmapGranularity, qcow2.BitmapFieldGranularityBits, 1, problem.Number(g), problem.Value{}, "%s", why)
		p.mendGranularity(b, &f)
		p.report(f)
	}
	if b.Flags.Has(qcow2.BitmapInUse) {
		f := b.entryFinding(problem.BitmapInUse, qcow2.BitmapFieldFlags, 4, problem.Hex(b.Flags), problem.Value{},
			"it is in use: it was not saved when the image was closed last, and what it holds must not be used")
		if p.opts.Live {
			f = b.entryFinding(problem.BitmapInUse, qcow2.BitmapFieldFlags, 4, problem.Hex(b.Flags), problem.Value{},
				"it is in use: the program that writes to the image has it in memory, and what the file holds must not be used")
			f.Severity = problem.Note
		}
		p.report(f)
	}
}

// granularityOK tells whether QEMU takes the granularity.
func (b *bitmap) granularityOK() bool {
	return b.GranularityBits >= qcow2.MinBitmapGranularity && b.GranularityBits <= qcow2.MaxBitmapGranularity
}

// checkExtraData tests for what later versions of the format may add, and the
// padding.
func (p *bitmapsPass) checkExtraData(b *bitmap) {
	compatible := b.Flags.Has(qcow2.BitmapExtraDataCompatible)
	switch {
	case b.ExtraDataSize > 0 && !compatible:
		b.badEntry = cmp.Or(b.badEntry, "it has extra data that must be understood to use it")
		p.report(b.entryFinding(problem.BitmapExtraData, qcow2.BitmapFieldExtraDataSize, 4, problem.Number(b.ExtraDataSize), problem.Number(0),
			"it has %d bytes of extra data, without the flag that says that it may be used all the same; QEMU refuses the image", b.ExtraDataSize))
	case b.ExtraDataSize > 0:
		p.report(b.entryFinding(problem.BitmapExtraData, qcow2.BitmapFieldExtraDataSize, 4, problem.Number(b.ExtraDataSize), problem.Number(0),
			"it has %d bytes of extra data, which may be ignored; but QEMU refuses the image", b.ExtraDataSize))
	case compatible:
		p.report(b.entryFinding(problem.BitmapExtraData, qcow2.BitmapFieldFlags, 4, problem.Hex(b.Flags), problem.Hex(b.Flags&^qcow2.BitmapExtraDataCompatible),
			"extra_data_compatible is set although there is no extra data; QEMU refuses the image"))
	}
	if !sniff.Zero(b.Padding) {
		padding := b.EntryOffset + qcow2.HostOffset(b.EntrySize()) - qcow2.HostOffset(len(b.Padding))
		first := len(b.Padding) - len(bytes.TrimLeft(b.Padding, "\x00"))
		end := len(bytes.TrimRight(b.Padding, "\x00"))
		p.report(b.entryFinding(problem.BitmapEntryPadding, padding+qcow2.HostOffset(first)-b.EntryOffset, end-first,
			problem.Words(fmt.Sprintf("%x", b.Padding[first:end])), problem.Words("zeros"), "the padding of its entry is not zero"))
	}
}

// checkName tests the name. QEMU takes names up to their first NUL, and so does
// the comparison.
func (p *bitmapsPass) checkName(b *bitmap, seen map[string]*bitmap) {
	name := qcow2.HostOffset(qcow2.BitmapHeadSize) + qcow2.HostOffset(b.ExtraDataSize)
	switch {
	case b.NameSize == 0:
		b.badEntry = cmp.Or(b.badEntry, "it has no name")
		p.report(b.entryFinding(problem.BitmapNameLength, qcow2.BitmapFieldNameSize, 2, problem.Number(0), problem.AtLeast(1), "a bitmap must have a name"))
		return
	case b.NameSize > qcow2.MaxBitmapName:
		b.badEntry = cmp.Or(b.badEntry, "its name is too long")
		p.report(b.entryFinding(problem.BitmapNameLength, qcow2.BitmapFieldNameSize, 2, problem.Number(b.NameSize), problem.AtMost(qcow2.MaxBitmapName),
			"its name has %d bytes, more than the %d that QEMU takes", b.NameSize, qcow2.MaxBitmapName))
	}
	odd := func(why string) {
		f := b.entryFinding(problem.BitmapNameDangerous, name, len(b.Name), problem.Words(Shorten(b.name)), problem.Value{}, "%s", why)
		f.Severity, f.Repair = problem.Warning, problem.RepairNone
		p.report(f)
	}
	switch {
	case bytes.IndexByte(b.Name, 0) >= 0:
		b.badEntry = cmp.Or(b.badEntry, "there is a NUL in its name")
		p.report(b.entryFinding(problem.BitmapNameDangerous, name, len(b.Name), problem.Words(Shorten(b.name)), problem.Words(Excerpt(cString(b.Name))),
			"there is a NUL in its name: QEMU loses every bitmap when it opens the image for writing"))
	case !utf8.Valid(b.Name):
		odd("its name is not UTF-8")
	case bytes.ContainsFunc(b.Name, unicode.IsControl):
		odd("there are control characters in its name")
	}
	key := cString(b.Name)
	if first := seen[key]; first != nil {
		b.badEntry = cmp.Or(b.badEntry, "another bitmap has its name")
		p.report(b.entryFinding(problem.BitmapNameDuplicate, name, len(b.Name), problem.Words(Shorten(b.name)), problem.Value{}, "entry %d and entry %d of the directory both have this name", first.index, b.index))
		return
	}
	seen[key] = b
}
