package landmarks

import (
	"cmp"
	"slices"
)

// pending is what may be a landmark, of which the rest lies in further clusters.
type pending struct {
	piece, at uint64
	need      uint64 // bytes
}

const (
	maxPending = 1 << 16
	maxAgain   = 1 << 22 // bytes of one structure
)

// later takes note of what begins at an offset and may go on in further clusters.
func (f *finder) later(o, need int) {
	f.pending = append(f.pending, pending{f.piece, f.at + uint64(o), uint64(need)})
}

// readAgain reads bytes of a piece. What is not there is zeros: that a structure is whole
// is for its checksum to tell.
func (s *Scanner) readAgain(piece, at, n uint64) []byte {
	length := s.lengthOf(piece)
	read := s.Read
	if piece&stray != 0 && s.ReadStray != nil {
		read = func(piece, at uint64, b []byte) error { return s.ReadStray(piece&^stray+at, b) }
	} else if piece&stray != 0 {
		return nil
	}
	if read == nil || n > maxAgain || at > length || n > length-at {
		return nil
	}
	b := make([]byte, n)
	there := false
	for o := uint64(0); o < n; {
		step := min(n-o, block-(at+o)%block)
		if read(piece, at+o, b[o:o+step]) == nil {
			there = true
			o += step
			continue
		}
		// Clusters can be smaller than that.
		clear(b[o : o+step])
		for end := o + step; o < end; {
			step := min(end-o, sector-(at+o)%sector)
			if read(piece, at+o, b[o:o+step]) == nil {
				there = true
			} else {
				clear(b[o : o+step])
			}
			o += step
		}
	}
	if !there {
		return nil
	}
	return b
}

// finish looks at what could not be seen whole before, and reads the group descriptors
// behind superblocks.
func (s *Scanner) finish() {
	todo := s.pending
	s.pending = nil
	for _, p := range todo {
		if b := s.readAgain(p.piece, p.at, p.need); b != nil {
			f := finder{piece: p.piece, at: p.at, data: b}
			f.sector(0)
			f.pending = nil
			s.keep(&f)
		}
	}
	for i := range s.marks {
		m := &s.marks[i]
		if m.kind != extSuper || m.space.ext == nil {
			continue
		}
		l := m.space.ext
		n := uint64(len(l.tables))
		if n >= min(l.groups(), maxGroups) {
			continue
		}
		at := m.at + l.block
		if m.address == 0 && l.block > extSuperSize {
			at = m.at - extSuperSize + l.block
		}
		l.readGroups(s, m.piece, at)
	}
}

// readGroups reads group descriptors that were not seen with their superblock.
func (l *extLayout) readGroups(s *Scanner, piece, at uint64) {
	const most = 1 << 20
	end := min(l.groups(), maxGroups)
	for g := uint64(0); g < end; {
		if _, ok := l.tables[uint32(g)]; ok {
			g++
			continue
		}
		n := min((end-g)*l.desc, most)
		b := s.readAgain(piece, at+g*l.desc, n)
		if b == nil {
			return
		}
		before := len(l.tables)
		l.learnGroups(g, b)
		if len(l.tables) == before {
			return
		}
	}
}

// readParts reads the entries of a GPT that lie in another cluster than its header.
func (s *Scanner) readParts(l *label) []partition {
	at := int64(l.at) + int64(l.entries) - int64(l.own)
	if at < 0 {
		return nil
	}
	b := s.readAgain(l.piece, uint64(at), l.entryBytes)
	if b == nil || !l.rightEntries(b) {
		return nil
	}
	return gptParts(b, l.sector)
}

// byPlace sorts landmarks by piece and place, and gives them back.
func byPlace(marks []mark) []mark {
	slices.SortFunc(marks, func(a, b mark) int {
		return cmp.Or(cmp.Compare(a.piece, b.piece), cmp.Compare(a.at, b.at), cmp.Compare(a.kind, b.kind))
	})
	return marks
}
