package check

import (
	"encoding/json"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The extensions pass tests the header extensions as such: that their chain ends
// in order, that none comes twice, that those of a fixed size have it, and that
// they go with the rest of the header (EXT001 to EXT003, EXT005 to EXT007,
// CHN002). What the bitmaps extension and the encryption header's pointer say is
// for their own passes to look at.
//
// It relies on the header pass, which reports a header length that cannot be and
// a backing file name that leaves no room for extensions.
//
// It leaves behind a doubt when an extension that may own clusters could not be
// read.

// checkExtensions runs the pass.
func (c *run) checkExtensions() error {
	seen := make(map[qcow2.ExtensionType]bool)
	for i := range c.img.Extensions {
		ext := &c.img.Extensions[i]
		if ext.Overruns() {
			c.reportOverrun(ext)
			break // it is the last one
		}
		if seen[ext.Type] {
			c.report(problem.Finding{
				Code: problem.ExtensionDuplicate, Extent: extensionExtent(ext), Value: problem.Hex(ext.Type),
				Message: problem.Say("the %s comes again at %v; QEMU goes by the last one", extensionName(ext.Type), ext.Offset),
			})
		}
		seen[ext.Type] = true
		c.checkExtension(ext)
	}
	c.checkExtensionsEnd()
	c.checkBackingFormat()
	return nil
}

// checkExtension tests one extension that lies within the extension area.
func (c *run) checkExtension(ext *qcow2.Extension) {
	switch ext.Type {
	case qcow2.ExtBitmaps:
		if ext.Length != qcow2.BitmapsExtensionSize {
			c.reportLength(ext, problem.RepairPolicy, problem.Number(qcow2.BitmapsExtensionSize))
			c.doubt(Owner{Structure: problem.StructBitmapExtension, Ref: extensionExtent(ext)}, "its length is wrong")
		}
	case qcow2.ExtCrypto:
		if ext.Length != qcow2.CryptoExtensionSize {
			c.reportLength(ext, problem.RepairNone, problem.Number(qcow2.CryptoExtensionSize))
			c.doubt(Owner{Structure: problem.StructCryptoHeader, Ref: extensionExtent(ext)}, "the length of the extension that points to it is wrong")
		}
	case qcow2.ExtFeatureNames:
		if ext.Length%qcow2.FeatureNameSize != 0 {
			c.reportLength(ext, problem.RepairSafe, problem.Words(fmt.Sprintf("a multiple of %d", qcow2.FeatureNameSize)))
		}
		c.checkFeatureNames(ext)
	case qcow2.ExtBackingFormat:
		// Its size is not fixed, but QEMU's limit is as hard.
		if ext.Length > qcow2.MaxBackingFormat {
			c.reportLength(ext, problem.RepairNone, problem.AtMost(qcow2.MaxBackingFormat))
		}
		if c.h.BackingFileOffset == 0 {
			c.report(problem.Finding{
				Code: problem.ExtensionUnused, Extent: extensionExtent(ext), Value: problem.Words(fileName(ext.Data)),
				Message: problem.Say(`a backing file format ("%s") is recorded, but the image has no backing file`, Excerpt(ext.Data)),
			})
		}
	case qcow2.ExtDataFile:
		if !c.h.HasDataFile() {
			c.report(problem.Finding{
				Code: problem.ExtensionUnused, Extent: extensionExtent(ext), Value: problem.Words(fileName(ext.Data)),
				Message: problem.Say(`a data file ("%s") is named, but the external-data-file bit is clear`, fileName(ext.Data)),
			})
		}
	default:
		c.report(problem.Finding{
			Code: problem.ExtensionUnknown, Extent: extensionExtent(ext), Value: problem.Hex(ext.Type),
			Message: problem.Say("header extension of unknown type 0x%08x with %d bytes of data", uint32(ext.Type), ext.Length),
		})
	}
}

// checkFeatureNames tests the entries of the feature name table.
func (c *run) checkFeatureNames(ext *qcow2.Extension) {
	for i, n := range qcow2.DecodeFeatureNames(ext.Data) {
		entry := ext.DataOffset() + qcow2.HostOffset(i*qcow2.FeatureNameSize)
		switch {
		case n.Type > qcow2.FeatureAutoclear:
			c.report(problem.Finding{
				Code: problem.FeatureNameImpossible, Extent: at(entry, 1), Value: problem.Number(n.Type), Expected: problem.Words("0, 1 or 2"),
				Message: problem.Say(`entry %d of the feature name table ("%s") is for features of type %d, which there are none of`, i, Excerpt(n.Name), n.Type),
			})
		case n.Bit > 63:
			c.report(problem.Finding{
				Code: problem.FeatureNameImpossible, Extent: at(entry+1, 1), Value: problem.Number(n.Bit), Expected: problem.Words("0 to 63"),
				Message: problem.Say(`entry %d of the feature name table ("%s") is for feature bit %d, but there are 64 bits`, i, Excerpt(n.Name), n.Bit),
			})
		}
	}
}

// reportLength reports an extension of the wrong length.
func (c *run) reportLength(ext *qcow2.Extension, repair problem.Repair, expected problem.Value) {
	c.report(problem.Finding{
		Code: problem.ExtensionLength, Extent: at(ext.Offset+4, 4), Repair: repair, Value: problem.Number(ext.Length), Expected: expected,
		Message: problem.Say("the %s at %v has %d bytes of data, but must have %s", extensionName(ext.Type), ext.Offset, ext.Length, expected),
	})
}

// reportOverrun reports an extension that runs out of the extension area. What
// follows it cannot be found.
func (c *run) reportOverrun(ext *qcow2.Extension) {
	c.doubt(Owner{Structure: problem.StructExtension, Ref: extensionExtent(ext)}, "an extension runs past the end of its area, so those behind it cannot be found")
	if !c.h.HeaderLengthOK(c.g) {
		return // where extensions start was a guess to begin with
	}
	area := c.h.ExtensionArea(c.g)
	end := area.Offset + qcow2.HostOffset(area.Length)
	border := "the end of the first cluster"
	if uint64(end) != c.g.ClusterSize() {
		border = "the backing file name"
	}
	c.report(problem.Finding{
		Code: problem.ExtensionOverrun, Extent: at(ext.Offset+4, 4), Value: problem.Number(ext.Length), Expected: problem.AtMost(end - ext.DataOffset()),
		Message: problem.Say("the %s at %v claims %d bytes of data, past %s at %v", extensionName(ext.Type), ext.Offset, ext.Length, border, end),
	})
}

// checkExtensionsEnd tests the end of a chain without an end marker: the rest of
// the area must hold another head or be empty.
func (c *run) checkExtensionsEnd() {
	area := c.h.ExtensionArea(c.g)
	pos, end := area.Offset, area.Offset+qcow2.HostOffset(area.Length)
	if n := len(c.img.Extensions); n > 0 {
		last := c.img.Extensions[n-1]
		if last.Overruns() {
			return
		}
		pos = last.End()
	}
	if c.img.ExtensionsComplete || !c.h.HeaderLengthOK(c.g) {
		return
	}
	c.report(problem.Finding{
		Code: problem.ExtensionOverrun, Extent: at(pos, uint64(end-pos)), Value: problem.Words(fmt.Sprintf("%d bytes", end-pos)), Expected: problem.Words("an end marker of 8 bytes"),
		Message: problem.Say("the header extensions end at %v without an end marker, and the %d bytes to the backing file name hold none", pos, end-pos),
	})
}

// checkBackingFormat tests that the format of the backing file is recorded. Were
// it probed, a guest that writes a qcow2 header to its raw disk could have any
// file of the host read.
func (c *run) checkBackingFormat() {
	name, ok := c.img.BackingFileName()
	if !ok || len(name) == 0 || len(name) > qcow2.MaxBackingFileName || !c.extensionsWhole() || namesDriver(name) {
		return
	}
	if ext := c.img.Extension(qcow2.ExtBackingFormat); ext != nil && ext.Length > 0 {
		return
	}
	c.report(problem.Finding{
		Code: problem.BackingFormatMissing, Extent: at(qcow2.FieldBackingFileOffset, 12), Value: problem.Words(fileName(name)),
		Message: problem.Say(`no format is recorded for the backing file "%s", so it would be guessed from its content`, fileName(name)),
	})
}

// namesDriver tells whether a backing file's name is a JSON description that
// says which driver opens it.
func namesDriver(name []byte) bool {
	const prefix = "json:"
	if len(name) < len(prefix) || string(name[:len(prefix)]) != prefix {
		return false
	}
	var options struct {
		Driver string `json:"driver"`
	}
	return json.Unmarshal(name[len(prefix):], &options) == nil && options.Driver != ""
}

// extensionExtent is the place of an extension, without its padding and no
// further than the extension area.
func extensionExtent(ext *qcow2.Extension) qcow2.Extent {
	return at(ext.Offset, uint64(ext.DataOffset()-ext.Offset)+uint64(len(ext.Data)))
}

// extensionName names an extension in messages.
func extensionName(typ qcow2.ExtensionType) string {
	switch typ {
	case qcow2.ExtEnd:
		return "end marker of the extensions"
	case qcow2.ExtBackingFormat:
		return "backing format extension"
	case qcow2.ExtFeatureNames:
		return "feature name table"
	case qcow2.ExtBitmaps:
		return "bitmaps extension"
	case qcow2.ExtCrypto:
		return "encryption header pointer"
	case qcow2.ExtDataFile:
		return "data file name extension"
	}
	return unknownExtension(typ)
}

// unknownExtension is the name of an extension of a type that nobody knows.
func unknownExtension(typ qcow2.ExtensionType) string {
	return fmt.Sprintf("extension of type 0x%08x", uint32(typ))
}
