package check

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// The size of a directory entry and their number are told three times over: by
// nb_bitmaps, by the directory's size, and by the entries. Where they disagree
// the entries are believed as far as they make sense, and the one field that
// does not go with them is reported.

// checkDirectory finds the directory's entries.
func (p *bitmapsPass) checkDirectory() {
	nb := at(p.extAt+qcow2.BitmapsExtNbBitmaps, 4)
	size := at(p.extAt+qcow2.BitmapsExtDirectorySize, 8)
	owner := p.directoryOwner()
	claimed := uint64(p.ext.NbBitmaps)
	nbBad := claimed == 0 || claimed > qcow2.MaxBitmaps
	badCount := func(got int) {
		f := problem.Finding{Code: problem.BitmapCountWrong, Extent: nb, Value: problem.Number(claimed)}
		switch {
		case claimed == 0:
			f.Message = problem.Say("the bitmaps extension says that there are 0 bitmaps; it must not be there then")
		case claimed > qcow2.MaxBitmaps:
			f.Message = problem.Say("the bitmaps extension says that there are %d bitmaps, more than the %d that QEMU takes", claimed, qcow2.MaxBitmaps)
		default:
			f.Message = problem.Say("the bitmaps extension says that there are %d bitmaps, but the directory holds %d", claimed, got)
		}
		if got > 0 {
			f.Expected = problem.Number(got)
		}
		p.report(f)
	}
	if claimed == 0 && p.ext.DirectorySize == 0 {
		badCount(0) // an extension that is empty throughout
		p.doubt(owner, "the bitmaps extension is empty")
		return
	}
	if !p.directoryPlaced() {
		if nbBad {
			badCount(0)
		}
		p.doubt(owner, "the bitmaps extension does not lead to it")
		return
	}
	sizeBad := p.directorySizeFault()
	d := p.walkDirectory(nbBad, sizeBad != "")
	got, end := uint64(len(d.entries)), d.end
	p.bitmaps = d.entries
	if d.partial != nil {
		p.bitmaps = append(p.bitmaps, d.partial)
	}

	expected := problem.Number(end)
	missing := !nbBad && got < claimed
	switch {
	case sizeBad != "":
		f := problem.Finding{Code: problem.BitmapDirectoryMisplaced, Extent: size, Value: problem.Number(p.ext.DirectorySize), Message: problem.Say("%s", sizeBad)}
		if p.outside(p.ext.DirectoryOffset, p.ext.DirectorySize) && p.ext.DirectorySize <= qcow2.MaxBitmapDirectorySize {
			f.Extent = at(size.Offset, size.Length+8)
		}
		if !missing && got > 0 {
			f.Expected = expected
		}
		p.report(f)
	case d.fault != nil:
		p.report(*d.fault)
	case end != p.ext.DirectorySize && !(nbBad && got == 0):
		p.report(problem.Finding{
			Code: problem.BitmapDirectorySize, Extent: size, Value: problem.Number(p.ext.DirectorySize), Expected: expected,
			Message: problem.Say("the bitmap directory is said to have %d bytes, but its %d entries take %d", p.ext.DirectorySize, got, end),
		})
	}
	if nbBad || got > claimed || missing && sizeBad == "" && d.fault == nil {
		badCount(int(got))
	}
	switch {
	case d.err != nil:
		p.trouble(owner, d.stop, d.err)
	case missing || d.fault != nil:
		p.doubt(owner, fmt.Sprintf("%d of its %d entries could be read", got, claimed))
	case d.garbage:
		p.doubt(owner, "it holds more than its entries")
	case nbBad && got == 0:
		p.doubt(owner, "it holds nothing that reads as an entry")
	}
	p.claimDirectory(end, sizeBad == "" && (end == p.ext.DirectorySize || d.fault != nil || d.err != nil))
}

func (p *bitmapsPass) directoryOwner() Owner {
	return Owner{Structure: problem.StructBitmapDirectory, Ref: at(p.extAt+qcow2.BitmapsExtDirectoryOffset, 8)}
}

