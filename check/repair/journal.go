package repair

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/qcheck/qcheck/qcow2"
)

// The undo journal holds what a repair overwrites. It is written and flushed
// before the first byte of the image changes, so that at any instant there is a
// way back. All numbers are little-endian, unlike the image's: a journal is never
// taken for one.
//
//	    0 ┌──────────────────────────────────────────────┐
//	      │ identity  0  8  magic "QCHKUNDO"             │
//	      │           8  4  version: 2                   │
//	      │          16  8  time, ns since the Epoch     │
//	      │          24  8  the image's size before      │
//	      │          32  8  number of the image's device │
//	      │          40  8  its inode, 0 for a device    │
//	      │          64 32  SHA-256 of its first sector  │
//	      │         128  4  CRC-32C of the record so far │
//	 4096 ├──────────────────────────────────────────────┤
//	      │ head      0  8  magic "QCHKHEAD"             │
//	      │          12  4  flags; bit 0: the image is   │
//	      │                 marked corrupt meanwhile;    │
//	      │                 bit 1: the repair has kept   │
//	      │                 clusters without an owner    │
//	      │          24  8  the image's size before      │
//	      │          32  8  the image's size after       │
//	      │          40  8  number of records            │
//	      │          48  8  length of all records        │
//	      │          56  4  length of the first sector   │
//	      │          64 32  SHA-256 of all records       │
//	      │          96 32  SHA-256 of the identity      │
//	      │         512     first sector before          │
//	      │        1024     first sector after           │
//	      │        4064 32  SHA-256 of the head so far,  │
//	      │                 the journal's digest         │
//	 8192 ├──────────────────────────────────────────────┤
//	      │ mark 1   sealed: the journal is whole, the   │
//	      │          image may change from now on        │
//	12288 │ mark 2   verified: the repair is done        │
//	16384 │ mark 3   finished: nothing is left to do     │
//	20480 │ mark 4   undoing: it is being taken back     │
//	24576 │ mark 5   undone: the image is as before      │
//	      │   each    0  8  magic "QCHKMARK"             │
//	      │           8  4  which mark                   │
//	      │          16  8  time, ns since the Epoch     │
//	      │          24 32  the journal's digest         │
//	      │          56  4  CRC-32C of the mark so far   │
//	28672 ├──────────────────────────────────────────────┤
//	      │ record    0  8  offset in the image          │
//	      │           8  4  length n in bytes            │
//	      │          12  2  number of versions v, 1 to 5 │
//	      │          14  2  1: what was there is stored, │
//	      │                 0: it is past the old end    │
//	      │          16  4  CRC-32C of what follows the  │
//	      │                 record's head                │
//	      │          20  4  CRC-32C of the head so far   │
//	      │          24  n  what was there, if stored    │
//	      │           v * n what each stage writes       │
//	      │ record …                                     │
//	      └──────────────────────────────────────────────┘
//
// Records are in the order of their offsets, do not overlap, and leave the first
// sector out, of which the head has both versions. What lies past the old end of
// the file is taken back by making the file shorter. What the repair writes is
// there too, although it is not needed to take it back: only so can be told, byte
// by byte, a half-repaired image from one that somebody has used since.
//
// Each mark is in a block of its own, which is written once and takes its place on
// the disk with the rest of the journal: neither can a torn write of one damage
// another, nor can a disk that is full keep a mark from being made. Without the
// first mark the image has not been touched.
//
// The identity is written and flushed before anything else, so that a journal which
// was never finished can be told from a file that is none of ours.
const (
	journalMagic   = "QCHKUNDO"
	headMagic      = "QCHKHEAD"
	journalVersion = 2
	headAt         = journalBlock
	journalBlock   = 4096
	headDigestAt   = journalBlock - sha256.Size
	sectorBeforeAt = qcow2.SectorSize
	sectorAfterAt  = 2 * qcow2.SectorSize

	markMagic = "QCHKMARK"
	markSize  = 60

	recordsAt      = (2 + int64(lastMark)) * journalBlock
	recordHeadSize = 24
	// maxRecord bounds a record's length, so that a record can be held in
	// memory whatever a journal says.
	maxRecord = 64 << 10

	flagCorrupts = 1 << 0
	flagKeeps    = 1 << 1
	stagesCount  = int(StageRelease) + 1
)

