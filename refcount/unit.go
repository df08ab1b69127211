package refcount

import (
	"context"
	"slices"
	"sort"

	"github.com/qcheck/qcheck/qcow2"
)

// A unit is a range of clusters that is compared by one goroutine in one go:
// whole chunks, and as many as unitBytes of refcounts cover. A large refcount
// block is in several units, each of which reads its piece.
type unit struct {
	lo, hi uint64   // clusters lo to hi-1, multiples of chunkClusters
	chunks []*chunk // that lie in it
	blocks []Block  // that cover some of it
}

// A job is a few units, as much as is worth being handed to a goroutine: far
// apart, a unit can be a single reference.
type job struct {
	units []unit
	out   chan []event // closed when all is done

	// Valid once out is closed.
	bytes           uint64
	inFile, pastEnd int64 // highest cluster in use on either side of the file's end, or -1
}

// event is a run that differs or a block that cannot be read.
type event struct {
	Diff
	failed *blockFailure
}

type blockFailure struct {
	block Block
	err   error
}

const (
	unitBytes    = 512 << 10
	unitClusters = 1 << 20 // at most, with narrow refcounts
	batchEvents  = 256

	// A job ends with the unit that makes it weigh so many bytes of refcounts; a
	// chunk weighs as much as a bit plane.
	jobBytes = unitBytes / 4
)

// planner cuts what is to be compared into units. Ranges with neither blocks
// nor chunks are passed over, however long.
type planner struct {
	t      *Table
	chunks []*chunk // those still to come
	blocks []Block  // those that end after pos
	pos    uint64
	size   uint64 // clusters of a unit
	known  dataExtent
	ahead  prefetcher // nil where nothing is gained by it
	asked  int        // blocks left when blocks were last named ahead
}

func newPlanner(c *Counts, t *Table) *planner {
	size := uint64(unitBytes) * 8 >> t.g.RefcountOrder
	p := &planner{t: t, chunks: c.dir.sorted(), blocks: t.blocks, size: min(size, unitClusters), asked: len(t.blocks) + 1}
	if f, ok := t.r.(prefetcher); ok && f.Prefetches() {
		p.ahead = f
	}
	return p
}

// prefetchBytes is how much of the blocks is named ahead at a time.
const prefetchBytes = 1 << 20

// prefetch names the blocks that come next where that saves round trips.
func (p *planner) prefetch() {
	if p.ahead == nil || len(p.blocks) >= p.asked {
		return
	}
	n := min(len(p.blocks), int(max(1, prefetchBytes>>p.t.g.ClusterBits)))
	p.asked = len(p.blocks) - n + 1
	extents := make([]qcow2.Extent, n)
	for i, b := range p.blocks[:n] {
		extents[i] = qcow2.Extent{Offset: b.Offset, Length: p.t.g.ClusterSize()}
	}
	p.ahead.Prefetch(extents)
}

// next gives the next job, or nil.
func (p *planner) next() *job {
	j := &job{inFile: -1, pastEnd: -1}
	for weight := uint64(0); weight < jobBytes; {
		u, ok := p.unit()
		if !ok {
			break
		}
		weight += uint64(len(u.chunks)) * uint64(planeBytes)
		if len(u.blocks) > 0 {
			weight += (u.hi - u.lo) << p.t.g.RefcountOrder / 8
		}
		j.units = append(j.units, u)
	}
	if len(j.units) == 0 {
		return nil
	}
	j.out = make(chan []event, 2)
	return j
}

// unit gives the next unit; ok is false when there is none.
func (p *planner) unit() (u unit, ok bool) {
	chunk := ^uint64(0) // where the next one begins
	if len(p.chunks) > 0 {
		chunk = p.chunks[0].index * chunkClusters
	}
	lo := chunk
	for ; len(p.blocks) > 0; p.blocks = p.blocks[1:] {
		b := p.blocks[0]
		if p.t.end(b) <= p.pos {
			continue
		}
		if !p.known.covers(p.t, uint64(b.Offset), p.t.g.ClusterSize()) {
			lo = min(lo, max(p.pos, p.t.first(b)))
			break
		}
		// All of its refcounts are 0: it only matters where there are
		// references.
		if p.t.end(b) > chunk {
			break
		}
	}
	if lo == ^uint64(0) {
		return u, false
	}
	p.prefetch()
	lo -= lo % chunkClusters
	u = unit{lo: lo, hi: lo + p.size}
	n := sort.Search(len(p.chunks), func(i int) bool { return p.chunks[i].index*chunkClusters >= u.hi })
	u.chunks, p.chunks = p.chunks[:n], p.chunks[n:]
	n = sort.Search(len(p.blocks), func(i int) bool { return p.t.first(p.blocks[i]) >= u.hi })
	u.blocks = p.blocks[:n] // the last may go on in the next unit
	p.pos = u.hi
	return u, true
}

