package repair

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/qcheck/qcheck/check"
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
	lost *[]string
	// first is the evidence of the first round, before anything was decided.
	first *check.Evidence
}

// fixer decides on what to change, and tells whether it has.
type fixer func(s *session, ctx context.Context) (changed bool, err error)

// fixers are tried in order; after one group has changed something the image is
// checked anew, so that each goes by what the ones before have left. Refcounts come
// when every reference is where it belongs, flags that say that the image is
// unclean when nothing else is left.
var fixers = [][]fixer{
	{(*session).fixHeader, (*session).fixEntries},
	{(*session).fixBitmaps, (*session).fixSnapshots},
	{(*session).fixRefcounts},
	{(*session).fixCopied},
	{(*session).fixMarks},
}

// maxRounds bounds how often the image is checked while a plan is made. Findings
// are listed up to a bound in each round, so a badly damaged image takes some.
const maxRounds = 100

// findingsPerRound is how many findings of one code a round takes up.
const findingsPerRound = 1 << 17

// ErrNoProgress means that repairing does not come to an end: a fault of ours.
var ErrNoProgress = errors.New("the repair does not come to an end; nothing has been written")

// Make works out what a repair of an image of size bytes would do. Nothing is
// written. The plan for one image is always the same.
func Make(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Plan, error) {
	o := newOverlay(r, size, opts.Device)
	p := &Plan{OldSize: size}
	var first *check.Evidence
	for round := range maxRounds {
		img, err := qcow2.Open(o, o.size)
		if err != nil {
			return nil, err
		}
		o.bits = img.Geometry.ClusterBits
		res, ev, err := check.Inspect(ctx, img, check.Options{
			Jobs: opts.Jobs, MemoryLimit: opts.MemoryLimit, MaxFindings: findingsPerRound, OpenSibling: opts.OpenSibling, BitmapData: opts.CompactBitmaps,
		})
		if err != nil {
			return nil, err
		}
		if round == 0 {
			p.Before, first = res, ev
		}
		p.After = res
		s := &session{o: o, img: img, h: &img.Header, g: img.Geometry, res: res, ev: ev, opts: &opts, lost: &p.Lost, first: first}
		changed, err := s.fix(ctx)
		if err != nil {
			return nil, err
		}
		if changed {
			continue
		}
		if s.entangled() {
			// Whatever has been decided would be half a repair.
			return &Plan{OldSize: size, NewSize: size, Before: p.Before, After: p.Before}, nil
		}
		if p.Edits, err = o.edits(); err != nil {
			return nil, err
		}
		p.NewSize = o.size
		return p, nil
	}
	return nil, ErrNoProgress
}

func (s *session) fix(ctx context.Context) (changed bool, err error) {
	if !s.img.GeometryOK || s.res.Verdict == check.VerdictUnsupported {
		return false, nil
	}
	if s.entangled() {
		return s.disentangle(ctx)
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

// entangled tells that metadata lies where other data or metadata is. What is written
// to the one would destroy the other, so such an image is left alone until the two
// can be taken apart.
func (s *session) entangled() bool {
	return s.res.Has(check.MAP016) || s.res.Has(check.REF004) || s.res.Has(check.BMT006)
}

// disentangle takes bitmaps out of the way where nothing else is in the way of
// anything: what is made for them goes to clusters that nothing uses.
func (s *session) disentangle(ctx context.Context) (changed bool, err error) {
	if s.res.Has(check.MAP016) || s.res.Has(check.REF004) {
		return false, nil
	}
	return s.fixBitmaps(ctx)
}

// lose notes what a lossy repair loses.
func (s *session) lose(format string, args ...any) {
	*s.lost = append(*s.lost, fmt.Sprintf(format, args...))
}

// bytes reads what will stand at an extent.
func (s *session) bytes(x qcow2.Extent) ([]byte, error) {
	b := make([]byte, x.Length)
	return b, s.o.read(b, int64(x.Offset))
}
