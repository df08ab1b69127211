package repair

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// raiseAndRelease adds an edit of refcounts of the given width in two steps: first
// every refcount becomes the larger of old and new, later the new one.
func raiseAndRelease(out *Edits, e Edit, width uint) error {
	// Whole entries, in pieces that the codec takes.
	order := uint(0)
	for 1<<order < width {
		order++
	}
	raise := e
	raise.Stage = StageRaise
	var small [64]byte // most are no longer
	raise.New = append(small[:0], e.Old...)
	old := qcow2.RefcountBlock{Raw: e.Old, Order: order}
	will := qcow2.RefcountBlock{Raw: e.New, Order: order}
	up := qcow2.RefcountBlock{Raw: raise.New, Order: order}
	raised, lowered := false, false
	for i := range old.Len() {
		a, b := old.Get(i), will.Get(i)
		if b > a {
			up.Set(i, b)
			raised = true
		}
		lowered = lowered || b < a
	}
	if raised || !lowered {
		raise.Reason, raise.Codes = "raise refcounts to the number of references", codesRaise
		if err := out.Add(raise); err != nil || !lowered {
			return err
		}
	}
	release := e
	release.Stage = StageRelease
	release.Reason, release.Codes = "lower refcounts to the number of references", codesRelease
	release.Old = raise.New
	return out.Add(release)
}

var codesRaise, codesRelease = []problem.Code{problem.RefcountTooLow}, []problem.Code{problem.RefcountTooHigh}

// refcounter makes the refcounts what the references are.
type refcounter struct {
	*session
	alloc *allocator
	doubt bool // something may own clusters that nobody could find
	// doubtBefore: so it was before the repair began, with a part of a disk.
	doubtBefore bool
	freed       freedClusters
	// doubted tells that there was such a thing before the repair, and that the repair
	// has not given it up, whatever else it has changed.
	doubted bool
	// moving tells that one of the blocks that are not believed lies on the table,
	// which has to be written elsewhere then, and stuck that something else does:
	// the table stays as it is.
	moving, stuck bool

	// blocks of the refcount table as it will be, by index.
	blocks map[uint64]qcow2.HostOffset
	made   []uint64 // indexes of blocks that are new
	block  openBlock
}

// fixRefcounts mends refcounts in place, makes blocks where there are none, and a
// new refcount table where the old one cannot be used or is too short.
func (s *session) fixRefcounts(ctx context.Context) (changed bool, err error) {
	if !s.ev.Complete || !s.h.RefcountOrderOK() {
		return false, nil
	}
	r := &refcounter{
		session: s, alloc: newAllocator(s), doubt: s.inDoubt(), doubtBefore: slices.ContainsFunc(s.first.Doubts, ofDisk), doubted: s.stillDoubted(),
		blocks: make(map[uint64]qcow2.HostOffset),
	}
	s.o.kept = false
	r.dropLeftOfBitmaps()
	if s.ev.Table == nil || !s.ev.RefTableUsable() {
		if !s.opts.errors() || s.headerShared() {
			return false, nil
		}
		return worked(r.rebuild())
	}
	for _, b := range s.ev.Blocks {
		r.blocks[b.Index] = b.Offset
	}
	table := qcow2.Extent{Offset: s.h.RefcountTableOffset, Length: uint64(s.h.RefcountTableClusters) * s.g.ClusterSize()}
	r.moving = s.shared(table)
	r.stuck = s.shared(table, problem.StructRefcountBlock) || s.headerShared()
	return r.mend(ctx)
}

// dropLeftOfBitmaps gives back what bitmaps had that were given up, and that nothing leads
// to any more: whatever else is in doubt, it is theirs.
func (r *refcounter) dropLeftOfBitmaps() {
	if !r.o.bitmapsGone {
		return
	}
	for _, run := range r.ev.LeftOfBitmaps() {
		for i := range run.N {
			if cl := run.First + qcow2.HostCluster(i); r.ev.Counts.Get(cl) == 0 {
				r.o.dropped[cl] = struct{}{}
			}
		}
	}
}

// inDoubt tells whether something may own clusters that nobody could find. The
// refcount structures themselves own nothing that is needed once they are made
// anew.
func (s *session) inDoubt() bool {
	return slices.ContainsFunc(s.ev.Doubts, func(d check.Doubt) bool {
		return d.Owner.Structure != problem.StructRefcountTable && d.Owner.Structure != problem.StructRefcountBlock
	})
}

