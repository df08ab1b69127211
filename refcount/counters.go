package refcount

import (
	"math/bits"
	"unsafe"
)

const (
	// counterBlock is how many clusters are counted with one width.
	counterBlock  = 1 << 12
	counterBlocks = chunkClusters / counterBlock

	blocksBytes = int64(unsafe.Sizeof([counterBlocks]packed{}))
	// fewBytes is what an entry of a map costs, about.
	fewBytes = 48
)

// counters has a number for each cluster of a chunk: the references that the
// bit planes cannot hold. They are rare enough to be stored block by block,
// each block as wide as need be.
type counters struct {
	blocks *[counterBlocks]packed
	bytes  int64 // charged for all of it
}

// add adds n to the numbers of the clusters of word w that mask names.
func (c *counters) add(b *budget, w int, mask, n uint64) error {
	if n == 0 || mask == 0 {
		return nil
	}
	if c.blocks == nil {
		if err := c.take(b, blocksBytes); err != nil {
			return err
		}
		c.blocks = new([counterBlocks]packed)
	}
	block := &c.blocks[w*64/counterBlock]
	for ; mask != 0; mask &= mask - 1 {
		i := (w*64 + bits.TrailingZeros64(mask)) % counterBlock
		if err := block.set(c, b, i, satAdd(block.get(i), n)); err != nil {
			return err
		}
	}
	return nil
}

func (c *counters) get(i int) uint64 {
	if c.blocks == nil {
		return 0
	}
	return c.blocks[i/counterBlock].get(i % counterBlock)
}

// none tells that the numbers of word w are all 0. It may say no where that is
// so.
func (c *counters) none(w int) bool {
	return c.blocks == nil || c.blocks[w*64/counterBlock].none(w*64%counterBlock)
}

func (c *counters) take(b *budget, n int64) error {
	err := b.take(n)
	if err == nil {
		c.bytes += n
	}
	return err
}

func (c *counters) give(b *budget, n int64) {
	b.give(n)
	c.bytes -= n
}

// packed are numbers of one width. Those that do not fit are marked by all
// ones and kept in a map, so that a few large numbers, which a small file can
// easily ask for, do not widen all others; only when there are many of them
// the width grows.
type packed struct {
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

// load reads a number.
func load(words []uint64, width uint8, i int) uint64 {
	bit := i * int(width)
	return words[bit/64] >> (bit % 64) & (^uint64(0) >> (64 - width))
}

// store replaces a number.
func store(words []uint64, width uint8, i int, v uint64) {
	bit := i * int(width)
	mask := ^uint64(0) >> (64 - width)
	p := &words[bit/64]
	*p = *p&^(mask<<(bit%64)) | v&mask<<(bit%64)
}

func (p *packed) get(i int) uint64 {
	if p.width > 0 {
		if v := load(p.words, p.width, i); fits(v, p.width) {
			return v
		}
	}
	return p.few[uint16(i)]
}

// none tells that the 64 numbers from i on are 0; see counters.none.
func (p *packed) none(i int) bool {
	if len(p.few) > 0 {
		return false
	}
	var set uint64
	for k := range int(p.width) {
		set |= p.words[i/64*int(p.width)+k]
	}
	return set == 0
}

// set stores a number that is larger than what was there.
func (p *packed) set(c *counters, b *budget, i int, v uint64) error {
	if p.width > 0 && fits(v, p.width) {
		store(p.words, p.width, i, v)
		return nil
	}
	if _, aside := p.few[uint16(i)]; !aside {
		if len(p.few) >= maxFew {
			if err := p.widen(c, b); err != nil {
				return err
			}
			return p.set(c, b, i, v)
		}
		if err := c.take(b, fewBytes); err != nil {
			return err
		}
		if p.few == nil {
			p.few = make(map[uint16]uint64)
		}
		if p.width > 0 {
			store(p.words, p.width, i, ^uint64(0))
		}
	}
	p.few[uint16(i)] = v
	return nil
}

// widen takes the smallest width that leaves stayFew numbers aside at most.
func (p *packed) widen(c *counters, b *budget) error {
	width, left := p.width, len(p.few)
	for left > stayFew {
		width = max(2, width*2)
		left = 0
		for _, v := range p.few {
			if !fits(v, width) {
				left++
			}
		}
	}
	size := func(width uint8) int64 { return counterBlock / 8 * int64(width) }
	if err := c.take(b, size(width)); err != nil {
		return err
	}
	words := make([]uint64, size(width)/8)
	if p.width > 0 {
		for i := range counterBlock {
			store(words, width, i, load(p.words, p.width, i))
		}
	}
	few := make(map[uint16]uint64, left)
	for i, v := range p.few {
		if fits(v, width) {
			store(words, width, int(i), v)
		} else {
			store(words, width, int(i), ^uint64(0))
			few[i] = v
		}
	}
	c.give(b, size(p.width)+int64(len(p.few)-left)*fewBytes)
	p.width, p.words, p.few = width, words, few
	return nil
}
