package rescue

import (
	"encoding/binary"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// maxSample is how many sectors of tables are looked at to tell which sizes of clusters
// are out of the question.
const maxSample = 1024

// sample counts how many entries of some tables lead to multiples of each size, and how
// many sectors of them lead to nothing but the offsets that they map.
type sample struct {
	aligned   [qcow2.MaxClusterBits + 1]int
	n         int
	identical [2][qcow2.MaxClusterBits + 1]int // for entries of 8 and of 16 bytes
	sectors   int
}

func (s *scan) sample(r *patched) (out sample) {
	var sector [qcow2.SectorSize]byte
	step := len(s.runs)/maxSample + 1
	for i := 0; i < len(s.runs); i += step {
		if r.readBase(sector[:], int64(s.runs[i].sector*qcow2.SectorSize)) != nil {
			continue
		}
		out.sectors++
		if s.runs[i].shape&sniff.ShapeTable != 0 {
			out.add(sector[:], 0)
		}
		if s.runs[i].shape&sniff.ShapeExtended != 0 {
			out.add(sector[:], 1)
		}
	}
	return out
}

// add looks at a sector of a table with entries of 8 bytes (0) or of 16 (1).
func (s *sample) add(sector []byte, ext int) {
	width := 8 << ext
	var differs [qcow2.MaxClusterBits + 1]bool
	for k := 0; k < len(sector); k += width {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(sector[k:]))
		if e.Compressed() || e.Offset() == 0 {
			continue
		}
		s.n++
		for bits := qcow2.MinClusterBits; bits <= qcow2.MaxClusterBits; bits++ {
			off := uint64(e.Offset())
			if off&(1<<bits-1) == 0 {
				s.aligned[bits]++
			}
			if off>>bits%uint64(len(sector)/width) != uint64(k/width) {
				differs[bits] = true
			}
		}
	}
	for bits, d := range differs {
		if !d {
			s.identical[ext][bits]++
		}
	}
}

// plausible tells whether clusters can have a size: most entries lead to multiples of it.
// A guest can have tables of its own, of images that it uses.
func (s *sample) plausible(bits int, ext, dataFile bool) bool {
	if dataFile {
		i := 0
		if ext {
			i = 1
		}
		return 32*s.identical[i][bits] >= s.sectors
	}
	return s.n == 0 || 2*s.aligned[bits] >= s.n
}

// newFinder makes a finder for a geometry.
func newFinder(r *patched, s *scan, g qcow2.Geometry, dataFile bool) *finder {
	return &finder{r: r, size: uint64(r.baseSize), scan: s, g: g, dataFile: dataFile}
}

// fit is how well a geometry explains a file.
type fit struct {
	f      *finder
	l1s    []l1table
	named  int    // L2 tables that the best L1 table leads to
	mapped uint64 // entries of L2 tables that lead to data
}

// better tells whether a geometry explains more than one of larger clusters. Refcounts that
// agree say most. Whatever makes sense with large clusters does so with smaller ones, too,
// so those must explain clearly more.
func (a *fit) better(b *fit) bool {
	if b == nil {
		return true
	}
	if x, y := a.named > 0, b.named > 0; x != y {
		return x
	}
	if x, y := a.f.refs != nil, b.f.refs != nil; x != y {
		return x
	}
	return a.mapped > b.mapped+b.mapped/4
}

// proven tells whether the size of the clusters is beyond doubt. That all entries lead to
// multiples of it by chance gets half as likely with each.
func (a *fit) proven() bool {
	const enough = 12
	return a.f.refs != nil || a.mapped >= enough
}

// findGeometry finds the cluster size and the width of L2 entries that make sense of the
// tables. Of several sizes the largest does, unless a smaller one explains more: all
// entries lead to multiples of the smaller ones, too.
func findGeometry(r *patched, s *scan, bitsOnly int, dataFile bool) *fit {
	var best *fit
	smp := s.sample(r)
	for bits := qcow2.MaxClusterBits; bits >= qcow2.MinClusterBits; bits-- {
		if bitsOnly != 0 && bits != bitsOnly {
			continue
		}
		for _, ext := range []bool{false, true} {
			if ext && bits < qcow2.MinClusterBitsExtL2 || bitsOnly == 0 && !smp.plausible(bits, ext, dataFile) {
				continue
			}
			a := try(r, s, qcow2.Geometry{ClusterBits: uint(bits), ExtendedL2: ext, RefcountOrder: 4}, dataFile)
			if a != nil && a.better(best) {
				best = a
			}
		}
		if best != nil && best.f.refs != nil && 2*best.named > len(best.f.tables) {
			break
		}
	}
	return best
}

// try tells how well a geometry explains a file; nil is not at all.
func try(r *patched, s *scan, g qcow2.Geometry, dataFile bool) *fit {
	f := newFinder(r, s, g, dataFile)
	f.findTables()
	if len(f.tables) == 0 && len(s.runs) == 0 {
		return nil
	}
	if tried, zlib, zstd := f.unpack(); tried > 0 && 2*(zlib+zstd) < tried {
		return nil
	}
	f.findRefcounts(0, -1)
	f.dropRefcounts()
	if len(f.tables) == 0 && f.refs == nil {
		return nil
	}
	f.claim()
	a := &fit{f: f, l1s: f.findL1s()}
	for i := range f.tables {
		a.mapped += uint64(f.tables[i].mapped)
	}
	for i := range a.l1s {
		a.named = max(a.named, a.l1s[i].named)
	}
	return a
}

// likeDataFile tells whether the tables are those of an external data file: each entry
// leads to the offset that it maps, and the refcounts know nothing of it.
func (f *finder) likeDataFile() bool {
	mapped, past := 0, 0
	for i := range f.tables {
		t := &f.tables[i]
		if !t.identity {
			return false
		}
		mapped += int(t.mapped)
		past += int(t.past)
		if f.refs != nil {
			counted := false
			f.eachTarget(t.off, func(_ uint64, _ qcow2.L2Entry, x qcow2.Extent) {
				counted = counted || uint64(x.Offset) < f.size && f.refs.get(x.Offset) != 0
			})
			if counted {
				return false
			}
		}
	}
	return f.refs != nil && mapped > 0 || past > 0 && mapped > 4
}
