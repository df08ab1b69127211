package qcow2

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
)

// BitmapProblem tells why a bitmap's content cannot be read.
type BitmapProblem uint8

// The problems of a [BitmapError]. Those up to BitmapTooLarge concern the
// bitmap as a whole, the others single table entries.
const (
	// BitmapUnsaved: the bitmap is in use: it was not saved when the image was
	// last closed, so that what is stored must not be relied on.
	BitmapUnsaved BitmapProblem = iota + 1
	// BitmapUnknownKind: the bitmap is not for dirty tracking, or has extra
	// data and is not marked as usable by who does not know it.
	BitmapUnknownKind
	// BitmapGranularity: granularity_bits is above 63, or, for
	// [Image.BitmapByName], not within QEMU's limits.
	BitmapGranularity
	// BitmapTablePlace: the table's offset is 0 or not aligned to a cluster,
	// or the table lies past the end of the file.
	BitmapTablePlace
	// BitmapStale: the image was written to by software that knows no bitmaps
	// (autoclear bit 0 is clear), so that the bitmap does not say what it changed.
	BitmapStale
	// BitmapVersion2: the image is of version 2, where nothing would tell that it
	// was written to by software that knows no bitmaps.
	BitmapVersion2
	// BitmapUnknownImage: the image is of an unknown version, or has an unknown
	// incompatible feature.
	BitmapUnknownImage
	// BitmapTwoLists: there are two bitmaps extensions that differ.
	BitmapTwoLists
	// BitmapDirectoryFault: the bitmaps extension or the directory is damaged, so that
	// QEMU refuses the image, and its entries may be another's.
	BitmapDirectoryFault
	// BitmapNotListed: the bitmap is not among those that can be found, but more may
	// have been lost with the list.
	BitmapNotListed
	// BitmapDuplicate: there are Count bitmaps of this name.
	BitmapDuplicate
	// BitmapName: the bitmap's name is one that QEMU does not take, or loses.
	BitmapName
	// BitmapTableLength: the table does not have as many entries as the virtual size
	// demands.
	BitmapTableLength
	// BitmapTooLarge: for the virtual size the bitmap would take more than
	// MaxBitmapPhysicalSize.
	BitmapTooLarge
	// BitmapTableShort: the table has no entries from Index on, as the virtual
	// size demands them.
	BitmapTableShort
	// BitmapEntryBits: the table entry has reserved bits set, or bit 0
	// together with an offset.
	BitmapEntryBits
	// BitmapEntryOffset: the table entry names a cluster that is not aligned
	// or lies past the end of the file, where QEMU takes it for zeros.
	BitmapEntryOffset
	// BitmapUnreadable: the table, or the cluster that its entry names, could
	// not be read; Err is a [*ReadError].
	BitmapUnreadable
)

var bitmapProblemTexts = [...]string{
	BitmapUnsaved:        "it was in use when the image was last closed",
	BitmapUnknownKind:    "it is of an unknown kind",
	BitmapGranularity:    "its granularity is out of range",
	BitmapTablePlace:     "its table is at an impossible place",
	BitmapStale:          "the image was written to by software that does not know bitmaps",
	BitmapVersion2:       "the image is of version 2, where bitmaps cannot be relied on",
	BitmapUnknownImage:   "the image is of an unknown version, or needs an unknown feature",
	BitmapTwoLists:       "the image has two lists of bitmaps, which differ",
	BitmapDirectoryFault: "the list of bitmaps is damaged",
	BitmapNotListed:      "it is not in what can be read of the list of bitmaps, which may have lost it",
	BitmapDuplicate:      "another bitmap has the same name",
	BitmapName:           "QEMU does not take its name",
	BitmapTableLength:    "its table does not fit the virtual size",
	BitmapTooLarge:       "it is too large",
	BitmapTableShort:     "its table is too short for the virtual size",
	BitmapEntryBits:      "reserved bits are set",
	BitmapEntryOffset:    "the cluster is at an impossible place",
	BitmapUnreadable:     "it cannot be read",
}

func (p BitmapProblem) String() string {
	if int(p) < len(bitmapProblemTexts) && bitmapProblemTexts[p] != "" {
		return bitmapProblemTexts[p]
	}
	return fmt.Sprintf("problem %d", uint8(p))
}

// BitmapError tells what part of a bitmap cannot be read, and why.
type BitmapError struct {
	Problem BitmapProblem
	// Index is the first table entry concerned, and Count how many are.
	Index, Count uint64
	// Entry is the table entry where one is at fault.
	Entry BitmapTableEntry
	Err   error
}

func (e *BitmapError) Error() string { return "cannot read the bitmap: " + e.reason() }

