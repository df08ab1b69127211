package refcount

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/qcheck/qcheck/qcow2"
)

const (
	// chunkClusters is how many clusters a chunk counts.
	chunkClusters = 1 << 16
	chunkWords    = chunkClusters / 64

	// sparseClaims is how many claims a chunk takes as a list of runs before
	// it gets bit planes. A claim stands for 8 bytes of the file at least, so
	// that a chunk's 8 KiB are justified by a kibibyte read.
	sparseClaims = 128

	chunkBytes = int64(unsafe.Sizeof(chunk{}))
	planeBytes = int64(unsafe.Sizeof(plane{}))
)

// plane is one bit for each cluster of a chunk.
type plane [chunkWords]uint64

// Marks tell more of a reference than that it is there. Each becomes a bit
// plane of its own where it is used.
type Marks uint8

const (
	// MarkCopied and MarkNotCopied: the reference has the COPIED flag set, or
	// clear.
	MarkCopied Marks = 1 << iota
	MarkNotCopied
	// MarkCompressed: the reference is to compressed data, which may share its
	// clusters with other compressed data.
	MarkCompressed
	// MarkShared is what a cluster gets that was claimed with MarkSole or
	// MarkCompressed and has another reference already; see [Counts.Shared].
	MarkShared
	// MarkSole asks that the reference be the only one to its clusters. Those
	// that have one already are marked as shared.
	MarkSole

	planeKinds = 4 // all but MarkSole
	marksKept  = MarkSole - 1
)

// chunk counts the references to 64 Ki clusters. It begins as a list of runs,
// which a few claims, however long, fit in; after sparseClaims claims it turns
// to bit planes, for good.
type chunk struct {
	index uint64 // first cluster / chunkClusters

	// one is the plane of clusters with a reference; nil while the chunk is a
	// list of runs. Its words are changed by atomic OR, without the lock.
	one atomic.Pointer[plane]
	// marked holds planes like it, one for each mark, made when first needed.
	marked [planeKinds]atomic.Pointer[plane]

	mu     sync.Mutex // for what follows, and to change the pointers above
	runs   runList
	claims int
	extra  extra
}

func (ch *chunk) first() qcow2.HostCluster { return qcow2.HostCluster(ch.index * chunkClusters) }

// claim counts the clusters lo to hi-1 of the chunk, lo < hi.
func (ch *chunk) claim(b *budget, lo, hi int, times uint64, marks Marks) error {
	one := ch.one.Load()
	if one == nil {
		var err error
		if one, err = ch.claimSparse(b, lo, hi, times, marks); one == nil || err != nil {
			return err
		}
	}
	if kept := marks & marksKept &^ MarkCompressed; kept != 0 {
		if err := ch.mark(b, lo, hi, kept); err != nil {
			return err
		}
	}
	if hi-lo == 1 && times == 1 && marks&MarkCompressed == 0 { // worth a way of its own: shuffled mappings
		bit := uint64(1) << (lo % 64)
		if atomic.OrUint64(&one[lo/64], bit)&bit == 0 {
			return nil
		}
		if marks&MarkSole != 0 {
			if err := ch.mark(b, lo, hi, MarkShared); err != nil {
				return err
			}
		}
		ch.mu.Lock()
		defer ch.mu.Unlock()
		return ch.extra.add(b, lo/64, bit, 1)
	}
	return ch.claimDense(b, one, lo, hi, times, marks)
}

// claimSparse counts a claim in the list of runs. Where the chunk has bit
// planes, or gets them now, it counts nothing and returns the first of them.
func (ch *chunk) claimSparse(b *budget, lo, hi int, times uint64, marks Marks) (*plane, error) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if one := ch.one.Load(); one != nil {
		return one, nil
	}
	if ch.claims++; ch.claims > sparseClaims {
		// When there is no memory for planes there may be for another run.
		if one := ch.densify(b); one != nil {
			return one, nil
		}
	}
	return nil, ch.runs.add(b, lo, hi, times, marks)
}

// densify turns the list of runs into bit planes; the lock is held. It returns
// nil, and changes nothing, when the memory does not suffice.
func (ch *chunk) densify(b *budget) *plane {
	var (
		planes [1 + planeKinds]*plane // one, and the marks
		more   extra
		used   int64
		failed bool
	)
	set := func(i int, r run) {
		if planes[i] == nil && !failed {
			if failed = b.take(planeBytes) != nil; !failed {
				used += planeBytes
				planes[i] = new(plane)
			}
		}
		if !failed {
			for w, mask := range words(int(r.first), int(r.last)+1) {
				planes[i][w] |= mask
			}
		}
	}
	for _, r := range ch.runs.list {
		set(0, r)
		for kind := range planeKinds {
			if r.marks>>kind&1 != 0 {
				set(1+kind, r)
			}
		}
		for w, mask := range words(int(r.first), int(r.last)+1) {
			failed = failed || more.add(b, w, mask, r.refs-1) != nil
		}
		if failed {
			b.give(used + more.bytes)
			return nil
		}
	}
	b.give(ch.runs.bytes())
	ch.runs = runList{}
	ch.extra = more
	for kind := range planeKinds {
		ch.marked[kind].Store(planes[1+kind])
	}
	ch.one.Store(planes[0]) // last: it is what tells others that planes are in use
	return planes[0]
}

