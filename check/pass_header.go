package check

import (
	"fmt"
	"math/bits"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The header pass tests the header's own fields: version, geometry, lengths,
// feature bits, encryption and compression method, the place of the backing
// file's name, and where the header says that the L1, refcount and snapshot
// tables are (HDR002 to HDR020, HDR022).
//
// It relies on nothing but the decoded header and the file's size.
//
// It leaves behind a claim on the first cluster, and a doubt for each structure
// that cannot be found because of what it reported. The passes for these
// structures ask l1Usable, refTableUsable and snapshotTableUsable, and say
// nothing more about what is reported here.

// checkHeader runs the pass.
func (c *run) checkHeader() error {
	if c.img.GeometryOK {
		c.claim(Owner{Structure: problem.StructHeader}, at(0, c.g.ClusterSize()))
	}
	c.checkHeaderSize()
	if !c.h.Known() {
		c.checkUnknownVersion()
		if !c.img.GeometryOK {
			return nil // another format altogether: its fields stand elsewhere
		}
	}
	c.checkClusterBits()
	c.checkHeaderLength()
	c.checkFeatureBits()
	c.checkFeatureFields()
	c.checkRawBit()
	c.checkPadding()
	if c.img.GeometryOK {
		c.checkBackingName()
		c.checkVirtualSize()
		c.checkTablePointers()
	}
	return nil
}

// reportField reports a fault of a header field. A field that the file is too
// short to hold reads as zero; what that breaks is not news besides the short
// file itself.
func (c *run) reportField(f problem.Finding) {
	if qcow2.RangeFits(uint64(f.Extent.Offset), f.Extent.Length, uint64(c.img.Size())) {
		c.report(f)
	}
}

// checkHeaderSize tests that the file is long enough to hold its header.
func (c *run) checkHeaderSize() {
	need := uint64(qcow2.HeaderLengthV3)
	switch {
	case c.h.Version == 2:
		need = qcow2.HeaderLengthV2
	case c.img.GeometryOK && c.h.HeaderLengthOK(c.g):
		need = uint64(c.h.HeaderLength)
	}
	size := uint64(c.img.Size())
	if size >= need {
		return
	}
	c.report(problem.Finding{
		Code: problem.HeaderCut, Extent: at(qcow2.HostOffset(size), need-size),
		Value: problem.Number(size), Expected: problem.Words(fmt.Sprintf("at least %d bytes", need)),
		Message: problem.Say("the file ends after %d bytes, within its header of %d bytes", size, need),
	})
	c.doubt(Owner{Structure: problem.StructHeader}, "the file is too short to hold it")
}

// checkUnknownVersion reports a version that is not 2 or 3.
func (c *run) checkUnknownVersion() {
	what := "newer than any that is known"
	if c.h.Version < 2 {
		what = "not qcow2, but the older qcow format or nothing at all"
	}
	c.reportField(problem.Finding{
		Code: problem.VersionUnknown, Extent: at(qcow2.FieldVersion, 4), Value: problem.Number(c.h.Version), Expected: problem.Words("2 or 3"),
		Message: problem.Say("version %d is %s", c.h.Version, what),
	})
	c.doubt(Owner{Structure: problem.StructFile}, "what its version has beyond version 3 is unknown")
}

// checkClusterBits tests cluster_bits.
func (c *run) checkClusterBits() {
	f := problem.Finding{Code: problem.ClusterSizeInvalid, Extent: at(qcow2.FieldClusterBits, 4), Value: problem.Number(c.h.ClusterBits)}
	switch {
	case !c.img.GeometryOK:
		f.Expected = problem.Between(qcow2.MinClusterBits, qcow2.MaxClusterBits)
		f.Message = problem.Say("cluster_bits is %d, but must be %s: without the cluster size nothing else can be found", c.h.ClusterBits, f.Expected)
	case !c.l2FormatKnown():
		f.Expected = problem.Between(qcow2.MinClusterBitsExtL2, qcow2.MaxClusterBits)
		f.Message = problem.Say("cluster_bits is %d, but must be %s with extended L2 entries: one of the two is wrong", c.h.ClusterBits, f.Expected)
		c.doubt(Owner{Structure: problem.StructL2Table}, "the size of L2 entries is in doubt")
	default:
		return
	}
	c.reportField(f)
}

// l2FormatKnown tells whether L2 tables can be decoded. They cannot where the
// header asks for extended entries in clusters that are too small for them,
// since either the feature bit or the cluster size is then wrong.
func (c *run) l2FormatKnown() bool {
	return !c.h.ExtendedL2() || c.h.ClusterBits >= qcow2.MinClusterBitsExtL2
}

// checkHeaderLength tests header_length, which version 2 does not have.
func (c *run) checkHeaderLength() {
	if c.h.Version == 2 {
		return
	}
	n := c.h.HeaderLength
	f := problem.Finding{Code: problem.HeaderLengthInvalid, Extent: at(qcow2.FieldHeaderLength, 4), Value: problem.Number(n)}
	switch {
	case n < qcow2.HeaderLengthV3:
		f.Expected = problem.AtLeast(qcow2.HeaderLengthV3)
		f.Message = problem.Say("header_length is %d, but version 3 has at least %d bytes of header", n, qcow2.HeaderLengthV3)
	case c.img.GeometryOK && uint64(n) > c.g.ClusterSize():
		f.Expected = problem.AtMost(c.g.ClusterSize())
		f.Message = problem.Say("header_length is %d, but the header must lie within the first cluster of %d bytes", n, c.g.ClusterSize())
	case n%8 != 0:
		f.Expected = problem.Words("a multiple of 8")
		f.Message = problem.Say("header_length is %d, but must be a multiple of 8", n)
	default:
		return
	}
	c.reportField(f)
	c.doubt(Owner{Structure: problem.StructExtension}, "the header's length is wrong, so where the extensions start is a guess")
}

// checkFeatureBits tests the incompatible and the autoclear features. Unknown
// compatible features may be ignored by definition.
func (c *run) checkFeatureBits() {
	incompat := at(qcow2.FieldIncompatibleFeatures, 8)
	unknown := uint64(c.h.IncompatibleFeatures &^ qcow2.IncompatKnown)
	for rest := unknown; rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros64(rest)
		name := ""
		if n := c.featureName(qcow2.FeatureIncompatible, bit); n != "" {
			name = fmt.Sprintf(` ("%s" in the feature name table)`, Escape(n))
		}
		c.reportField(problem.Finding{
			Code: problem.FeatureUnknown, Extent: incompat, Value: problem.Words(fmt.Sprintf("bit %d", bit)), Expected: problem.Words("clear"),
			Message: problem.Say("incompatible feature bit %d%s is unknown: what the image holds can only be guessed", bit, name),
		})
	}
	if unknown != 0 {
		c.doubt(Owner{Structure: problem.StructFile}, "unknown incompatible features may use clusters of their own")
	}
	if c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) {
		f := problem.Finding{
			Code: problem.MarkedDirty, Extent: incompat, Value: problem.Flag(true), Expected: problem.Flag(false),
			Message: problem.Say("the dirty bit is set: the image was not closed cleanly, and with lazy refcounts its refcounts may be stale"),
		}
		if c.opts.Live { // it is not closed yet
			f.Severity, f.Expected = problem.Note, problem.Value{}
			f.Message = problem.Say("the dirty bit is set: what writes to the image leaves its refcounts behind until it closes it")
		}
		c.reportField(f)
	}
	if c.h.IncompatibleFeatures.Has(qcow2.IncompatCorrupt) {
		c.reportField(problem.Finding{
			Code: problem.MarkedCorrupt, Extent: incompat, Value: problem.Flag(true), Expected: problem.Flag(false),
			Message: problem.Say("the corrupt bit is set: a program found the image damaged, and it must not be written to"),
		})
	}
	if unknown := c.h.AutoclearFeatures &^ qcow2.AutoclearKnown; unknown != 0 {
		c.reportField(problem.Finding{
			Code: problem.AutoclearUnknown, Extent: at(qcow2.FieldAutoclearFeatures, 8), Value: problem.Hex(unknown), Expected: problem.Hex(uint64(0)),
			Message: problem.Say("unknown autoclear feature bits 0x%x are set: a program that writes to the image must clear them", uint64(unknown)),
		})
		c.doubt(Owner{Structure: problem.StructFile}, "unknown autoclear features may use clusters of their own")
	}
}

