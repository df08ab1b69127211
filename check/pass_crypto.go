package check

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The encryption pass tests the pointer to the encryption header, and the LUKS
// header as far as it can be tested without a key (EXT004, CRY001, CRY002).
// Whether a key opens it, nobody but its owner can tell.
//
// It relies on the extensions having been decoded; an extension of the wrong
// length has been reported.
//
// It leaves behind a claim on the clusters of the encryption header, or a doubt
// where they cannot be found.

// checkCrypto runs the pass.
func (c *run) checkCrypto() error {
	luks := c.h.CryptMethod == qcow2.CryptLUKS
	ext := c.img.Extension(qcow2.ExtCrypto)
	owner := Owner{Structure: problem.StructCryptoHeader}
	switch {
	case ext == nil && !luks:
	case ext == nil:
		c.doubt(owner, "the extension that points to it is missing")
		if c.extensionsWhole() {
			c.report(problem.Finding{
				Code: problem.CryptoPointerContradiction, Extent: at(qcow2.FieldCryptMethod, 4), Value: problem.Number(c.h.CryptMethod),
				Message: problem.Say("crypt_method is 2 (LUKS), but no header extension points to the LUKS header"),
			})
		}
	case ext.Overruns() || ext.Length != qcow2.CryptoExtensionSize:
		c.doubt(owner, "the extension that points to it cannot be read")
	case !luks:
		c.report(problem.Finding{
			Code: problem.CryptoPointerContradiction, Extent: extensionExtent(ext), Value: problem.Number(c.h.CryptMethod),
			Message: problem.Say("a header extension points to an encryption header, but crypt_method is %d, not 2 (LUKS)", c.h.CryptMethod),
		})
		owner.Ref = at(ext.DataOffset(), 16)
		c.doubt(owner, "the encryption method does not go with it")
	default:
		c.checkCryptoPointer(ext)
	}
	return nil
}

// checkCryptoPointer tests where the extension says that the LUKS header is.
func (c *run) checkCryptoPointer(ext *qcow2.Extension) {
	p := qcow2.DecodeCryptoExtension(ext.Data)
	offsetAt, lengthAt := at(ext.DataOffset(), 8), at(ext.DataOffset()+8, 8)
	owner := Owner{Structure: problem.StructCryptoHeader, Ref: at(ext.DataOffset(), 16)}
	f := problem.Finding{Code: problem.CryptoHeaderMisplaced}
	switch {
	case !c.g.Aligned(p.Offset):
		f.Extent, f.Value, f.Expected = offsetAt, problem.Hex(p.Offset), problem.MultipleOf(c.g.ClusterSize())
		f.Message = problem.Say("the encryption header is said to start at %v, which is not the start of a cluster", p.Offset)
	case p.Offset == 0:
		f.Extent, f.Value, f.Expected = offsetAt, problem.Hex(p.Offset), problem.AtLeastOffset(c.g.ClusterSize())
		f.Message = problem.Say("the encryption header is said to start at %v, where the image's own header is", p.Offset)
	case uint64(p.Offset) >= uint64(c.img.Size()):
		f.Extent, f.Value, f.Expected = offsetAt, problem.Hex(p.Offset), problem.Below(c.img.Size())
		f.Message = problem.Say("the encryption header is said to start at %v, but the file ends at 0x%x", p.Offset, c.img.Size())
	case p.Length < qcow2.LUKSHeaderSize:
		f.Extent, f.Value, f.Expected = lengthAt, problem.Number(p.Length), problem.AtLeast(qcow2.LUKSHeaderSize)
		f.Message = problem.Say("the encryption header is said to have %d bytes, but a LUKS header has at least %d", p.Length, qcow2.LUKSHeaderSize)
	case p.Length > maxCryptoHeader && !c.g.PastEnd(p.Offset, p.Length, c.img.Size()):
		f.Extent, f.Value, f.Expected = lengthAt, problem.Number(p.Length), problem.AtMost(uint64(maxCryptoHeader))
		f.Message = problem.Say("the encryption header is said to have %d bytes, far more than its key slots can take", p.Length)
	case !c.claim(owner, at(p.Offset, p.Length)):
		f.Extent, f.Value, f.Expected = lengthAt, problem.Number(p.Length), problem.AtMost(uint64(c.img.Size())-uint64(p.Offset))
		f.Message = problem.Say("the encryption header at %v is said to have %d bytes, but the file ends at 0x%x", p.Offset, p.Length, c.img.Size())
		c.report(f)
		c.doubt(owner, "it runs past the end of the file")
		c.checkLUKS(p, ext.DataOffset())
		return
	default:
		c.checkLUKS(p, ext.DataOffset())
		return
	}
	c.report(f)
	c.doubt(owner, "the extension does not lead to it")
}

