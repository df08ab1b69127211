package repair

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"slices"
	"time"

	"github.com/qcheck/qcheck/qcow2"
)

// Phase is how far the repair has come that a journal belongs to.
type Phase uint8

// The phases.
const (
	// PhaseNone: there is no journal.
	PhaseNone Phase = iota
	// PhaseIncomplete: the journal says which image it was to be for, but was never
	// finished, so the image has not been touched. The journal is of no use.
	PhaseIncomplete
	// PhaseOpen: the repair was interrupted. The image may be half-written, and
	// is rolled back.
	PhaseOpen
	// PhaseVerified: the repair is done and proved, but was interrupted before
	// the image's corrupt mark was taken off, or just after.
	PhaseVerified
	// PhaseFinished: the repair is done, and can be taken back.
	PhaseFinished
	// PhaseUndoing: the repair was being taken back when that was interrupted.
	// The image may be half-written.
	PhaseUndoing
	// PhaseUndone: the repair has been taken back. The journal is of no more use.
	PhaseUndone
)

var phaseNames = [...]string{"none", "incomplete", "open", "verified", "finished", "undoing", "undone"}

func (p Phase) String() string { return phaseNames[p] }

// JournalState is what a journal says.
type JournalState struct {
	Phase Phase
	Time  time.Time // of the repair
	Image FileID    // the image that the journal was made for
	// The rest is known from PhaseOpen on.
	OldSize, NewSize int64 // of the image before and after the repair, in bytes
	Records          uint64
	Length           int64 // of the records, in bytes
	// Keeps tells that the repair has kept clusters without an owner, see [Plan.Kept].
	Keeps bool
}

// Pending tells that the image is not to be used, and that [Recover] has to be
// called before anything else.
func (s JournalState) Pending() bool {
	return s.Phase == PhaseOpen || s.Phase == PhaseVerified || s.Phase == PhaseUndoing
}

// Undoable tells that there is something to take back.
func (s JournalState) Undoable() bool { return s.Pending() || s.Phase == PhaseFinished }

// State tells what a journal is about. It reads all of it. The error is a
// [*DamagedError] when it cannot be relied upon, else tells why it could not be
// read.
func State(f JournalFile) (JournalState, error) {
	j, err := load(f)
	if err != nil {
		return JournalState{}, err
	}
	return j.state(), nil
}

// StateOf is [State] of the journal of an image, if there is one. Nothing is
// changed.
func StateOf(js Journals) (JournalState, error) {
	f, err := js.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return JournalState{}, nil
	}
	if err != nil {
		return JournalState{}, err
	}
	defer f.Close()
	return State(f)
}

func (j *journal) state() JournalState {
	if j.phase == PhaseIncomplete {
		return JournalState{Phase: j.phase, Time: j.identity.time, Image: j.identity.id}
	}
	return JournalState{
		Phase: j.phase, Time: j.identity.time, Image: j.identity.id, OldSize: j.oldSize, NewSize: j.newSize, Records: j.records, Length: j.length, Keeps: j.keeps,
	}
}

// open reads a journal's first blocks. The damage is what speaks against relying on
// them; without an identity it is no journal of ours, and nothing else counts.
func open(f JournalFile) (j *journal, marks marksFound, damage *DamagedError, err error) {
	b := make([]byte, 2*journalBlock)
	if err := readZeros(f, b, 0); err != nil {
		return nil, marks, nil, err
	}
	j = &journal{f: f}
	if marks, err = j.readMarks(); err != nil {
		return nil, marks, nil, err
	}
	if damage := j.identity.decode(b); damage != nil {
		if damage.Kind == DamagedForeign && marks.any() {
			damage.Kind = DamagedContent
		}
		return nil, marks, damage, nil
	}
	damage = j.decodeHead(b[headAt:])
	if damage == nil {
		damage = marks.check(j)
	}
	return j, marks, damage, nil
}