// featureName gives what the feature name table calls a bit, or "".
func (c *run) featureName(typ qcow2.FeatureType, bit int) string {
	ext := c.img.Extension(qcow2.ExtFeatureNames)
	if ext == nil {
		return ""
	}
	for _, n := range qcow2.DecodeFeatureNames(ext.Data) {
		if n.Type == typ && int(n.Bit) == bit {
			return n.Name
		}
	}
	return ""
}

// checkFeatureFields tests the fields that choose among few values.
func (c *run) checkFeatureFields() {
	if !c.h.RefcountOrderOK() {
		c.reportField(problem.Finding{
			Code: problem.RefcountWidthInvalid, Extent: at(qcow2.FieldRefcountOrder, 4), Value: problem.Number(c.h.RefcountOrder), Expected: problem.Words("0 to 6"),
			Message: problem.Say("refcount_order is %d, but must be 0 to 6: refcounts have at most 64 bits", c.h.RefcountOrder),
		})
	}
	if c.h.CryptMethod > qcow2.CryptLUKS {
		c.reportField(problem.Finding{
			Code: problem.CryptMethodUnknown, Extent: at(qcow2.FieldCryptMethod, 4), Value: problem.Number(c.h.CryptMethod), Expected: problem.Words("0, 1 or 2"),
			Message: problem.Say("crypt_method is %d, but must be 0 (none), 1 (AES) or 2 (LUKS)", c.h.CryptMethod),
		})
	}
	c.checkCompressionType()
}

