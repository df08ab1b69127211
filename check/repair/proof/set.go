package proof

import (
	"slices"

	"github.com/bits-and-blooms/bitset"

	"github.com/qcheck/qcheck/qcow2"
)

// set is a set of clusters. It takes 8 KiB for each 65,536 clusters of which one is in
// it, and nothing for others.
type set struct {
	chunks map[uint64]*bitset.BitSet
	sorted []uint64 // the keys of chunks, while none is added
}

const chunkBits = 16

func newSet() *set { return &set{chunks: make(map[uint64]*bitset.BitSet)} }

func (s *set) add(first qcow2.HostCluster, n uint64) {
	for c, end := uint64(first), uint64(first)+n; c < end; {
		key := c >> chunkBits
		stop := min(end, (key+1)<<chunkBits)
		addRange(s.chunk(key), uint(c%(1<<chunkBits)), uint(stop-c))
		c = stop
	}
}

// chunk gives a chunk, made if there is none.
func (s *set) chunk(key uint64) *bitset.BitSet {
	ch := s.chunks[key]
	if ch == nil {
		ch = bitset.New(1 << chunkBits)
		s.chunks[key] = ch
		s.sorted = nil
	}
	return ch
}

// addRange sets n bits. Most ranges are new, and are turned as whole words.
func addRange(ch *bitset.BitSet, from, n uint) {
	for at := from; at < from+n; {
		next, ok := ch.NextSet(at)
		if !ok {
			next = from + n
		}
		next = min(next, from+n)
		ch.FlipRange(at, next)
		at = next
		for at < from+n && ch.Test(at) {
			at++
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
		if ch == nil {
			return false
		}
		c, ok := ch.NextSet(uint(first) % (1 << chunkBits))
		return ok && uint64(c) <= last%(1<<chunkBits)
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
		if c, ok := ch.NextSet(uint(from) % (1 << chunkBits)); ok {
			return qcow2.HostCluster(key<<chunkBits + uint64(c)), true
		}
	}
	i, found := slices.BinarySearch(s.sorted, key)
	if found {
		i++
	}
	if i >= len(s.sorted) {
		return 0, false
	}
	c, _ := s.chunks[s.sorted[i]].NextSet(0)
	return qcow2.HostCluster(s.sorted[i]<<chunkBits + uint64(c)), true
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

// join adds all of another set.
func (s *set) join(other *set) {
	for key, from := range other.chunks {
		s.chunk(key).InPlaceUnion(from)
	}
}

// all gives the clusters of a frozen set in order.
func (s *set) all(yield func(qcow2.HostCluster) bool) {
	for c, ok := s.next(0); ok && yield(c); {
		c, ok = s.next(c + 1)
	}
}
