package repair

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Edit changes some bytes of the file.
type Edit struct {
	Stage  Stage
	Offset qcow2.HostOffset
	Old    []byte // what stands there, zeros past the end of the file
	New    []byte // of the same length
	Reason string
	Codes  []problem.Code // of the findings that it settles
}

// Edits are the changes of a plan, in the order in which they are written: by stage,
// within a stage as they were added. There can be millions of a few bytes each, so they
// are kept as bytes, about ten more than those they change. The zero value has none.
type Edits struct {
	stages [stagesCount]editList
	// causes has every reason with its codes once, and byReason where in it a reason is.
	causes   []cause
	byReason map[string][]int
}

// cause says why something is changed.
type cause struct {
	reason string
	codes  []problem.Code
}

// editList holds the edits of a stage one after the other, each as: its offset, from
// the end of the one before it (varint); its length and the number of its cause
// (uvarints); what stands there; what is to stand there. None is cut by the end of a
// chunk.
type editList struct {
	chunks [][]byte
	n      int
	bytes  uint64
	end    qcow2.HostOffset // of the last one
}

const (
	leastChunk = 512
	mostChunk  = 1 << 20
)

// Add adds an edit to the end of its stage; what e points to may change afterwards.
// A [*PlanError] tells of one that cannot be written.
func (l *Edits) Add(e Edit) error {
	switch {
	case int(e.Stage) >= stagesCount:
		return &PlanError{Edit: l.Len(), Reason: "there is no such stage"}
	case len(e.New) == 0 || len(e.Old) != len(e.New):
		return &PlanError{Edit: l.Len(), Reason: "what was there and what is written are not of one length"}
	}
	s := &l.stages[e.Stage]
	var head [3 * binary.MaxVarintLen64]byte
	n := binary.PutVarint(head[:], int64(e.Offset-s.end)) // wraps, as it does when it is read
	n += binary.PutUvarint(head[n:], uint64(len(e.New)))
	n += binary.PutUvarint(head[n:], uint64(l.cause(e.Reason, e.Codes)))
	chunk := s.room(n + 2*len(e.New))
	*chunk = append(*chunk, head[:n]...)
	*chunk = append(*chunk, e.Old...)
	*chunk = append(*chunk, e.New...)
	s.n++
	s.bytes += uint64(len(e.New))
	s.end = e.Offset + qcow2.HostOffset(len(e.New))
	return nil
}

// room gives a chunk that n bytes fit in.
func (s *editList) room(n int) *[]byte {
	last := len(s.chunks) - 1
	if last < 0 || cap(s.chunks[last])-len(s.chunks[last]) < n {
		size := leastChunk
		if last >= 0 {
			size = min(2*cap(s.chunks[last]), mostChunk)
		}
		s.chunks = append(s.chunks, make([]byte, 0, max(size, n)))
		last++
	}
	return &s.chunks[last]
}

// cause gives the number of a cause.
func (l *Edits) cause(reason string, codes []problem.Code) int {
	for _, i := range l.byReason[reason] {
		if slices.Equal(l.causes[i].codes, codes) {
			return i
		}
	}
	if l.byReason == nil {
		l.byReason = make(map[string][]int)
	}
	i := len(l.causes)
	l.causes = append(l.causes, cause{reason, slices.Clone(codes)})
	l.byReason[reason] = append(l.byReason[reason], i)
	return i
}

// Len is the number of edits.
func (l *Edits) Len() (n int) {
	for i := range l.stages {
		n += l.stages[i].n
	}
	return n
}

// Bytes is how many bytes they write in all; some may be written by two stages.
func (l *Edits) Bytes() (n uint64) {
	for i := range l.stages {
		n += l.stages[i].bytes
	}
	return n
}

// All gives every edit, in order. What they point to must not be changed.
func (l *Edits) All() iter.Seq[Edit] {
	return func(yield func(Edit) bool) {
		for s := range Stage(stagesCount) {
			for c := l.from(s); c.next(); {
				if !yield(Edit(c.edit)) {
					return
				}
			}
		}
	}
}

// cursor goes through the edits of a stage.
type cursor struct {
	edit   // the current one, after next
	edits  *Edits
	chunks [][]byte // that have not been begun
	rest   []byte   // of the chunk that has
}

// from gives a cursor that is before the first edit of a stage.
func (l *Edits) from(s Stage) cursor {
	return cursor{edit: edit{Stage: s}, edits: l, chunks: l.stages[s].chunks}
}

// next goes on to the next edit, if there is one.
func (c *cursor) next() bool {
	if len(c.rest) == 0 {
		if len(c.chunks) == 0 {
			return false
		}
		c.rest, c.chunks = c.chunks[0], c.chunks[1:]
	}
	gap, k := binary.Varint(c.rest)
	c.rest = c.rest[k:]
	length, k := binary.Uvarint(c.rest)
	c.rest = c.rest[k:]
	number, k := binary.Uvarint(c.rest)
	c.rest = c.rest[k:]
	c.Offset += qcow2.HostOffset(len(c.New)) + qcow2.HostOffset(gap)
	c.Old, c.New, c.rest = c.rest[:length:length], c.rest[length:2*length:2*length], c.rest[2*length:]
	why := &c.edits.causes[number]
	c.Reason, c.Codes = why.reason, why.codes
	return true
}
