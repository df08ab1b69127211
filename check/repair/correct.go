package repair

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The format says most things twice or three times: a cluster that lacks a reference is
// one bit away from one that has a reference too many; COPIED goes by the refcount; the
// size of the disk makes the size of its L1 table and those of its bitmaps. So a single
// bit that has flipped can mostly be told, and turned back.
//
// Before any other repair is thought of, every bit that may have flipped is turned, one
// at a time, and the image is checked as it would be. A bit is the one where with it, and
// with no other, everything agrees: no corruption, nothing in doubt, and nothing that was
// not there before. Where none is, fields are tried whose value follows from others. With
// several that make everything agree nothing is decided here, unless more speaks for one
// of them (see [corrector.choose]).
//
// What is tried is bounded by the bytes that are read for it, and not by time, so that
// the plan for one image is always the same.

const (
	// trialsRead is how many times the metadata may be read in all, trialsBytes what
	// may be read besides, and trialCost what a trial counts for at least, in bytes.
	trialsRead  = 8
	trialsBytes = 16 << 20
	trialCost   = 8 << 10
	// smallMetadata is up to how many bytes of metadata every bit of the fixed
	// structures is tried, whatever is wrong.
	smallMetadata = 4 << 20
)

// corrector looks for the one change that makes an image agree with itself.
type corrector struct {
	*session
	before imbalance
	// known are the findings of before that may stay.
	known map[findingPlace]bool
	// mild tells that nothing worse than warnings was found, and odd how much is.
	mild bool
	odd  int
	// reach is what all that is wrong may be due to.
	reach reach
	own   []ownPlace
	// read is what trials have read so far, and limit what they may.
	read, limit, full uint64

	tried map[string]bool // patches by what they write where
	list  []patch
	found []solution
}

// patch is a change of a few bytes.
type patch struct {
	at       qcow2.HostOffset
	old, new []byte
	what     string // that the bytes are
	kind     placeKind
	whole    bool           // not one bit but a field
	tail     bool           // bits behind the last one of a bitmap, which stay as they are
	codes    []problem.Code // of what it settles
}

// solution is a patch with which everything agrees.
type solution struct {
	patch
	oddities int
}

// findingPlace tells findings apart.
type findingPlace struct {
	code             problem.Code
	extent           qcow2.Extent
	snapshot, bitmap string
}

func placeOf(f *problem.Finding) findingPlace {
	return findingPlace{f.Code, f.Extent, f.Snapshot, f.Bitmap}
}

// correct turns back the one bit, or sets the one field, with which everything agrees, if
// there is one.
func (s *session) correct(ctx context.Context, p *Plan) (changed bool, err error) {
	if s.opts.settled {
		p.turned = s.opts.turned
		for i := range p.turned {
			if err := s.turn(&p.turned[i]); err != nil {
				return false, err
			}
		}
		return len(p.turned) > 0, nil
	}
	if s.opts.scope() == ScopeLeaks || s.res.Totals.Errors > 0 || s.headerUnknown() {
		return false, nil
	}
	c := &corrector{session: s, tried: make(map[string]bool), known: make(map[findingPlace]bool)}
	if !c.wanted() {
		return false, nil
	}
	best, err := c.search(ctx)
	p.sizeOpen, p.open = s.opts.sizeOpen, s.opts.open
	if err != nil || best == nil || !c.scoped(best) || c.resized(best) || best.tail || !c.untouched(best) {
		return false, err
	}
	best.codes = c.codes()
	p.turned = append(p.turned, *best)
	return true, s.turn(best)
}

// untouched tells that bytes are still those of the file: the proof of a plan goes by the
// file with its bits turned back.
func (c *corrector) untouched(p *patch) bool {
	was := make([]byte, len(p.old))
	n, err := c.o.base.ReadAt(was, int64(p.at))
	return n == len(was) && (err == nil || err == io.EOF) && bytes.Equal(was, p.old)
}

// turn decides on a patch.
func (s *session) turn(p *patch) error {
	return s.o.write(p.at, p.new, intent{reason: p.reason(), codes: p.codes})
}

