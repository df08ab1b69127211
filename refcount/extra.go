package refcount

import (
	"math/bits"
	"unsafe"
)

// extra counts the references beyond the first of a chunk's clusters. The
// second has a bit plane of its own; what goes beyond it is rare enough for
// counters, block by block.
type extra struct {
	two   *plane // clusters with two references or more
	more  *[counterBlocks]counters
	bytes int64 // charged for all of it
}

const (
	// counterBlock is how many clusters are counted with one width.
	counterBlock  = 1 << 12
	counterBlocks = chunkClusters / counterBlock

	moreBytes = int64(unsafe.Sizeof([counterBlocks]counters{}))
	// fewBytes is what an entry of a map costs, about.
	fewBytes = 48
)

// add counts n more references to the clusters of word w that mask names.
func (x *extra) add(b *budget, w int, mask, n uint64) error {
	if n == 0 || mask == 0 {
		return nil
	}
	if x.two == nil {
		if err := x.take(b, planeBytes); err != nil {
			return err
		}
		x.two = new(plane)
	}
	third := x.two[w] & mask
	x.two[w] |= mask
	if err := x.addMore(b, w, mask&^third, n-1); err != nil {
		return err
	}
	return x.addMore(b, w, third, n)
}

func (x *extra) addMore(b *budget, w int, mask, n uint64) error {
	if n == 0 || mask == 0 {
		return nil
	}
	if x.more == nil {
		if err := x.take(b, moreBytes); err != nil {
			return err
		}
		x.more = new([counterBlocks]counters)
	}
	block := &x.more[w*64/counterBlock]
	for ; mask != 0; mask &= mask - 1 {
		i := (w*64 + bits.TrailingZeros64(mask)) % counterBlock
		if err := block.set(x, b, i, satAdd(block.get(i), n)); err != nil {
			return err
		}
	}
	return nil
}

// get is the number of references to cluster i beyond the first.
func (x *extra) get(i int) uint64 {
	if x.two == nil || x.two[i/64]>>(i%64)&1 == 0 {
		return 0
	}
	if x.more == nil {
		return 1
	}
	return satAdd(1, x.more[i/counterBlock].get(i%counterBlock))
}

func (x *extra) take(b *budget, n int64) error {
	err := b.take(n)
	if err == nil {
		x.bytes += n
	}
	return err
}

func (x *extra) give(b *budget, n int64) {
	b.give(n)
	x.bytes -= n
}

// counters are packed numbers of one width. Those that do not fit are marked
// by all ones and kept in a map, so that a few large numbers, which a small
// file can easily ask for, do not widen all others; only when there are many
// of them the width grows.
type counters struct {
	width uint8             // 0, 2, 4, 8, 16, 32 or 64 bits; 0: all are in the map
	words []uint64          // counterBlock*width bits
	few   map[uint16]uint64 // what width cannot hold
}

const (
	// maxFew is how many numbers may be kept aside before the width grows,
	// and stayFew how many may stay aside then.
	maxFew  = 64
	stayFew = 16
)

// fits tells whether v can be stored in so many bits, all ones being taken.
func fits(v uint64, width uint8) bool {
	return width == 64 || v < 1<<width-1
}

// load reads a packed number.
func load(words []uint64, width uint8, i int) uint64 {
	bit := i * int(width)
	return words[bit/64] >> (bit % 64) & (^uint64(0) >> (64 - width))
}

// store replaces a packed number.
func store(words []uint64, width uint8, i int, v uint64) {
	bit := i * int(width)
	mask := ^uint64(0) >> (64 - width)
	p := &words[bit/64]
	*p = *p&^(mask<<(bit%64)) | v&mask<<(bit%64)
}

func (c *counters) get(i int) uint64 {
	if c.width == 0 {
		return c.few[uint16(i)]
	}
	if v := load(c.words, c.width, i); fits(v, c.width) {
		return v
	}
	return c.few[uint16(i)]
}

// set stores a number that is larger than what was there.
func (c *counters) set(x *extra, b *budget, i int, v uint64) error {
	if c.width > 0 && fits(v, c.width) {
		store(c.words, c.width, i, v)
		return nil
	}
	if _, aside := c.few[uint16(i)]; !aside {
		if len(c.few) >= maxFew {
			if err := c.widen(x, b); err != nil {
				return err
			}
			return c.set(x, b, i, v)
		}
		if err := x.take(b, fewBytes); err != nil {
			return err
		}
		if c.few == nil {
			c.few = make(map[uint16]uint64)
		}
		if c.width > 0 {
			store(c.words, c.width, i, ^uint64(0))
		}
	}
	c.few[uint16(i)] = v
	return nil
}

// widen takes the smallest width that leaves stayFew numbers aside at most.
func (c *counters) widen(x *extra, b *budget) error {
	width, left := c.width, len(c.few)
	for left > stayFew {
		width = max(2, width*2)
		left = 0
		for _, v := range c.few {
			if !fits(v, width) {
				left++
			}
		}
	}
	size := func(width uint8) int64 { return counterBlock / 8 * int64(width) }
	if err := x.take(b, size(width)); err != nil {
		return err
	}
	words := make([]uint64, size(width)/8)
	if c.width > 0 {
		for i := range counterBlock {
			store(words, width, i, load(c.words, c.width, i))
		}
	}
	few := make(map[uint16]uint64, left)
	for i, v := range c.few {
		if fits(v, width) {
			store(words, width, int(i), v)
		} else {
			store(words, width, int(i), ^uint64(0))
			few[i] = v
		}
	}
	x.give(b, size(c.width)+int64(len(c.few)-left)*fewBytes)
	c.width, c.words, c.few = width, words, few
	return nil
}
