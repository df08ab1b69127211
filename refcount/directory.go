package refcount

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// directory finds the chunk of a cluster. It is a hash table with open
// addressing whose readers take no lock: an image decides which chunks there
// are, so memory must follow their number and not their indexes, as a radix
// tree's would not. The hash is seeded anew each time, lest a file be made
// whose chunks all collide.
type directory struct {
	slots atomic.Pointer[slots]
	seed  [2]uint64

	mu      sync.Mutex // held by whoever adds a chunk
	n       int        // chunks
	inOrder []*chunk   // all of them by index, where that was asked for since the last was added
}

// slots has a power of two of places, at most half of them taken.
type slots struct {
	shift uint // hash>>shift is the place to look first
	chunk []atomic.Pointer[chunk]
}

const (
	minSlots  = 16
	slotBytes = int64(unsafe.Sizeof(atomic.Pointer[chunk]{}))
)

func newSlots(n int) *slots {
	return &slots{
		shift: uint(64 - bits.TrailingZeros(uint(n))),
		chunk: make([]atomic.Pointer[chunk], n),
	}
}

func (d *directory) init(b *budget) {
	d.seed = [2]uint64{rand.Uint64(), rand.Uint64() | 1}
	b.used.Add(minSlots * slotBytes)
	d.slots.Store(newSlots(minSlots))
}

// hash folds a 128-bit product, both factors of which hold a secret.
func (d *directory) hash(index uint64) uint64 {
	hi, lo := bits.Mul64(index^d.seed[0], d.seed[1])
	return (hi ^ lo) * 0x9e37_79b9_7f4a_7c15
}

// lookup gives the chunk of that index, or nil.
func (d *directory) lookup(index uint64) *chunk {
	s := d.slots.Load()
	for i := d.hash(index) >> s.shift; ; i++ {
		ch := s.chunk[i&uint64(len(s.chunk)-1)].Load()
		if ch == nil || ch.index == index {
			return ch
		}
	}
}

// obtain gives the chunk of that index, made if need be.
func (d *directory) obtain(index uint64, b *budget) (*chunk, error) {
	if ch := d.lookup(index); ch != nil {
		return ch, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ch := d.lookup(index); ch != nil {
		return ch, nil
	}
	if err := b.take(chunkBytes); err != nil {
		return nil, err
	}
	if s := d.slots.Load(); 2*(d.n+1) > len(s.chunk) {
		if err := d.grow(s, b); err != nil {
			b.give(chunkBytes)
			return nil, err
		}
	}
	ch := &chunk{index: index}
	d.insert(d.slots.Load(), ch)
	d.n++
	return ch, nil
}

// grow doubles the table. Readers that still hold the old one miss only what
// is added later, and look again under the lock.
func (d *directory) grow(old *slots, b *budget) error {
	n := 2 * len(old.chunk)
	if err := b.take(int64(n) * slotBytes); err != nil {
		return err
	}
	s := newSlots(n)
	for i := range old.chunk {
		if ch := old.chunk[i].Load(); ch != nil {
			d.insert(s, ch)
		}
	}
	d.slots.Store(s)
	b.give(int64(len(old.chunk)) * slotBytes)
	return nil
}

func (d *directory) insert(s *slots, ch *chunk) {
	for i := d.hash(ch.index) >> s.shift; ; i++ {
		if p := &s.chunk[i&uint64(len(s.chunk)-1)]; p.Load() == nil {
			p.Store(ch)
			return
		}
	}
}

// sorted gives all chunks by ascending index. The slice must not be changed.
func (d *directory) sorted() []*chunk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.inOrder) == d.n {
		return d.inOrder
	}
	// The indexes are sorted beside the chunks: millions of them, each
	// elsewhere in memory, would take longer to fetch than to compare.
	type numbered struct {
		index uint64
		ch    *chunk
	}
	s := d.slots.Load()
	all := make([]numbered, 0, d.n)
	for i := range s.chunk {
		if ch := s.chunk[i].Load(); ch != nil {
			all = append(all, numbered{ch.index, ch})
		}
	}
	slices.SortFunc(all, func(a, b numbered) int {
		if a.index < b.index {
			return -1
		}
		return 1
	})
	d.inOrder = make([]*chunk, len(all))
	for i, x := range all {
		d.inOrder[i] = x.ch
	}
	return d.inOrder
}