// directoryPlaced tells whether the directory starts where it can be read.
func (p *bitmapsPass) directoryPlaced() bool {
	o := p.ext.DirectoryOffset
	f := problem.Finding{Code: problem.BitmapDirectoryMisplaced, Extent: p.directoryOwner().Ref, Value: problem.Hex(o)}
	switch {
	case o == 0:
		f.Message = problem.Say("the bitmap directory is said to be at offset 0, where the header is")
	case !p.g.Aligned(o):
		f.Message = problem.Say("the bitmap directory is said to be at offset %v, which is not the start of a cluster", o)
	case uint64(o) >= uint64(p.img.Size()):
		f.Message = problem.Say("the bitmap directory is said to be at offset %v, but the file ends at 0x%x", o, p.img.Size())
	default:
		return true
	}
	p.report(f)
	return false
}

// directorySizeFault says what is wrong with the directory's size by itself.
func (p *bitmapsPass) directorySizeFault() string {
	n := p.ext.DirectorySize
	switch {
	case n == 0:
		return "the bitmap directory is said to have 0 bytes"
	case n > qcow2.MaxBitmapDirectorySize:
		return fmt.Sprintf("the bitmap directory is said to have %d bytes, more than the %d that QEMU takes", n, qcow2.MaxBitmapDirectorySize)
	case p.outside(p.ext.DirectoryOffset, n):
		return fmt.Sprintf("the bitmap directory is said to have %d bytes at offset %v, but the file ends at 0x%x", n, p.ext.DirectoryOffset, p.img.Size())
	}
	return ""
}

// directoryWalk is what was made of the directory.
type directoryWalk struct {
	entries []*bitmap
	end     uint64           // bytes that they take
	partial *bitmap          // an entry after them, of which only the head is there
	fault   *problem.Finding // why the walk ended before its time
	garbage bool             // what follows the entries is not zero
	err     error            // the entry at stop could not be read
	stop    qcow2.Extent
}

func (w *directoryWalk) take(e *qcow2.BitmapEntry) {
	w.entries = append(w.entries, newBitmapOf(*e, len(w.entries)))
	w.end += e.EntrySize()
}

func newBitmapOf(e qcow2.BitmapEntry, index int) *bitmap {
	return &bitmap{BitmapEntry: e, index: index, name: ownerName(e.Name), copies: 1}
}

// walkDirectory takes from the directory what can be taken for its entries:
// the first nb_bitmaps of them whatever they hold, and further ones while they
// hold what an entry holds.
func (p *bitmapsPass) walkDirectory(nbBad, sizeBad bool) directoryWalk {
	ext := p.ext
	if sizeBad {
		ext.DirectorySize = qcow2.MaxBitmapDirectorySize
	}
	d := qcow2.ReadBitmapDirectory(p.img, ext)
	sure := int(ext.NbBitmaps)
	if nbBad {
		sure = 0
	}
	fills := d.Stop.Reason == qcow2.StopEnd || d.Stop.Reason == qcow2.StopTrailing && d.RestZero
	if len(d.Entries) > sure && !sizeBad && fills && !slices.ContainsFunc(d.Entries, func(e qcow2.BitmapEntry) bool { return !named(&e) }) {
		// They fill the directory, each with a name: the count is wrong, whatever
		// else may be wrong with them.
		sure = len(d.Entries)
	}
	if sure > 0 && !sizeBad && d.Stop.Reason != qcow2.StopUnreadable {
		if w, ok := p.mendDirectory(&d, sure); ok {
			return w
		}
	}
	w := directoryWalk{}
	for i := range d.Entries {
		e := &d.Entries[i]
		if i < sure && sniff.BlankBitmapEntry(e) {
			w.fault = p.lostFrom(i, at(e.EntryOffset, p.directoryEnd()-e.EntryOffset), "is all zeros")
			return w
		}
		if i >= sure && (sizeBad && !nbBad || !p.format().BitmapEntry(e)) {
			break
		}
		w.take(e)
	}
	if len(w.entries) < len(d.Entries) {
		w.garbage = !sizeBad
		return w
	}
	w.garbage = !d.RestZero && !sizeBad
	switch {
	case len(w.entries) >= sure:
	case d.Stop.Reason == qcow2.StopUnreadable:
		w.err, w.stop = d.Stop.Err, d.Stop.Extent
	case !sizeBad && d.Stop.Reason == qcow2.StopCut && d.Partial != nil:
		w.partial = newBitmapOf(*d.Partial, len(w.entries))
		w.partial.partial = true
		w.fault = p.lostFrom(len(w.entries), at(d.Partial.EntryOffset+qcow2.BitmapFieldNameSize, 6), claimsBytes(d.Partial)+", more than the directory has left")
	}
	return w
}

