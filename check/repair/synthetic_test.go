package repair

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"

	"github.com/qcheck/qcheck/qcow2"
)

// syntheticImage is what begins like an image and goes on at random.
func syntheticImage(r *rand.Rand, version uint32, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	// Holes are a case of their own.
	for range r.IntN(3) {
		at := r.IntN(size)
		clear(b[at:min(size, at+r.IntN(4000))])
	}
	if size >= 8 {
		binary.BigEndian.PutUint32(b[qcow2.FieldMagic:], qcow2.Magic)
		binary.BigEndian.PutUint32(b[qcow2.FieldVersion:], version)
	}
	if size > corruptAt && r.IntN(4) != 0 {
		b[corruptAt] &^= corruptBit
	}
	return b
}

// syntheticPlan changes an image in all stages at random, and gives what comes of
// it. Stages overlap each other.
func syntheticPlan(r *rand.Rand, image []byte) (*Plan, []byte) {
	p := &Plan{OldSize: int64(len(image)), NewSize: int64(len(image))}
	if r.IntN(3) != 0 {
		p.NewSize += int64(r.IntN(6000))
	}
	now := make([]byte, p.NewSize)
	copy(now, image)
	density := 1 + r.IntN(6)
	for s := range Stage(stagesCount) {
		if r.IntN(5) == 0 {
			continue
		}
		var pos int64
		if n := 1 + int64(r.IntN(120)); s == StageHeader && p.NewSize >= 200 && r.IntN(2) == 0 {
			addEdits(p, editOf(r, s, now, 8, n))
			pos = 8 + n
		}
		for range r.IntN(density + 1) {
			pos += int64(r.IntN(int(p.NewSize)/density + 1))
			n := int64(1 + r.IntN(700))
			if r.IntN(3) == 0 {
				n = 8
			}
			if pos+n > p.NewSize {
				break
			}
			addEdits(p, editOf(r, s, now, pos, n))
			pos += n
		}
	}
	after := bytes.Clone(image)
	after = append(after, make([]byte, int(p.NewSize)-len(after))...)
	for e := range p.Edits.All() {
		copy(after[e.Offset:], e.New)
	}
	return p, after
}

// editOf changes some bytes, but never what makes the file an image.
func editOf(r *rand.Rand, s Stage, now []byte, at, n int64) Edit {
	e := Edit{Stage: s, Offset: qcow2.HostOffset(at), Old: bytes.Clone(now[at : at+n])}
	e.New = bytes.Clone(e.Old)
	for i := range e.New {
		if at+int64(i) >= 8 && r.IntN(8) != 0 {
			e.New[i] = byte(r.Uint32())
		}
		if at+int64(i) == corruptAt && r.IntN(3) != 0 {
			e.New[i] &^= corruptBit
		}
	}
	copy(now[at:], e.New)
	return e
}

// The checksums of a journal.
func crcOf(b []byte) uint32            { return crc32.Checksum(b, crcTable) }
func sumOf(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }
func headSum(head []byte) []byte {
	sum := sha256.Sum256(head[:headDigestAt])
	return sum[:]
}