// reason tells what is wrong, without saying that it cannot be read for that.
func (e *BitmapError) reason() string {
	s := e.Problem.String()
	if e.Problem > BitmapTooLarge {
		s = fmt.Sprintf("table entry %d: %v", e.Index, e.Problem)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *BitmapError) Unwrap() error { return e.Err }

// DirtyExtent is a range of the virtual disk that a bitmap says is dirty.
type DirtyExtent struct {
	Start  GuestOffset
	Length uint64 // bytes
}

// Bitmap is the content of a persistent bitmap. Nothing is read before it is
// asked for, and never more than a piece of the table and one cluster of data
// are held. It is safe for concurrent use.
type Bitmap struct {
	img     *Image
	entry   BitmapEntry
	size    uint64 // bytes of the virtual disk that are tracked
	bits    uint64
	entries uint64 // that the table must have
}

// BitmapUnchecked gives the content of the bitmap that a directory entry describes,
// for a program that examines images: whether the content may be used is not asked.
// It is as good as any where the image was written to by software that knows no
// bitmaps, and whoever copies only what such a bitmap calls dirty loses data; a
// program that makes backups takes [Image.BitmapByName].
//
// As QEMU does it tracks the virtual size rounded down to whole sectors. The
// error, a [*BitmapError], says why content is not to be had at all.
func (img *Image) BitmapUnchecked(e *BitmapEntry) (*Bitmap, error) {
	b := &Bitmap{img: img, entry: *e, size: img.Header.SectorAlignedSize()}
	g := img.Geometry
	fail := func(p BitmapProblem) (*Bitmap, error) {
		return nil, &BitmapError{Problem: p, Count: uint64(e.TableSize)}
	}
	switch {
	case !img.GeometryOK:
		return nil, ErrGeometry
	case e.Type != BitmapDirtyTracking,
		e.ExtraDataSize != 0 && !e.Flags.Has(BitmapExtraDataCompatible):
		return fail(BitmapUnknownKind)
	case e.GranularityBits > 63:
		return fail(BitmapGranularity)
	case e.Flags.Has(BitmapInUse):
		return fail(BitmapUnsaved)
	}
	b.bits = BitmapBits(b.size, uint(e.GranularityBits))
	b.entries = g.BitmapTableEntries(b.bits)
	switch {
	case b.entries > MaxBitmapPhysicalSize>>g.ClusterBits:
		return fail(BitmapTooLarge)
	case e.TableOffset == 0, !g.Aligned(e.TableOffset),
		g.PastEnd(e.TableOffset, min(b.entries, uint64(e.TableSize))*tableEntrySize, img.size):
		return fail(BitmapTablePlace)
	}
	return b, nil
}

// Granularity is how many bytes of the virtual disk a bit stands for.
func (b *Bitmap) Granularity() uint64 { return 1 << b.entry.GranularityBits }

// Bits is the number of bits of the bitmap.
func (b *Bitmap) Bits() uint64 { return b.bits }

// Entry is the directory entry that the bitmap was made from.
func (b *Bitmap) Entry() BitmapEntry { return b.entry }

// Table gives a scan of the bitmap's table as far as the virtual size demands
// entries. Entries that it does not give are zero: the bits of a cluster that
// is not stored and reads as zeros.
func (b *Bitmap) Table() *TableScan[BitmapTableEntry] {
	return ScanTable[BitmapTableEntry](b.img, b.entry.TableOffset, min(b.entries, uint64(b.entry.TableSize)))
}

// Dirty gives the dirty ranges of the virtual disk in order, adjacent ones
// joined and the last one cut to the disk's size.
//
// A part of the bitmap that cannot be read comes as a [*BitmapError], with the
// range that the part stands for; the walk goes on behind it. Who goes on must
// take such a range for dirty.
func (b *Bitmap) Dirty() iter.Seq2[DirtyExtent, error] {
	return func(yield func(DirtyExtent, error) bool) {
		w := dirtyWalk{b: b, yield: yield}
		for p, err := range b.pieces() {
			more := true
			switch {
			case err != nil:
				more = w.flush() && yield(b.extent(p.from, p.to), err)
			case p.data != nil:
				more = w.words(p)
			case p.ones:
				more = w.run(p.from, p.to)
			}
			if !more {
				return
			}
		}
		w.flush()
	}
}

// DirtyBytes is how many bytes of the virtual disk are dirty, as far as the
// bitmap can be read; the error is the first of [Bitmap.Dirty].
func (b *Bitmap) DirtyBytes() (uint64, error) {
	var n uint64
	var first error
	for x, err := range b.Dirty() {
		if err == nil {
			n += x.Length
		} else if first == nil {
			first = err
		}
	}
	return n, first
}

// piece is a run of bits: stored, or all zeros or ones.
type piece struct {
	from, to uint64 // bits, to not included; within the bitmap
	ones     bool
	data     []byte // of stored bits: from is bit 0 of the first byte
}

// pieces gives the whole bitmap as pieces without gaps: one for each cluster
// that is stored or could not be read, and for each run of clusters that are
// not stored. The data is valid until the next piece.
func (b *Bitmap) pieces() iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		have := min(b.entries, uint64(b.entry.TableSize))
		scan := b.Table()
		next, failed := uint64(0), 0
		var buf []byte
		// upTo gives what lies between the last entry and the next one that is
		// not zero: zeros, and parts of the table that could not be read.
		upTo := func(end uint64) bool {
			for _, f := range scan.Unreadable()[failed:] {
				failed++
				first := uint64(f.Offset-b.entry.TableOffset) / tableEntrySize
				last := first + f.Length/tableEntrySize
				if !b.unstored(next, first, false, yield) {
					return false
				}
				err := &BitmapError{Problem: BitmapUnreadable, Index: first, Count: last - first, Err: f}
				if !yield(piece{from: b.bit(first), to: b.bit(last)}, err) {
					return false
				}
				next = last
			}
			more := b.unstored(next, end, false, yield)
			next = end
			return more
		}
		for i, e := range scan.All() {
			if !upTo(i) {
				return
			}
			next = i + 1
			if e == AllOnesEntry {
				if !b.unstored(i, i+1, true, yield) {
					return
				}
				continue
			}
			if buf == nil {
				buf = make([]byte, b.img.Geometry.ClusterSize())
			}
			p := piece{from: b.bit(i), to: b.bit(i + 1)}
			err := b.cluster(i, e, buf)
			if err == nil {
				p.data = buf
			}
			if !yield(p, err) {
				return
			}
		}
		if !upTo(have) || have == b.entries {
			return
		}
		yield(piece{from: b.bit(have), to: b.bits},
			&BitmapError{Problem: BitmapTableShort, Index: have, Count: b.entries - have})
	}
}

