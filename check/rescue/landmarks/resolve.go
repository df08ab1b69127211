package landmarks

import (
	"cmp"
	"fmt"
	"slices"
)

// resolved is what all landmarks say together.
type resolved struct {
	places  []Place
	strays  []Place
	volumes []Volume
	size    Size
	doubt   string
}

// volume is a file system that lies on the disk itself.
type volume struct {
	*space
	start  uint64
	length uint64 // of its partition
	mft    []blockRun
}

// resolver holds what resolving takes.
type resolver struct {
	*Scanner
	marks  []mark // by piece and place
	pieces []pieceMarks
}

type pieceMarks struct {
	piece uint64
	marks []mark
}

func resolve(s *Scanner) *resolved {
	s.finish()
	r := &resolver{Scanner: s, marks: byPlace(s.marks)}
	for rest := r.marks; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(m mark) bool { return m.piece != rest[0].piece })
		if n < 0 {
			n = len(rest)
		}
		r.pieces = append(r.pieces, pieceMarks{rest[0].piece, rest[:n]})
		rest = rest[n:]
	}
	return r.choose()
}

// choose finds the label or file system that is the outermost, and gives what it places.
func (r *resolver) choose() *resolved {
	roots := r.roots()
	for _, root := range roots {
		r.evaluate(root)
	}
	left := slices.DeleteFunc(roots, func(c *root) bool {
		return len(c.placed)+len(c.strays) == 0 || slices.ContainsFunc(roots, func(other *root) bool { return other != c && r.refutes(other, c) && !r.refutes(c, other) })
	})
	// A label comes before what may lie in one of its partitions.
	slices.SortStableFunc(left, func(a, b *root) int {
		return cmp.Or(boolCompare(a.space != nil, b.space != nil), cmp.Compare(len(b.placed), len(a.placed)))
	})
	if len(left) == 0 {
		return &resolved{doubt: "no disk label and no file system was found that starts where a disk may start"}
	}
	best := left[0]
	res := &resolved{size: best.size}
	if len(left) > 1 {
		res.doubt = fmt.Sprintf("%s and %s may both be the disk's own; one may be an image that is stored on the disk", best.name, left[1].name)
	} else if slots := (best.length() + r.length - 1) / r.length; slots > 0 && uint64(len(r.Scanner.pieces)) > 2*slots {
		res.doubt = fmt.Sprintf("%s is of a disk that is smaller than what there is of this one", best.name)
	}
	for _, p := range best.placed {
		p.Certain = p.Certain && res.doubt == ""
		res.places = append(res.places, p)
	}
	claimed := make(map[uint64]int)
	for _, p := range best.strays {
		claimed[p.Index]++
	}
	for _, p := range best.strays {
		p.Certain = p.Certain && res.doubt == ""
		if claimed[p.Index] == 1 {
			res.strays = append(res.strays, p)
		}
	}
	if res.doubt != "" {
		res.size.Exact = false
	}
	for _, v := range best.volumes {
		res.volumes = append(res.volumes, Volume{Kind: v.id.fs, ID: v.id.String(), Start: v.start, Length: v.length})
	}
	return res
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// addresses gives where on the disk a landmark may belong, by what it says of itself;
// none where it is no landmark of a file system on the disk.
func addresses(m *mark, volumes []*volume) (at []uint64) {
	for _, v := range volumes {
		if m.space != nil && m.space != v.space {
			continue
		}
		for _, a := range v.addresses(m) {
			at = append(at, v.start+a)
		}
	}
	return at
}

// addresses gives where in the file system a landmark may belong.
func (v *volume) addresses(m *mark) []uint64 {
	one := func(at uint64, ok bool) []uint64 {
		if !ok {
			return nil
		}
		return []uint64{at}
	}
	switch m.kind {
	case extSuper:
		return one(v.ext.superAt(m.address), m.address < v.ext.groups())
	case extInode:
		if v.ext != nil {
			return one(v.ext.inodeMark(m.address))
		}
	case xfsAG:
		if v.xfs != nil {
			return one(v.xfs.headerAt(m.address&(1<<56-1), m.address>>56))
		}
	case xfsInode:
		if v.xfs != nil {
			return one(v.xfs.inodeAt(m.address))
		}
	case xfsBlock:
		return one(m.address*sector, m.address < 1<<48)
	case btrfsSuper:
		return one(m.address, true)
	case btrfsBlock:
		if v.btrfs != nil {
			return v.btrfs.physical(m.address)
		}
	case ntfsBoot:
		return []uint64{0, v.size - sector}
	case ntfsRecord:
		return v.recordAddresses(m.address)
	case lvmLabel:
		return one(m.address*sector, m.address < 4)
	case luksHeader, swapHeader:
		return one(0, true)
	case luksBackup:
		return one(m.address, true)
	}
	return nil
}

func (v *volume) recordAddresses(number uint64) (at []uint64) {
	if v.ntfs == nil {
		return nil
	}
	if a, ok := v.ntfs.recordAt(number, v.mft); ok {
		at = append(at, a)
	} else if number == 0 {
		at = append(at, v.ntfs.mft*v.ntfs.cluster)
	}
	if number < 4 {
		at = append(at, v.ntfs.mirror*v.ntfs.cluster+number*v.ntfs.record)
	}
	return at
}

// tally is what the landmarks in one piece say of its place.
type tally struct {
	votes  map[uint64]*vote
	astray int // landmarks whose place no piece of that length can have
}

type vote struct {
	blocks map[uint64]struct{} // of 4 KiB in which landmarks say so
	fixed  int
	copies int // landmarks of which a journal may hold copies
	sure   int // landmarks with a checksum
	first  *mark
}

// place counts what the landmarks of a piece say.
func (r *resolver) place(p *pieceMarks, c *root) (place Place, ok bool) {
	t := r.tally(p, c)
	index, best, others := t.best()
	if best == nil {
		return place, false
	}
	place = Place{Piece: p.piece, Index: index, Marks: len(best.blocks)}
	others += t.astray
	wrong := r.wrong(p, index, c)
	sure := best.sure > 0 && (best.fixed > 0 || len(best.blocks) > 1) || len(best.blocks) > 2
	switch {
	case wrong != "" || others > 0 && others*4 > len(best.blocks):
		return place, false
	case others > 0 || !sure:
	case best.copies == len(best.blocks) && p.piece&stray != 0:
		// What shows that it is a copy may lie in another cluster.
	case best.copies == len(best.blocks) && r.copied(p, index, c):
		return place, false
	default:
		place.Certain = true
	}
	place.Why = best.why(c)
	return place, true
}

func (v *vote) why(c *root) string {
	what := v.first.kind.String()
	if v.first.kind == extSuper {
		what = fmt.Sprintf("ext4 superblock of group %d", v.first.address)
	}
	if n := len(v.blocks); n > 1 {
		return fmt.Sprintf("%s, and %d more blocks that agree", what, n-1)
	}
	return what
}

func (r *resolver) tally(p *pieceMarks, c *root) tally {
	t := tally{votes: make(map[uint64]*vote)}
	for i := range p.marks {
		m := &p.marks[i]
		at := addresses(m, c.volumes)
		hit := false
		for _, a := range at {
			if index, ok := r.indexFor(p.piece, m.at, a); ok {
				hit = true
				t.vote(index, m)
			}
		}
		if len(at) > 0 && !hit {
			t.astray++
		}
	}
	for _, l := range r.labels {
		if l.piece != p.piece || l.id != c.label {
			continue
		}
		if index, ok := r.indexFor(l.piece, l.at, l.own); ok {
			t.vote(index, &mark{kind: l.mark(), at: l.at, count: 2})
		} else {
			t.astray++
		}
	}
	return t
}

func (t *tally) vote(index uint64, m *mark) {
	v := t.votes[index]
	if v == nil {
		v = &vote{blocks: make(map[uint64]struct{}), first: m}
		t.votes[index] = v
	}
	v.blocks[m.at/block] = struct{}{}
	switch {
	case m.kind.fixed():
		if !v.first.kind.fixed() {
			v.first = m
		}
		v.fixed++
		if m.kind == extSuper && m.address == 0 {
			v.copies++
		}
	case m.kind == extInode:
		v.copies++
	}
	if m.kind != ntfsRecord && (m.kind != extSuper || m.count > 1) && m.kind != ntfsBoot && m.kind != luksHeader && m.kind != swapHeader {
		v.sure++
	}
}

// best gives the place that most landmarks name; others is how many name another. A
// landmark that may belong in two places counts for both.
func (t *tally) best() (index uint64, best *vote, others int) {
	for i, v := range t.votes {
		if best == nil || len(v.blocks) > len(best.blocks) || len(v.blocks) == len(best.blocks) && i < index {
			index, best = i, v
		}
	}
	for i, v := range t.votes {
		if i == index {
			continue
		}
		for b := range v.blocks {
			if _, ok := best.blocks[b]; !ok {
				others++
			}
		}
	}
	return index, best, others
}

// copied tells whether a piece holds blocks of a journal where, were it in its place, no
// journal lies: what speaks for that place are then copies.
func (r *resolver) copied(p *pieceMarks, index uint64, c *root) bool {
	for _, m := range p.marks {
		if m.kind != extJournal {
			continue
		}
		at := index*r.lengthOf(p.piece) + m.at
		if !slices.ContainsFunc(c.volumes, func(v *volume) bool {
			return v.ext != nil && at >= v.start && v.ext.inJournal(at-v.start)
		}) {
			return true
		}
	}
	return false
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