// mark is a step that the journal says has been taken.
type mark uint32

const (
	markSealed mark = 1 + iota
	markVerified
	markFinished
	markUndoing
	markUndone
	lastMark = markUndone
)

func (m mark) offset() int64 { return headAt + int64(m)*journalBlock }

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// JournalFile is an open undo journal; an [os.File] is one.
type JournalFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes sure that what was written survives a power cut.
	Sync() error
}

// Journals is the place of an image's undo journal. This package opens no files
// by itself.
type Journals interface {
	// Create makes a new file, for reading and writing. Until Publish nobody else
	// finds it. It fails with [fs.ErrExist] when the place is taken.
	Create() (JournalFile, error)
	// Publish puts the file that Create has made in its place, so that it is still
	// there after a power cut. It never replaces another file.
	Publish() error
	// Open opens the file, or fails with [fs.ErrNotExist].
	Open() (JournalFile, error)
	// Remove removes the file: the new one until it is published.
	Remove() error
	// SyncDir makes sure that it survives a power cut that the file is not there
	// any more.
	SyncDir() error
}

// journal is an undo journal that is whole.
type journal struct {
	f     JournalFile
	phase Phase
	marks map[mark][]byte // that were read, as they are in the file

	identity         identity
	corrupts         bool  // the image is marked corrupt while it is half-written
	keeps            bool  // see [JournalState.Keeps]
	oldSize, newSize int64 // of the image, in bytes
	records          uint64
	length           int64 // of all records, in bytes
	sum              [sha256.Size]byte
	before, after    []byte // the first sector, or all there is of it
	digest           [sha256.Size]byte
}

// withMark gives a first sector with the corrupt mark, if this repair makes one.
func (j *journal) withMark(sector []byte) []byte {
	if !j.corrupts {
		return sector
	}
	b := bytes.Clone(sector)
	b[corruptAt] |= corruptBit
	return b
}

// encodeHead gives the journal's second block and notes its digest.
func (j *journal) encodeHead() []byte {
	b := make([]byte, journalBlock)
	copy(b, headMagic)
	le := binary.LittleEndian
	flags := uint32(0)
	if j.corrupts {
		flags |= flagCorrupts
	}
	if j.keeps {
		flags |= flagKeeps
	}
	le.PutUint32(b[12:], flags)
	le.PutUint64(b[24:], uint64(j.oldSize))
	le.PutUint64(b[32:], uint64(j.newSize))
	le.PutUint64(b[40:], j.records)
	le.PutUint64(b[48:], uint64(j.length))
	le.PutUint32(b[56:], uint32(len(j.before)))
	copy(b[64:], j.sum[:])
	copy(b[96:], j.identity.digest[:])
	copy(b[sectorBeforeAt:], j.before)
	copy(b[sectorAfterAt:], j.after)
	j.digest = sha256.Sum256(b[:headDigestAt])
	copy(b[headDigestAt:], j.digest[:])
	return b
}

// encodeMark gives a mark as it is written.
func (j *journal) encodeMark(m mark, now time.Time) []byte {
	b := make([]byte, markSize)
	copy(b, markMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], uint32(m))
	le.PutUint64(b[16:], uint64(now.UnixNano()))
	copy(b[24:], j.digest[:])
	le.PutUint32(b[56:], crc32.Checksum(b[:56], crcTable))
	return b
}

// mark notes a step and flushes it. When it fails, the mark may be there all the
// same.
func (j *journal) mark(m mark) error {
	if _, err := j.f.WriteAt(j.encodeMark(m, time.Now()), m.offset()); err != nil {
		return err
	}
	return j.f.Sync()
}

// confirm flushes the journal as it was read. A program that was killed may have
// left a mark that is not on the disk yet. It is written again as it is, for torn or
// not that changes nothing.
func (j *journal) confirm() error {
	for _, m := range slices.Sorted(maps.Keys(j.marks)) {
		if _, err := j.f.WriteAt(j.marks[m], m.offset()); err != nil {
			return err
		}
	}
	return j.f.Sync()
}

