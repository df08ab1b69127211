package proof

import (
	"bytes"
	"slices"

	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// bitmap is an entry of the bitmap directory.
type bitmap struct {
	qcow2.BitmapEntry
	usable bool
	found  bool // nothing led to it
	unsure bool // what it says is not vouched for, although autoclear bit 0 is set
}

// vouched tells that autoclear bit 0 says that the bitmaps are true.
func vouched(img *qcow2.Image) bool {
	return img.Header.Version > 2 && img.Header.AutoclearFeatures.Has(qcow2.AutoclearBitmaps)
}

// directory gives what the bitmaps extension says, whatever it says of its own length.
func directory(img *qcow2.Image) (d qcow2.BitmapsExtension, ok bool) {
	ext := img.Extension(qcow2.ExtBitmaps)
	if ext == nil || uint64(ext.DataOffset()) > uint64(len(img.Head())) {
		return d, false
	}
	data := img.Head()[ext.DataOffset():]
	return qcow2.DecodeBitmapsExtension(data[:min(len(data), qcow2.BitmapsExtensionSize)]), true
}

// list gives the bitmaps of an image, and which of them a reader uses.
func list(img *qcow2.Image) (all []bitmap) {
	d, ok := directory(img)
	if !ok {
		return nil
	}
	read := qcow2.ReadBitmapDirectory(img, d)
	if uint64(len(read.Entries)) < uint64(d.NbBitmaps) {
		// Their number may be right where the size is not.
		more := d
		more.DirectorySize = qcow2.MaxBitmapDirectorySize
		if e := qcow2.ReadBitmapDirectory(img, more).Entries; uint64(len(e)) >= uint64(d.NbBitmaps) {
			read.Entries = e[:min(uint64(len(e)), uint64(d.NbBitmaps))]
		}
	}
	whole := vouched(img) && img.Extension(qcow2.ExtBitmaps).Length == qcow2.BitmapsExtensionSize && img.Geometry.Aligned(d.DirectoryOffset) && read.Stop.Reason == qcow2.StopEnd && read.Rest.Length == 0 && uint64(len(read.Entries)) == uint64(d.NbBitmaps)
	for _, e := range read.Entries {
		b := bitmap{BitmapEntry: e}
		if m, err := img.BitmapUnchecked(&e); err == nil && whole {
			b.usable = uint64(e.TableSize) == img.Geometry.BitmapTableEntries(m.Bits())
		}
		all = append(all, b)
	}
	return all
}

// bitmaps holds that each bitmap that can be used afterwards has every bit that it had,
// and that none that was sound goes.
func (p *prover) bitmaps() error {
	was, err := p.bitmapsBefore()
	if err != nil {
		return err
	}
	is := list(p.is)
	taken := make([]bool, len(was))
	for i := range is {
		b := &is[i]
		k := p.origin(was, taken, b)
		if k >= 0 {
			taken[k] = true
		}
		if !b.usable {
			if k >= 0 && was[k].usable && p.sound(&was[k]) {
				return refuse(b.EntryOffset, "bitmap %s, which is sound, cannot be used any more", check.Escape(b.Name))
			}
			continue
		}
		ok, err := p.superset(was, k, b)
		if err != nil {
			return err
		}
		if !ok {
			return refuse(b.EntryOffset, "bitmap %s can be used, and does not have every bit that it had", check.Escape(b.Name))
		}
	}
	for k := range was {
		b := &was[k]
		declared := slices.Contains(p.plan.Bitmaps, string(b.Name))
		switch {
		case !taken[k] && !declared && (b.usable || b.found):
			return refuse(b.EntryOffset, "bitmap %s disappears", check.Escape(b.Name))
		case !taken[k] && b.usable && p.sound(b):
			return refuse(b.EntryOffset, "bitmap %s, which is sound, is removed", check.Escape(b.Name))
		}
	}
	for _, name := range p.plan.Bitmaps {
		n := func(all []bitmap) (n int) {
			for i := range all {
				if string(all[i].Name) == name {
					n++
				}
			}
			return n
		}
		if n(was) > 0 && n(is) >= n(was) {
			return refuse(0, "bitmap %s is declared removed and is kept", check.Escape([]byte(name)))
		}
	}
	return nil
}

// origin finds the bitmap that one was before: that of its name, or, where it has been
// given a new one, that of its table.
func (p *prover) origin(was []bitmap, taken []bool, b *bitmap) int {
	for k := range was {
		if !taken[k] && bytes.Equal(was[k].Name, b.Name) {
			return k
		}
	}
	for k := range was {
		if !taken[k] && was[k].TableOffset == b.TableOffset && was[k].TableSize == b.TableSize {
			return k
		}
	}
	return -1
}

// sound tells that the check before the repair has found nothing wrong with a bitmap
// that a reader uses.
func (p *prover) sound(b *bitmap) bool {
	name := check.Escape(b.Name)
	for i := range p.before.Result.Findings {
		f := &p.before.Result.Findings[i]
		if f.Severity == problem.Note {
			continue
		}
		directory := f.Structure == problem.StructBitmapDirectory || f.Structure == problem.StructBitmapExtension
		within := f.Extent.Offset >= b.EntryOffset && f.Extent.Offset < b.EntryOffset+qcow2.HostOffset(b.EntrySize())
		overlap := f.Code.Is(problem.Overlap)
		if within || overlap || f.Bitmap == name || f.Code.AboutBitmaps() && (f.Unlisted || directory && f.Bitmap == "") {
			return false
		}
	}
	return true
}

// givenUp tells that what a bitmap had is not relied on any more: it is removed, or has
// another table.
func (p *prover) givenUp(name string) bool {
	if strings.HasSuffix(name, "…") {
		return false // it is cut, and could be any that begins like it
	}
	if p.kept == nil {
		tables := make(map[qcow2.HostOffset]struct{})
		for _, b := range list(p.was) {
			tables[b.TableOffset] = struct{}{}
		}
		p.kept = make(map[string]struct{})
		for _, b := range list(p.is) {
			if _, same := tables[b.TableOffset]; same {
				p.kept[check.Escape(b.Name)] = struct{}{}
			}
		}
	}
	_, kept := p.kept[name]
	return !kept
}

// superset tells whether a bitmap has every bit of what it was, behind its last one,
// too, or is all dirty.
func (p *prover) superset(was []bitmap, k int, b *bitmap) (bool, error) {
	if k >= 0 {
		a := &was[k]
		trusted := vouched(p.was) && !a.unsure && !a.Flags.Has(qcow2.BitmapInUse)
		if trusted && (a.GranularityBits == b.GranularityBits || p.granularityMeant(a, b)) {
			if ok, err := p.covers(a, b); ok || err != nil {
				return ok, err
			}
		}
	}
	return p.allDirty(b)
}

// granularityMeant tells whether a bitmap gets the granularity back that its table was made
// for: the one that it had cannot be, only this one is one bit away, and the check before
// the repair has said so.
func (p *prover) granularityMeant(a, b *bitmap) bool {
	fits := func(bits uint8) bool {
		h := &p.was.Header
		return bits >= qcow2.MinBitmapGranularity && bits <= qcow2.MaxBitmapGranularity && a.TableSize > 0 &&
			p.g.BitmapTableEntries(qcow2.BitmapBits(h.SectorAlignedSize(), uint(bits))) == uint64(a.TableSize)
	}
	if fits(a.GranularityBits) || a.TableOffset != b.TableOffset || a.TableSize != b.TableSize {
		return false
	}
	near, meant := 0, false
	for bit := range 8 {
		if g := a.GranularityBits ^ 1<<bit; fits(g) {
			near++
			meant = meant || g == b.GranularityBits
		}
	}
	return near == 1 && meant && slices.ContainsFunc(p.before.Result.Findings, func(f problem.Finding) bool {
		return f.Extent.Offset == a.EntryOffset+qcow2.BitmapFieldGranularityBits && f.Extent.Length == 1 && f.Repair == problem.RepairSafe
	})
}

// covers tells whether the clusters of one bitmap have every bit of those of another.
func (p *prover) covers(a, b *bitmap) (bool, error) {
	n := uint64(max(a.TableSize, b.TableSize))
	table := func(b *bitmap) qcow2.Extent {
		return qcow2.Extent{Offset: b.TableOffset, Length: min(uint64(b.TableSize), qcow2.MaxBitmapTableEntries) * 8}
	}
	same := table(a) == table(b) && !p.v.touches(table(b))
	was, is := make([]byte, p.g.ClusterSize()), make([]byte, p.g.ClusterSize())
	entries := func(img *qcow2.Image, b *bitmap) *qcow2.TableScan[qcow2.BitmapTableEntry] {
		return qcow2.ScanTable[qcow2.BitmapTableEntry](img, b.TableOffset, min(n, uint64(b.TableSize)))
	}
	scan := entries(p.was, a)
	for i, x := range scan.All() {
		if i%(1<<12) == 0 && p.ctx.Err() != nil {
			return false, p.ctx.Err()
		}
		y := x
		if !same {
			y = p.bitmapEntry(b, i)
		}
		if x == y && (x.Offset() == 0 || !p.v.touched.has(p.g.HostCluster(x.Offset()))) {
			continue
		}
		if !p.bits(p.was, x, was) || !p.bits(p.is, y, is) {
			return false, nil
		}
		for j := range was {
			if was[j]&^is[j] != 0 {
				return false, nil
			}
		}
	}
	// A part that cannot be read stays that.
	return same || scan.Err() == nil, nil
}

func (p *prover) bitmapEntry(b *bitmap, i uint64) qcow2.BitmapTableEntry {
	if i >= uint64(b.TableSize) {
		return 0
	}
	for _, e := range qcow2.ScanTable[qcow2.BitmapTableEntry](p.is, b.TableOffset+qcow2.HostOffset(i*8), 1).All() {
		return e
	}
	return 0
}

// bits reads what a table entry stands for; false tells that it cannot be told. Reserved
// bits mean nothing.
func (p *prover) bits(img *qcow2.Image, e qcow2.BitmapTableEntry, b []byte) bool {
	o := e.Offset()
	switch {
	case o == 0 && e.AllOnes():
		for i := range b {
			b[i] = 0xff
		}
		return true
	case o == 0:
		clear(b)
		return true
	case e.AllOnes() || !p.g.Aligned(o) || !p.inFile(img, qcow2.Extent{Offset: o, Length: p.g.ClusterSize()}):
		return false
	}
	return img.ReadAt(b, o) == nil
}

// allDirty tells whether a bitmap says of all of the disk that it is dirty.
func (p *prover) allDirty(b *bitmap) (bool, error) {
	m, err := p.is.BitmapUnchecked(&b.BitmapEntry)
	if err != nil {
		return false, nil
	}
	n, err := m.DirtyBytes()
	return err == nil && n == p.is.Header.SectorAlignedSize(), nil
}
