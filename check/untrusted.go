package check

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Bounds on what an image from a stranger may ask of those who open it.
const (
	// maxUntrustedSize is the largest virtual size in bytes. No cluster that
	// could back more can be addressed: host offsets have 56 bits.
	maxUntrustedSize = 1 << 56
	// maxUntrustedBits is the largest bitmap in bits, 512 MiB of memory for
	// whoever opens the image. QEMU has the same limit, but not for bitmaps
	// that are in use.
	maxUntrustedBits = qcow2.MaxBitmapPhysicalSize * 8
	// maxUntrustedIterations is how often a LUKS header may have a key hashed.
	// A fast machine does some millions a second and QEMU writes what takes two
	// seconds; the field can ask for hours.
	maxUntrustedIterations = 100_000_000
)

// untrusted gives the reasons for which an image from a stranger is not to be
// opened: it names other files, which a reader would open in the stranger's
// place; nobody can know what it means; it is damaged; or it makes a reader fail
// or work without end. Encryption alone is none: whoever has no key cannot read
// it, and is not harmed.
func (c *run) untrusted() []string {
	var why []string
	add := func(format string, args ...any) {
		why = append(why, "untrusted: "+fmt.Sprintf(format, args...))
	}
	if c.h.BackingFileOffset != 0 {
		name, _ := c.img.BackingFileName()
		add("it has a backing file (\"%s\")", fileName(name))
	}
	if ext := c.img.Extension(qcow2.ExtDataFile); c.h.HasDataFile() || ext != nil {
		add("it has an external data file (\"%s\")", fileName(extensionText(ext)))
	}
	if !c.h.Known() {
		add("its version %d is unknown", c.h.Version)
	}
	if unknown := c.h.IncompatibleFeatures &^ qcow2.IncompatKnown; unknown != 0 {
		add("it has unknown incompatible features 0x%x", uint64(unknown))
	}
	if unknown := c.h.AutoclearFeatures &^ qcow2.AutoclearKnown; unknown != 0 {
		add("it has unknown autoclear features 0x%x", uint64(unknown))
	}
	if c.h.Size > maxUntrustedSize {
		add("its virtual size of %d bytes is more than the %d that an image can hold", c.h.Size, uint64(maxUntrustedSize))
	}
	if c.bomb() {
		add("its compressed clusters unpack to %s, %d times the file", ReadableSize(c.unpacked()), c.unpacked()/uint64(max(c.img.Size(), 1)))
	}
	for _, format := range c.otherFormats() {
		add("it also looks like %s, so that programs which guess a file's format differ on what it is", format)
	}
	for i := range c.bitmaps {
		e := &c.bitmaps[i]
		if n := qcow2.BitmapBits(c.h.Size, uint(e.GranularityBits)); n > maxUntrustedBits {
			add("its bitmap \"%s\" takes %d bytes of memory", Excerpt(e.Name), n/8)
			break // one is enough, and there can be 65,535
		}
	}
	if n := c.luksIterations(); n > maxUntrustedIterations {
		add("its LUKS header asks for %d iterations of hashing", n)
	}
	switch o := c.res.QEMUOpen; o.ReadOnly {
	case OpenCrash:
		add("it makes QEMU crash")
	case OpenRefused:
		add("QEMU refuses to open it (%s)", strings.Join(o.Reasons, "; "))
	}
	return append(why, c.untrustedFindings()...)
}

// untrustedFindings gives a line for all corruption, and one for what could not
// be looked at.
func (c *run) untrustedFindings() []string {
	var codes []string
	all := c.Collector.Findings()
	for i := range all {
		if f := &all[i]; f.Severity == problem.Corruption && !slices.Contains(codes, string(f.Code)) {
			codes = append(codes, string(f.Code))
		}
	}
	slices.Sort(codes)
	var why []string
	t := problem.Count(all)
	if t.Corruptions > 0 {
		why = append(why, fmt.Sprintf("untrusted: it has %d corruptions (%s)", t.Corruptions, strings.Join(codes, ", ")))
	}
	if t.Errors > 0 {
		why = append(why, "untrusted: not all of it could be checked")
	}
	return why
}

// luksIterations is the largest number of iterations that opening the LUKS
// header takes, 0 where there is none to read.
func (c *run) luksIterations() uint32 {
	ext := c.img.Extension(qcow2.ExtCrypto)
	if c.h.CryptMethod != qcow2.CryptLUKS || ext == nil || len(ext.Data) < qcow2.CryptoExtensionSize {
		return 0
	}
	b := make([]byte, qcow2.LUKSHeaderSize)
	if c.img.ReadAt(b, qcow2.DecodeCryptoExtension(ext.Data).Offset) != nil {
		return 0 // which is a finding
	}
	h := qcow2.DecodeLUKSHeader(b)
	if !h.MagicOK() {
		return 0
	}
	n := binary.BigEndian.Uint32(b[luksIterations:])
	for _, s := range h.KeySlots {
		if s.Enabled() {
			n = max(n, s.Iterations)
		}
	}
	return n
}