// checkCompressionType tests that the compression type is known and that its
// feature bit says the same.
func (c *run) checkCompressionType() {
	typ := c.h.CompressionType
	bit := c.h.IncompatibleFeatures.Has(qcow2.IncompatCompression)
	f := problem.Finding{Code: problem.CompressionTypeContradiction, Extent: at(qcow2.FieldCompressionType, 1), Value: problem.Number(typ)}
	switch {
	case typ > qcow2.CompressionZstd:
		f.Repair = problem.RepairNone
		f.Expected = problem.Words("0 or 1")
		f.Message = problem.Say("compression_type is %d, but only 0 (zlib) and 1 (zstd) are known", typ)
	case typ != qcow2.CompressionZlib && !bit:
		f.Expected = problem.Words("0")
		f.Message = problem.Say("compression_type is %d, but the compression-type bit, which must go with it, is clear", typ)
	case typ == qcow2.CompressionZlib && bit:
		f.Extent = at(qcow2.FieldIncompatibleFeatures, 8)
		f.Value, f.Expected = problem.Flag(true), problem.Flag(false)
		f.Message = problem.Say("the compression-type bit is set, but compression_type is 0 (zlib), which needs no bit")
	default:
		return
	}
	c.reportField(f)
}

// checkRawBit tests what the raw-external-data bit needs and excludes.
func (c *run) checkRawBit() {
	if !c.h.AutoclearFeatures.Has(qcow2.AutoclearRawData) {
		return
	}
	f := problem.Finding{Code: problem.RawExternalMisused, Extent: at(qcow2.FieldAutoclearFeatures, 8), Value: problem.Flag(true), Expected: problem.Flag(false)}
	switch {
	case !c.h.HasDataFile():
		f.Message = problem.Say("the raw-external-data bit is set, but the image has no external data file")
	case c.h.BackingFileOffset != 0:
		f.Repair = problem.RepairNone
		f.Message = problem.Say("the raw-external-data bit is set, but the image has a backing file: the data file alone is then not the disk")
	default:
		return
	}
	c.reportField(f)
}

