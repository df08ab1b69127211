package landmarks

import (
	"cmp"
	"slices"
)

// root is what may be the outermost: a label, or a file system that fills the disk. It
// starts at the start of the disk.
type root struct {
	name    string
	label   spaceID // where it is one
	space   *space  // where it is a file system
	parts   []partition
	size    Size
	volumes []*volume
	placed  []Place
	strays  []Place
	known   bool              // it lies in a piece whose place is known
	mapped  bool              // it lies in a piece, not in a stray cluster
	at      map[uint64]uint64 // index by piece
}

func (l *label) mark() kind {
	switch {
	case l.kind == "MBR":
		return diskMBR
	case l.backup:
		return gptBackup
	}
	return gptPrimary
}

// length is how many bytes the disk has by what the root says, 0 where it does not.
func (c *root) length() uint64 {
	if c.size.Bytes > 0 {
		return c.size.Bytes
	}
	return 0
}

// maxRoots bounds what is tried.
const maxRoots = 32

// roots gives all that may be the outermost: what can start at the start of the disk,
// seeing that pieces have the length they have. An image stored in a file of the guest
// rarely can.
func (r *resolver) roots() (roots []*root) {
	byID := make(map[spaceID]*root)
	for _, l := range r.labels {
		index, ok := r.indexFor(l.piece, l.at, l.own)
		if !ok || !r.mayBe(l.piece, index) || r.VirtualSize > 0 && l.size > r.VirtualSize {
			continue
		}
		c := byID[l.id]
		if c == nil {
			c = &root{name: l.kind + " " + l.id.short(), label: l.id}
			byID[l.id] = c
			if len(roots) == maxRoots {
				continue
			}
			roots = append(roots, c)
		}
		parts := l.parts
		if parts == nil && l.kind == "GPT" {
			parts = r.readParts(l)
		}
		if !l.backup || c.parts == nil {
			c.parts = parts
		}
		c.learnSize(l)
		_, known := r.known[l.piece]
		c.known = c.known || known
		c.mapped = c.mapped || l.piece&stray == 0
	}
	roots = r.best(roots)
	for _, sp := range r.tried {
		if len(roots) < maxRoots && sp.size > 0 && (r.VirtualSize == 0 || sp.size <= r.VirtualSize) && r.startsAt(sp, 0) > 0 {
			roots = append(roots, &root{name: sp.id.fs + " " + sp.id.short(), space: sp, size: Size{Bytes: sp.size, Why: "the length of the " + sp.id.fs + " file system that fills the disk"}})
		}
	}
	return roots
}

// best leaves those labels that lie in pieces whose place is known, if there are any, or
// else those that lie in pieces; and those that give the disk the length that it is known
// to have.
func (r *resolver) best(roots []*root) []*root {
	for _, better := range []func(c *root) bool{
		func(c *root) bool { return c.known },
		func(c *root) bool { return c.mapped },
		func(c *root) bool { return r.VirtualSize > 0 && c.size.Exact && c.size.Bytes == r.VirtualSize },
	} {
		if slices.ContainsFunc(roots, better) {
			roots = slices.DeleteFunc(roots, func(c *root) bool { return !better(c) })
		}
	}
	return roots
}

// indexFor gives the place of a piece for which what lies at an offset in it lies at a
// place on the disk.
func (r *resolver) indexFor(piece, at, disk uint64) (index uint64, ok bool) {
	n := r.lengthOf(piece)
	if n == 0 || disk < at || (disk-at)%n != 0 {
		return 0, false
	}
	return (disk - at) / n, true
}

// Bounds on what is tried for one disk, more than which no real one has.
const (
	maxTried = 256 // file systems
	maxSeen  = 256 // landmarks of each
)

// sortSpaces finds out which landmarks the file systems have, those that do not move
// first, and leaves the file systems with most.
func (r *resolver) sortSpaces() {
	r.bySpace = make(map[*space][]*mark)
	for _, fixed := range []bool{true, false} {
		for i := range r.marks {
			if m := &r.marks[i]; m.space != nil && m.kind.fixed() == fixed && len(r.bySpace[m.space]) < maxSeen {
				r.bySpace[m.space] = append(r.bySpace[m.space], m)
			}
		}
	}
	for sp := range r.bySpace {
		r.tried = append(r.tried, sp)
	}
	slices.SortFunc(r.tried, func(a, b *space) int {
		return cmp.Or(cmp.Compare(len(r.bySpace[b]), len(r.bySpace[a])), cmp.Compare(a.id.fs, b.id.fs), slices.Compare(a.id.id[:], b.id.id[:]))
	})
	r.tried = r.tried[:min(len(r.tried), maxTried)]
}

func (id spaceID) short() string { return id.String()[:8] }

