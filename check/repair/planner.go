package repair

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair/proof"
	"github.com/qcheck/qcheck/qcow2"
)

// session is one round of a repair: an image as it will be, what a check says of
// it, and the fixers that go by that.
type session struct {
	o    *overlay
	img  *qcow2.Image
	h    *qcow2.Header
	g    qcow2.Geometry
	res  *check.Result
	ev   *check.Evidence
	opts *Options
	lost *[]lostThing
	// sharers are, by place, the L1 entries that name an L2 table of which entries are to be
	// given up.
	sharers map[qcow2.HostOffset][]l1Slot
	// origin gives, by entry of the snapshot table as it will be, which one it is of the
	// table as it was; nil where both are the same.
	origin *[]problem.SnapshotRef
	// said is what the plan declares, for its proof.
	said *proof.Declared
	// first is the evidence of the first round, before anything was decided.
	first *check.Evidence
	// twins are clusters that nothing is written about, see findTwins.
	twins map[qcow2.HostCluster]bool
}

// fixer decides on what to change, and tells whether it has.
type fixer func(s *session, ctx context.Context) (changed bool, err error)

// fixers are tried in order; after one group has changed something the image is
// checked anew, so that each goes by what the ones before have left. Refcounts come
// when every reference is where it belongs, flags that say that the image is
// unclean when nothing else is left.
var fixers = [][]fixer{
	{(*session).leadToBitmaps}, // before anything is judged by where they seem to be
	{(*session).fixHeader, (*session).fixEntries},
	{(*session).fixExtensions, (*session).fixCompression},
	{(*session).reattach},     // before anything is given up
	{(*session).separateData}, // before anything that it reads is changed
	{(*session).fixBitmaps, (*session).fixSnapshots},
	{(*session).completeTables},
	{givingUp((*session).giveUpSnapshots), givingUp((*session).giveUpMappings), givingUp((*session).giveUpHeader)},
	{(*session).fixRefcounts},
	{(*session).fixCopied},
	{(*session).fixMarks},
}

// maxRounds bounds how often the image is checked while a plan is made. Findings
// are listed up to a bound in each round, so a badly damaged image takes some.
const maxRounds = 100

// findingsPerRound is how many findings of one code a round takes up, besides those
// that have been asked for. Neighbours are one.
const findingsPerRound = 1 << 17

// ErrNoProgress means that repairing does not come to an end: a fault of ours.
var ErrNoProgress = errors.New("the repair does not come to an end; nothing has been written")

// errGrown means that the file, as it would grow, comes to hold a table that lay past
// its end: what stands in its place was never checked for being one.
var errGrown = errors.New("the file would grow over a damaged table that is said to lie past its end; nothing has been written")

// grown tells whether a table of the header that ran past the end of the file before
// lies within it only because the file is longer.
func grown(before, now *check.Result, was, is *qcow2.Header) bool {
	mended := func(code problem.Code) bool { return before.Has(code) && !now.Has(code) }
	return mended(problem.RefcountTableMisplaced) && was.RefcountTableOffset == is.RefcountTableOffset && was.RefcountTableClusters == is.RefcountTableClusters ||
		mended(problem.L1Misplaced) && !before.Has(problem.FileTruncated) && was.L1TableOffset == is.L1TableOffset && was.L1Size == is.L1Size
}

// Make works out what a repair of an image of size bytes would do. Nothing is
// written. The plan for one image is always the same.
func Make(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Plan, error) {
	p, err := work(ctx, r, size, opts)
	if err == nil {
		p.Left, err = advise(ctx, r, size, opts, p)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// work makes a plan without advice.
func work(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Plan, error) {
	o := newOverlay(r, size, opts.Device)
	p := &Plan{OldSize: size}
	var first *check.Evidence
	var header qcow2.Header // of the first round
	var lost []lostThing
	var origin []problem.SnapshotRef
	var said proof.Declared
	var twins map[qcow2.HostCluster]bool
	for round := range maxRounds {
		img, err := qcow2.Open(o, o.size)
		if err != nil {
			return nil, err
		}
		o.bits = img.Geometry.ClusterBits
		res, ev, err := check.Inspect(ctx, img, opts.checkOptions())
		if err != nil {
			return nil, err
		}
		if round == 0 {
			p.Before, first, header = res, ev, img.Header
		} else if len(p.turned) == 0 && grown(p.Before, res, &header, &img.Header) {
			return nil, errGrown
		}
		after := *res
		after.Findings = ev.Findings // what advice goes by
		p.After = &after
		s := &session{o: o, img: img, h: &img.Header, g: img.Geometry, res: res, ev: ev, opts: &opts, lost: &lost, origin: &origin, said: &said, first: first, twins: twins}
		changed, err := s.step(ctx, round, p)
		twins = s.twins
		if err != nil {
			return nil, err
		}
		if changed {
			continue
		}
		if err := o.edits(&p.Edits); err != nil {
			return nil, err
		}
		p.NewSize, p.Kept = o.size, o.kept
		p.noteLost(lost)
		said.Remains = o.dropped
		if err := p.prove(ctx, r, said, first, &opts); err != nil {
			return nil, err
		}
		return p, nil
	}
	return nil, ErrNoProgress
}

// maxTurned bounds how many bits one plan turns back. One is the rule; a second one may
// only show when the rest is in order.
const maxTurned = 4

// step decides on something to change: first of all on a bit to turn back, then on
// repairs, and when there is nothing left to repair on another bit.
func (s *session) step(ctx context.Context, round int, p *Plan) (changed bool, err error) {
	if round == 0 {
		if changed, err = s.correct(ctx, p); changed || err != nil {
			return changed, err
		}
		if err = s.findTwins(ctx); err != nil {
			return false, err
		}
	}
	if changed, err = s.fix(ctx); changed || err != nil || round == 0 {
		return changed, err
	}
	if !s.opts.settled && len(p.turned) < maxTurned {
		if changed, err = s.correct(ctx, p); changed || err != nil {
			return changed, err
		}
	}
	before := len(s.twins)
	if err = s.findTwins(ctx); err != nil || len(s.twins) >= before {
		return false, err
	}
	return s.fix(ctx) // what was held back need not be any more
}

func (s *session) fix(ctx context.Context) (changed bool, err error) {
	if !s.img.GeometryOK || s.res.Has(problem.VersionUnknown) || s.res.Has(problem.FeatureUnknown) || s.res.Has(problem.HeaderCut) {
		return false, nil
	}
	for _, group := range fixers {
		for _, f := range group {
			did, err := f(s, ctx)
			if err != nil {
				return changed, err
			}
			changed = changed || did
		}
		if changed {
			return true, nil
		}
	}
	return false, nil
}

// shared tells whether two structures lie where an extent is, so that nothing may be
// written there. Those that are about to be led away, or given up, are named besides.
func (s *session) shared(x qcow2.Extent, besides ...problem.Structure) bool {
	return s.ev.Contested(x, besides...)
}

// headerShared tells whether something else is said to lie in the header.
func (s *session) headerShared(besides ...problem.Structure) bool {
	return s.shared(qcow2.Extent{Length: s.g.ClusterSize()}, besides...)
}

// lose notes what a lossy repair loses.
func (s *session) lose(format string, args ...any) {
	*s.lost = append(*s.lost, lostThing{why: fmt.Sprintf(format, args...)})
}

// bytes reads what will stand at an extent.
func (s *session) bytes(x qcow2.Extent) ([]byte, error) {
	b := make([]byte, x.Length)
	return b, s.o.read(b, int64(x.Offset))
}