// writeJournal writes all of a journal but the seal, and flushes it.
func writeJournal(f JournalFile, l *layout, id identity) (*journal, error) {
	j := &journal{
		f: f, phase: PhaseOpen, identity: id, corrupts: l.corrupts, keeps: l.plan.Kept,
		oldSize: l.plan.OldSize, newSize: l.plan.NewSize, before: l.before, after: l.after,
	}
	if _, err := f.WriteAt(j.identity.encode(), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	w := &recordWriter{
		f: f, off: headAt, buf: make([]byte, recordsAt-headAt, writeSize), hash: sha256.New(), oldSize: j.oldSize,
	}
	for p := range l.pieces() {
		w.add(p)
	}
	w.endRecord()
	w.flush()
	if w.err != nil {
		return nil, w.err
	}
	j.records, j.length = w.records, w.off-recordsAt
	w.hash.Sum(j.sum[:0])
	if _, err := f.WriteAt(j.encodeHead(), headAt); err != nil {
		return nil, err
	}
	return j, f.Sync()
}

// recordWriter writes records one after the other. The head and the marks are
// written with the first, as zeros. After an error it does nothing more.
type recordWriter struct {
	f       JournalFile
	off     int64  // of buf in the file
	buf     []byte // not written yet
	hash    hash.Hash
	oldSize int64
	records uint64
	err     error

	// The record that is being put together: what was there, and what each
	// stage writes.
	at       int64
	versions int
	data     [1 + stagesCount][]byte
}

// add takes a piece up into the record before it where it fits, for many are a few
// bytes long.
func (w *recordWriter) add(p piece) {
	n := len(w.data[0])
	if n > 0 && (w.at+int64(n) != p.at || w.versions != len(p.covers) || n+p.length() > maxRecord || p.at == w.oldSize) {
		w.endRecord()
	}
	if len(w.data[0]) == 0 {
		w.at, w.versions = p.at, len(p.covers)
	}
	w.data[0] = append(w.data[0], p.old()...)
	for i := range p.covers {
		w.data[1+i] = append(w.data[1+i], p.version(i)...)
	}
}

// endRecord writes the record that was put together.
func (w *recordWriter) endRecord() {
	n := len(w.data[0])
	if n == 0 {
		return
	}
	first, stored := 1, uint16(0)
	if w.at < w.oldSize {
		first, stored = 0, 1
	}
	sum := uint32(0)
	for _, d := range w.data[first : 1+w.versions] {
		sum = crc32.Update(sum, crcTable, d)
	}
	var head [recordHeadSize]byte
	le := binary.LittleEndian
	le.PutUint64(head[0:], uint64(w.at))
	le.PutUint32(head[8:], uint32(n))
	le.PutUint16(head[12:], uint16(w.versions))
	le.PutUint16(head[14:], stored)
	le.PutUint32(head[16:], sum)
	le.PutUint32(head[20:], crc32.Checksum(head[:20], crcTable))
	w.write(head[:])
	for _, d := range w.data[first : 1+w.versions] {
		w.write(d)
	}
	w.records++
	for i := range w.data {
		w.data[i] = w.data[i][:0]
	}
}

func (w *recordWriter) write(p []byte) {
	w.hash.Write(p)
	if len(w.buf)+len(p) > cap(w.buf) {
		w.flush()
	}
	w.buf = append(w.buf, p...)
}

func (w *recordWriter) flush() {
	if w.err != nil {
		return
	}
	_, w.err = w.f.WriteAt(w.buf, w.off)
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
}

// create makes, writes and seals the journal of a layout. When it fails the image
// may stay as it is, and nothing is left of the journal if that can be had.
func create(f File, js Journals, l *layout, now time.Time) (*journal, error) {
	jf, err := js.Create()
	if err != nil {
		return nil, &NotBegunError{Err: fmt.Errorf("the undo journal cannot be created: %w", err)}
	}
	j, err := writeJournal(jf, l, identityOf(f, l, now))
	if err == nil {
		err = js.Publish()
	}
	if err == nil {
		err = j.mark(markSealed)
	}
	if err == nil {
		return j, nil
	}
	return nil, &NotBegunError{Err: fmt.Errorf("the undo journal cannot be written: %w", err), Left: discard(jf, js)}
}

// discard closes and removes a journal that is of no more use.
func discard(f JournalFile, js Journals) error {
	f.Close() // nothing that it could tell matters
	if err := js.Remove(); err != nil {
		return err
	}
	return js.SyncDir()
}
