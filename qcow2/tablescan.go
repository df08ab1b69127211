package qcow2

import (
	"encoding/binary"
	"iter"
)

const (
	tableEntrySize = 8
	// scanChunk is how much of a table is read at a time, and scanRetry how
	// much after a chunk could not be read: one bad sector should not hide
	// thousands of entries.
	scanChunk = 64 << 10
	scanRetry = 4 << 10
)

// TableScan walks a table of 64-bit big-endian entries (an L1, L2, refcount or
// bitmap table) without ever holding more than a chunk of it. Entries that are
// zero are not given: holes of the file and what lies past its end are skipped
// without being read, so that a table costs what it stores, not what it claims.
//
// A scan serves one walk at a time.
type TableScan[E ~uint64] struct {
	img     *Image
	offset  HostOffset
	entries uint64
	failed  []*ReadError
}

// ScanTable makes a scan of the table of the given number of entries at offset.
// Whether offset is aligned and the number sensible is for the caller to
// judge; nothing is allocated for it.
func ScanTable[E ~uint64](img *Image, offset HostOffset, entries uint64) *TableScan[E] {
	return &TableScan[E]{img: img, offset: offset, entries: entries}
}

// Entries is the number of entries that the scan was made for.
func (s *TableScan[E]) Entries() uint64 { return s.entries }

// All gives index and value of each entry that is not zero, in order. A part
// that cannot be read is left out; see [TableScan.Unreadable]. Each call walks
// the table anew.
func (s *TableScan[E]) All() iter.Seq2[uint64, E] { return s.From(0) }

// From is [TableScan.All] from the entry first on.
func (s *TableScan[E]) From(first uint64) iter.Seq2[uint64, E] {
	return func(yield func(uint64, E) bool) {
		s.failed = nil
		size := uint64(max(s.img.size, 0))
		base := uint64(s.offset)
		if base >= size {
			return
		}
		// Within the file nothing can wrap any more. The entry that the end of
		// the file cuts counts: its missing bytes are zero.
		n := min(s.entries, (size-base+tableEntrySize-1)/tableEntrySize)
		var buf []byte
		for i := first; i < n; {
			at := base + i*tableEntrySize
			start, end := s.img.NextData(HostOffset(at))
			if uint64(start) > at {
				i = (uint64(start) - base) / tableEntrySize
				if i >= n {
					return
				}
			}
			stop := min(n, (uint64(end)-base+tableEntrySize-1)/tableEntrySize)
			stop = max(stop, i+1)
			if buf == nil {
				buf = make([]byte, min(scanChunk, (n-i)*tableEntrySize))
			}
			for i < stop {
				k := min(uint64(len(buf))/tableEntrySize, stop-i)
				if !s.chunk(buf[:k*tableEntrySize], i, yield) {
					return
				}
				i += k
			}
		}
	}
}

// chunk reads the entries from index on into buf and yields them; it is false
// when the caller wants no more.
func (s *TableScan[E]) chunk(buf []byte, index uint64, yield func(uint64, E) bool) bool {
	at := s.offset + HostOffset(index*tableEntrySize)
	if s.img.ReadAt(buf, at) == nil {
		return yieldEntries(buf, index, yield)
	}
	for done := 0; done < len(buf); {
		part := buf[done:min(done+scanRetry, len(buf))]
		from := index + uint64(done)/tableEntrySize
		done += len(part)
		if err := s.img.ReadAt(part, s.offset+HostOffset(from*tableEntrySize)); err != nil {
			s.fail(s.offset+HostOffset(from*tableEntrySize), uint64(len(part)), err)
			continue
		}
		if !yieldEntries(part, from, yield) {
			return false
		}
	}
	return true
}

// fail notes a part that could not be read; adjacent parts become one.
func (s *TableScan[E]) fail(at HostOffset, length uint64, err error) {
	if n := len(s.failed); n > 0 {
		if last := s.failed[n-1]; last.Offset+HostOffset(last.Length) == at {
			last.Length += length
			return
		}
	}
	s.failed = append(s.failed, &ReadError{Offset: at, Length: length, Err: readCause(err)})
}

// Unreadable gives the parts of the table that the last walk could not read,
// adjacent ones joined.
func (s *TableScan[E]) Unreadable() []*ReadError { return s.failed }

// Err gives the first of [TableScan.Unreadable], or nil.
func (s *TableScan[E]) Err() error {
	if len(s.failed) == 0 {
		return nil
	}
	return s.failed[0]
}

func yieldEntries[E ~uint64](b []byte, index uint64, yield func(uint64, E) bool) bool {
	for ; len(b) >= tableEntrySize; b, index = b[tableEntrySize:], index+1 {
		if e := binary.BigEndian.Uint64(b); e != 0 && !yield(index, E(e)) {
			return false
		}
	}
	return true
}

// readCause takes the cause out of a [*ReadError].
func readCause(err error) error {
	if r, ok := err.(*ReadError); ok {
		return r.Err
	}
	return err
}

// IsZero tells whether a range of the file reads as zeros. Holes are not read,
// nor is what lies past the end of the file.
func (img *Image) IsZero(x Extent) (bool, error) {
	size := uint64(max(img.size, 0))
	if uint64(x.Offset) >= size {
		return true, nil
	}
	end := uint64(x.Offset) + min(x.Length, size-uint64(x.Offset))
	var buf []byte
	for at := uint64(x.Offset); at < end; {
		start, stop := img.NextData(HostOffset(at))
		at = uint64(start)
		for stop := min(uint64(stop), end); at < stop; {
			if buf == nil {
				buf = make([]byte, min(scanChunk, end-at))
			}
			part := buf[:min(uint64(len(buf)), stop-at)]
			if err := img.ReadAt(part, HostOffset(at)); err != nil {
				return false, err
			}
			if !allZero(part) {
				return false, nil
			}
			at += uint64(len(part))
		}
	}
	return true, nil
}

func allZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
