package repair

import (
	"bytes"
	"encoding/binary"
	"io"
	"iter"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// layout is a plan made ready to be written: compared with the file, and with the
// first sector as a whole.
type layout struct {
	plan *Plan
	// before and after are the first sector, or all that the file has of it.
	// Whatever the stage of an edit, its bytes in there are written with the
	// header.
	before, after []byte
	// corrupts tells that the image is marked corrupt while it is half-written.
	corrupts bool
}

// layOut prepares a plan. It fails with a [*PlanError] or a [*StaleError], or
// when the file cannot be read.
func layOut(f File, p *Plan) (*layout, error) {
	l := &layout{plan: p}
	if err := p.verify(); err != nil {
		return nil, err
	}
	size, err := f.CurrentSize()
	if err != nil {
		return nil, err
	}
	if size != p.OldSize {
		return nil, &StaleError{Offset: min(size, p.OldSize)}
	}
	if err := l.sector(f); err != nil {
		return nil, err
	}
	return l, l.compare(f)
}

// verify holds that a plan is as [Plan] says.
func (p *Plan) verify() error {
	if p.OldSize < 0 || p.NewSize < p.OldSize {
		return &PlanError{Reason: "it makes the file shorter"}
	}
	i := 0
	for s := range Stage(stagesCount) {
		end := qcow2.HostOffset(0)
		for c := p.Edits.from(s); c.next(); i++ {
			switch {
			case !qcow2.RangeFits(uint64(c.Offset), uint64(len(c.New)), uint64(p.NewSize)):
				return &PlanError{Edit: i, Reason: "it reaches past the end of the file"}
			case c.Offset < end:
				return &PlanError{Edit: i, Reason: "it overlaps the edit before it, or comes before it"}
			}
			end = c.Offset + qcow2.HostOffset(len(c.New))
		}
	}
	return nil
}

// sector works out what becomes of the first sector.
func (l *layout) sector(f File) error {
	l.before = make([]byte, min(l.plan.OldSize, qcow2.SectorSize))
	if err := readZeros(f, l.before, 0); err != nil {
		return err
	}
	l.after = bytes.Clone(l.before)
	for s := range Stage(stagesCount) {
		for c := l.plan.Edits.from(s); c.next() && uint64(c.Offset) < uint64(len(l.after)); {
			at := l.after[c.Offset:]
			n := min(len(at), len(c.New))
			if k := mismatch(at[:n], c.Old[:n]); k >= 0 {
				return &StaleError{Offset: int64(c.Offset) + int64(k)}
			}
			copy(at, c.New)
		}
	}
	l.corrupts = canMark(l.before) && canMark(l.after)
	return nil
}

// compare holds that the file has what the plan goes by, so that what the journal
// stores is what was there.
func (l *layout) compare(f File) error {
	w := window{f: f, size: l.plan.OldSize}
	for p := range l.pieces() {
		is, err := w.bytes(p.at, p.length())
		if err != nil {
			return err
		}
		for i := range p.covers {
			if k := mismatch(is, p.covers[i].cut(p.at, p.end, p.covers[i].Old)); k >= 0 {
				return &StaleError{Offset: p.at + int64(k)}
			}
			is = p.version(i)
		}
	}
	return nil
}

// piece is a range of the file beyond the first sector in which each stage
// changes every byte or none.
type piece struct {
	at, end int64
	covers  []*edit // in the order of their stages; valid until the next piece
}

// edit is an Edit with what is needed to take it apart.
type edit Edit

func (e *edit) end() int64 { return int64(e.Offset) + int64(len(e.New)) }

// cut gives what part of an edit's bytes belongs to a range that lies within it.
func (e *edit) cut(at, end int64, b []byte) []byte {
	return b[at-int64(e.Offset) : end-int64(e.Offset)]
}

func (p *piece) length() int { return int(p.end - p.at) }

// old is what was there, and version what the i-th edit leaves.
func (p *piece) old() []byte          { return p.covers[0].cut(p.at, p.end, p.covers[0].Old) }
func (p *piece) version(i int) []byte { return p.covers[i].cut(p.at, p.end, p.covers[i].New) }

// pieces gives all that changes beyond the first sector, in the order of the
// offsets. A piece lies before the old end of the file or after it, and has at most
// maxRecord bytes.
func (l *layout) pieces() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		var stages [stagesCount]cursor
		var more [stagesCount]bool // that the cursor is at an edit
		for s := range stages {
			stages[s] = l.plan.Edits.from(Stage(s))
			more[s] = stages[s].next()
		}
		pos := int64(len(l.before))
		covers := make([]*edit, 0, stagesCount)
		for {
			covers = covers[:0]
			end, next := pos+maxRecord, int64(-1)
			if pos < l.plan.OldSize {
				end = min(end, l.plan.OldSize)
			}
			for s := range stages {
				e := &stages[s].edit
				for more[s] && e.end() <= pos {
					more[s] = stages[s].next()
				}
				if !more[s] {
					continue
				}
				if start := int64(e.Offset); start > pos {
					end = min(end, start)
					if next < 0 || start < next {
						next = start
					}
					continue
				}
				end = min(end, e.end())
				covers = append(covers, e)
			}
			switch {
			case len(covers) > 0:
				if !yield(piece{pos, end, covers}) {
					return
				}
				pos = end
			case next >= 0:
				pos = next
			default:
				return
			}
		}
	}
}

// writes gives what a stage writes beyond the first sector.
func (l *layout) writes(s Stage) iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for c := l.plan.Edits.from(s); c.next(); {
			from := max(int64(c.Offset), int64(len(l.before)))
			if from < c.end() && !yield(from, c.cut(from, c.end(), c.New)) {
				return
			}
		}
	}
}

// corruptAt and corruptBit say where the header of a version 3 image has the
// incompatible feature bit "corrupt".
const (
	corruptAt  = qcow2.FieldIncompatibleFeatures + 7
	corruptBit = byte(qcow2.IncompatCorrupt)
)

// canMark tells whether a first sector is that of an image that can be marked
// corrupt, so that QEMU does not write to it. Version 2 has no such bit.
func canMark(sector []byte) bool {
	return len(sector) > corruptAt && binary.BigEndian.Uint32(sector[qcow2.FieldMagic:]) == qcow2.Magic &&
		binary.BigEndian.Uint32(sector[qcow2.FieldVersion:]) == 3
}

// mismatch gives the index of the first byte in which two slices of one length
// differ, or -1.
func mismatch(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// readZeros reads all of p; what lies past the end of the file is zeros.
func readZeros(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) || err == io.EOF {
		err = nil
	}
	clear(p[n:])
	return err
}

// window reads small pieces of a file that follow each other a few pages at a time.
type window struct {
	f    io.ReaderAt
	size int64 // past it there are zeros
	at   int64
	buf  []byte
}

// windowSize is a compromise: small edits are often far apart.
const windowSize = 16 << 10

// bytes gives n bytes of the file, valid until the next call.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if off >= w.at && off+int64(n) <= w.at+int64(len(w.buf)) {
		return w.buf[off-w.at:][:n], nil
	}
	err := w.fill(off, max(n, windowSize))
	if err != nil {
		// What cannot be read may be beyond what was asked for.
		err = w.fill(off, n)
	}
	if err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:n], nil
}

func (w *window) fill(off int64, n int) error {
	w.buf = slices.Grow(w.buf[:0], n)[:n]
	w.at = off
	have := int(min(max(w.size-off, 0), int64(n)))
	clear(w.buf[have:])
	return readZeros(w.f, w.buf[:have], off)
}
