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

// said is what references have said about the COPIED flag of a cluster.
type said uint8

const (
	saidCopied said = 1 << iota
	saidNotCopied
)

func sayCopied(copied bool) said {
	if copied {
		return saidCopied
	}
	return saidNotCopied
}

// chunk counts the references to 64 Ki clusters. It begins as a list of runs,
// which a few claims, however long, fit in; after sparseClaims claims it turns
// to bit planes, for good.
type chunk struct {
	index uint64 // first cluster / chunkClusters

	// one is the plane of clusters with a reference; nil while the chunk is a
	// list of runs. Its words are changed by atomic OR, without the lock.
	one atomic.Pointer[plane]
	// copied and notCopied are planes like it, each made when first needed.
	copied, notCopied atomic.Pointer[plane]

	mu     sync.Mutex // for what follows, and to change the pointers above
	runs   runList
	claims int
	extra  extra
}

func (ch *chunk) first() qcow2.HostCluster { return qcow2.HostCluster(ch.index * chunkClusters) }

// claim counts the clusters lo to hi-1 of the chunk, lo < hi.
func (ch *chunk) claim(b *budget, lo, hi int, times uint64, says said) error {
	one := ch.one.Load()
	if one == nil {
		var err error
		if one, err = ch.claimSparse(b, lo, hi, times, says); one == nil || err != nil {
			return err
		}
	}
	if says != 0 {
		if err := ch.say(b, lo, hi, says); err != nil {
			return err
		}
	}
	if hi-lo == 1 && times == 1 { // worth a way of its own: shuffled mappings
		bit := uint64(1) << (lo % 64)
		if atomic.OrUint64(&one[lo/64], bit)&bit == 0 {
			return nil
		}
		ch.mu.Lock()
		defer ch.mu.Unlock()
		return ch.extra.add(b, lo/64, bit, 1)
	}
	return ch.claimDense(b, one, lo, hi, times)
}

// claimSparse counts a claim in the list of runs. Where the chunk has bit
// planes, or gets them now, it counts nothing and returns the first of them.
func (ch *chunk) claimSparse(b *budget, lo, hi int, times uint64, says said) (*plane, error) {
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
	return nil, ch.runs.add(b, lo, hi, times, says)
}

// densify turns the list of runs into bit planes; the lock is held. It returns
// nil, and changes nothing, when the memory does not suffice.
func (ch *chunk) densify(b *budget) *plane {
	var (
		planes [3]*plane // one, copied, notCopied
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
		if r.says&saidCopied != 0 {
			set(1, r)
		}
		if r.says&saidNotCopied != 0 {
			set(2, r)
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
	ch.copied.Store(planes[1])
	ch.notCopied.Store(planes[2])
	ch.one.Store(planes[0]) // last: it is what tells others that planes are in use
	return planes[0]
}

// say records what references to the clusters lo to hi-1 said of COPIED.
func (ch *chunk) say(b *budget, lo, hi int, says said) error {
	at := &ch.copied
	if says == saidNotCopied {
		at = &ch.notCopied
	}
	p := at.Load()
	if p == nil {
		var err error
		if p, err = ch.addPlane(b, at); err != nil {
			return err
		}
	}
	if hi-lo == 1 {
		if bit := uint64(1) << (lo % 64); atomic.LoadUint64(&p[lo/64])&bit == 0 {
			atomic.OrUint64(&p[lo/64], bit)
		}
		return nil
	}
	for w, mask := range words(lo, hi) {
		if atomic.LoadUint64(&p[w])&mask != mask {
			atomic.OrUint64(&p[w], mask)
		}
	}
	return nil
}

func (ch *chunk) addPlane(b *budget, at *atomic.Pointer[plane]) (*plane, error) {
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
func (ch *chunk) claimDense(b *budget, one *plane, lo, hi int, times uint64) error {
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

// get gives the references to cluster i of the chunk, and what they said.
func (ch *chunk) get(i int) (refs uint64, says said) {
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
	if p := ch.copied.Load(); p != nil && atomic.LoadUint64(&p[w])&bit != 0 {
		says |= saidCopied
	}
	if p := ch.notCopied.Load(); p != nil && atomic.LoadUint64(&p[w])&bit != 0 {
		says |= saidNotCopied
	}
	return refs, says
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
