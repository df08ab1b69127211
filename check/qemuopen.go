package check

import (
	"fmt"
	"math"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The prediction of what QEMU does when it opens the image follows
// qcow2_do_open step by step, in its order: the first test that fails is the
// one that QEMU tells its user about. It looks at the file as QEMU reads it,
// which is not always as the specification has it, and does not go by the
// findings: what one of our passes forgives QEMU may refuse, and the reverse.
//
// It relies on the passes only for what is beyond the image itself (whether the
// data file is there) and for where metadata is.
//
// It leaves behind [Result.QEMUOpen], and HDR021 where QEMU would crash.

// predictOpen runs the pass.
func (c *run) predictOpen() error {
	c.reportStale()
	p := opener{c: c, img: c.img, h: c.h, g: c.g}
	c.res.QEMUOpen = p.open()
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if x := p.crash; x != nil {
		c.report(problem.Finding{
			Code: problem.QEMUCrash, Bitmap: ownerName(x.Name), Extent: at(x.EntryOffset+qcow2.BitmapFieldGranularityBits, 1),
			Value: problem.Number(x.GranularityBits), Expected: problem.AtLeast(p.crashNeeds),
			Message: problem.Say("QEMU aborts when it opens the image: in-use bitmap \"%s\" has one bit for each %d bytes of %d, more than 2^41 bits",
				Excerpt(x.Name), uint64(1)<<x.GranularityBits, c.h.SectorAlignedSize()),
		})
	}
	c.guardVerdict()
	return nil
}

// guardVerdict makes it impossible to call an image sound that QEMU does not open, for
// reading and writing, with all its bitmaps: whatever else should have said so. The
// exceptions are what only its user can supply: see [opener.note].
func (c *run) guardVerdict() {
	q := &c.res.QEMUOpen
	if q.ReadOnly == OpenOK && q.ReadWrite == OpenOK {
		return
	}
	found := &Result{Findings: c.Collector.Findings(), QEMUOpen: *q}
	found.settle()
	switch found.Verdict {
	case VerdictClean, VerdictWarnings, VerdictInDoubt:
	case VerdictLeaks:
		if q.ReadOnly == OpenOK && q.ReadWrite != OpenRefused {
			return // stale bitmaps are counted as what they leak
		}
	default:
		return
	}
	c.report(problem.Finding{Code: problem.QEMURefuses, Message: problem.Say("QEMU does not open the image: %s", strings.Join(q.Reasons, "; "))})
}

// opener goes through the steps of opening an image.
type opener struct {
	c   *run
	img *qcow2.Image
	h   *qcow2.Header
	g   qcow2.Geometry

	reasons []string

	// From the header extensions, as QEMU reads them.
	exts        []qcow2.Extension
	bitmaps     *qcow2.BitmapsExtension // nil: QEMU goes by no bitmaps
	stale       bool                    // there is a bitmaps extension that QEMU ignores
	backingName []byte

	snapshotsSize uint64         // bytes of the snapshot table
	snapshotL1s   []qcow2.Extent // where its entries say that L1 tables are

	list       []qcow2.BitmapEntry // the bitmap directory
	crash      *qcow2.BitmapEntry
	crashNeeds uint // granularity bits with which it would not crash
}

// step is a part of opening; it gives the reason for which QEMU refuses, or "".
type step func(*opener) string

// openSteps are those that are the same whether QEMU may write or not.
var openSteps = []step{
	(*opener).version, (*opener).lengths, (*opener).features, (*opener).fields,
	(*opener).refcountTable, (*opener).snapshotTable, (*opener).l1Table, (*opener).encryptionMethod,
	(*opener).extensions, (*opener).dataFile, (*opener).encryption, (*opener).backingFile,
	(*opener).snapshotEntries, (*opener).bitmapList, (*opener).diskSize,
}

// open predicts both ways of opening.
func (p *opener) open() QEMUOpen {
	for _, s := range openSteps {
		if why := s(p); why != "" {
			return p.outcome(OpenRefused, OpenRefused, why)
		}
	}
	if why, crash := p.loadBitmaps(); crash {
		rw := OpenCrash
		if p.markedCorrupt() {
			rw = OpenRefused // long before it comes to the bitmaps
		}
		return p.outcome(OpenCrash, rw, why)
	} else if why != "" {
		return p.outcome(OpenRefused, OpenRefused, why)
	}
	rw, why := p.write()
	if lost := p.openBacking(); lost != "" {
		p.reasons = append([]string{lost}, p.reasons...)
		if rw != OpenDropsBitmaps { // which has happened by then
			rw = OpenRefused
		}
		return p.outcome(OpenRefused, rw, why)
	}
	return p.outcome(OpenOK, rw, why)
}

// markedCorrupt tells whether the image must not be written to.
func (p *opener) markedCorrupt() bool { return p.h.IncompatibleFeatures.Has(qcow2.IncompatCorrupt) }

// outcome gives the prediction; the reason for it, if there is one, is told
// before whatever else is worth knowing.
func (p *opener) outcome(ro, rw OpenOutcome, why string) QEMUOpen {
	reasons := p.reasons
	if why != "" {
		reasons = append([]string{why}, reasons...)
	}
	return QEMUOpen{ReadOnly: ro, ReadWrite: rw, Reasons: reasons}
}

// note adds something worth knowing about an image that opens.
func (p *opener) note(format string, args ...any) {
	p.reasons = append(p.reasons, fmt.Sprintf(format, args...))
}

// readable tells whether QEMU reads a range at all: past the end of the file it
// reads zeros, but not past the largest offset that it knows.
func readable(offset qcow2.HostOffset, length uint64) bool {
	return qcow2.RangeFits(uint64(offset), length, qcow2.MaxImageLength)
}

func (p *opener) version() string {
	switch {
	case !p.h.Known():
		return fmt.Sprintf("version %d is not supported", p.h.Version)
	case !p.img.GeometryOK:
		return fmt.Sprintf("clusters of 2^%d bytes are not supported", p.h.ClusterBits)
	}
	return ""
}

// lengths tests what must lie within the first cluster. That header_length is a
// multiple of 8 is not among it.
func (p *opener) lengths() string {
	switch {
	case p.h.Version == 3 && p.h.HeaderLength < qcow2.HeaderLengthV3:
		return fmt.Sprintf("the header is too short: %d bytes", p.h.HeaderLength)
	case uint64(p.h.HeaderLength) > p.g.ClusterSize():
		return fmt.Sprintf("the header of %d bytes is larger than a cluster", p.h.HeaderLength)
	case uint64(p.h.BackingFileOffset) > p.g.ClusterSize():
		return fmt.Sprintf("the backing file name at %v is not in the first cluster", p.h.BackingFileOffset)
	}
	return ""
}

func (p *opener) features() string {
	bit := p.h.IncompatibleFeatures.Has(qcow2.IncompatCompression)
	switch {
	case p.h.CompressionType > qcow2.CompressionZstd:
		return fmt.Sprintf("compression type %d is unknown", p.h.CompressionType)
	case bit != (p.h.CompressionType != qcow2.CompressionZlib):
		return "the compression-type bit and compression_type contradict each other"
	}
	if unknown := p.h.IncompatibleFeatures &^ qcow2.IncompatKnown; unknown != 0 {
		return fmt.Sprintf("unknown incompatible features 0x%x", uint64(unknown))
	}
	return ""
}

func (p *opener) fields() string {
	switch {
	case p.h.ExtendedL2() && p.h.ClusterBits < qcow2.MinClusterBitsExtL2:
		return fmt.Sprintf("clusters of %d bytes are too small for extended L2 entries", p.g.ClusterSize())
	case !p.h.RefcountOrderOK():
		return fmt.Sprintf("refcount_order %d is above 6", p.h.RefcountOrder)
	}
	return ""
}

// table is qcow2_validate_table: a table's length and place, as the header (or
// whatever points to it) claims them. The end of the file does not matter.
func (p *opener) table(name string, offset qcow2.HostOffset, entries, size, limit uint64) string {
	switch {
	case entries > limit/size:
		return fmt.Sprintf("the %s is too large: %d entries", name, entries)
	case !qcow2.RangeFits(uint64(offset), entries*size, math.MaxInt64) || !p.g.Aligned(offset):
		return fmt.Sprintf("the offset of the %s is invalid: %v", name, offset)
	}
	return ""
}

func (p *opener) refcountTable() string {
	clusters := uint64(p.h.RefcountTableClusters)
	if clusters == 0 {
		return "there is no refcount table"
	}
	if why := p.table("refcount table", p.h.RefcountTableOffset, clusters, p.g.ClusterSize(), qcow2.MaxRefcountTableSize); why != "" {
		return why
	}
	if !readable(p.h.RefcountTableOffset, clusters*p.g.ClusterSize()) {
		return "the refcount table cannot be read"
	}
	return ""
}

// snapshotTable is tested even where there are no snapshots.
func (p *opener) snapshotTable() string {
	return p.table("snapshot table", p.h.SnapshotsOffset, uint64(p.h.NbSnapshots), qcow2.SnapshotHeadSize, qcow2.SnapshotHeadSize*qcow2.MaxSnapshots)
}

func (p *opener) l1Table() string {
	if why := p.table("L1 table", p.h.L1TableOffset, uint64(p.h.L1Size), 8, qcow2.MaxL1Size); why != "" {
		return why
	}
	// QEMU calculates with signed numbers.
	if needed := p.h.L1Needed(p.g); p.h.Size > math.MaxInt64 || needed > math.MaxInt32 {
		return fmt.Sprintf("the image is too big: %d bytes", p.h.Size)
	} else if uint64(p.h.L1Size) < needed {
		return fmt.Sprintf("the L1 table is too small: %d entries of %d", p.h.L1Size, needed)
	}
	if !readable(p.h.L1TableOffset, uint64(p.h.L1Size)*8) {
		return "the L1 table cannot be read"
	}
	return ""
}

func (p *opener) encryptionMethod() string {
	if p.h.CryptMethod > qcow2.CryptLUKS {
		return fmt.Sprintf("encryption method %d is not supported", p.h.CryptMethod)
	}
	return ""
}

// extensions is qcow2_read_extensions.
func (p *opener) extensions() string {
	start, end := uint64(p.h.HeaderLength), p.g.ClusterSize()
	if p.h.BackingFileOffset != 0 {
		end = uint64(p.h.BackingFileOffset)
	}
	if start >= end {
		if p.c.extensionsHidden() {
			p.note("every header extension is ignored, and lost when the header is written")
		}
		return ""
	}
	exts, complete := qcow2.DecodeExtensions(p.img.Head()[start:end], qcow2.HostOffset(start))
	for i := range exts {
		if exts[i].Overruns() {
			return fmt.Sprintf("the %s is too large", extensionName(exts[i].Type))
		}
		if why := p.extension(&exts[i]); why != "" {
			return why
		}
	}
	if !complete {
		return "a header extension is too large: it does not end before the backing file name"
	}
	p.exts = exts
	return ""
}

func (p *opener) extension(ext *qcow2.Extension) string {
	switch ext.Type {
	case qcow2.ExtBackingFormat:
		if ext.Length > qcow2.MaxBackingFormat {
			return fmt.Sprintf("the backing format has %d bytes, more than %d", ext.Length, qcow2.MaxBackingFormat)
		}
	case qcow2.ExtCrypto:
		return p.cryptoExtension(ext)
	case qcow2.ExtBitmaps:
		return p.bitmapsExtension(ext)
	}
	return ""
}

func (p *opener) cryptoExtension(ext *qcow2.Extension) string {
	if p.h.CryptMethod != qcow2.CryptLUKS {
		return "there is an encryption header pointer without LUKS"
	}
	if ext.Length != qcow2.CryptoExtensionSize {
		return fmt.Sprintf("the encryption header pointer has %d bytes instead of %d", ext.Length, qcow2.CryptoExtensionSize)
	}
	at := qcow2.DecodeCryptoExtension(ext.Data)
	if !p.g.Aligned(at.Offset) {
		return fmt.Sprintf("the encryption header at %v is not aligned", at.Offset)
	}
	head := make([]byte, qcow2.LUKSHeaderSize)
	if at.Length < qcow2.LUKSHeaderSize || !readable(at.Offset, qcow2.LUKSHeaderSize) || p.img.ReadAt(head, at.Offset) != nil {
		return "the encryption header cannot be read"
	}
	for _, x := range luksFaults(head, at.Length) {
		if !x.warning {
			return x.message.String()
		}
	}
	return ""
}

// bitmapsExtension looks at the length first, even of an extension that is then
// ignored because the autoclear bit is clear.
func (p *opener) bitmapsExtension(ext *qcow2.Extension) string {
	if ext.Length != qcow2.BitmapsExtensionSize {
		return fmt.Sprintf("the bitmaps extension has %d bytes instead of %d", ext.Length, qcow2.BitmapsExtensionSize)
	}
	if !p.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps) {
		p.stale = true
		return ""
	}
	b := qcow2.DecodeBitmapsExtension(ext.Data)
	switch {
	case b.Reserved != 0:
		return "the reserved field of the bitmaps extension is not zero"
	case b.NbBitmaps > qcow2.MaxBitmaps:
		return fmt.Sprintf("there are %d bitmaps, more than %d", b.NbBitmaps, qcow2.MaxBitmaps)
	case b.NbBitmaps == 0:
		return "there is a bitmaps extension with zero bitmaps"
	case !p.g.Aligned(b.DirectoryOffset):
		return fmt.Sprintf("the bitmap directory at %v is not aligned", b.DirectoryOffset)
	case b.DirectorySize > qcow2.MaxBitmapDirectorySize:
		return fmt.Sprintf("the bitmap directory is too large: %d bytes", b.DirectorySize)
	}
	p.bitmaps = &b
	return ""
}