// load reads a journal and holds it to its checksums. Of one that is incomplete
// nothing but the identity and the phase is known.
func load(f JournalFile) (*journal, error) {
	j, marks, damage, err := open(f)
	if err != nil {
		return nil, err
	}
	if j == nil {
		return nil, damage
	}
	if damage == nil && !marks.blank {
		if damage, err = j.checkRecords(); err != nil {
			return nil, err
		}
	}
	switch {
	case damage != nil && marks.any():
		return nil, damage
	case damage != nil, marks.blank:
		// Not sealed. What is torn may be the head or the seal itself; where the
		// rest is sound, better take it that the image was touched.
		return j.incomplete(), nil
	}
	j.marks, j.phase = marks.whole, marks.phase()
	return j, nil
}

// incomplete is what is left of a journal that was never sealed.
func (j *journal) incomplete() *journal {
	return &journal{f: j.f, phase: PhaseIncomplete, identity: j.identity}
}

// marksFound are the marks of a journal.
type marksFound struct {
	whole map[mark][]byte // as they are in the file
	blank bool            // nobody has begun to write any
}

func (m marksFound) any() bool { return len(m.whole) > 0 }

// check holds that all marks belong to a journal.
func (m marksFound) check(j *journal) *DamagedError {
	for _, b := range m.whole {
		if !bytes.Equal(b[24:24+sha256.Size], j.digest[:]) {
			return &DamagedError{Kind: DamagedContent}
		}
	}
	return nil
}

// phaseAfter is the phase that a mark begins.
var phaseAfter = [...]Phase{
	markSealed: PhaseOpen, markVerified: PhaseVerified, markFinished: PhaseFinished, markUndoing: PhaseUndoing, markUndone: PhaseUndone,
}

func (m marksFound) phase() Phase {
	phase := PhaseOpen
	for k := range m.whole {
		phase = max(phase, phaseAfter[k])
	}
	return phase
}

func (j *journal) readMarks() (marksFound, error) {
	found := marksFound{whole: make(map[mark][]byte), blank: true}
	for m := markSealed; m <= lastMark; m++ {
		b := make([]byte, markSize)
		if err := readZeros(j.f, b, m.offset()); err != nil {
			return found, err
		}
		if !allZero(b) {
			found.blank = false
		}
		le := binary.LittleEndian
		if string(b[:8]) == markMagic && le.Uint32(b[8:]) == uint32(m) && le.Uint32(b[56:]) == crc32.Checksum(b[:56], crcTable) {
			found.whole[m] = b
		}
	}
	return found, nil
}

// hasMark tells whether a mark can be read back. Where it cannot be told, it may be
// there.
func (j *journal) hasMark(m mark) bool {
	found, err := j.readMarks()
	_, ok := found.whole[m]
	return ok || err != nil
}

// decodeHead reads the second block of a journal, the identity of which is known.
func (j *journal) decodeHead(b []byte) *DamagedError {
	le := binary.LittleEndian
	if string(b[:len(headMagic)]) != headMagic || sha256.Sum256(b[:headDigestAt]) != [sha256.Size]byte(b[headDigestAt:]) ||
		[sha256.Size]byte(b[96:]) != j.identity.digest {
		return &DamagedError{Kind: DamagedContent}
	}
	j.digest = [sha256.Size]byte(b[headDigestAt:])
	flags := le.Uint32(b[12:])
	j.corrupts, j.keeps = flags&flagCorrupts != 0, flags&flagKeeps != 0
	j.records = le.Uint64(b[40:])
	j.sum = [sha256.Size]byte(b[64:])
	oldSize, newSize, length, sector := le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[48:]), le.Uint32(b[56:])
	// The checksum holds, and yet the file may come from a stranger.
	if flags&^(flagCorrupts|flagKeeps) != 0 || oldSize != uint64(j.identity.size) || oldSize > newSize || newSize > math.MaxInt64 ||
		length > math.MaxInt64-uint64(recordsAt) || uint64(sector) != min(oldSize, qcow2.SectorSize) {
		return &DamagedError{Kind: DamagedContent}
	}
	j.oldSize, j.newSize, j.length = int64(oldSize), int64(newSize), int64(length)
	j.before = bytes.Clone(b[sectorBeforeAt:][:sector])
	j.after = bytes.Clone(b[sectorAfterAt:][:sector])
	if sha256.Sum256(j.before) != j.identity.sector {
		return &DamagedError{Kind: DamagedContent}
	}
	if j.corrupts != (canMark(j.before) && canMark(j.after)) {
		return &DamagedError{Kind: DamagedContent}
	}
	return nil
}

