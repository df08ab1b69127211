package landmarks

import (
	"cmp"
	"hash/crc32"
	"slices"
)

// A file system says of blocks that carry no landmark what is in them: where a file ends
// within its last block, behind which there are zeros, and, where it has checksums of
// data, what the checksum is. A print is that of a block which was seen.
type print struct {
	key   uint64 // of the place within the piece, and of what was seen
	piece uint64
}

// prints are bounded: those are kept whose key ends in so many zeros. Whoever looks one up
// knows by its key whether it can be there.
type prints struct {
	list   []print
	zeros  uint
	sorted bool
}

const (
	maxPrints = 1 << 20 // of each sort, 16 MiB
	minTail   = 16      // bytes; fewer zeros at the end of a block tell too little
)

func (p *prints) keeps(key uint64) bool { return key&(1<<p.zeros-1) == 0 }

func (p *prints) add(pr print) {
	if !p.keeps(pr.key) {
		return
	}
	if len(p.list) == maxPrints {
		p.zeros++
		p.list = slices.DeleteFunc(p.list, func(pr print) bool { return !p.keeps(pr.key) })
		if !p.keeps(pr.key) {
			return
		}
	}
	if len(p.list) < maxPrints {
		p.list, p.sorted = append(p.list, pr), false
	}
}

// with calls yield for each piece that has a print, once.
func (p *prints) with(key uint64, yield func(piece uint64)) {
	if !p.keeps(key) {
		return
	}
	if !p.sorted {
		slices.SortFunc(p.list, func(a, b print) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.piece, b.piece)) })
		p.list, p.sorted = slices.Compact(p.list), true
	}
	i, _ := slices.BinarySearchFunc(p.list, key, func(pr print, key uint64) int { return cmp.Compare(pr.key, key) })
	for ; i < len(p.list) && p.list[i].key == key; i++ {
		yield(p.list[i].piece)
	}
}

// printKey mixes a place within a piece and a value.
func printKey(at uint64, value uint32) uint64 {
	h := at>>12*0x9e3779b97f4a7c15 ^ uint64(value)*0xc2b2ae3d27d4eb4f
	h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

// zeroSum is the checksum of a block of zeros, which proves nothing.
var zeroSum = crc32.Checksum(make([]byte, block), castagnoli)

// print takes the prints of a block.
func (f *finder) print(o int, b []byte) {
	at := f.at + uint64(o)
	if sum := crc(b); sum != zeroSum {
		f.sums = append(f.sums, print{printKey(at, sum), f.piece})
	}
	if n := tail(b); n > 0 {
		f.tails = append(f.tails, print{printKey(at, uint32(n)), f.piece})
	}
}

// tail gives where the zeros begin that end a block, 0 where they tell nothing.
func tail(b []byte) int {
	n := len(b)
	for n >= 8 && le.Uint64(b[n-8:]) == 0 {
		n -= 8
	}
	for n > 0 && b[n-1] == 0 {
		n--
	}
	if n > len(b)-minTail {
		return 0
	}
	return n
}
