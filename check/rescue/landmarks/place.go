package landmarks

import (
	"cmp"
	"fmt"
	"slices"
)

// claim is what a landmark says of the place of its piece.
type claim struct {
	*mark
	indexes []uint64 // none where no piece of that length can have it
}

// vote counts the claims for one place.
type vote struct {
	index  uint64
	blocks map[uint64]struct{} // of 4 KiB in which landmarks say so
	fixed  int
	copies int // landmarks of which a journal may hold copies
	sure   int // landmarks with a checksum
	marks  int
	first  *mark
}

const (
	// maxVoted bounds the places that are weighed for one piece.
	maxVoted = 8
	// Pieces shorter than that may hold copies in a journal, and nothing that shows
	// where they are from.
	minJournal = 16 << 20
)

// place finds the place for which most landmarks of a piece speak, and next to none
// against it.
func (r *resolver) place(p *pieceMarks, c *root) (place Place, ok bool) {
	claims := r.claims(p, c)
	votes := count(claims)
	for _, v := range votes[:min(len(votes), maxVoted)] {
		against := r.against(p, v.index, claims, c)
		if against*4 > len(v.blocks) || r.wrong(p, v.index, c) != "" {
			continue
		}
		place = Place{Piece: p.piece, Index: v.index, Marks: len(v.blocks), Why: v.why()}
		sure := v.sure > 0 && (v.fixed > 0 || len(v.blocks) > 1) || v.marks > 3
		switch {
		case against > 0 || !sure:
		case v.copies < len(v.blocks):
			place.Certain = true
		case r.copied(p, v.index, c):
			continue
		default:
			place.Certain = r.lengthOf(p.piece) >= minJournal
		}
		return place, true
	}
	return place, false
}

// claims gives what the landmarks of a piece say.
func (r *resolver) claims(p *pieceMarks, c *root) (claims []claim) {
	add := func(m *mark, at []uint64) {
		cl := claim{mark: m}
		for _, a := range at {
			if index, ok := r.indexFor(p.piece, m.at, a); ok {
				cl.indexes = append(cl.indexes, index)
			}
		}
		claims = append(claims, cl)
	}
	for i := range p.marks {
		if at := addresses(&p.marks[i], c.volumes); len(at) > 0 {
			add(&p.marks[i], at)
		}
	}
	for _, l := range r.labels {
		if l.piece == p.piece && l.id == c.label {
			add(&mark{piece: l.piece, kind: l.mark(), at: l.at, count: 2}, []uint64{l.own})
		}
	}
	return claims
}

// count counts claims; the place with most comes first.
func count(claims []claim) (votes []*vote) {
	byIndex := make(map[uint64]*vote)
	for _, cl := range claims {
		for _, index := range cl.indexes {
			v := byIndex[index]
			if v == nil {
				v = &vote{index: index, blocks: make(map[uint64]struct{}), first: cl.mark}
				byIndex[index] = v
				votes = append(votes, v)
			}
			v.add(cl.mark)
		}
	}
	slices.SortFunc(votes, func(a, b *vote) int {
		return cmp.Or(cmp.Compare(len(b.blocks), len(a.blocks)), cmp.Compare(a.index, b.index))
	})
	return votes
}

func (v *vote) add(m *mark) {
	v.blocks[m.at/block] = struct{}{}
	v.marks++
	if m.kind.fixed() {
		if !v.first.kind.fixed() {
			v.first = m
		}
		v.fixed++
	}
	if m.journaled() {
		v.copies++
	}
	if m.summed() {
		v.sure++
	}
}

// journaled tells of landmarks of which a journal may hold copies. The superblocks behind
// the first are not written while the file system is in use.
func (m *mark) journaled() bool {
	return m.kind == extInode || m.kind == extSuper && m.address == 0
}

// summed tells of landmarks that have a checksum.
func (m *mark) summed() bool {
	switch m.kind {
	case ntfsRecord, ntfsBoot, luksHeader, luksBackup, swapHeader, diskMBR:
		return false
	case extSuper:
		return m.count > 1
	}
	return true
}