// references tells whether there may be references to clusters from lo to hi-1.
func (u *unit) references(lo, hi uint64) bool {
	i := sort.Search(len(u.chunks), func(i int) bool { return (u.chunks[i].index+1)*chunkClusters > lo })
	return i < len(u.chunks) && u.chunks[i].index*chunkClusters < hi
}

// first is the first cluster that a block covers, end the first after them.
func (t *Table) first(b Block) uint64 { return b.Index * t.perBlock }
func (t *Table) end(b Block) uint64   { return t.first(b) + t.perBlock }

// part is what a unit has of a refcount block.
type part struct {
	block  Block
	lo, hi uint64 // clusters
	from   uint64 // of the block's bytes
	zeros  bool   // known without reading it
	raw    []byte // nil: all zero, or not read
	err    error
}

// worker compares units, one after another.
type worker struct {
	ctx          context.Context
	t            *Table
	fileClusters uint64

	j     *job
	u     *unit
	parts []part // by cluster
	buf   []byte
	batch []event
	known dataExtent
}

func (w *worker) compare(j *job) {
	w.j = j
	defer close(j.out)
	for i := range j.units {
		w.u = &j.units[i]
		w.unit()
		if w.ctx.Err() != nil {
			return
		}
	}
	w.send()
}

// unit compares the unit that is at hand.
func (w *worker) unit() {
	u := w.u
	w.load()
	parts, chunks := w.parts, u.chunks
	for base := u.lo; base < u.hi; base += chunkClusters {
		var ch *chunk
		if len(chunks) > 0 && chunks[0].index*chunkClusters == base {
			ch, chunks = chunks[0], chunks[1:]
		}
		for len(parts) > 0 && parts[0].hi <= base {
			parts = parts[1:]
		}
		if w.ctx.Err() != nil {
			return
		}
		if len(parts) > 0 || ch != nil {
			w.chunk(base, ch, parts)
		}
	}
	w.j.inFile = max(w.j.inFile, w.highest(u.lo, min(u.hi, w.fileClusters)))
	w.j.pastEnd = max(w.j.pastEnd, w.highest(max(u.lo, w.fileClusters), u.hi))
}

// chunk compares one chunk, or the clusters of one that is not there; parts
// begins with the first that reaches into it.
func (w *worker) chunk(base uint64, ch *chunk, parts []part) {
	end := base + chunkClusters
	at := base
	for i := range parts {
		p := &parts[i]
		if p.lo >= end {
			break
		}
		lo, hi := max(p.lo, base), min(p.hi, end)
		w.gap(base, ch, at, lo)
		at = hi
		s := segment{lo: int(lo - base), hi: int(hi - base), coverage: Covered}
		if p.err != nil {
			s.coverage = Unknown
			if lo == p.lo {
				w.emit(event{failed: &blockFailure{p.block, p.err}})
			}
		} else if p.raw != nil {
			s.block = w.t.g.RefcountBlock(p.raw)
			s.shift = int(base) - int(p.lo)
		}
		w.segment(base, ch, s)
	}
	w.gap(base, ch, at, end)
}

// gap compares clusters that no usable block covers.
func (w *worker) gap(base uint64, ch *chunk, lo, hi uint64) {
	if ch == nil {
		return // neither refcounts nor references
	}
	t := w.t
	bad := t.unusable
	bad = bad[sort.Search(len(bad), func(k int) bool { return bad[k].end()*t.perBlock > lo }):]
	for ; lo < hi; bad = bad[min(1, len(bad)):] {
		from, to := hi, hi
		if len(bad) > 0 {
			from, to = min(hi, max(lo, bad[0].First*t.perBlock)), min(hi, bad[0].end()*t.perBlock)
		}
		w.segment(base, ch, segment{lo: int(lo - base), hi: int(from - base), coverage: Uncovered})
		w.segment(base, ch, segment{lo: int(from - base), hi: int(to - base), coverage: Unknown})
		lo = to
	}
}