func (c *root) learnSize(l *label) {
	switch {
	case l.kind == "GPT" && (l.backup || c.size.Bytes == 0):
		c.size = Size{Bytes: l.size, Exact: l.backup, Why: "the GPT's header names the last sector"}
		if l.backup {
			c.size.Why = "the backup of the GPT lies in the last sector"
		}
	case l.kind == "MBR":
		for _, p := range l.parts {
			if end := p.start + p.length; end > c.size.Bytes {
				c.size = Size{Bytes: end, Why: "the end of the last partition"}
			}
		}
	}
}

// startsAt counts the landmarks by which a file system may start at a place on the disk.
func (r *resolver) startsAt(sp *space, start uint64) (n int) {
	v := &volume{space: sp, start: start}
	r.findMFT(v)
	for _, m := range r.bySpace[sp] {
		for _, a := range v.addresses(m) {
			if index, ok := r.indexFor(m.piece, m.at, start+a); ok && r.mayBe(m.piece, index) {
				n++
				break
			}
		}
	}
	return n
}

func (r *resolver) mayBe(piece, index uint64) bool {
	i, ok := r.known[piece]
	return !ok || i == index
}

// findMFT finds the record 0 that lies where the boot sector says.
func (r *resolver) findMFT(v *volume) {
	if v.ntfs == nil {
		return
	}
	for _, m := range r.mfts {
		at := v.start + v.ntfs.mft*v.ntfs.cluster
		if _, ok := r.indexFor(m.piece, m.at, at); ok && m.runs[0].first == v.ntfs.mft {
			v.mft = m.runs
			return
		}
	}
}

// evaluate finds the file systems that lie in the partitions, and places the pieces.
func (r *resolver) evaluate(c *root) {
	if c.space != nil {
		c.volumes = []*volume{{space: c.space, length: c.space.size}}
	} else {
		c.volumes = r.assign(c.parts)
	}
	for _, v := range c.volumes {
		r.findMFT(v)
	}
	c.at = make(map[uint64]uint64)
	seen := make(map[uint64]bool)
	for i := range r.pieces {
		seen[r.pieces[i].piece] = true
		r.try(&r.pieces[i], c)
	}
	for _, l := range r.labels {
		if l.id == c.label && !seen[l.piece] {
			seen[l.piece] = true
			r.try(&pieceMarks{piece: l.piece}, c)
		}
	}
}

func (r *resolver) try(p *pieceMarks, c *root) {
	place, ok := r.place(p, c)
	switch {
	case !ok:
	case p.piece&stray != 0:
		place.Piece &^= stray
		c.strays = append(c.strays, place)
	default:
		c.placed = append(c.placed, place)
		c.at[place.Piece] = place.Index
	}
}

// assign tells which file system lies in which partition: one whose landmarks can have
// their places if it starts there, and that fits. Where several can, the largest does;
// what lies in files is smaller.
func (r *resolver) assign(parts []partition) (volumes []*volume) {
	taken := make(map[*space]bool)
	for _, p := range parts {
		var best *space
		tied := false
		for _, sp := range r.tried {
			if taken[sp] || sp.size > p.length || sp.size == 0 && sp.id.fs != "luks" || r.startsAt(sp, p.start) == 0 {
				continue
			}
			switch {
			case best == nil || sp.size > best.size:
				best, tied = sp, false
			case sp.size == best.size:
				tied = true
			}
		}
		if best == nil || tied || !r.alone(best, p, parts) {
			continue
		}
		taken[best] = true
		volumes = append(volumes, &volume{space: best, start: p.start, length: p.length})
	}
	return volumes
}

// alone tells whether no other partition is as good for a file system: it would have to
// fit better.
func (r *resolver) alone(sp *space, p partition, parts []partition) bool {
	for _, q := range parts {
		if q != p && sp.size <= q.length && q.length <= p.length && r.startsAt(sp, q.start) >= r.startsAt(sp, p.start) {
			return false
		}
	}
	return true
}

// refutes tells whether one root shows that another lies in a file, or in a partition.
func (r *resolver) refutes(c, other *root) bool {
	if other.space != nil {
		if slices.ContainsFunc(c.volumes, func(v *volume) bool { return v.space == other.space && v.start > 0 }) {
			return true
		}
		v := &volume{space: other.space}
		for i := range r.marks {
			m := &r.marks[i]
			index, placed := c.at[m.piece]
			if m.space != other.space || !placed || !m.kind.fixed() || m.kind == xfsSuper {
				continue
			}
			if a := v.addresses(m); len(a) > 0 && !slices.Contains(a, index*r.length+m.at) {
				return true
			}
		}
		return false
	}
	for _, l := range r.labels {
		if index, placed := c.at[l.piece]; placed && l.id == other.label && index*r.length+l.at != l.own {
			return true
		}
	}
	return false
}
