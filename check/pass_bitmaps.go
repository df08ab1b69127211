package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The bitmaps pass tests the bitmaps extension (BMP001-007), the directory that
// it points to (BMD001-014), the tables of the bitmaps (BMT001-006) and of their
// data what can be told without reading all of it (BMX001-003, see
// [Options.BitmapData]).
//
// It relies on the header's fields and on the extensions as they were decoded;
// the length of the bitmaps extension is judged by the extensions pass.
//
// It leaves behind c.bitmaps, the result's list with what QEMU would do with
// each bitmap, and the claims on the clusters of the directory, the tables and
// the data. Where one of them could not be found, what it may own is in doubt.

// bitmapsPass is the state of the pass.
type bitmapsPass struct {
	*run
	ext   qcow2.BitmapsExtension
	extAt qcow2.HostOffset // of the extension's data
	// stale tells why no bitmap says what has been written: the image was
	// changed by software that knows no bitmaps, or may have been. QEMU then
	// does not look at the extension any more. Its clusters are kept all the
	// same, but they may have become somebody else's by now.
	stale string

	directory qcow2.Extent // as claimed; empty where there is none to read
	bitmaps   []*bitmap    // in the order of the directory
	runs      []bitmapRun  // clusters of all bitmaps
	buf       []byte       // for data

	settled  map[tablePlace]tableSize // see settleTableSize
	settling uint64                   // entries read for it
}

// bitmap is one bitmap and what the pass has learned of it.
type bitmap struct {
	qcow2.BitmapEntry
	index int
	name  string // escaped
	// partial tells that the entry is not whole: only its head is known, and
	// the bitmap is looked at for the sake of its clusters only.
	partial bool
	mended  bool // the sizes in the entry are wrong, and have been reported

	badEntry   string // why the entry makes it unusable; empty if it does not
	badContent string // why the table or the data do

	entries uint64 // table entries to read; 0 where there is no table to read
	blank   bool   // the table was read, and is all zeros
	needed  uint64 // table entries by the disk's size and the granularity
	sized   bool   // needed is known and is what the table has
	copies  uint64 // bitmaps that have the very same table, this one included
	last    qcow2.BitmapTableEntry
	shared  bool // some of its clusters are another's, too
}

// checkBitmaps runs the pass.
func (c *run) checkBitmaps() error {
	p := &bitmapsPass{run: c}
	if !p.findExtension() {
		c.traces.astray = true
		return nil
	}
	p.checkDirectory()
	if err := p.checkEntries(); err != nil {
		return err
	}
	if err := p.checkTables(); err != nil {
		return err
	}
	p.checkOverlaps()
	p.claimRuns()
	p.leaveTraces()
	if err := p.checkData(); err != nil {
		return err
	}
	p.list()
	return nil
}

// findExtension tests the extension itself, as far as it does not need the
// directory, and is false when there is none to go by.
func (p *bitmapsPass) findExtension() bool {
	owner := Owner{Structure: problem.StructBitmapExtension}
	autoclear := p.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps)
	ext := p.img.Extension(qcow2.ExtBitmaps)
	if ext == nil {
		if !autoclear {
			return false
		}
		owner.Ref = at(qcow2.FieldAutoclearFeatures, 8)
		if p.img.ExtensionsComplete && p.h.HeaderLengthOK(p.g) && p.h.ExtensionArea(p.g).Length > 0 {
			p.report(problem.Finding{
				Code: problem.BitmapExtensionMissing, Extent: owner.Ref, Value: problem.Hex(p.h.AutoclearFeatures), Expected: problem.Hex(p.h.AutoclearFeatures &^ qcow2.AutoclearBitmaps),
				Message: problem.Say("autoclear bit 0 says that there are valid bitmaps, but there is no bitmaps extension"),
			})
		}
		p.doubt(owner, "autoclear bit 0 says that there are bitmaps, but no bitmaps extension leads to them")
		return false
	}
	owner.Ref = at(ext.Offset, 8)
	for i := range p.img.Extensions {
		e := &p.img.Extensions[i]
		if e.Type == ext.Type && e.Offset != ext.Offset && string(e.Data) != string(ext.Data) {
			p.doubt(Owner{Structure: problem.StructBitmapExtension, Ref: at(e.Offset, 8)}, "another bitmaps extension follows it, which readers go by")
		}
	}
	if len(ext.Data) < qcow2.BitmapsExtensionSize {
		p.doubt(owner, "it is too short to lead to the bitmaps")
		return false
	}
	p.ext, p.extAt = qcow2.DecodeBitmapsExtension(ext.Data), ext.DataOffset()
	p.traces.ext = &p.ext
	switch {
	case p.h.Version == 2:
		p.stale = "the image is of version 2, which knows no bitmaps"
		p.noteStale(problem.Finding{
			Code: problem.BitmapsInVersion2, Extent: at(ext.Offset, uint64(ext.DataOffset()-ext.Offset)+qcow2.BitmapsExtensionSize),
			Message: problem.Say("there are bitmaps in an image of version 2: whatever writes to it need not keep them up to date, and nothing would tell"),
		})
	case !autoclear:
		p.stale = "autoclear bit 0 is clear: the image was written to by software that knows no bitmaps"
		p.noteStale(problem.Finding{
			Code: problem.BitmapsStale, Extent: at(qcow2.FieldAutoclearFeatures, 8),
			Value: problem.Hex(p.h.AutoclearFeatures), Expected: problem.Hex(p.h.AutoclearFeatures | qcow2.AutoclearBitmaps),
			Message: problem.Say("autoclear bit 0 is clear although there are bitmaps: the image was written to by software that knows no bitmaps, and they do not say what it changed"),
		})
	}
	if p.stale != "" {
		p.BitmapsAreStale()
	}
	if p.ext.Reserved != 0 {
		p.report(problem.Finding{
			Code: problem.BitmapExtensionReserved, Extent: at(p.extAt+qcow2.BitmapsExtReserved, 4), Value: problem.Hex(p.ext.Reserved), Expected: problem.Hex(uint64(0)),
			Message: problem.Say("the reserved field of the bitmaps extension is 0x%x", p.ext.Reserved),
		})
	}
	return true
}

