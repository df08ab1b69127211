// A straightforward Table and Compare, to be replaced by the fast ones (same API).

package refcount

import (
	"context"

	"github.com/qcheck/qcheck/qcow2"
)

type Block struct {
	Index  uint64
	Offset qcow2.HostOffset
	Bad    bool
}
type Table struct {
	img    *qcow2.Image
	blocks map[uint64]Block
	bad    map[uint64]bool
	cache  map[uint64][]byte
}

func NewTable(img *qcow2.Image, blocks []Block) *Table {
	t := &Table{img: img, blocks: map[uint64]Block{}, cache: map[uint64][]byte{}}
	for _, b := range blocks {
		t.blocks[b.Index] = b
	}
	return t
}
func (t *Table) Get(c qcow2.HostCluster) (uint64, bool) {
	g := t.img.Geometry
	per := g.RefcountBlockEntries()
	b, ok := t.blocks[uint64(c)/per]
	if !ok {
		return 0, true
	}
	if b.Bad {
		return 0, false
	}
	buf := t.cache[b.Index]
	if buf == nil {
		buf = make([]byte, g.ClusterSize())
		t.img.ReadAt(buf, b.Offset)
		t.cache[b.Index] = buf
	}
	return g.RefcountBlock(buf).Get(int(uint64(c) % per)), true
}

type CompareOptions struct{ Jobs int }
type Diff struct {
	First                   qcow2.HostCluster
	N, Refcount, References uint64
	Uncovered               bool
}
type Summary struct {
	Used    bool
	Highest qcow2.HostCluster
}

func Compare(ctx context.Context, c *Counts, t *Table, o CompareOptions, f func(Diff)) (s Summary, err error) {
	per := t.img.Geometry.RefcountBlockEntries()
	max := uint64(0)
	if h, ok := c.Highest(); ok {
		max = uint64(h)
	}
	for i := range t.blocks {
		if e := (i+1)*per - 1; e > max {
			max = e
		}
	}
	var p Diff
	for i := uint64(0); i <= max; i++ {
		cl := qcow2.HostCluster(i)
		a, ok := t.Get(cl)
		if !ok {
			continue
		}
		b := c.Get(cl)
		if a > 0 || b > 0 {
			s.Used, s.Highest = true, cl
		}
		if a == b {
			continue
		}
		_, cov := t.blocks[i/per]
		d := Diff{cl, 1, a, b, !cov}
		if p.N > 0 && p.First+qcow2.HostCluster(p.N) == cl && p.Refcount == a && p.References == b && p.Uncovered == d.Uncovered {
			p.N++
			continue
		}
		if p.N > 0 {
			f(p)
		}
		p = d
	}
	if p.N > 0 {
		f(p)
	}
	return s, nil
}
