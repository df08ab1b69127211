package repair

import "bytes"

// agreement tells which of the states that a journal knows an image is in.
type agreement struct {
	size   int64 // of the image, in bytes
	sector []byte
	marked bool // the image is marked corrupt, and the journal says that we do that

	before      match // as before the repair
	after       match // as after it
	afterMarked match // as after it, but for the mark that is not taken off yet
	between     match // each byte is what it was before, or what a stage has made of it
}

// match tells whether an image is in a state.
type match struct {
	not bool
	at  int64 // offset of the first byte that does not fit, or -1 for the file's length
}

func (m match) fits() bool { return !m.not }

// miss notes a byte that does not fit, if none was before.
func (m *match) miss(at int64) {
	if !m.not {
		m.not, m.at = true, at
	}
}

// compare reads what the repair has to do with.
func (j *journal) compare(f File) (*agreement, error) {
	is := &agreement{sector: make([]byte, len(j.before))}
	var err error
	if is.size, err = f.CurrentSize(); err != nil {
		return nil, err
	}
	if is.size != j.oldSize {
		is.before.miss(-1)
	}
	if is.size != j.newSize {
		is.after.miss(-1)
		is.afterMarked.miss(-1)
	}
	if is.size != j.oldSize && is.size != j.newSize {
		is.between.miss(-1)
		return is, nil // most likely another image
	}
	if err := readZeros(f, is.sector, 0); err != nil {
		return nil, err
	}
	j.compareSector(is)
	w := window{f: f, size: is.size}
	err = j.each(func(r *record) error {
		b, err := w.bytes(r.at, len(r.old))
		if err != nil {
			return err
		}
		is.compare(r, b)
		return nil
	})
	return is, err
}

func (j *journal) compareSector(is *agreement) {
	sector := is.sector
	is.marked = j.corrupts && sector[corruptAt]&corruptBit != 0
	if k := mismatch(sector, j.before); k >= 0 {
		is.before.miss(int64(k))
	}
	if k := mismatch(sector, j.after); k >= 0 {
		is.after.miss(int64(k))
	}
	if k := mismatch(sector, j.withMark(j.after)); k >= 0 {
		is.afterMarked.miss(int64(k))
	}
	// Whether the mark itself is there is not asked here.
	sector, before, after := j.withMark(sector), j.withMark(j.before), j.withMark(j.after)
	for i, c := range sector {
		if c != before[i] && c != after[i] {
			is.between.miss(int64(i))
			break
		}
	}
}

// compare compares the bytes of a record with those of the image.
func (is *agreement) compare(r *record, b []byte) {
	if k := mismatch(b, r.old); k >= 0 {
		is.before.miss(r.at + int64(k))
	}
	if k := mismatch(b, r.last()); k >= 0 {
		is.after.miss(r.at + int64(k))
		is.afterMarked.miss(r.at + int64(k))
	}
	if is.between.fits() && !bytes.Equal(b, r.old) && !bytes.Equal(b, r.last()) {
		if k := r.foreign(b); k >= 0 {
			is.between.miss(r.at + int64(k))
		}
	}
}

// foreign gives the index of the first byte that the repair can never have left
// there, or -1. A write may be torn anywhere, so this goes byte by byte.
func (r *record) foreign(b []byte) int {
next:
	for i, c := range b {
		if c == r.old[i] {
			continue
		}
		for _, v := range r.versions {
			if c == v[i] {
				continue next
			}
		}
		return i
	}
	return -1
}
