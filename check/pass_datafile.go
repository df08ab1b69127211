package check

import (
	"errors"
	"io/fs"
	"math/bits"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The data file pass tests that an image with an external data file names it,
// and, where it is given a way to open other files, that the data file is there
// and large enough (DAT001 to DAT003).
//
// It relies on the extensions having been decoded. What it does not find stops
// no other pass: all metadata is in the image itself.
//
// It leaves behind what it learned of the data file, for checkDataFileSize, which
// the mapping pass calls when it knows what is mapped, and for the prediction of
// what QEMU does.

// dataFile is what is known of the external data file.
type dataFile struct {
	name  qcow2.Extent // where its name stands in the image
	found bool         // it could be opened
	gone  bool         // it is not there
	// nameLost tells that the image named it once.
	nameLost bool
	size     uint64 // bytes, if found
}

// checkDataFile runs the pass.
func (c *run) checkDataFile() error {
	if !c.h.HasDataFile() {
		return nil
	}
	ext := c.img.Extension(qcow2.ExtDataFile)
	name := ""
	if ext != nil && !ext.Overruns() {
		name = cString(ext.Data)
	}
	if len(name) == 0 {
		c.reportUnnamed(ext)
		return nil
	}
	c.data.name = at(ext.DataOffset(), len(ext.Data))
	c.openDataFile(name)
	return nil
}

// reportUnnamed reports that the data file has no name. That is in order if nobody ever
// gave it one; not so if what is there of one was damaged.
func (c *run) reportUnnamed(ext *qcow2.Extension) {
	if !c.extensionsWhole() {
		return
	}
	f := problem.Finding{
		Code: problem.DataFileUnnamed, Extent: at(qcow2.FieldIncompatibleFeatures, 8), Value: problem.Words("set"),
		Message: problem.Say("the image has an external data file, but does not name it: whoever opens the image must say where it is"),
	}
	switch near := c.oneBitFrom(qcow2.ExtDataFile); {
	case ext != nil && !ext.Overruns() && len(ext.Data) > 0:
		f.Severity, f.Extent, f.Value = problem.Corruption, at(ext.DataOffset(), len(ext.Data)), problem.Words(Excerpt(ext.Data))
		f.Message = problem.Say("the name of the external data file begins with a NUL, so that QEMU takes it for empty")
	case near != nil:
		f.Severity, f.Extent, f.Value, f.Expected = problem.Corruption, at(near.Offset, 4), problem.Hex(near.Type), problem.Hex(qcow2.ExtDataFile)
		f.Message = problem.Say("the image has an external data file, but does not name it; the extension at %v, whose type differs in one bit from the one that does, holds \"%s\"",
			near.Offset, Excerpt(near.Data))
	}
	c.data.nameLost = f.Severity == problem.Corruption
	c.report(f)
}

// oneBitFrom gives an extension of an unknown type that differs in one bit from a type.
func (c *run) oneBitFrom(typ qcow2.ExtensionType) *qcow2.Extension {
	for i := range c.img.Extensions {
		e := &c.img.Extensions[i]
		if bits.OnesCount32(uint32(e.Type^typ)) == 1 && !e.Overruns() {
			return e
		}
	}
	return nil
}

// openDataFile looks whether the data file is there.
func (c *run) openDataFile(name string) {
	if c.opts.OpenSibling == nil || hasProtocol(name) {
		return
	}
	s, err := c.opts.OpenSibling(SiblingDataFile, name, "raw")
	switch {
	case err == nil:
		c.data.found, c.data.size = true, uint64(max(s.Size(), 0))
		if m, ok := s.(MisplacedSibling); ok && m.Misplaced() != "" {
			c.report(problem.Finding{
				Code: problem.DataFileMisplaced, Extent: c.data.name, Value: problem.Words(Excerpt(name)),
				Message: problem.Say(`the external data file "%s" has a relative name, which QEMU takes from the folder that it is started in: %s`, Excerpt(name), m.Misplaced()),
			})
		}
		// Only its size is of interest: nothing can have been lost in closing.
		_ = s.Close()
	case errors.Is(err, fs.ErrNotExist):
		c.data.gone = true
		c.report(problem.Finding{
			Code: problem.DataFileMissing, Extent: c.data.name, Value: problem.Words(fileName(name)),
			Message: problem.Say(`the external data file "%s", which holds all guest data, is not there`, fileName(name)),
		})
	default:
		c.report(problem.Finding{
			Code: problem.Unreadable, Structure: problem.StructDataFile, Extent: c.data.name, Value: problem.Words(fileName(name)),
			Message: problem.Say(`the external data file "%s" cannot be opened: %v`, fileName(name), err),
		})
	}
}

// checkDataFileSize tests that the data file holds all that is mapped into it.
// Like QEMU it takes a last sector that is there in part as a whole one.
func (c *run) checkDataFileSize() {
	const mask = qcow2.SectorSize - 1
	if !c.data.found || c.dataFileEnd <= (c.data.size+mask)&^mask {
		return
	}
	c.report(problem.Finding{
		Code: problem.DataFileMissing, Extent: c.data.name, Value: problem.Number(c.data.size), Expected: problem.AtLeast(c.dataFileEnd),
		Message: problem.Say("the external data file has %d bytes, but guest data is mapped into it up to byte %d", c.data.size, c.dataFileEnd),
	})
}

// hasProtocol tells whether QEMU takes a file's name for something else than a
// path: a colon before the first slash ("nbd://…", "json:{…}").
func hasProtocol(name string) bool {
	i := strings.IndexAny(name, ":/")
	return i >= 0 && name[i] == ':'
}