// search gives the patch with which everything agrees.
func (c *corrector) search(ctx context.Context) (*patch, error) {
	if err := c.balance(ctx); err != nil {
		return nil, err
	}
	c.narrow()
	if c.mild && c.img.GeometryOK {
		c.odd = c.oddities(c.img, c.res, c.ev, len(c.before.high))
	}
	c.full = c.metadataRead()
	c.limit = trialsBytes + trialsRead*c.full
	if err := c.listBits(ctx); err != nil {
		return nil, err
	}
	whole, err := c.tryAll(ctx)
	if err == nil && whole && len(c.found) == 0 {
		c.list = nil
		c.listFields()
		whole, err = c.tryAll(ctx)
	}
	if err != nil {
		return nil, err
	}
	if !whole {
		c.keepOpen(true)
		return nil, nil
	}
	best, ok, err := c.choose()
	if err != nil || !ok {
		c.keepOpen(false)
		return nil, err
	}
	return &best.patch, nil
}

// keepOpen notes what must stay as it is, since nobody knows which of several bits it was:
// of those that were found, or of any where not all could be tried.
func (c *corrector) keepOpen(any bool) {
	c.opts.sizeOpen = c.opts.sizeOpen || any
	for i := range c.found {
		c.opts.sizeOpen = c.opts.sizeOpen || c.found[i].at&^7 == qcow2.FieldSize
	}
	shared := any && (len(c.ev.Doubts) > 0 || c.res.Has(problem.DataShared))
	if (shared || len(c.found) > 1) && len(c.before.low) <= fewWrong {
		for _, d := range c.before.low {
			c.opts.open = append(c.opts.open, d.cluster)
		}
	}
}

// headerUnknown tells of an image of a later version of the format, of which nobody
// knows what agrees.
func (s *session) headerUnknown() bool {
	return !s.h.Known() || s.res.Verdict == check.VerdictUnsupported
}

// wanted tells whether something is wrong that one bit may be the cause of.
func (c *corrector) wanted() bool {
	severe, mild := len(c.ev.Doubts) > 0, false
	for i := range c.ev.Findings {
		f := &c.ev.Findings[i]
		if f.Severity < problem.InDoubt {
			c.known[placeOf(f)] = true
		}
		switch {
		case c.severe(f):
			severe = true
		case f.Code == problem.BitmapExtraData, f.Code == problem.DataShared, f.Code == problem.MappedPastDisk, f.Code == problem.BitmapTrailingBits:
			mild = true
		case f.Code == problem.SnapshotIDAmbiguous:
			mild = mild || c.oddNames()
		}
	}
	c.mild = !severe
	return severe || mild
}

// severe tells of a finding that cannot be there while everything agrees.
func (c *corrector) severe(f *problem.Finding) bool {
	if bearable(f) || f.Severity == problem.Note || f.Code == problem.RefcountTooHigh {
		return false
	}
	return f.Code == problem.OrphanL2Table || f.Code == problem.OwnerUnknown || f.Severity >= problem.InDoubt
}

// oddNames tells that a snapshot has a name that none has.
func (c *corrector) oddNames() bool {
	return slices.ContainsFunc(c.ev.Snapshots, func(s qcow2.Snapshot) bool { return len(s.ID) == 0 || oddText(s.ID) || oddText(s.Name) })
}

// bearable tells of a finding that says nothing about whether the metadata agrees: marks
// of a writer, other files, and what only a look at all data shows.
func bearable(f *problem.Finding) bool {
	switch f.Code {
	case problem.MarkedDirty, problem.MarkedCorrupt, problem.DataFileMissing, problem.DataFileUnnamed, problem.BackingUnreadable, problem.BackingFormatMissing, problem.BackingFormatWrong,
		problem.CompressedUnreadable, problem.ClusterNotStored, problem.BitmapDataUniform, problem.BitmapDataUnreadable:
		return true
	}
	return false
}

// metadataRead is about how many bytes a check of the image reads.
func (c *corrector) metadataRead() uint64 {
	n := uint64(len(c.ev.Blocks)) + c.ev.Tables()
	return trialCost + n*c.g.ClusterSize()
}

// scoped tells whether a patch is of what the repair is for.
func (c *corrector) scoped(p *patch) bool {
	switch c.opts.scope() {
	case ScopeBitmaps:
		return p.kind == placeBitmaps
	case ScopeRefcounts:
		return p.kind == placeRefcounts
	}
	return true
}

