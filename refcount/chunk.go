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

	// maxRuns is where a list of runs ends in any case: with it a claim takes
	// microseconds and more memory than most planes.
	maxRuns = 4096

	chunkBytes = int64(unsafe.Sizeof(chunk{}))
	wideBytes  = int64(unsafe.Sizeof(wide{}))
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
	// What only a chunk with planes has is made along with the first of them: a
	// small file can ask for millions of chunks that stay lists of a run.
	*wide

	mu     sync.Mutex // for what follows, and to change the pointers above
	runs   runList
	claims int
}

// wide is what a chunk with bit planes has besides the first one.
type wide struct {
	// These are planes, each made when first needed: two for clusters with a
	// second reference, and one for each mark.
	two    atomic.Pointer[plane]
	marked [planeKinds]atomic.Pointer[plane]
	more   counters // references beyond the second; under the chunk's lock
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
		if one := ch.densify(b); one != nil {
			return one, nil
		}
		// Where there is no memory for planes there may be for another run.
		if len(ch.runs.list) >= maxRuns {
			return nil, ErrMemory
		}
		ch.claims -= len(ch.runs.list) // before it is tried again
	}
	return nil, ch.runs.add(b, lo, hi, times, marks)
}

// densify turns the list of runs into bit planes; the lock is held. It returns
// nil, and changes nothing, when the memory does not suffice.
func (ch *chunk) densify(b *budget) *plane {
	if b.take(wideBytes) != nil {
		return nil
	}
	var (
		used   = wideBytes
		failed bool
		more   counters
	)
	fill := func(p *plane, r run) *plane {
		if p == nil && !failed {
			if failed = b.take(planeBytes) != nil; !failed {
				used += planeBytes
				p = new(plane)
			}
		}
		if !failed {
			for w, mask := range words(int(r.first), int(r.last)+1) {
				p[w] |= mask
			}
		}
		return p
	}
	var one, two *plane
	var marked [planeKinds]*plane
	for _, r := range ch.runs.list {
		one = fill(one, r)
		if r.refs >= 2 {
			two = fill(two, r)
		}
		for kind := range planeKinds {
			if r.marks>>kind&1 != 0 {
				marked[kind] = fill(marked[kind], r)
			}
		}
		if r.refs > 2 {
			for w, mask := range words(int(r.first), int(r.last)+1) {
				failed = failed || more.add(b, w, mask, r.refs-2) != nil
			}
		}
		if failed {
			b.give(used + more.bytes)
			return nil
		}
	}
	b.give(ch.runs.bytes())
	ch.runs = runList{}
	ch.wide = &wide{more: more}
	ch.two.Store(two)
	for kind := range planeKinds {
		ch.marked[kind].Store(marked[kind])
	}
	ch.one.Store(one) // last: it is what tells others that planes are in use
	return one
}

// mark records marks of the clusters lo to hi-1.
func (ch *chunk) mark(b *budget, lo, hi int, marks Marks) error {
	for ; marks != 0; marks &= marks - 1 {
		p, err := ch.plane(b, ch.markPlane(marks))
		if err != nil {
			return err
		}
		for w, mask := range words(lo, hi) {
			p.or(w, mask)
		}
	}
	return nil
}

// markPlane is where the plane of the lowest mark of marks is.
func (ch *chunk) markPlane(marks Marks) *atomic.Pointer[plane] {
	return &ch.marked[bits.TrailingZeros8(uint8(marks))%planeKinds]
}

// plane gives the plane at a place of the chunk, made if need be.
func (ch *chunk) plane(b *budget, at *atomic.Pointer[plane]) (*plane, error) {
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
// extra one.
func (ch *chunk) claimDense(b *budget, one *plane, lo, hi int, times uint64, marks Marks) error {
	var compressed *plane
	if marks&MarkCompressed != 0 {
		var err error
		if compressed, err = ch.plane(b, ch.markPlane(MarkCompressed)); err != nil {
			return err
		}
	}
	for w, mask := range words(lo, hi) {
		again := one.or(w, mask)
		strange := uint64(0) // clusters that this reference may not share
		switch {
		case compressed != nil:
			// Whoever comes second to a cluster that two compressed claims
			// reach at once may take the first for a stranger: a cluster marked
			// as shared is to be looked at again, it is not a verdict.
			strange = again &^ compressed.or(w, mask)
		case marks&MarkSole != 0:
			strange = again
		}
		if strange != 0 {
			shared, err := ch.plane(b, ch.markPlane(MarkShared))
			if err != nil {
				return err
			}
			shared.or(w, strange)
		}
		if err := ch.claimExtra(b, w, mask&^again, times-1); err != nil {
			return err
		}
		if err := ch.claimExtra(b, w, again, times); err != nil {
			return err
		}
	}
	return nil
}

// claimExtra counts times references to clusters of word w that have a first
// one already.
func (ch *chunk) claimExtra(b *budget, w int, mask, times uint64) error {
	if mask == 0 || times == 0 {
		return nil
	}
	two, err := ch.plane(b, &ch.two)
	if err != nil {
		return err
	}
	again := two.or(w, mask)
	if again == 0 && times == 1 {
		return nil
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if err := ch.more.add(b, w, mask&^again, times-1); err != nil {
		return err
	}
	return ch.more.add(b, w, again, times)
}

// or sets bits of a word, others doing the same, and gives those that were set
// before.
func (p *plane) or(w int, mask uint64) uint64 {
	if old := atomic.LoadUint64(&p[w]); old&mask == mask {
		return mask
	}
	return atomic.OrUint64(&p[w], mask) & mask
}

// get gives the references to cluster i of the chunk, and their marks.
func (ch *chunk) get(i int) (refs uint64, marks Marks) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.one.Load() == nil {
		return ch.runs.get(i)
	}
	for kind := range planeKinds {
		if ch.marked[kind].Load().has(i) {
			marks |= 1 << kind
		}
	}
	return ch.dense(i), marks
}

// dense gives the references to cluster i in planes and counters; either the
// lock is held or no claims are made.
func (ch *chunk) dense(i int) uint64 {
	if !ch.one.Load().has(i) {
		return 0
	}
	if !ch.two.Load().has(i) {
		return 1
	}
	return satAdd(2, ch.more.get(i))
}

// has tells whether bit i is set; a plane that is missing has none.
func (p *plane) has(i int) bool {
	return p != nil && atomic.LoadUint64(&p[i/64])>>(i%64)&1 != 0
}

// highestBelow is the highest cluster of the chunk below n with a reference, or
// -1.
func (ch *chunk) highestBelow(n int) int {
	if one := ch.one.Load(); one != nil {
		return one.highestBelow(n)
	}
	list := ch.runs.list
	k := min(ch.runs.find(n), len(list)-1)
	if k >= 0 && int(list[k].first) >= n {
		k--
	}
	if k < 0 {
		return -1
	}
	return min(int(list[k].last), n-1)
}

// highestBelow is the highest bit set below n, or -1.
func (p *plane) highestBelow(n int) int {
	best := -1
	for w := (n - 1) / 64; w >= 0 && best < 0; w-- {
		set := p[w]
		if over := (w+1)*64 - n; over > 0 {
			set &= ^uint64(0) >> over
		}
		if set != 0 {
			best = w*64 + bits.Len64(set) - 1
		}
	}
	return best
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
