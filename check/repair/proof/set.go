package proof

import (
	"math/bits"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// set is a set of clusters. It takes 8 KiB for each 65,536 clusters of which one is in
// it, and nothing for others.
type set struct {
	chunks map[uint64]*setChunk
	sorted []uint64 // the keys of chunks, while none is added
}

const chunkBits = 16

type setChunk [1 << chunkBits / 64]uint64

func newSet() *set { return &set{chunks: make(map[uint64]*setChunk)} }

func (s *set) add(first qcow2.HostCluster, n uint64) {
	for c, end := uint64(first), uint64(first)+n; c < end; {
		key := c >> chunkBits
		ch := s.chunks[key]
		if ch == nil {
			ch = new(setChunk)
			s.chunks[key] = ch
			s.sorted = nil
		}
		stop := min(end, (key+1)<<chunkBits)
		for c < stop {
			lo := c % 64
			k := min(64-lo, stop-c)
			ch[c%(1<<chunkBits)/64] |= ^uint64(0) >> (64 - k) << lo
			c += k
		}
	}
}

func (s *set) has(c qcow2.HostCluster) bool { return s.any(c, 1) }

// any tells whether one of n clusters is in the set.
func (s *set) any(first qcow2.HostCluster, n uint64) bool {
	if len(s.chunks) == 0 || n == 0 {
		return false
	}
	last := uint64(first) + n - 1
	if key := uint64(first) >> chunkBits; key == last>>chunkBits {
		ch := s.chunks[key]
		return ch != nil && ch.any(uint64(first)%(1<<chunkBits), last%(1<<chunkBits))
	}
	next, ok := s.next(first)
	return ok && uint64(next) <= last
}

// next gives the first cluster of the set from one on.
func (s *set) next(from qcow2.HostCluster) (qcow2.HostCluster, bool) {
	if len(s.chunks) == 0 {
		return 0, false
	}
	key := uint64(from) >> chunkBits
	if ch := s.chunks[key]; ch != nil {
		if c, ok := ch.next(uint64(from) % (1 << chunkBits)); ok {
			return qcow2.HostCluster(key<<chunkBits + c), true
		}
	}
	i, found := slices.BinarySearch(s.sorted, key)
	if found {
		i++
	}
	if i >= len(s.sorted) {
		return 0, false
	}
	c, _ := s.chunks[s.sorted[i]].next(0)
	return qcow2.HostCluster(s.sorted[i]<<chunkBits + c), true
}

// freeze makes the set ready to be asked, by several goroutines at once.
func (s *set) freeze() *set {
	s.sorted = s.sorted[:0]
	for key := range s.chunks {
		s.sorted = append(s.sorted, key)
	}
	slices.Sort(s.sorted)
	return s
}

func (ch *setChunk) next(from uint64) (uint64, bool) {
	w := from / 64
	word := ch[w] >> (from % 64) << (from % 64)
	for word == 0 {
		if w++; w == uint64(len(ch)) {
			return 0, false
		}
		word = ch[w]
	}
	return w*64 + uint64(bits.TrailingZeros64(word)), true
}

// any tells whether one from lo to hi is in the set.
func (ch *setChunk) any(lo, hi uint64) bool {
	w, end := lo/64, hi/64
	word := ch[w] >> (lo % 64) << (lo % 64)
	for ; w < end; word = ch[w] {
		if word != 0 {
			return true
		}
		w++
	}
	return word<<(63-hi%64) != 0
}

// join adds all of another set.
func (s *set) join(other *set) {
	for key, from := range other.chunks {
		ch := s.chunks[key]
		if ch == nil {
			ch = new(setChunk)
			s.chunks[key] = ch
		}
		for i := range from {
			ch[i] |= from[i]
		}
	}
}

// all gives the clusters of a frozen set in order.
func (s *set) all(yield func(qcow2.HostCluster) bool) {
	for c, ok := s.next(0); ok && yield(c); {
		c, ok = s.next(c + 1)
	}
}