// stillDoubted tells whether something that may own clusters was in doubt before the
// repair and is not given up. That one of two structures in a place was led away does not tell which
// of them has lost its own.
func (s *session) stillDoubted() bool {
	return slices.ContainsFunc(s.first.Doubts, func(d check.Doubt) bool {
		switch o := &d.Owner; o.Structure {
		case problem.StructL1Table, problem.StructL2Table, problem.StructDataCluster:
			if o.Structure == problem.StructDataCluster && o.Ref.Length == 0 {
				return !s.losing() || !slices.ContainsFunc(*s.lost, func(l lostThing) bool { return l.guest != nil && l.guest.Snapshot == o.Snapshot })
			}
			return !s.losing() || len(*s.lost) == 0 || !s.o.wrote(o.Ref)
		case problem.StructSnapshotTable:
			return !s.losing() || len(*s.lost) == 0
		case problem.StructBitmapDirectory, problem.StructBitmapExtension:
			return s.opts.policy() == PolicyMark
		case problem.StructRefcountTable, problem.StructRefcountBlock, problem.StructBitmapTable, problem.StructBitmapData:
			return false
		}
		return true
	})
}

// mend compares, and writes every refcount that is wrong where it stands.
func (r *refcounter) mend(ctx context.Context) (bool, error) {
	changed := false
	var failed error
	bad := make(map[uint64]bool) // blocks to be made
	_, err := refcount.Compare(ctx, r.ev.Counts, r.ev.Table, refcount.CompareOptions{
		Jobs: r.opts.Jobs,
		Diff: func(d refcount.Diff) {
			if failed != nil {
				return
			}
			if d.Coverage != refcount.Covered {
				if d.References > 0 && r.wanted(d.First) {
					for i := uint64(d.First) / r.per(); i <= (uint64(d.First)+d.N-1)/r.per(); i++ {
						bad[i] = true
					}
				}
				return
			}
			ok, err := r.set(d)
			changed = changed || ok
			failed = err
		},
	})
	if err == nil {
		err = failed
	}
	if err == nil {
		err = r.flush()
	}
	r.declareFreed()
	if err != nil {
		return changed, err
	}
	if r.stuck {
		return changed, nil
	}
	unusable := r.ev.UnusableEntries()
	if r.opts.errors() && len(unusable) > 0 {
		changed = true
		if err := r.sortOut(unusable, bad); err != nil {
			return changed, err
		}
	}
	if len(bad) == 0 && !(r.moving && r.opts.errors() && len(unusable) > 0) {
		return changed, nil
	}
	did, err := worked(r.makeBlocks(bad))
	return changed || did, err
}

// errTableTooLarge means that the refcounts that are needed take a larger table than
// QEMU accepts.
var errTableTooLarge = errors.New("the refcount table would be too large")

// worked tells whether something was changed: not where nothing can be done.
func worked(err error) (bool, error) {
	if errors.Is(err, errTableTooLarge) {
		return false, nil
	}
	return err == nil, err
}

// sortOut decides on entries of the refcount table that lead to no block: one that
// references need is made anew, the others are cleared. So a table full of wild
// entries does not make the file any longer.
func (r *refcounter) sortOut(unusable []uint64, bad map[uint64]bool) error {
	needed := r.neededBlocks()
	last := uint64(r.alloc.end-1) / r.per()
	for _, i := range unusable {
		if needed[i] || r.doubt && i <= last {
			bad[i] = true
			continue
		}
		if r.moving {
			continue // the new table does not have it
		}
		if err := r.o.write(r.h.RefcountTableOffset+qcow2.HostOffset(i*8), make([]byte, 8), intent{
			reason: "no refcount block is needed here", codes: []problem.Code{problem.RefcountEntryUnaligned, problem.RefcountEntryPastEnd, problem.RefcountBlockOverlap}}); err != nil {
			return err
		}
	}
	return nil
}

// neededBlocks gives the indexes of the blocks that references need.
func (r *refcounter) neededBlocks() map[uint64]bool {
	needed := make(map[uint64]bool)
	for run := range r.ev.Counts.Runs(1) {
		for i := uint64(run.First) / r.per(); i <= (uint64(run.First)+run.N-1)/r.per(); i++ {
			needed[i] = true
		}
	}
	return needed
}

func (r *refcounter) per() uint64 { return r.g.RefcountBlockEntries() }

