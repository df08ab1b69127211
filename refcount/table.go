package refcount

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/qcheck/qcheck/qcow2"
)

// ErrUnknown: the refcount asked for is in a block that was said to be
// unusable.
var ErrUnknown = errors.New("the refcount block is unusable")

// errPlace is what reading a block fails with that lies where no file reaches.
var errPlace = errors.New("no file is that long")

// Reader reads the image file. Past the file's end it reads zeros. It is used
// from several goroutines at once. A [qcow2.Image] is one.
type Reader interface {
	ReadAt(p []byte, off qcow2.HostOffset) error
}

// prefetcher is an optional capability of a [Reader], see [qcow2.Prefetcher].
type prefetcher interface {
	Prefetches() bool
	Prefetch([]qcow2.Extent)
}

// DataFinder is an optional capability of a [Reader]: it gives the next extent
// of stored data that begins at off or later, or that holds off. What is not
// in such an extent reads as zeros, and no refcount block is read from there.
type DataFinder interface {
	NextData(off qcow2.HostOffset) (start, end qcow2.HostOffset)
}

// Block is an entry of the refcount table that names a refcount block.
type Block struct {
	Index  uint64 // in the refcount table
	Offset qcow2.HostOffset
}

// Entries is a run of entries of the refcount table.
type Entries struct {
	First, N uint64
}

// Table is what the refcount table and its blocks say. It holds where the
// blocks are, which is in memory what the entries that are not zero are in the
// file, and reads the blocks when they are asked for. It does not change, and
// is safe for concurrent use if its Reader is.
type Table struct {
	r        Reader
	g        qcow2.Geometry
	blocks   []Block   // by index
	unusable []Entries // by index; they do not touch
	perBlock uint64    // clusters that a block covers
	clusters uint64    // first cluster that has no 64-bit offset
}

// NewTable makes a Table of the entries that name a block that can be used, and
// of those of which nothing can be known: whether an entry is the one or the
// other is for the caller to judge. Every entry in neither list has no block,
// and all its refcounts are 0. The lists may be in any order and are not kept;
// where an index appears more than once, it is unusable if one of them says so,
// else the first block counts.
func NewTable(r Reader, g qcow2.Geometry, blocks []Block, unusable []Entries) *Table {
	t := &Table{r: r, g: g, perBlock: g.RefcountBlockEntries(), clusters: math.MaxUint64>>g.ClusterBits + 1}
	last := (t.clusters - 1) / t.perBlock // what lies beyond covers nothing

	unusable = slices.Clone(unusable)
	slices.SortFunc(unusable, func(a, b Entries) int { return compareUint(a.First, b.First) })
	for _, e := range unusable {
		if e.N == 0 || e.First > last {
			continue
		}
		e.N = min(e.N, last-e.First+1)
		if n := len(t.unusable); n > 0 && e.First <= t.unusable[n-1].end() {
			t.unusable[n-1].N = max(t.unusable[n-1].end(), e.end()) - t.unusable[n-1].First
			continue
		}
		t.unusable = append(t.unusable, e)
	}
	t.blocks = slices.Clone(blocks)
	slices.SortStableFunc(t.blocks, func(a, b Block) int { return compareUint(a.Index, b.Index) })
	t.blocks = slices.CompactFunc(t.blocks, func(a, b Block) bool { return a.Index == b.Index })
	t.blocks = slices.DeleteFunc(t.blocks, func(b Block) bool { return b.Index > last || t.isUnusable(b.Index) })
	return t
}

func compareUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (e Entries) end() uint64 { return e.First + e.N }

// Blocks gives the usable blocks by ascending index. It must not be changed.
func (t *Table) Blocks() []Block { return t.blocks }

// isUnusable tells whether the block of that index is.
func (t *Table) isUnusable(index uint64) bool {
	k := sort.Search(len(t.unusable), func(k int) bool { return t.unusable[k].end() > index })
	return k < len(t.unusable) && t.unusable[k].First <= index
}

// find gives the place in blocks of the first one whose index is that or more.
func (t *Table) find(index uint64) int {
	return sort.Search(len(t.blocks), func(k int) bool { return t.blocks[k].Index >= index })
}

// Get reads one refcount. It fails with [ErrUnknown] and with the Reader's
// errors. It is meant for a few look-ups; [Compare] reads them all.
func (t *Table) Get(cluster qcow2.HostCluster) (uint64, error) {
	index, i := uint64(cluster)/t.perBlock, uint64(cluster)%t.perBlock
	if uint64(cluster) >= t.clusters {
		return 0, nil
	}
	if t.isUnusable(index) {
		return 0, ErrUnknown
	}
	k := t.find(index)
	if k == len(t.blocks) || t.blocks[k].Index != index {
		return 0, nil
	}
	var word [8]byte
	perWord := uint64(64) >> t.g.RefcountOrder
	if err := t.read(word[:], t.blocks[k], i/perWord*8); err != nil {
		return 0, err
	}
	return t.g.RefcountBlock(word[:]).Get(int(i % perWord)), nil
}

// read reads bytes of a block.
func (t *Table) read(p []byte, b Block, from uint64) error {
	if !qcow2.RangeFits(uint64(b.Offset), from+uint64(len(p)), qcow2.MaxImageLength) {
		return fmt.Errorf("refcount block at %v: %w", b.Offset, errPlace)
	}
	return t.r.ReadAt(p, b.Offset+qcow2.HostOffset(from))
}