// mark records marks of the clusters lo to hi-1.
func (ch *chunk) mark(b *budget, lo, hi int, marks Marks) error {
	for ; marks != 0; marks &= marks - 1 {
		p, err := ch.plane(b, bits.TrailingZeros8(uint8(marks)))
		if err != nil {
			return err
		}
		if hi-lo == 1 {
			if bit := uint64(1) << (lo % 64); atomic.LoadUint64(&p[lo/64])&bit == 0 {
				atomic.OrUint64(&p[lo/64], bit)
			}
			continue
		}
		for w, mask := range words(lo, hi) {
			if atomic.LoadUint64(&p[w])&mask != mask {
				atomic.OrUint64(&p[w], mask)
			}
		}
	}
	return nil
}

// plane gives the plane of a mark, made if need be.
func (ch *chunk) plane(b *budget, kind int) (*plane, error) {
	at := &ch.marked[kind]
	if p := at.Load(); p != nil {
		return p, nil
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if p := at.Load(); p != nil {
		return p, nil
	}
	if err := b.take(planeBytes); err != nil {
		return nil, err
	}
	p := new(plane)
	at.Store(p)
	return p, nil
}

// claimDense counts a run in the bit planes, a word at a time. Whoever sets a
// bit of the first plane has the first reference; every other reference is an
// extra one, counted under the lock.
func (ch *chunk) claimDense(b *budget, one *plane, lo, hi int, times uint64, marks Marks) error {
	var compressed *plane
	if marks&MarkCompressed != 0 {
		var err error
		if compressed, err = ch.plane(b, bits.TrailingZeros8(uint8(MarkCompressed))); err != nil {
			return err
		}
	}
	locked := false
	defer func() {
		if locked {
			ch.mu.Unlock()
		}
	}()
	for w, mask := range words(lo, hi) {
		again := atomic.LoadUint64(&one[w]) & mask
		if again != mask {
			again = atomic.OrUint64(&one[w], mask) & mask
		}
		strange := uint64(0) // clusters that this reference may not share
		switch {
		case compressed != nil:
			// Whoever comes second to a cluster that two compressed claims
			// reach at once may take the first for a stranger: a cluster marked
			// as shared is to be looked at again, it is not a verdict.
			strange = again &^ atomic.OrUint64(&compressed[w], mask)
		case marks&MarkSole != 0:
			strange = again
		}
		if strange != 0 {
			if err := ch.markWord(b, w, strange, &locked); err != nil {
				return err
			}
		}
		if again == 0 && times == 1 {
			continue
		}
		if !locked {
			ch.mu.Lock()
			locked = true
		}
		if err := ch.extra.add(b, w, mask&^again, times-1); err != nil {
			return err
		}
		if err := ch.extra.add(b, w, again, times); err != nil {
			return err
		}
	}
	return nil
}

// markWord marks the clusters of a word as shared. The lock, where it is held,
// is let go of, since a new plane takes it.
func (ch *chunk) markWord(b *budget, w int, mask uint64, locked *bool) error {
	if *locked {
		ch.mu.Unlock()
		*locked = false
	}
	p, err := ch.plane(b, bits.TrailingZeros8(uint8(MarkShared)))
	if err == nil {
		atomic.OrUint64(&p[w], mask)
	}
	return err
}

// get gives the references to cluster i of the chunk, and their marks.
func (ch *chunk) get(i int) (refs uint64, marks Marks) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	one := ch.one.Load()
	if one == nil {
		return ch.runs.get(i)
	}
	w, bit := i/64, uint64(1)<<(i%64)
	if atomic.LoadUint64(&one[w])&bit != 0 {
		refs = satAdd(1, ch.extra.get(i))
	}
	for kind := range planeKinds {
		if p := ch.marked[kind].Load(); p != nil && atomic.LoadUint64(&p[w])&bit != 0 {
			marks |= 1 << kind
		}
	}
	return refs, marks
}

// highest is the highest cluster of the chunk with a reference, or -1.
func (ch *chunk) highest() int {
	if one := ch.one.Load(); one != nil {
		return one.highest()
	}
	if n := len(ch.runs.list); n > 0 {
		return int(ch.runs.list[n-1].last)
	}
	return -1
}

// highest is the highest bit set, or -1.
func (p *plane) highest() int {
	for w := chunkWords - 1; w >= 0; w-- {
		if p[w] != 0 {
			return w*64 + bits.Len64(p[w]) - 1
		}
	}
	return -1
}

// words gives the words of a plane that hold bits lo to hi-1, each with the
// mask of those bits.
func words(lo, hi int) func(yield func(w int, mask uint64) bool) {
	return func(yield func(int, uint64) bool) {
		for w := lo / 64; w*64 < hi; w++ {
			mask := ^uint64(0)
			if from := lo - w*64; from > 0 {
				mask <<= from
			}
			if over := (w+1)*64 - hi; over > 0 {
				mask &= ^uint64(0) >> over
			}
			if !yield(w, mask) {
				return
			}
		}
	}
}