// set changes the refcounts of a run of clusters that blocks cover. What is changed is
// written when the next block comes up, see [refcounter.flush].
func (r *refcounter) set(d refcount.Diff) (changed bool, err error) {
	lowers := d.Refcount > d.References
	if lowers && r.doubt && len(r.o.dropped) == 0 && !r.opts.FreeUnowned || !lowers && !r.wanted(d.First) || d.References > qcow2.MaxRefcount(r.g.RefcountOrder) {
		return false, nil
	}
	for n := uint64(0); n < d.N; {
		cl := uint64(d.First) + n
		index, entry := cl/r.per(), cl%r.per()
		k := min(d.N-n, r.per()-entry)
		n += k
		if err := r.load(index); err != nil {
			return changed, err
		}
		if r.block.shared {
			continue
		}
		b := r.g.RefcountBlock(r.block.raw)
		for i := entry; i < entry+k; i++ {
			cl := qcow2.HostCluster(index*r.per() + i)
			if lowers && !r.mayLower(cl, d) || !lowers && r.twins[cl] {
				continue
			}
			if lowers && (r.doubt || r.o.gaveUp) {
				r.noteFreed(cl, d)
			}
			b.Set(int(i), d.References)
			changed, r.block.changed = true, true
		}
	}
	return changed, nil
}

// mayLower tells whether the refcount of a cluster that has fewer references is lowered.
func (r *refcounter) mayLower(cl qcow2.HostCluster, d refcount.Diff) bool {
	_, dropped := r.o.dropped[cl]
	switch {
	case dropped || r.opts.FreeUnowned:
	case r.opts.KeepUnowned && d.References == 0 && r.first.Counts.Get(cl) == 0 && r.holdsData(cl):
		r.o.kept = true
		return false
	case r.doubted && d.References == 0 && r.first.Counts.Get(cl) == 0 && !r.isZero(cl):
		r.o.kept = r.o.kept || !r.doubt && r.holdsData(cl)
		return false
	case r.doubt:
		return false
	case r.spared(cl, d):
		r.o.kept = r.o.kept || r.holdsData(cl)
		return false
	}
	return !r.ev.Reserved(cl) && (r.opts.leaks() || dropped || r.first.Counts.Get(cl) != r.ev.Counts.Get(cl))
}

// holdsData tells whether a cluster of the file holds something other than zeros.
func (r *refcounter) holdsData(cl qcow2.HostCluster) bool {
	return uint64(r.g.HostOffset(cl)) < uint64(r.img.Size()) && !r.isZero(cl)
}

// isZero tells whether a cluster reads as zeros.
func (r *refcounter) isZero(cl qcow2.HostCluster) bool {
	zero, err := r.img.IsZero(qcow2.Extent{Offset: r.g.HostOffset(cl), Length: r.g.ClusterSize()})
	return zero && err == nil
}

// openBlock is the refcount block that is being changed.
type openBlock struct {
	index                 uint64
	raw                   []byte
	open, shared, changed bool
}

// load makes a block the one that is being changed.
func (r *refcounter) load(index uint64) error {
	b := &r.block
	if b.open && b.index == index {
		return nil
	}
	if err := r.flush(); err != nil {
		return err
	}
	x := qcow2.Extent{Offset: r.blocks[index], Length: r.g.ClusterSize()}
	b.index, b.open, b.shared = index, true, r.shared(x)
	if b.shared {
		return nil
	}
	if b.raw == nil {
		b.raw = make([]byte, x.Length)
	}
	return r.o.read(b.raw, int64(x.Offset))
}

// flush writes what was changed of a block.
func (r *refcounter) flush() error {
	b := &r.block
	changed := b.open && b.changed
	b.open, b.changed = false, false
	if !changed {
		return nil
	}
	return r.o.write(r.blocks[b.index], b.raw, intent{
		reason: "set refcounts to the number of references", codes: []problem.Code{problem.RefcountTooLow, problem.RefcountTooHigh}, refcounts: r.g.RefcountBits(),
	})
}

