package refcount

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/qcheck/qcheck/qcow2"
)

// A refcount block is compared 8 bytes at a time. Loaded as little-endian
// words, entries of every width lie in them in ascending order from the least
// significant bit up; only that those of 16 bits and more have their bytes
// swapped.

// repeated is the word whose entries are all v, which must fit.
func repeated(order uint, v uint64) uint64 {
	switch order {
	case 4:
		v = uint64(bits.ReverseBytes16(uint16(v)))
	case 5:
		v = uint64(bits.ReverseBytes32(uint32(v)))
	case 6:
		v = bits.ReverseBytes64(v)
	}
	for width := uint(1) << order; width < 64; width *= 2 {
		v |= v << width
	}
	return v
}

// sameUntil gives the first of the entries i to end-1 that is not v, or end.
func sameUntil(b qcow2.RefcountBlock, i, end int, v uint64) int {
	if v > b.Max() {
		return i
	}
	perWord := 64 >> b.Order
	for ; i < end && i%perWord != 0; i++ {
		if b.Get(i) != v {
			return i
		}
	}
	if i+perWord <= end {
		words := b.Raw[i/perWord*8 : end/perWord*8]
		want := repeated(b.Order, v)
		at := sameWords(words, want)
		i += at / 8 * perWord
		if at < len(words) {
			got := binary.LittleEndian.Uint64(words[at:])
			return i + bits.TrailingZeros64(got^want)>>b.Order
		}
	}
	for ; i < end; i++ {
		if b.Get(i) != v {
			return i
		}
	}
	return end
}

// sameWords gives the place of the first word of p that is not want, or len(p).
func sameWords(p []byte, want uint64) int {
	const stretch = 4096
	at := 0
	// A stretch repeats its first word throughout if it equals itself moved by
	// a word: the fastest comparison that there is.
	for len(p)-at >= stretch {
		s := p[at : at+stretch]
		if binary.LittleEndian.Uint64(s) != want || !bytes.Equal(s[8:], s[:stretch-8]) {
			break
		}
		at += stretch
	}
	for ; at < len(p); at += 8 {
		if binary.LittleEndian.Uint64(p[at:]) != want {
			break
		}
	}
	return at
}

// lastNonZero gives the last of the entries i to end-1 that is not 0, or -1.
func lastNonZero(b qcow2.RefcountBlock, i, end int) int {
	perWord := 64 >> b.Order
	for end > i {
		if end%perWord == 0 && end-perWord >= i {
			w := binary.LittleEndian.Uint64(b.Raw[end/perWord*8-8:])
			if w == 0 {
				end -= perWord
				continue
			}
			return end - 1 - bits.LeadingZeros64(w)>>b.Order
		}
		end--
		if b.Get(end) != 0 {
			return end
		}
	}
	return -1
}

// spread is the word whose entries are 0 and 1 as the lowest bits of set are,
// from the least significant one up; higher bits are left out.
func spread(order uint, set uint64) uint64 {
	switch order {
	case 1:
		set &= 0xffff_ffff
		set = (set | set<<16) & 0x0000_ffff_0000_ffff
		set = (set | set<<8) & 0x00ff_00ff_00ff_00ff
		set = (set | set<<4) & 0x0f0f_0f0f_0f0f_0f0f
		set = (set | set<<2) & 0x3333_3333_3333_3333
		set = (set | set<<1) & 0x5555_5555_5555_5555
	case 2:
		set &= 0xffff
		set = (set | set<<24) & 0x0000_00ff_0000_00ff
		set = (set | set<<12) & 0x000f_000f_000f_000f
		set = (set | set<<6) & 0x0303_0303_0303_0303
		set = (set | set<<3) & 0x1111_1111_1111_1111
	case 3:
		set &= 0xff
		set = (set | set<<28) & 0x0000_000f_0000_000f
		set = (set | set<<14) & 0x0003_0003_0003_0003
		set = (set | set<<7) & 0x0101_0101_0101_0101
	case 4:
		set = (set&1 | set&2<<15 | set&4<<30 | set&8<<45) << 8
	case 5:
		set = set&1<<24 | set&2<<55
	case 6:
		set = set & 1 << 56
	}
	return set
}
