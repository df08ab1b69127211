package fuzz

import (
	"fmt"

	"github.com/qcheck/qcheck/corpus"
)

// Op is what a mutation does.
type Op string

// The operations.
const (
	OpWrite Op = "write" // Bytes at At
	OpWipe  Op = "wipe"  // Length zeros at At
	OpCopy  Op = "copy"  // Length bytes at From also stand at At
	OpSwap  Op = "swap"  // Length bytes at From and as many at At change places
	OpSize  Op = "size"  // the file becomes At bytes long
)

// Mutation is one change of an image file.
type Mutation struct {
	Op     Op     `json:"op"`
	At     uint64 `json:"at"`               // bytes
	From   uint64 `json:"from,omitempty"`   // bytes
	Length uint64 `json:"length,omitempty"` // bytes
	Bytes  []byte `json:"bytes,omitempty"`
	// Text says in words what is changed, and how.
	Text string `json:"text"`
}

const (
	// maxSize is the longest file that a mutation makes, in bytes: what file
	// systems allow, and a little more than most tools expect.
	maxSize = 1 << 40
	// maxPiece is how much a mutation changes at most but by changing the file's
	// size, in bytes.
	maxPiece = 4 << 20
)

// check tells whether a mutation can be carried out: a list may come from a file.
func (m *Mutation) check() error {
	fits := func(off, n uint64) bool { return n <= maxPiece && off <= maxSize-n }
	ok := false
	switch m.Op {
	case OpWrite:
		ok = fits(m.At, uint64(len(m.Bytes)))
	case OpWipe:
		ok = fits(m.At, m.Length)
	case OpCopy, OpSwap:
		ok = fits(m.At, m.Length) && fits(m.From, m.Length)
	case OpSize:
		ok = m.At <= maxSize
	}
	if !ok {
		return fmt.Errorf("mutation %q at %#x cannot be carried out", m.Op, m.At)
	}
	return nil
}

// apply changes the file. What would lie past its end makes it no longer.
func (m *Mutation) apply(s *corpus.Store) {
	size := s.Size()
	switch m.Op {
	case OpWrite:
		s.WriteAt(m.Bytes, int64(m.At))
	case OpWipe:
		s.WriteAt(make([]byte, m.Length), int64(m.At))
	case OpCopy:
		s.WriteAt(read(s, m.From, m.Length), int64(m.At))
	case OpSwap:
		a, b := read(s, m.At, m.Length), read(s, m.From, m.Length)
		s.WriteAt(b, int64(m.At))
		s.WriteAt(a, int64(m.From))
	case OpSize:
		size = int64(m.At)
	}
	s.Truncate(size)
}

// read gives bytes of a file, zeros past its end.
func read(s *corpus.Store, off, n uint64) []byte {
	b := make([]byte, n)
	s.ReadAt(b, int64(off)) // what is not there stays zero
	return b
}