// load reads what the unit needs of the refcount blocks, in the order of the
// file, and what lies side by side there in one go.
func (w *worker) load() {
	u, t := w.u, w.t
	w.parts = w.parts[:0]
	size := 0
	for _, b := range u.blocks {
		p := part{block: b, lo: max(u.lo, t.first(b)), hi: min(u.hi, t.end(b), t.clusters)}
		p.from = (p.lo - t.first(b)) << t.g.RefcountOrder / 8
		// Where there are references the block has hardly been left out, and reading
		// a hole costs less than asking each time whether there is one.
		p.zeros = !u.references(p.lo, p.hi) && w.known.covers(t, p.offset(), uint64(p.length(t)))
		if !p.zeros {
			size += p.length(t)
		}
		w.parts = append(w.parts, p)
	}
	if cap(w.buf) < size {
		w.buf = make([]byte, size)
	}
	inFile := make([]*part, 0, len(w.parts))
	for i := range w.parts {
		if !w.parts[i].zeros {
			inFile = append(inFile, &w.parts[i])
		}
	}
	slices.SortFunc(inFile, func(a, b *part) int { return compareUint(a.offset(), b.offset()) })

	free := w.buf[:size]
	for i := 0; i < len(inFile); {
		p := inFile[i]
		n, length := i+1, p.length(t)
		for n < len(inFile) && inFile[n].offset() == p.offset()+uint64(length) {
			length += inFile[n].length(t)
			n++
		}
		group := free[:length:length]
		free = free[length:]
		err := t.read(group, p.block, p.from)
		for _, q := range inFile[i:n] {
			q.raw, group = group[:q.length(t)], group[q.length(t):]
			if err != nil {
				q.err = err
				if n > i+1 { // perhaps it is the other's fault
					q.err = t.read(q.raw, q.block, q.from)
				}
			}
			w.j.bytes += uint64(len(q.raw))
		}
		i = n
	}
}

// offset is where the part begins in the file. It may lie where no file
// reaches, and so is only for comparing.
func (p *part) offset() uint64 { return uint64(p.block.Offset) + p.from }

// length is how many bytes the part has.
func (p *part) length(t *Table) int { return int((p.hi - p.lo) << t.g.RefcountOrder / 8) }

// dataExtent is an answer of a DataFinder: nothing is stored from asked to
// start, something from there to end.
type dataExtent struct{ asked, start, end qcow2.HostOffset }

// covers tells whether a range of the file is known to be all zeros without
// reading it. The last answer is kept for the next question.
func (e *dataExtent) covers(t *Table, offset, length uint64) bool {
	finder, ok := t.r.(DataFinder)
	if !ok || !qcow2.RangeFits(offset, length, qcow2.MaxImageLength) {
		return false
	}
	off := qcow2.HostOffset(offset)
	if off < e.asked || off >= e.end {
		*e = dataExtent{asked: off}
		e.start, e.end = finder.NextData(off)
	}
	return e.start >= off+qcow2.HostOffset(length) || e.end <= off
}

// highest gives the highest cluster from lo to hi-1 with a reference or a
// refcount, or -1.
func (w *worker) highest(lo, hi uint64) int64 {
	if lo >= hi {
		return -1
	}
	best := int64(-1)
	for i := len(w.parts) - 1; i >= 0 && best < 0; i-- {
		p := &w.parts[i]
		if p.raw == nil || p.err != nil {
			continue
		}
		from, to := max(p.lo, lo), min(p.hi, hi)
		if from >= to {
			continue
		}
		if at := lastNonZero(w.t.g.RefcountBlock(p.raw), int(from-p.lo), int(to-p.lo)); at >= 0 {
			best = int64(p.lo) + int64(at)
		}
	}
	for i := len(w.u.chunks) - 1; i >= 0; i-- {
		ch := w.u.chunks[i]
		base := ch.index * chunkClusters
		if base >= hi {
			continue
		}
		if at := ch.highestBelow(int(min(hi-base, chunkClusters))); at >= 0 && base+uint64(at) >= lo {
			return max(best, int64(base)+int64(at))
		}
		if base <= lo {
			break
		}
	}
	return best
}
