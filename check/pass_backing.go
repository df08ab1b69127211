package check

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The backing file pass tests that the backing file is there and is of the format
// that the image records (CHN001, CHN003). A missing format (CHN002) is the
// extensions pass's.
//
// It relies on the header and the extensions having been decoded. It looks only
// where it is given a way to open other files, and not with [Options.NoBacking].
//
// It leaves behind what keeps QEMU from opening the backing file, for the prediction.

// ErrBackingLoop means that a backing file is the image itself.
var ErrBackingLoop = errors.New("the file names itself as its backing file")

// checkBacking runs the pass.
func (c *run) checkBacking() error {
	raw, ok := c.img.BackingFileName()
	name := cString(raw)
	if !ok || name == "" || len(raw) > qcow2.MaxBackingFileName || c.opts.NoBacking {
		return nil // an empty name is no backing file
	}
	formatExt := c.img.Extension(qcow2.ExtBackingFormat)
	format := extensionText(formatExt)
	if format != "" && !slices.Contains(qemuDrivers, format) {
		c.backing = fmt.Sprintf("the backing file has the unknown format \"%s\"", Excerpt(format))
		c.report(problem.Finding{
			Code: problem.BackingFormatWrong, Extent: extensionExtent(formatExt), Value: problem.Words(Excerpt(format)),
			Message: problem.Say(`the recorded format of the backing file, "%s", is not a format that QEMU knows`, Excerpt(format)),
		})
		return nil
	}
	if c.opts.OpenSibling == nil || !c.opts.Chain && hasProtocol(name) && !strings.HasPrefix(name, "file:") {
		return nil
	}
	s, err := c.opts.OpenSibling(SiblingBackingFile, name, format)
	if err != nil {
		c.reportBackingError(name, err)
		return nil
	}
	defer s.Close() // it was only read from
	if l, ok := s.(LiveSibling); ok && l.Live() {
		c.report(problem.Finding{
			Code: problem.BackingInUse, Severity: problem.Warning, Extent: c.backingNameExtent(), Value: problem.Words(Excerpt(name)),
			Message: problem.Say(`something is writing to backing file "%s"; unless it is a commit of this chain, the image no longer fits it`, Excerpt(name)),
		})
	}
	if is := ContentFormat(s); format != "" && is != format && isContentFormat(format) {
		c.backing = fmt.Sprintf("the backing file is not in %s format", Excerpt(format))
		what := "and its content is of no format that qcheck knows"
		if is != "" {
			what = "but its content is " + is
		}
		c.report(problem.Finding{
			Code: problem.BackingFormatWrong, Extent: extensionExtent(formatExt), Value: problem.Words(Excerpt(format)), Expected: problem.Words(is),
			Message: problem.Say(`the backing file "%s" is recorded as %s, %s`, Excerpt(name), format, what),
		})
	} else if format == "raw" && is == "qcow2" {
		c.report(problem.Finding{
			Code: problem.BackingFormatWrong, Severity: problem.Warning, Extent: extensionExtent(formatExt), Value: problem.Words(format), Expected: problem.Words(is),
			Message: problem.Say(`the backing file "%s" is recorded as raw, but it is a qcow2 image: the guest sees its tables in place of its disk`, Excerpt(name)),
		})
	}
	return nil
}

// reportBackingError reports a backing file that could not be opened.
func (c *run) reportBackingError(name string, err error) {
	f := problem.Finding{Code: problem.BackingUnreadable, Extent: c.backingNameExtent(), Value: problem.Words(Excerpt(name))}
	looked := ""
	var loop *LoopError
	if pe, ok := errors.AsType[*fs.PathError](err); ok && pe.Path != name {
		looked = fmt.Sprintf(" (looked for %s)", Excerpt(pe.Path))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.backing = "the backing file is not there"
		f.Message = problem.Say(`backing file "%s" not found%s`, Excerpt(name), looked)
	case errors.Is(err, ErrInUse):
		c.backing = "another program writes to the backing file"
		f.Code = problem.BackingInUse
		f.Message = problem.Say(`backing file "%s" is in use: %v`, Excerpt(name), err)
	case errors.As(err, &loop):
		c.backing = "the chain of backing files is a loop"
		f.Message = problem.Say(`backing file "%s" is "%s", which stands on this image: the chain is a loop, and QEMU never finishes opening it`, Excerpt(name), Excerpt(loop.Again))
	case errors.Is(err, ErrBackingLoop):
		c.backing = "the image is its own backing file"
		f.Message = problem.Say(`the backing file "%s" is the image itself: QEMU never finishes opening it`, Excerpt(name))
	default:
		f.Code, f.Structure = problem.Unreadable, problem.StructBackingFile
		f.Message = problem.Say(`backing file "%s" cannot be opened: %v`, Excerpt(name), err)
	}
	c.report(f)
}

// backingNameExtent is where the backing file's name stands.
func (c *run) backingNameExtent() qcow2.Extent {
	return at(c.h.BackingFileOffset, uint64(c.h.BackingFileSize))
}

// signatures are how files of formats that QEMU knows begin.
var signatures = []struct {
	format string
	offset int
	magic  string
}{
	{"qcow2", 0, "QFI\xfb\x00\x00\x00\x02"}, {"qcow2", 0, "QFI\xfb\x00\x00\x00\x03"}, {"qcow", 0, "QFI\xfb\x00\x00\x00\x01"},
	{"qed", 0, "QED\x00"}, {"vmdk", 0, "KDMV"}, {"vmdk", 0, "COWD"}, {"vmdk", 0, "# Disk DescriptorFile"},
	{"vdi", 64, "\x7f\x10\xda\xbe"}, {"vhdx", 0, "vhdxfile"}, {"vpc", 0, "conectix"},
	{"parallels", 0, "WithoutFreeSpace"}, {"parallels", 0, "WithouFreSpacExt"}, {"luks", 0, "LUKS\xba\xbe"},
}

// isContentFormat tells of a format that a file's content shows.
func isContentFormat(format string) bool {
	for _, s := range signatures {
		if s.format == format {
			return true
		}
	}
	return false
}

// ContentFormat tells of which format a file is by its content; "" for none that is
// known, such as raw.
func ContentFormat(s Sibling) string {
	head := make([]byte, qcow2.SectorSize)
	n, err := s.ReadAt(head, 0)
	if n == 0 && err != nil {
		return ""
	}
	head = head[:n]
	for _, sig := range signatures {
		if len(head) > sig.offset && bytes.HasPrefix(head[sig.offset:], []byte(sig.magic)) {
			return sig.format
		}
	}
	// A disk of fixed size has its only header at the end.
	if size := s.Size(); size >= qcow2.SectorSize {
		tail := make([]byte, 8)
		if k, _ := s.ReadAt(tail, size-qcow2.SectorSize); k == len(tail) && string(tail) == "conectix" {
			return "vpc"
		}
	}
	return ""
}