// record is some bytes of the image.
type record struct {
	at       int64
	stored   bool     // what was there is in the journal; else it is past the old end
	old      []byte   // zeros where it is not stored
	versions [][]byte // what each stage writes
}

// last is what the repair leaves.
func (r *record) last() []byte { return r.versions[len(r.versions)-1] }

// errRecord is damage that was found in a record.
var errRecord = errors.New("a record is damaged")

// recordReader reads records one after the other into memory of bounded size.
type recordReader struct {
	r       *bufio.Reader
	j       *journal
	end     int64 // of the record before, in the image
	read    int64 // bytes of records
	rec     record
	payload []byte
}

// noBytes stands for what was there past the old end of the file. Nobody writes to
// it.
var noBytes [maxRecord]byte

const readSize = 128 << 10

func (j *journal) readRecords(r io.Reader) *recordReader {
	return &recordReader{
		r: bufio.NewReaderSize(r, int(min(j.length, readSize))), j: j, end: int64(len(j.before)),
	}
}

// section reads the records' part of the file.
func (j *journal) section() io.Reader { return io.NewSectionReader(j.f, recordsAt, j.length) }

// next reads a record, valid until the next call. At the end of the records it
// gives nil. It fails with errRecord, or because the file cannot be read.
func (r *recordReader) next() (*record, error) {
	var head [recordHeadSize]byte
	if _, err := io.ReadFull(r.r, head[:]); err == io.EOF {
		return nil, nil
	} else if err != nil {
		return nil, cut(err)
	}
	le := binary.LittleEndian
	at, n := le.Uint64(head[0:]), le.Uint32(head[8:])
	versions, stored := le.Uint16(head[12:]), le.Uint16(head[14:])
	limit := uint64(r.j.newSize)
	if stored == 1 {
		limit = uint64(r.j.oldSize)
	}
	if le.Uint32(head[20:]) != crc32.Checksum(head[:20], crcTable) || stored > 1 ||
		n == 0 || n > maxRecord || versions == 0 || int(versions) > stagesCount ||
		at < uint64(r.end) || !qcow2.RangeFits(at, uint64(n), limit) || (stored == 0 && at < uint64(r.j.oldSize)) {
		return nil, errRecord
	}
	r.end = int64(at) + int64(n)
	size := int(n) * int(stored+versions) // 6 * maxRecord at most
	r.payload = slices.Grow(r.payload[:0], size)[:size]
	p := r.payload
	if _, err := io.ReadFull(r.r, p); err != nil {
		return nil, cut(err)
	}
	if crc32.Checksum(p, crcTable) != le.Uint32(head[16:]) {
		return nil, errRecord
	}
	r.read += int64(recordHeadSize + size)
	r.rec = record{at: int64(at), stored: stored == 1, old: noBytes[:n:n], versions: r.rec.versions[:0]}
	if stored == 1 {
		r.rec.old, p = p[:n], p[n:]
	}
	for ; len(p) > 0; p = p[n:] {
		r.rec.versions = append(r.rec.versions, p[:n])
	}
	return &r.rec, nil
}

// cut tells a file that is too short from one that cannot be read.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errRecord
	}
	return err
}

// checkRecords reads all records and compares their checksum.
func (j *journal) checkRecords() (*DamagedError, error) {
	h := sha256.New()
	r := j.readRecords(io.TeeReader(j.section(), h))
	for n := uint64(0); ; n++ {
		rec, err := r.next()
		switch {
		case errors.Is(err, errRecord):
			return &DamagedError{Kind: DamagedContent}, nil
		case err != nil:
			return nil, err
		case rec == nil && (n != j.records || r.read != j.length || [sha256.Size]byte(h.Sum(nil)) != j.sum):
			return &DamagedError{Kind: DamagedContent}, nil
		case rec == nil:
			return nil, nil
		}
	}
}

// each calls do with every record, in the order of the offsets.
func (j *journal) each(do func(*record) error) error {
	r := j.readRecords(j.section())
	for {
		rec, err := r.next()
		switch {
		case errors.Is(err, errRecord):
			return &DamagedError{Kind: DamagedContent}
		case err != nil || rec == nil:
			return err
		}
		if err := do(rec); err != nil {
			return err
		}
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