// maxCryptoHeader bounds what is believed of the encryption header's length, in
// bytes. A LUKS header with eight key slots takes about 2 MiB; without a bound a
// sparse file could ask for a claim on 2^54 clusters.
const maxCryptoHeader = 1 << 30

// What LUKS1 and QEMU fix beyond the header's layout (QEMU:
// qcrypto_block_luks_check_header).
const (
	luksVersion    = 1
	luksStripes    = 4000
	luksKeyArea    = 4096 // bytes: where key material may start at the earliest
	luksIterations = 164  // the field with the iterations of the master key's digest
)

// luksFault is something wrong with a LUKS header: the field at fault relative
// to its start.
type luksFault struct {
	field, length   uint64
	value, expected problem.Value
	message         problem.Text
	pointer         bool // the field is the length in the header extension
	warning         bool // QEMU does not mind
}

// checkLUKS tests the LUKS header that p points to; p stands at pointer in the
// file.
func (c *run) checkLUKS(p qcow2.CryptoExtension, pointer qcow2.HostOffset) {
	b := make([]byte, qcow2.LUKSHeaderSize)
	if err := c.img.ReadAt(b, p.Offset); err != nil {
		c.trouble(Owner{Structure: problem.StructCryptoHeader}, at(p.Offset, len(b)), err)
		return
	}
	for _, x := range luksFaults(b, p.Length) {
		f := problem.Finding{
			Code: problem.LUKSHeaderDamaged, Extent: at(p.Offset+qcow2.HostOffset(x.field), x.length),
			Value: x.value, Expected: x.expected, Message: x.message,
		}
		if x.pointer {
			f.Code, f.Extent = problem.CryptoHeaderMisplaced, at(pointer+8, 8)
		}
		if x.warning {
			f.Severity = problem.Warning
		}
		c.report(f)
	}
}

// luksFaults gives what is wrong with the LUKS header in b, which with its key
// material has length bytes.
func luksFaults(b []byte, length uint64) []luksFault {
	h := qcow2.DecodeLUKSHeader(b)
	if !h.MagicOK() {
		return []luksFault{{
			field: qcow2.LUKSFieldMagic, length: 6, value: problem.Words(fmt.Sprintf("0x%x", h.Magic[:])), expected: problem.Words(fmt.Sprintf("0x%x", qcow2.LUKSMagic)),
			message: problem.Say("no LUKS header stands where the encryption header should be"),
		}}
	}
	if h.Version != luksVersion {
		return []luksFault{{
			field: qcow2.LUKSFieldVersion, length: 2, value: problem.Number(h.Version), expected: problem.Number(luksVersion),
			message: problem.Say("the LUKS header has version %d, but only version %d can be in a qcow2 image", h.Version, luksVersion),
		}}
	}
	var fs []luksFault
	for _, text := range []struct {
		field uint64
		name  string
	}{{qcow2.LUKSFieldCipherName, "cipher name"}, {qcow2.LUKSFieldCipherMode, "cipher mode"}, {qcow2.LUKSFieldHashSpec, "hash name"}} {
		if bytes.IndexByte(b[text.field:][:32], 0) < 0 {
			fs = append(fs, luksFault{
				field: text.field, length: 32, value: problem.Words(Excerpt(b[text.field:][:32])), expected: problem.Words("at most 31 bytes and a NUL"),
				message: problem.Say("the %s in the LUKS header has no end", text.name),
			})
		}
	}
	if n := binary.BigEndian.Uint32(b[luksIterations:]); n == 0 {
		fs = append(fs, luksFault{
			field: luksIterations, length: 4, value: problem.Number(0), expected: problem.AtLeast(1),
			message: problem.Say("the iteration count of the master key's digest in the LUKS header is 0"),
		})
	}
	fs = append(fs, luksSlotFaults(&h)...)
	return append(fs, luksLayoutFaults(&h, length)...)
}