// last gives the last extension of a type, which is the one that counts.
func (p *opener) last(typ qcow2.ExtensionType) *qcow2.Extension {
	for i := len(p.exts) - 1; i >= 0; i-- {
		if p.exts[i].Type == typ {
			return &p.exts[i]
		}
	}
	return nil
}

func (p *opener) dataFile() string {
	switch {
	case !p.h.HasDataFile():
		if p.h.AutoclearFeatures.Has(qcow2.AutoclearRawData) {
			return "the raw-external-data bit is set without a data file"
		}
	case p.c.data.gone:
		return "the external data file is not there"
	case p.c.data.nameLost:
		return "the image does not name its external data file"
	case extensionText(p.last(qcow2.ExtDataFile)) == "":
		p.note("needs the option data-file, since the image does not name its data file")
	}
	return ""
}

// encryption does not know the key, and takes it that the user does.
func (p *opener) encryption() string {
	switch p.h.CryptMethod {
	case qcow2.CryptAES:
		p.note("needs the key; QEMU's system emulators refuse AES encryption even with it")
	case qcow2.CryptLUKS:
		if p.last(qcow2.ExtCrypto) == nil {
			return "there is no encryption header, although the method is LUKS"
		}
		p.note("needs the key")
	}
	return ""
}

func (p *opener) backingFile() string {
	offset, n := uint64(p.h.BackingFileOffset), uint64(p.h.BackingFileSize)
	if offset == 0 {
		return ""
	}
	if n > min(qcow2.MaxBackingFileName, p.g.ClusterSize()-offset) {
		return fmt.Sprintf("the backing file name is too long: %d bytes", n)
	}
	p.backingName = p.img.Head()[offset:][:n]
	return ""
}

// openBacking is what the block layer does when the driver is done: it opens the
// backing file.
func (p *opener) openBacking() string {
	if p.h.BackingFileOffset == 0 || cString(p.backingName) == "" { // an empty name is no backing file
		return ""
	}
	return p.c.backing
}

// diskSize is what the block layer says when the driver is done.
func (p *opener) diskSize() string {
	if p.h.SectorAlignedSize() > qcow2.MaxImageLength {
		return fmt.Sprintf("the disk is too large: %d bytes", p.h.Size)
	}
	return ""
}

// extensionText gives the data of an extension as QEMU keeps it: up to the first NUL.
func extensionText(ext *qcow2.Extension) string {
	if ext == nil {
		return ""
	}
	return cString(ext.Data)
}
