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
	log    []blockRun // of NTFS
}

// resolver holds what resolving takes.
type resolver struct {
	*Scanner
	marks   []mark // by piece and place
	pieces  []pieceMarks
	bySpace map[*space][]*mark // some of each
	tried   []*space
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
	r.sortSpaces()
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
	r.hear(best)
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