// makeBlocks makes the given blocks anew, in fresh clusters, and the table that
// names them.
func (r *refcounter) makeBlocks(bad map[uint64]bool) error {
	entries := uint64(r.h.RefcountTableClusters) * r.g.ClusterSize() / 8
	grown := false
	todo := slices.Sorted(maps.Keys(bad)) // or else no two plans would be the same
	highest := uint64(0)
	// A new block takes a cluster, whose own refcount may need another block.
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		off, err := r.alloc.take(1)
		if err != nil {
			return err
		}
		r.blocks[i] = off
		r.made = append(r.made, i)
		highest = max(highest, i)
		if own := uint64(r.g.HostCluster(off)) / r.per(); !bad[own] {
			if _, there := r.blocks[own]; !there {
				bad[own] = true
				todo = append(todo, own)
			}
		}
	}
	grown = highest >= entries || r.moving
	// A table larger than QEMU takes helps nobody: the image stays as it is.
	if behind := uint64(r.alloc.end) / r.per(); grown && max(highest, behind)+2 > qcow2.MaxRefcountTableSize/8 {
		return errTableTooLarge
	}
	for _, i := range r.made {
		if err := r.writeBlock(i); err != nil {
			return err
		}
	}
	if grown {
		return r.writeTable()
	}
	for _, i := range r.made {
		var e [8]byte
		binary.BigEndian.PutUint64(e[:], uint64(r.blocks[i]))
		err := r.o.write(r.h.RefcountTableOffset+qcow2.HostOffset(i*8), e[:], intent{
			reason: "name the new refcount block", codes: []problem.Code{problem.RefcountEntryReserved, problem.RefcountEntryUnaligned, problem.RefcountEntryPastEnd, problem.RefcountBlockOverlap, problem.RefcountMissing}})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeBlock fills a new block with the references that were found. What the
// repair itself takes is counted by the next round.
func (r *refcounter) writeBlock(index uint64) error {
	raw := make([]byte, r.g.ClusterSize())
	b := r.g.RefcountBlock(raw)
	most := qcow2.MaxRefcount(r.g.RefcountOrder)
	for i := range b.Len() {
		cl := qcow2.HostCluster(index*r.per() + uint64(i))
		refs := r.ev.Counts.Get(cl)
		if refs == 0 && r.keep(cl) {
			refs = 1
		}
		if refs > most {
			return fmt.Errorf("cluster %d has %d references, more than refcounts of %d bits can hold: make a copy of the image with wider refcounts (qemu-img convert -o refcount_bits=64)",
				cl, refs, r.g.RefcountBits())
		}
		b.Set(i, refs)
	}
	return r.o.write(r.blocks[index], raw, intent{reason: "a new refcount block", codes: []problem.Code{problem.RefcountMissing}})
}

// keep tells that a cluster without a reference must count as used in a new
// block: the repair has just taken it, or something that is in doubt may own it.
func (r *refcounter) keep(cl qcow2.HostCluster) bool {
	if _, fresh := r.o.fresh[cl]; fresh || r.ev.Reserved(cl) {
		return true
	}
	return (r.doubt || r.doubted && r.first.Counts.Get(cl) == 0) && cl < r.alloc.end && !r.img.IsHole(r.g.HostOffset(cl), r.g.ClusterSize())
}

// wanted tells whether the refcount of a cluster is one that was asked for: with a
// narrow scope only those that the repair itself makes wrong.
func (r *refcounter) wanted(cl qcow2.HostCluster) bool {
	return r.opts.errors() || r.first.Counts.Get(cl) != r.ev.Counts.Get(cl)
}

// rebuild makes the whole structure anew from the references.
func (r *refcounter) rebuild() error {
	bad := r.neededBlocks()
	clear(r.blocks)
	r.h.RefcountTableClusters = 0 // every block is past the end of this table
	return r.makeBlocks(bad)
}

// writeTable writes a new refcount table and makes the header name it.
func (r *refcounter) writeTable() error {
	highest := uint64(0)
	for i := range r.blocks {
		highest = max(highest, i)
	}
	for n := r.g.Clusters((highest + 1) * 8); ; {
		if n*r.g.ClusterSize() > qcow2.MaxRefcountTableSize {
			return ErrNoProgress // makeBlocks has seen to it that this does not happen
		}
		off, err := r.alloc.take(n)
		if err != nil {
			return err
		}
		// The table's own clusters must be covered.
		last := uint64(r.g.HostCluster(off)) + n - 1
		for i := uint64(r.g.HostCluster(off)) / r.per(); i <= last/r.per(); i++ {
			if _, there := r.blocks[i]; there {
				continue
			}
			block, err := r.alloc.take(1)
			if err != nil {
				return err
			}
			r.blocks[i] = block
			r.made = append(r.made, i)
			highest = max(highest, i)
		}
		if highest >= n*r.g.ClusterSize()/8 {
			// Behind the end of a long file a table that was long enough for all that
			// was there is not for itself: with room for what comes after this one.
			n = r.g.Clusters((max(highest, (uint64(r.alloc.end)+2*n)/r.per()) + 2) * 8)
			continue
		}
		raw := make([]byte, n*r.g.ClusterSize())
		for i, at := range r.blocks {
			binary.BigEndian.PutUint64(raw[i*8:], uint64(at))
		}
		for _, i := range r.made { // with what has been taken since
			if err := r.writeBlock(i); err != nil {
				return err
			}
		}
		if err := r.o.write(off, raw, intent{reason: "a new refcount table", codes: []problem.Code{problem.RefcountTableMisplaced, problem.RefcountMissing}}); err != nil {
			return err
		}
		var fields [12]byte
		binary.BigEndian.PutUint64(fields[:], uint64(off))
		binary.BigEndian.PutUint32(fields[8:], uint32(n))
		return r.o.write(qcow2.FieldRefcountTableOffset, fields[:], intent{reason: "use the new refcount table", codes: []problem.Code{problem.RefcountTableMisplaced, problem.RefcountMissing}})
	}
}