// codes are those of all that was wrong.
func (c *corrector) codes() (codes []problem.Code) {
	for i := range c.ev.Findings {
		if f := &c.ev.Findings[i]; f.Severity != problem.Note && !bearable(f) {
			codes = append(codes, f.Code)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func (p *patch) reason() string {
	if p.whole {
		return fmt.Sprintf("a field that everything else contradicts at %v (%s): from 0x%x to 0x%x", p.at, p.what, p.old, p.new)
	}
	i, bit := p.flipped()
	return fmt.Sprintf("one flipped bit at %v (%s): bit %d of the byte", p.at+qcow2.HostOffset(i), p.what, bit)
}

// flipped gives the index of the byte, and the number of the bit, that a patch turns.
func (p *patch) flipped() (i, bit int) {
	for i := range p.old {
		if d := p.old[i] ^ p.new[i]; d != 0 {
			for d>>bit&1 == 0 {
				bit++
			}
			return i, bit
		}
	}
	return 0, 0
}

// tryAll tries every patch of the list; whole is false where that would be too much.
func (c *corrector) tryAll(ctx context.Context) (whole bool, err error) {
	for i := range c.list {
		p := &c.list[i]
		key := fmt.Sprint(uint64(p.at), p.new)
		if c.tried[key] || bytes.Equal(p.old, p.new) || c.saysMore(p) {
			continue
		}
		c.tried[key] = true
		if c.read > c.limit {
			return false, nil
		}
		oddities, ok, err := c.try(ctx, p)
		if err != nil {
			return false, err
		}
		if ok {
			c.found = append(c.found, solution{*p, oddities})
		}
		if len(c.found) > maxSolutions {
			return false, nil
		}
	}
	return true, nil
}

// saysMore tells that a patch is of a mark that a writer sets, and nothing follows from: what it says of
// the past, nobody else does. With the mark gone a bitmap that has missed writes would be
// used, and refcounts would be allowed to be wrong.
func (c *corrector) saysMore(p *patch) bool {
	changes := func(field qcow2.HostOffset, length int, mask uint64) bool {
		for i := range p.new {
			at := int64(p.at) + int64(i) - int64(field)
			if at < 0 || at >= int64(length) {
				continue
			}
			if shift := 8 * (length - 1 - int(at)); uint64(p.old[i]^p.new[i])<<shift&mask != 0 {
				return true
			}
		}
		return false
	}
	if c.h.Version > 2 && (changes(qcow2.FieldIncompatibleFeatures, 8, uint64(qcow2.IncompatDirty|qcow2.IncompatCorrupt)) ||
		changes(qcow2.FieldAutoclearFeatures, 8, uint64(qcow2.AutoclearBitmaps))) {
		return true
	}
	for i := range c.ev.Bitmaps {
		if changes(c.ev.Bitmaps[i].EntryOffset+qcow2.BitmapFieldFlags, 4, uint64(qcow2.BitmapInUse)) {
			return true
		}
	}
	return false
}

// resized tells that a patch is of the granularity of a bitmap whose table is as long as
// for another size of the disk. The disk may have been resized: [session.fixBitmaps]
// knows what more it takes.
func (c *corrector) resized(p *patch) bool {
	return c.res.Has(problem.BitmapSizeMismatch) && slices.ContainsFunc(c.ev.Bitmaps, func(b qcow2.BitmapEntry) bool {
		return p.at == b.EntryOffset+qcow2.BitmapFieldGranularityBits
	})
}

// maxSolutions is with how many patches that all make everything agree there is no point
// in trying more.
const maxSolutions = 256

// choose gives the one patch with which everything agrees. Of several, the one is taken
// with which the image has least that is legal but odd.
func (c *corrector) choose() (best *solution, ok bool, err error) {
	if len(c.found) == 0 {
		return nil, false, nil
	}
	slices.SortStableFunc(c.found, func(a, b solution) int { return cmp.Compare(a.oddities, b.oddities) })
	rivals := c.found
	for i := range rivals {
		if rivals[i].oddities > rivals[0].oddities {
			rivals = rivals[:i]
			break
		}
	}
	if len(rivals) == 1 {
		return &rivals[0], true, nil
	}
	return c.decide(rivals)
}