// noteStale keeps the finding that the bitmaps are stale until it is known how many
// clusters nobody else refers to: `qemu-img check` calls those leaked.
func (c *run) noteStale(f problem.Finding) { c.staleBitmaps = &f }

// reportStale reports that the bitmaps are stale, if they are.
func (c *run) reportStale() {
	if c.staleBitmaps == nil {
		return
	}
	f := *c.staleBitmaps
	f.Count = c.staleClusters
	if f.Count > 0 {
		f.Message.And("; nothing but these bitmaps refers to %d %s", f.Count, plural(f.Count, "cluster", "clusters"))
	}
	c.report(f)
}

// plural chooses a word by a number.
func plural(n uint64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// list fills in the result.
func (p *bitmapsPass) list() {
	for _, b := range p.bitmaps {
		if b.partial {
			continue
		}
		p.run.bitmaps = append(p.run.bitmaps, b.BitmapEntry)
		info := BitmapInfo{
			Name: string(b.Name), GranularityBits: b.GranularityBits, Type: b.Type, Flags: b.Flags,
			EntryOffset: b.EntryOffset, TableOffset: b.TableOffset, TableSize: b.TableSize,
		}
		info.State, info.Why = p.state(b)
		p.res.Bitmaps = append(p.res.Bitmaps, info)
	}
}

// state is what becomes of a bitmap. A bitmap that is in use is not loaded, so
// its table and its data make no difference to that.
func (p *bitmapsPass) state(b *bitmap) (s BitmapState, why string) {
	why = cmp.Or(b.badEntry, p.stale)
	if p.ext.Reserved != 0 {
		why = cmp.Or(why, "the bitmaps extension has something in a field that is kept for later versions")
	}
	if !b.Flags.Has(qcow2.BitmapInUse) {
		why = cmp.Or(why, b.badContent)
	}
	switch {
	case why != "":
		return BitmapUnusable, why
	case b.Flags.Has(qcow2.BitmapInUse):
		return BitmapInconsistent, ""
	case b.Flags.Has(qcow2.BitmapAuto):
		return BitmapEnabled, ""
	}
	return BitmapDisabled, ""
}

// label names a bitmap in a message.
func (b *bitmap) label() string {
	if b.name == "" {
		return fmt.Sprintf("the bitmap without a name (entry %d)", b.index)
	}
	return "bitmap " + Shorten(b.name)
}

// field is the place of a field of the directory entry.
func (b *bitmap) field(offset qcow2.HostOffset, n int) qcow2.Extent {
	return at(b.EntryOffset+offset, n)
}

// tableOwner and dataOwner name the bitmap's structures.
func (b *bitmap) tableOwner() Owner {
	return Owner{Structure: problem.StructBitmapTable, Bitmap: b.name, Ref: b.field(qcow2.BitmapFieldTableOffset, 8)}
}

func (b *bitmap) dataOwner(ref qcow2.Extent) Owner {
	return Owner{Structure: problem.StructBitmapData, Bitmap: b.name, Ref: ref}
}

// tableEntry is the place of a table entry.
func (b *bitmap) tableEntry(i uint64) qcow2.HostOffset { return b.TableOffset + qcow2.HostOffset(i*8) }

// spoil notes why the bitmap's table or data make it unusable. The first reason
// stands.
func (b *bitmap) spoil(why string) { b.badContent = cmp.Or(b.badContent, why) }

// byPlace gives the bitmaps that have a table to read, in the order of the file.
func (p *bitmapsPass) byPlace() []*bitmap {
	var bs []*bitmap
	for _, b := range p.bitmaps {
		if b.entries > 0 {
			bs = append(bs, b)
		}
	}
	slices.SortFunc(bs, func(a, b *bitmap) int {
		return cmp.Or(cmp.Compare(a.TableOffset, b.TableOffset), cmp.Compare(a.index, b.index))
	})
	return bs
}