// directoryEnd is where the directory ends by what the extension says.
func (p *bitmapsPass) directoryEnd() qcow2.HostOffset {
	return p.ext.DirectoryOffset + qcow2.HostOffset(p.ext.DirectorySize)
}

// lostFrom words that the directory cannot be followed from an entry on.
func (p *bitmapsPass) lostFrom(i int, x qcow2.Extent, what string) *problem.Finding {
	return &problem.Finding{
		Code: problem.BitmapEntryBroken, Extent: x, Path: problem.ToBitmap(i),
		Message: problem.Say("entry %d of the bitmap directory %s; nothing leads to what follows, and %d of %d bitmaps could be read", i, what, i, p.ext.NbBitmaps),
	}
}

func claimsBytes(e *qcow2.BitmapEntry) string {
	return fmt.Sprintf("claims %d bytes (%d of extra data, %d of name)", e.EntrySize(), e.ExtraDataSize, e.NameSize)
}

// mendDirectory is for a directory with entries that make no sense, or too few.
// Either its size is too small: then further entries follow behind its end. Or
// one entry has the wrong size: then all those after it, up to the end, make
// sense from another place on. ok is false where neither is so.
func (p *bitmapsPass) mendDirectory(d *qcow2.BitmapDirectory, sure int) (w directoryWalk, ok bool) {
	sound := 0
	for sound < min(len(d.Entries), sure) && p.format().BitmapEntry(&d.Entries[sound]) {
		sound++
	}
	if sound == sure {
		return w, false // the entries make sense: it is the count or the size that does not
	}
	p.hopeless()
	if len(d.Entries) < sure {
		if more := p.chain(p.ext.DirectoryOffset, qcow2.MaxBitmapDirectorySize, sure); more != nil {
			for i := range more {
				w.take(&more[i])
			}
			return w, true
		}
	}
	if sound == len(d.Entries) && d.Stop.Reason == qcow2.StopEnd {
		return w, false
	}
	if sound == sure-1 && len(d.Entries) == sure && d.RestZero && named(&d.Entries[sound]) {
		return w, false // what is wrong with the last one is not its size: zeros follow it
	}
	// The entry that does not make sense may be the wrong one, or the one that
	// leads there.
	for i := sound; i >= max(0, sound-1); i-- {
		var e *qcow2.BitmapEntry
		switch {
		case i < len(d.Entries):
			e = &d.Entries[i]
		case d.Partial != nil:
			e = d.Partial
		default:
			continue
		}
		for next := e.EntryOffset + minEntry; next <= min(p.directoryEnd(), e.EntryOffset+maxEntry); next += 8 {
			rest := p.chain(next, uint64(p.directoryEnd()-next), sure-i-1)
			if rest == nil {
				continue
			}
			if next == e.EntryOffset+qcow2.HostOffset(e.EntrySize()) {
				return w, false // whatever is wrong with the entry, its size is not
			}
			for k := range d.Entries[:i] {
				w.take(&d.Entries[k])
			}
			w.entries = append(w.entries, p.mendEntry(e, i, next))
			for k := range rest {
				w.take(&rest[k])
			}
			w.end = p.ext.DirectorySize
			return w, true
		}
	}
	return w, false
}