// unstored gives the entries from first to end (not included) as one piece of
// zeros or ones.
func (b *Bitmap) unstored(first, end uint64, ones bool, yield func(piece, error) bool) bool {
	return first >= end || yield(piece{from: b.bit(first), to: b.bit(end), ones: ones}, nil)
}

// cluster reads the cluster that the table entry at index names.
func (b *Bitmap) cluster(index uint64, e BitmapTableEntry, buf []byte) error {
	p, err := b.entryProblem(e), error(nil)
	if p == 0 {
		if err = b.img.ReadAt(buf, e.Offset()); err == nil {
			return nil
		}
		p = BitmapUnreadable
	}
	return &BitmapError{Problem: p, Index: index, Count: 1, Entry: e, Err: err}
}

// entryProblem tells what is wrong with a table entry by itself, 0 where nothing is.
func (b *Bitmap) entryProblem(e BitmapTableEntry) BitmapProblem {
	g := b.img.Geometry
	switch at := e.Offset(); {
	case e == 0, e == AllOnesEntry:
	case e.ReservedLow()|e.ReservedHigh() != 0, e.AllOnes():
		return BitmapEntryBits
	case !g.Aligned(at), g.PastEnd(at, g.ClusterSize(), b.img.size):
		return BitmapEntryOffset
	}
	return 0
}

// bit is the first bit that the table entry at index stands for.
func (b *Bitmap) bit(index uint64) uint64 {
	return min(index<<(b.img.Geometry.ClusterBits+3), b.bits)
}

// extent gives the bytes that the bits from from to to (not included) stand for.
func (b *Bitmap) extent(from, to uint64) DirtyExtent {
	start := from << b.entry.GranularityBits
	end := b.size
	if to < b.bits {
		end = to << b.entry.GranularityBits
	}
	return DirtyExtent{Start: GuestOffset(start), Length: end - start}
}

// dirtyWalk joins runs of dirty bits to extents.
type dirtyWalk struct {
	b        *Bitmap
	yield    func(DirtyExtent, error) bool
	from, to uint64 // the run that may still grow; empty when equal
}

func (w *dirtyWalk) run(from, to uint64) bool {
	if from == w.to && w.from != w.to {
		w.to = to
		return true
	}
	if !w.flush() {
		return false
	}
	w.from, w.to = from, to
	return true
}

func (w *dirtyWalk) flush() bool {
	from, to := w.from, w.to
	w.from, w.to = 0, 0
	return from == to || w.yield(w.b.extent(from, to), nil)
}

// words finds the runs of ones in a stored piece. Bits past the end of the
// bitmap do not count.
func (w *dirtyWalk) words(p piece) bool {
	for at := p.from; at < p.to; at += 64 {
		word := binary.LittleEndian.Uint64(p.data[(at-p.from)/8:])
		if left := p.to - at; left < 64 {
			word &= 1<<left - 1
		}
		for bit := uint64(0); word != 0; {
			skip := uint64(bits.TrailingZeros64(word))
			bit += skip
			word >>= skip
			n := uint64(bits.TrailingZeros64(^word))
			if !w.run(at+bit, at+bit+n) {
				return false
			}
			bit += n
			word >>= n // all of it when n is 64
		}
	}
	return true
}