// checkPadding tests the bytes between the compression type and the end of the
// header as QEMU writes it. They are padding today; were they a field of a later
// version, software that does not know it may ignore it, unless an incompatible
// bit goes with it. What follows byte 111 is never padding that is known of.
func (c *run) checkPadding() {
	if c.h.Version != 3 || c.h.IncompatibleFeatures&^qcow2.IncompatKnown != 0 {
		return
	}
	padding := c.h.Tail[:min(len(c.h.Tail), qcow2.HeaderLengthCompression-qcow2.FieldCompressionType-1)]
	first, last := -1, -1
	for i, b := range padding {
		if b != 0 {
			last = i
			if first < 0 {
				first = i
			}
		}
	}
	if first < 0 {
		return
	}
	c.reportField(problem.Finding{
		Code: problem.HeaderPaddingSet, Extent: at(qcow2.FieldCompressionType+1+qcow2.HostOffset(first), last-first+1),
		Value: problem.Words(fmt.Sprintf("0x%x", padding[first:last+1])), Expected: problem.Words("zeros"),
		Message: problem.Say("the padding after compression_type is not zero"),
	})
}

// checkBackingName tests where the backing file's name is. The name itself is
// not looked at.
func (c *run) checkBackingName() {
	offset, length := c.h.BackingFileOffset, uint64(c.h.BackingFileSize)
	cluster := c.g.ClusterSize()
	f := problem.Finding{Code: problem.BackingNameMisplaced}
	switch {
	case offset == 0:
		return
	case uint64(offset) > cluster:
		f.Extent, f.Value = at(qcow2.FieldBackingFileOffset, 8), problem.Hex(offset)
		f.Expected = problem.AtMostOffset(cluster)
		f.Message = problem.Say("the backing file name is said to stand at %v, but must lie within the first cluster of %d bytes", offset, cluster)
	case length > qcow2.MaxBackingFileName:
		f.Extent, f.Value = at(qcow2.FieldBackingFileSize, 4), problem.Number(length)
		f.Expected = problem.AtMost(qcow2.MaxBackingFileName)
		f.Message = problem.Say("the backing file name is said to have %d bytes, but may have at most %d", length, qcow2.MaxBackingFileName)
	case !qcow2.RangeFits(uint64(offset), length, cluster):
		f.Extent, f.Value = at(qcow2.FieldBackingFileOffset, 12), problem.Words(fmt.Sprintf("%d bytes at %v", length, offset))
		f.Expected = problem.Words(fmt.Sprintf("an end at or before 0x%x", cluster))
		f.Message = problem.Say("the backing file name of %d bytes at %v runs past the end of the first cluster", length, offset)
	}
	if length == 0 && f.Message.IsZero() {
		f.Severity, f.Repair = problem.Warning, problem.RepairNone // QEMU opens it, without a backing file
		f.Extent, f.Value = at(qcow2.FieldBackingFileOffset, 12), problem.Hex(offset)
		f.Message = problem.Say("a backing file name of 0 bytes is said to stand at %v: there is either a backing file or no offset", offset)
	}
	if !f.Message.IsZero() {
		c.reportField(f)
	}
	if c.extensionsHidden() {
		c.reportField(problem.Finding{
			Code: problem.ExtensionsIgnored, Extent: at(qcow2.FieldBackingFileOffset, 8), Value: problem.Hex(offset),
			Expected: problem.AtLeastOffset(c.h.HeaderLength),
			Message:  problem.Say("backing_file_offset %v lies within the header of %d bytes: every header extension is ignored without a word", offset, c.h.HeaderLength),
		})
		c.doubt(Owner{Structure: problem.StructExtension}, "the backing file name stands where the extensions should start")
	}
}

// extensionsWhole tells that all header extensions could be read, so that one that
// is missing is news.
func (c *run) extensionsWhole() bool {
	return c.img.ExtensionsComplete && !c.extensionsHidden() && c.img.Size() > int64(c.h.ExtensionArea(c.g).Offset)
}

// extensionsHidden tells that the backing file's name starts within the header,
// so that there is no room for extensions and those that may be there are not
// read, by QEMU or by us.
func (c *run) extensionsHidden() bool {
	return c.h.BackingFileOffset != 0 && uint64(c.h.BackingFileOffset) < uint64(c.h.HeaderLength)
}