// minEntry and maxEntry are the sizes of an entry that QEMU can have written.
const (
	minEntry = qcow2.BitmapHeadSize + 8
	maxEntry = (qcow2.BitmapHeadSize + qcow2.MaxBitmapName + 7) &^ 7
)

// chain gives the n entries that start at an offset, if all of them make sense
// and, unless size is the largest, fill the size. The result is nil if not, and
// not nil but empty where n is 0 and nothing is to be filled.
func (p *bitmapsPass) chain(from qcow2.HostOffset, size uint64, n int) []qcow2.BitmapEntry {
	open := size == qcow2.MaxBitmapDirectorySize
	if n == 0 {
		if size == 0 {
			return []qcow2.BitmapEntry{}
		}
		return nil
	}
	ext := qcow2.BitmapsExtension{NbBitmaps: 1, DirectorySize: min(size, maxEntry), DirectoryOffset: from}
	if first := qcow2.ReadBitmapDirectory(p.img, ext); len(first.Entries) == 0 || !p.format().BitmapEntry(&first.Entries[0]) {
		return nil // most places are no entry's: this is found out without walking on
	}
	ext.NbBitmaps, ext.DirectorySize = uint32(n), size
	d := qcow2.ReadBitmapDirectory(p.img, ext)
	if len(d.Entries) < n || !open && (len(d.Entries) > n || d.Stop.Reason != qcow2.StopEnd) {
		return nil
	}
	for i := range n {
		if !p.format().BitmapEntry(&d.Entries[i]) {
			return nil
		}
	}
	return d.Entries[:n]
}

// mendEntry makes the best of an entry that does not end where it says: the next
// one begins at next.
func (p *bitmapsPass) mendEntry(e *qcow2.BitmapEntry, i int, next qcow2.HostOffset) *bitmap {
	size := uint64(next - e.EntryOffset)
	b := newBitmapOf(*e, i)
	b.ExtraData, b.Name, b.Padding = nil, nil, nil
	if body, err := p.img.ReadExtent(at(e.EntryOffset+qcow2.BitmapHeadSize, size-qcow2.BitmapHeadSize), maxEntry); err == nil {
		switch n := uint64(len(body)); {
		case sniff.BlankBitmapEntry(e):
		case uint64(e.NameSize) <= n && n-uint64(e.NameSize) < 8: // the size of the extra data is wrong
			b.Name = body[:e.NameSize]
		case e.ExtraDataSize == 0:
			b.Name = bytes.TrimRight(body, "\x00")
		}
	}
	b.name = ownerName(b.Name)
	b.badEntry = "its directory entry does not end where the next one begins"
	f := problem.Finding{
		Code: problem.BitmapEntryBroken, Extent: at(e.EntryOffset+qcow2.BitmapFieldNameSize, 6), Bitmap: b.name, Path: problem.ToBitmap(i),
		Message: problem.Say("entry %d of the bitmap directory %s, but there are %d up to the next entry or the directory's end", i, claimsBytes(e), size),
	}
	b.mended = true
	if sniff.BlankBitmapEntry(e) {
		b.partial, b.badEntry = true, "its directory entry is all zeros"
		f.Extent = at(e.EntryOffset, size)
		f.Message = problem.Say("entry %d of the bitmap directory is all zeros", i)
	}
	p.report(f)
	return b
}

// named tells whether an entry has what leads to the next one as it should be: a
// name, no extra data, and no more than that.
func named(e *qcow2.BitmapEntry) bool {
	return e.ExtraDataSize == 0 && len(e.Name) > 0 && len(e.Name) <= qcow2.MaxBitmapName && bytes.IndexByte(e.Name, 0) < 0
}

// claimDirectory claims what the entries take, or the size that the extension
// gives where that can be right. What it claims beyond may be the directory's.
func (p *bitmapsPass) claimDirectory(end uint64, whole bool) {
	x := at(p.ext.DirectoryOffset, p.ext.DirectorySize)
	if !whole {
		if !p.outside(x.Offset, x.Length) {
			p.reserve(x)
		}
		x.Length = end
	}
	p.directory = x
	p.addExtent(x, -1, runDirectory)
}
