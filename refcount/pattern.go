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

// spread16 is the word of four 16-bit entries, each 1 where its bit in the low
// nibble of set is.
func spread16(set uint64) uint64 {
	return (set&1 | set&2<<15 | set&4<<30 | set&8<<45) << 8
}
