package qcow2

// BitmapDirectory is the bitmap directory as far as it could be walked.
type BitmapDirectory struct {
	// Entries holds the whole entries, in the order of the directory. There
	// may be more or fewer of them than nb_bitmaps.
	Entries []BitmapEntry
	// Extent is what they cover, padding included.
	Extent Extent
	// Rest is what the directory claims beyond Extent; RestZero tells that it
	// reads as zeros, as far as the file and QEMU's limit on the directory's
	// size go.
	Rest     Extent
	RestZero bool
	// Stop is how the walk ended: StopEnd exactly at the directory's end,
	// StopTrailing where no further entry follows the last one but bytes do.
	Stop TableStop
	// Partial is the entry at Stop as far as it could be decoded, nil when
	// not even its head lies within the directory and the file.
	Partial *BitmapEntry
}

// ReadBitmapDirectory walks the bitmap directory that the extension points to,
// up to directory_size, whatever nb_bitmaps says. It never fails: where it
// cannot go on it says so in Stop, and what was read until then stands. At most
// MaxBitmaps entries and MaxBitmapDirectorySize bytes are read, and never more
// than the file holds.
//
// The last cluster of the file may be partly missing; further out, entries made
// of the zeros that QEMU reads there are not given (StopPastEnd). Zeros that
// follow nb_bitmaps entries are trailing bytes, not entries.
func ReadBitmapDirectory(img *Image, ext BitmapsExtension) BitmapDirectory {
	base := ext.DirectoryOffset
	w := directoryWalk{
		entryWindow: entryWindow{img: img},
		limit:       min(ext.DirectorySize, MaxBitmapDirectorySize, -uint64(base)-1),
	}
	var d BitmapDirectory
	walked := uint64(0)
	for walked < ext.DirectorySize {
		at := base + HostOffset(walked)
		if uint64(len(d.Entries)) == uint64(ext.NbBitmaps) && w.zero(at, w.limit-walked) {
			d.Stop.Reason, d.Stop.Extent = StopTrailing, img.inFile(Extent{at, w.limit - walked})
			break
		}
		if len(d.Entries) == MaxBitmaps {
			d.Stop.Reason, d.Stop.Extent = StopTooMany, Extent{Offset: at}
			break
		}
		e, stop := w.entry(at, w.limit-walked)
		if stop.Reason != StopEnd {
			d.Stop, d.Partial = stop, e
			break
		}
		d.Entries = append(d.Entries, *e)
		walked += e.EntrySize()
	}
	d.Stop.Index = len(d.Entries)
	d.Extent = Extent{base, walked}
	d.Rest = Extent{base + HostOffset(walked), ext.DirectorySize - walked}
	d.RestZero = w.zero(d.Rest.Offset, w.limit-walked)
	return d
}

// directoryWalk reads the entries of a bitmap directory of which limit bytes
// may be read.
type directoryWalk struct {
	entryWindow
	limit uint64
}

// zero tells whether n bytes from at on read as zeros.
func (w *directoryWalk) zero(at HostOffset, n uint64) bool {
	zero, err := w.img.IsZero(Extent{at, n})
	return zero && err == nil
}

// entry reads the entry at offset at, with room bytes to the directory's end.
// When it is not whole the stop says why, and the entry is what could be
// decoded of it, or nil.
func (w *directoryWalk) entry(at HostOffset, room uint64) (*BitmapEntry, TableStop) {
	stop := func(reason StopReason, length uint64, err error) TableStop {
		return TableStop{Reason: reason, Extent: w.img.inFile(Extent{at, min(length, room)}), Err: err}
	}
	switch {
	case at >= HostOffset(max(w.img.size, 0)):
		return nil, stop(StopPastEnd, 0, nil)
	case room == 0:
		return nil, stop(StopTableSize, 0, nil)
	case room < BitmapHeadSize:
		return nil, stop(StopTrailing, room, nil)
	case !w.img.reaches(at, BitmapHeadSize):
		return nil, stop(StopCut, BitmapHeadSize, nil)
	}
	head, err := w.bytes(at, BitmapHeadSize)
	if err != nil {
		return nil, stop(StopUnreadable, BitmapHeadSize, err)
	}
	e, _ := DecodeBitmapEntry(head, at)
	size := e.EntrySize()
	if size > room || !w.img.reaches(at, size) {
		return &e, stop(StopCut, size, nil)
	}
	b, err := w.bytes(at, size)
	if err != nil {
		return &e, stop(StopUnreadable, size, err)
	}
	// Decoded from a copy, since an entry keeps the bytes it was made of.
	if e, err = DecodeBitmapEntry(clone(b), at); err != nil {
		return &e, stop(StopCut, size, nil)
	}
	return &e, TableStop{}
}
