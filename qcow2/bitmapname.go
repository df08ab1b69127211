package qcow2

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNoBitmap means that the image has no bitmap of the name that was asked for.
var ErrNoBitmap = errors.New("the image has no bitmap of this name")

// BitmapUnusable tells that there is a bitmap of a name and that its content must not
// be used: a backup made by it would miss what was written.
type BitmapUnusable struct {
	Name string // as it was asked for
	// Reasons has at least one error, all that were found. Those that concern the
	// bitmaps are [*BitmapError] or [*ReadError].
	Reasons []error
}

func (e *BitmapUnusable) Error() string {
	texts := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		texts[i] = r.Error()
		if b, ok := errors.AsType[*BitmapError](r); ok {
			texts[i] = b.reason()
		}
	}
	return fmt.Sprintf("bitmap %q must not be used: %s", e.Name, strings.Join(texts, "; "))
}

// Unwrap gives the reasons.
func (e *BitmapUnusable) Unwrap() []error { return e.Reasons }

// BitmapByName gives the content of the bitmap of a name where it may be relied on:
// it was saved, nothing that QEMU refuses is wrong with it, and nothing can have written to the image since
// without recording it. Otherwise the error is [ErrNoBitmap], or a [*BitmapUnusable]
// with every reason. Where the list of bitmaps is damaged, so that the bitmap may be
// there and not be found, the error says so and is not [ErrNoBitmap].
//
// The header, the directory and the bitmap's table are read, its data is not: what
// cannot be read of that comes as an error of [Bitmap.Dirty]. Whether another
// structure of the image lies on the bitmap's clusters is found by a check of the
// whole image only (package check).
func (img *Image) BitmapByName(name string) (*Bitmap, error) {
	if !img.GeometryOK {
		return nil, ErrGeometry
	}
	ext := img.Extension(ExtBitmaps)
	if ext == nil {
		if img.Header.AutoclearFeatures.Has(AutoclearBitmaps) || !img.ExtensionsComplete {
			return nil, &BitmapUnusable{name, []error{&BitmapError{Problem: BitmapNotListed}}}
		}
		return nil, ErrNoBitmap
	}
	reasons := img.bitmapsStale()
	entries, bad := img.bitmapEntries(ext)
	if img.twoBitmapLists(ext) {
		bad = append(bad, &BitmapError{Problem: BitmapTwoLists})
	}
	reasons = append(reasons, bad...)
	var found []*BitmapEntry
	for i := range entries {
		if e := &entries[i]; cName(e.Name) == cName([]byte(name)) {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		if len(bad) == 0 {
			return nil, ErrNoBitmap
		}
		return nil, &BitmapUnusable{name, append(reasons, &BitmapError{Problem: BitmapNotListed})}
	}
	e := found[0]
	if len(found) > 1 {
		reasons = append(reasons, &BitmapError{Problem: BitmapDuplicate, Count: uint64(len(found))})
	}
	reasons = append(reasons, img.entryReasons(e)...)
	b, err := img.BitmapUnchecked(e)
	switch {
	case err == nil:
		reasons = append(reasons, b.tableReasons()...)
	case !hasProblem(reasons, err):
		reasons = append(reasons, err)
	}
	if len(reasons) > 0 {
		return nil, &BitmapUnusable{name, reasons}
	}
	return b, nil
}

// cName is a name as QEMU takes it: up to its first NUL.
func cName(name []byte) string {
	before, _, _ := bytes.Cut(name, []byte{0})
	return string(before)
}

// hasProblem tells whether one of the errors tells of the same problem as err.
func hasProblem(errs []error, err error) bool {
	b, ok := errors.AsType[*BitmapError](err)
	for _, e := range errs {
		if other, isBitmap := e.(*BitmapError); ok && isBitmap && other.Problem == b.Problem {
			return true
		}
	}
	return false
}

// bitmapsStale gives the reasons for which no bitmap of the image can be used, by
// the header.
func (img *Image) bitmapsStale() (reasons []error) {
	add := func(p BitmapProblem) { reasons = append(reasons, &BitmapError{Problem: p}) }
	h := &img.Header
	switch {
	case !h.Known(), h.Version > 2 && h.IncompatibleFeatures&^IncompatKnown != 0:
		add(BitmapUnknownImage)
	case h.Version == 2:
		add(BitmapVersion2)
	}
	if h.Version != 2 && !h.AutoclearFeatures.Has(AutoclearBitmaps) {
		add(BitmapStale)
	}
	return reasons
}

// twoBitmapLists tells whether there is another bitmaps extension that differs.
func (img *Image) twoBitmapLists(ext *Extension) bool {
	return slices.ContainsFunc(img.Extensions, func(e Extension) bool {
		return e.Type == ext.Type && e.Offset != ext.Offset && !bytes.Equal(e.Data, ext.Data)
	})
}

// bitmapEntries gives the entries of the bitmap directory, and what is wrong with it.
func (img *Image) bitmapEntries(ext *Extension) ([]BitmapEntry, []error) {
	bad := []error{&BitmapError{Problem: BitmapDirectoryFault}}
	if ext.Length != BitmapsExtensionSize || len(ext.Data) != BitmapsExtensionSize {
		return nil, bad
	}
	x := DecodeBitmapsExtension(ext.Data)
	if x.DirectoryOffset == 0 || !img.Geometry.Aligned(x.DirectoryOffset) {
		return nil, bad
	}
	d := ReadBitmapDirectory(img, x)
	switch {
	case d.Stop.Err != nil:
		return d.Entries, []error{&BitmapError{Problem: BitmapDirectoryFault, Err: d.Stop.Err}}
	case x.Reserved != 0, d.Stop.Reason != StopEnd, uint64(len(d.Entries)) != uint64(x.NbBitmaps):
		return d.Entries, bad
	}
	return d.Entries, nil
}

// entryReasons gives what is wrong with a directory entry.
func (img *Image) entryReasons(e *BitmapEntry) (reasons []error) {
	add := func(p BitmapProblem) {
		reasons = append(reasons, &BitmapError{Problem: p, Count: uint64(e.TableSize)})
	}
	if e.Flags.Has(BitmapInUse) {
		add(BitmapUnsaved)
	}
	if e.Type != BitmapDirtyTracking || e.ExtraDataSize != 0 || e.Flags&^(BitmapInUse|BitmapAuto) != 0 {
		add(BitmapUnknownKind)
	}
	if e.GranularityBits < MinBitmapGranularity || e.GranularityBits > MaxBitmapGranularity {
		add(BitmapGranularity)
	}
	if len(e.Name) == 0 || len(e.Name) > MaxBitmapName || bytes.IndexByte(e.Name, 0) >= 0 {
		add(BitmapName)
	}
	return reasons
}

// tableReasons gives what is wrong with the bitmap's table: the first entry of each
// problem, counted.
func (b *Bitmap) tableReasons() (reasons []error) {
	if n := uint64(b.entry.TableSize); n != b.entries {
		reasons = append(reasons, &BitmapError{Problem: BitmapTableLength, Index: min(n, b.entries), Count: max(n, b.entries) - min(n, b.entries)})
	}
	var first [BitmapUnreadable + 1]*BitmapError
	scan := b.Table()
	for i, e := range scan.All() {
		p := b.entryProblem(e)
		switch {
		case p == 0:
		case first[p] != nil:
			first[p].Count++
		default:
			first[p] = &BitmapError{Problem: p, Index: i, Count: 1, Entry: e}
			reasons = append(reasons, first[p])
		}
	}
	if err := scan.Err(); err != nil {
		reasons = append(reasons, &BitmapError{Problem: BitmapUnreadable, Err: err})
	}
	return reasons
}