// luksSlotFaults gives what is wrong with the key slots by themselves.
func luksSlotFaults(h *qcow2.LUKSHeader) []luksFault {
	var fs []luksFault
	enabled := false
	for i, s := range h.KeySlots {
		add := func(field uint64, value, expected problem.Value, format string, args ...any) {
			x := luksFault{
				field: luksSlotField(i, field), length: 4, value: value, expected: expected,
				message: problem.Say("key slot %d of the LUKS header ", i),
			}
			x.message.And(format, args...)
			fs = append(fs, x)
		}
		enabled = enabled || s.Enabled()
		if !s.Enabled() && s.State != qcow2.LUKSSlotDisabled {
			add(qcow2.LUKSSlotFieldActive, problem.Hex(s.State), problem.Words(fmt.Sprintf("0x%x or 0x%x", qcow2.LUKSSlotEnabled, qcow2.LUKSSlotDisabled)),
				"is neither enabled nor disabled but 0x%x", s.State)
		}
		if s.Enabled() && s.Iterations == 0 {
			add(qcow2.LUKSSlotFieldIterations, problem.Number(0), problem.AtLeast(1), "has an iteration count of 0")
		}
		if s.Stripes != luksStripes {
			add(qcow2.LUKSSlotFieldStripes, problem.Number(s.Stripes), problem.Number(luksStripes), "has %d stripes instead of %d", s.Stripes, luksStripes)
		}
	}
	if !enabled {
		fs = append(fs, luksFault{
			field: qcow2.LUKSFieldKeySlots, length: qcow2.LUKSKeySlots * qcow2.LUKSKeySlotSize, expected: problem.Words("an enabled key slot"),
			message: problem.Say("no key slot of the LUKS header is enabled: no key can ever open the disk"),
		})
	}
	return fs
}

func luksSlotField(slot int, field uint64) uint64 {
	return qcow2.LUKSFieldKeySlots + uint64(slot)*qcow2.LUKSKeySlotSize + field
}

// luksLayoutFaults tests that header, key material and payload follow each other
// and that the header extension's length holds the key material. Where two of
// these contradict each other, the third tells which one is wrong: the payload
// starts where the length of the extension ends.
func luksLayoutFaults(h *qcow2.LUKSHeader, length uint64) []luksFault {
	var fs []luksFault
	var spans []luksSpan
	for i, s := range h.KeySlots {
		start, n := s.Material(h.KeyBytes)
		x := luksSpan{i, start, start + n, s.Enabled()}
		if s.Stripes != luksStripes {
			continue // where it ends is anyone's guess
		}
		if start < luksKeyArea {
			fs = append(fs, x.fault("where the LUKS header itself is", problem.AtLeast(luksKeyArea/qcow2.SectorSize)))
			continue
		}
		for _, o := range spans {
			if x.start < o.end && o.start < x.end {
				fs = append(fs, x.fault(fmt.Sprintf("where that of key slot %d is", o.slot), problem.Value{}))
				break
			}
		}
		spans = append(spans, x)
	}
	var end, enabledEnd uint64 // where the key material ends
	for _, x := range spans {
		end = max(end, x.end)
		if x.enabled {
			enabledEnd = max(enabledEnd, x.end)
		}
	}
	payload := uint64(h.PayloadOffset) * qcow2.SectorSize
	payloadFault := luksFault{field: qcow2.LUKSFieldPayloadOffset, length: 4, value: problem.Number(h.PayloadOffset)}
	switch {
	case payload < luksKeyArea:
		payloadFault.expected = problem.AtLeast(luksKeyArea / qcow2.SectorSize)
		payloadFault.message = problem.Say("the LUKS payload offset is %d sectors, within the LUKS header itself", h.PayloadOffset)
	case payload > length && end <= payload && enabledEnd > length:
		return append(fs, luksFault{
			pointer: true, value: problem.Number(length), expected: problem.AtLeast(enabledEnd),
			message: problem.Say("the encryption header is said to have %d bytes, but its key material ends at byte %d", length, enabledEnd),
		})
	case payload > length && end <= payload:
		payloadFault.warning = true
		payloadFault.expected = problem.AtMost(length / qcow2.SectorSize)
		payloadFault.message = problem.Say("the LUKS payload offset is %d sectors, but the encryption header has only %d bytes", h.PayloadOffset, length)
	default:
		for _, x := range spans {
			switch {
			case x.end > length:
				fs = append(fs, x.fault(fmt.Sprintf("past the end of the encryption header of %d bytes", length), problem.Value{}))
			case x.end > payload:
				payloadFault.expected = problem.AtLeast(x.end / qcow2.SectorSize)
				payloadFault.message = problem.Say("the LUKS payload offset is %d sectors, within the key material", h.PayloadOffset)
			}
		}
	}
	if !payloadFault.message.IsZero() {
		fs = append(fs, payloadFault)
	}
	return fs
}

// luksSpan is the place of a key slot's material, relative to the LUKS header.
type luksSpan struct {
	slot       int
	start, end uint64 // bytes
	enabled    bool
}

// fault tells that the material's place is wrong.
func (x luksSpan) fault(where string, expected problem.Value) luksFault {
	return luksFault{
		field: luksSlotField(x.slot, qcow2.LUKSSlotFieldMaterialOffset), length: 4,
		value: problem.Number(x.start / qcow2.SectorSize), expected: expected,
		message: problem.Say("key slot %d of the LUKS header has its key material at bytes %d to %d, %s", x.slot, x.start, x.end, where),
	}
}