func (v *vote) why() string {
	what := v.first.kind.String()
	if v.first.kind == extSuper {
		what = fmt.Sprintf("ext4 superblock of group %d", v.first.address)
	}
	if n := len(v.blocks); n > 1 {
		return fmt.Sprintf("%s, and %d more blocks that agree", what, n-1)
	}
	return what
}

// against counts the claims that contradict a place, without those that would be copies
// in a journal there.
func (r *resolver) against(p *pieceMarks, index uint64, claims []claim, c *root) (n int) {
	for _, cl := range claims {
		if slices.Contains(cl.indexes, index) || cl.journaled() && c.journal(index*r.lengthOf(p.piece)+cl.at) {
			continue
		}
		n++
	}
	return n
}

// journal tells whether a place on the disk lies in the journal of a file system.
func (c *root) journal(at uint64) bool {
	return slices.ContainsFunc(c.volumes, func(v *volume) bool {
		return v.ext != nil && at >= v.start && v.ext.inJournal(at-v.start)
	})
}

// copied tells whether a piece holds blocks of a journal where, were it in its place, no
// journal lies: what speaks for that place are then copies.
func (r *resolver) copied(p *pieceMarks, index uint64, c *root) bool {
	return slices.ContainsFunc(p.marks, func(m mark) bool {
		return m.kind == extJournal && !c.journal(index*r.lengthOf(p.piece)+m.at)
	})
}

// wrong tells what speaks against a place: that the piece has something else where a
// superblock or a header lies.
func (r *resolver) wrong(p *pieceMarks, index uint64, c *root) string {
	if known, ok := r.known[p.piece]; ok && known != index {
		return "its place is known to be another"
	}
	length := r.lengthOf(p.piece)
	from := index * length
	for _, v := range c.volumes {
		for _, at := range v.fixed(from, length) {
			if !r.has(p, v, at-from) && r.mapped(p.piece, at-from) {
				return fmt.Sprintf("no %s header where one must be", v.id.fs)
			}
		}
	}
	return ""
}

// has tells whether a piece has a landmark of a volume at a place.
func (r *resolver) has(p *pieceMarks, v *volume, at uint64) bool {
	i, _ := slices.BinarySearchFunc(p.marks, at, func(m mark, at uint64) int { return cmp.Compare(m.at, at) })
	for ; i < len(p.marks) && p.marks[i].at == at; i++ {
		if m := &p.marks[i]; m.space == v.space {
			return true
		}
	}
	return false
}

// mapped tells whether a piece has data at a place, as far as that can be found out.
func (r *resolver) mapped(piece, at uint64) bool {
	var b [sector]byte
	if piece&stray != 0 {
		return true
	}
	return r.Read != nil && r.Read(piece, at, b[:]) == nil
}

// maxFixed bounds the places in one piece that must have a header.
const maxFixed = 64

// fixed gives the places on the disk, within a range, at which the file system must have
// a superblock or a header.
func (v *volume) fixed(from, length uint64) (at []uint64) {
	in := func(a uint64) {
		if a += v.start; a >= from && a-from < length && len(at) < maxFixed {
			at = append(at, a)
		}
	}
	switch {
	case v.ext != nil:
		per := v.ext.perGroup * v.ext.block
		for g := (max(from, v.start) - v.start) / per; g <= (from+length-min(v.start, from+length))/per && g < v.ext.groups() && len(at) < maxFixed; g++ {
			if v.ext.hasSuper(g) {
				in(v.ext.superAt(g))
			}
		}
	case v.xfs != nil:
		per := v.xfs.agBlocks * v.xfs.block
		for g := (max(from, v.start) - v.start) / per; g <= (from+length-min(v.start, from+length))/per && g < v.xfs.ags && len(at) < maxFixed; g++ {
			in(g*per + v.xfs.sector)
		}
	case v.btrfs != nil:
		for _, a := range []uint64{64 << 10, 64 << 20, 256 << 30} {
			if a+btrfsSuperSize <= v.size {
				in(a)
			}
		}
	case v.ntfs != nil:
		in(0)
	}
	return at
}
