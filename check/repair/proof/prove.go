package proof

import (
	"cmp"
	"context"
	"io"
	"math/bits"
	"slices"
	"sync"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// prover compares the image that there is with the one that there would be.
type prover struct {
	kept map[string]struct{} // bitmaps, by escaped name, that have a table as before; see givenUp

	ctx     context.Context
	plan    *Plan
	allowed Allowed
	before  Before
	v       *view
	was, is *qcow2.Image
	g       qcow2.Geometry                  // of both
	lost    map[problem.SnapshotRef][]Range // in order, those that adjoin joined

	back map[problem.SnapshotRef]bool // snapshots that nothing led to, and that are back

	reattached, renamed map[qcow2.HostOffset]bool // of the plan

	refs  refcounts
	freed *set // clusters with a refcount before and none after
	// concerned are the clusters that are written, or become free.
	concerned *set
	// strange are clusters that an L1 entry leads to and that are no L2 tables of
	// its own, as the check before the repair has found.
	strange map[qcow2.HostCluster]bool
	// bad are the disks whose L1 table lies where something else is.
	bad map[problem.SnapshotRef]bool

	mu      sync.Mutex
	known   *set // clusters with an edit that were metadata before
	owned   *set // clusters with an edit, or that are freed, that something referred to before
	highest qcow2.HostCluster
}

// Prove holds that a plan for an image of size bytes is safe. An [*Error] says why it
// is not; any other error means that it could not be told.
func Prove(ctx context.Context, r io.ReaderAt, size int64, plan *Plan, allowed Allowed, before Before) error {
	p := &prover{ctx: ctx, plan: plan, allowed: allowed, before: before, known: newSet(), owned: newSet(), freed: newSet()}
	base := r
	if len(plan.Corrected) > 0 {
		base = flipped{r, plan.Corrected}
	}
	var err error
	if p.was, err = qcow2.Open(base, size); err != nil {
		return err
	}
	if p.v, err = newView(r, size, p.was.Geometry.ClusterBits, plan); err != nil {
		return err
	}
	p.concerned = newSet()
	p.concerned.join(p.v.touched)
	p.concerned.freeze()
	if !p.was.GeometryOK {
		if c, ok := p.v.touched.next(0); ok {
			return refuse(qcow2.HostOffset(c), "something is written to an image whose cluster size is not known")
		}
		return nil
	}
	if p.is, err = qcow2.Open(p.v, plan.NewSize); err != nil {
		return err
	}
	p.g = p.was.Geometry
	p.note()
	for _, step := range []func() error{
		p.leave, p.header, p.corrected, p.refcounts, p.watch, p.structures, p.disks, p.bitmaps, p.places, p.releases,
	} {
		if err := step(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// note takes from the check before the repair what is not what it seems to be, and
// sorts what is declared.
func (p *prover) note() {
	p.strange, p.bad = make(map[qcow2.HostCluster]bool), make(map[problem.SnapshotRef]bool)
	for i := range p.before.Result.Findings {
		f := &p.before.Result.Findings[i]
		overlap := f.Code.Is(problem.Overlap)
		if f.Code == problem.SnapshotsOrphaned && p.allowed.Reattach && f.Extent.Offset == qcow2.FieldSnapshotsOffset && f.Expected == problem.Hex(p.is.Header.SnapshotsOffset) {
			p.before.Snapshots = nil // the header led elsewhere
		}
		switch {
		case f.Cluster != nil && (f.Code == problem.NotAnL2Table || overlap && f.Structure == problem.StructL2Table):
			p.strange[*f.Cluster] = true
		case overlap && f.Structure == problem.StructL1Table:
			p.bad[f.Of] = true
		}
	}
	p.back = make(map[problem.SnapshotRef]bool)
	p.reattached, p.renamed = setOf(p.plan.Reattached), setOf(p.plan.Renamed)
	p.lost = make(map[problem.SnapshotRef][]Range)
	for _, r := range p.plan.Lost {
		r.Length = min(r.Length, 1<<63-min(r.Offset, 1<<63))
		p.lost[r.Of] = append(p.lost[r.Of], r)
	}
	for of, l := range p.lost {
		slices.SortFunc(l, func(a, b Range) int { return cmp.Compare(a.Offset, b.Offset) })
		joined := l[:1]
		for _, r := range l[1:] {
			last := &joined[len(joined)-1]
			if r.Offset > last.Offset+last.Length {
				joined = append(joined, r)
				continue
			}
			last.Length = max(last.Length, r.Offset+r.Length-last.Offset)
		}
		p.lost[of] = joined
	}
}

// setOf makes a set of places.
func setOf(all []qcow2.HostOffset) map[qcow2.HostOffset]bool {
	set := make(map[qcow2.HostOffset]bool, len(all))
	for _, o := range all {
		set[o] = true
	}
	return set
}

// leave holds that the user has allowed what the plan declares.
func (p *prover) leave() error {
	d := &p.plan.Declared
	if !p.allowed.DataLoss && (len(d.Lost) > 0 || len(d.Snapshots) > 0 || len(d.Renamed) > 0 || d.SnapshotTable || d.Backing || d.Behind) {
		return refuse(0, "the plan loses data without leave to do so")
	}
	if !p.allowed.Reattach && len(d.Reattached) > 0 {
		return refuse(d.Reattached[0], "the plan hangs a table back without leave to do so")
	}
	if p.plan.NewSize < p.v.baseSize {
		return refuse(qcow2.HostOffset(p.plan.NewSize), "the file becomes shorter")
	}
	return nil
}

// corrected holds that what is said to be a flipped bit is one, of metadata that
// something is wrong with, and that it is put back.
func (p *prover) corrected() error {
	for i, b := range p.plan.Corrected {
		x := qcow2.Extent{Offset: b.Offset, Length: 1}
		var now [1]byte
		switch {
		case bits.OnesCount8(b.Mask) != 1:
			return refuse(b.Offset, "a correction is not of one bit")
		case slices.ContainsFunc(p.plan.Corrected[:i], func(c Bit) bool { return c.Offset/8 == b.Offset/8 }):
			return refuse(b.Offset, "two bits of one field are called flipped")
		case !p.v.touches(x):
			return refuse(b.Offset, "a bit that is called flipped is not put back")
		case p.before.Result.Totals.Corruptions == 0 && len(p.before.Doubts) == 0:
			return refuse(b.Offset, "a bit is called flipped in an image that nothing is wrong with")
		}
		var was [1]byte
		if err := p.was.ReadAt(was[:], b.Offset); err != nil {
			return err
		}
		if err := p.is.ReadAt(now[:], b.Offset); err != nil {
			return err
		}
		if (was[0]^now[0])&b.Mask != 0 {
			return refuse(b.Offset, "a bit that is called flipped is not put back")
		}
	}
	return nil
}

// reference notes that something referred to clusters before the repair.
func (p *prover) reference(first qcow2.HostCluster, n uint64, metadata bool) {
	last := first + qcow2.HostCluster(n-1)
	concerned := p.concerned.any(first, n)
	if !concerned && !p.allowed.Device {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.highest = max(p.highest, last)
	if !concerned {
		return
	}
	p.owned.add(first, n)
	if metadata {
		p.known.add(first, n)
	}
}

// referenceExtent is reference for bytes.
func (p *prover) referenceExtent(x qcow2.Extent, metadata bool) {
	if x.Length > 0 {
		first, n := p.g.ClusterSpan(x.Offset, x.Length)
		p.reference(first, n, metadata)
	}
}

// unownedBefore tells whether nothing referred to an extent before that has a refcount. It
// is to be asked of what is watched, when all references are known.
func (p *prover) unownedBefore(x qcow2.Extent) bool {
	if !p.inFile(p.was, x) {
		return false
	}
	first, n := p.g.ClusterSpan(x.Offset, x.Length)
	if p.owned.any(first, n) {
		return false
	}
	for c := first; c < first+qcow2.HostCluster(n); c++ {
		if p.refs.free(c) {
			return false
		}
	}
	return true
}

// inFile tells whether an extent lies in a file, but for a part of its last cluster.
func (p *prover) inFile(img *qcow2.Image, x qcow2.Extent) bool {
	return uint64(x.Offset) < uint64(img.Size()) && !p.g.PastEnd(x.Offset, x.Length, img.Size())
}

// isZero tells whether a cluster of the image before the repair reads as zeros.
func (p *prover) isZero(c qcow2.HostCluster) bool {
	zero, err := p.was.IsZero(qcow2.Extent{Offset: p.g.HostOffset(c), Length: p.g.ClusterSize()})
	return zero && err == nil
}

// places holds that only what may be written is.
func (p *prover) places() (err error) {
	p.known.freeze()
	p.owned.freeze()
	end := qcow2.HostCluster(p.g.Clusters(uint64(p.was.Size())))
	for c := range p.v.touched.all {
		switch at := p.g.HostOffset(c); {
		case p.known.has(c), c >= end:
		case p.owned.has(c):
			return refuse(at, "cluster %d, which is in use, is written over", c)
		case !p.refs.free(c) && !(p.allowed.Device && c > p.highest):
			return refuse(at, "cluster %d, which is not free, is written over", c)
		}
	}
	return nil
}

// releases holds that nothing is freed that may belong to something.
func (p *prover) releases() error {
	var doubt *check.Doubt
	for i := range p.before.Doubts {
		if d := &p.before.Doubts[i]; !p.settled(d) {
			doubt = d
			break
		}
	}
	// With refcounts that are not to be believed, or with doubts, nothing is called a leak.
	has := p.before.Result.Has
	called := len(p.before.Doubts) > 0 || has(problem.RefcountTooHigh) || has(problem.RefcountEntryUnaligned) || has(problem.RefcountEntryPastEnd) || has(problem.RefcountBlockOverlap) || has(problem.RefcountTableMisplaced)
	if called && doubt == nil {
		return nil
	}
	remains, unowned := p.remains(), uint64(0)
	for c := range p.freed.all {
		if p.owned.has(c) || remains.has(c) || p.isZero(c) {
			continue // what referred to it does not any more, which has been proven to be right
		}
		if doubt != nil && p.allowed.Unowned && unowned < p.plan.Unowned {
			unowned++
			continue
		}
		if doubt != nil {
			return refuse(p.g.HostOffset(c), "cluster %d, which holds data, becomes free, and may belong to %v: %s", c, doubt.Owner, doubt.Why)
		}
		if !called && p.refs.sure(c) {
			return refuse(p.g.HostOffset(c), "cluster %d, which holds data, becomes free, and was not called a leak", c)
		}
	}
	return nil
}

// settled tells that what is in doubt owns nothing that is needed: refcount structures
// never do, and what the plan gives up does not any more.
func (p *prover) settled(d *check.Doubt) bool {
	lost := &p.plan.Declared
	if d.Owner.Structure == problem.StructL1Table && p.back[d.Owner.Of] && d.Owner.Ref.Length == 0 {
		return true // it was lost, and is not any more
	}
	switch o := &d.Owner; o.Structure {
	case problem.StructRefcountTable, problem.StructRefcountBlock:
		return true
	case problem.StructL1Table, problem.StructL2Table, problem.StructDataCluster, problem.StructSnapshotTable:
		if !p.allowed.DataLoss {
			return false
		}
		if o.Structure == problem.StructDataCluster && o.Ref.Length == 0 {
			return len(p.lost[o.Of]) > 0
		}
		pointer := o.Ref.Length > 0 && p.v.touches(o.Ref)
		return pointer && len(lost.Lost)+len(lost.Snapshots) > 0 || o.Structure == problem.StructSnapshotTable && (lost.SnapshotTable || len(lost.Snapshots)+len(lost.Renamed) > 0)
	case problem.StructBitmapTable, problem.StructBitmapData:
		return o.Bitmap != "" && p.givenUp(o.Bitmap)
	case problem.StructBitmapDirectory, problem.StructBitmapExtension:
		return p.allowed.Bitmaps
	}
	return false
}
