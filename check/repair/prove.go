package repair

import (
	"context"
	"errors"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair/proof"
	"github.com/qcheck/qcheck/qcow2"
)

// prove holds that the plan is safe, by a package that knows nothing of how it was made.
func (p *Plan) prove(ctx context.Context, r io.ReaderAt, said proof.Declared, first *check.Evidence, opts *Options) error {
	if p.Empty() {
		return nil
	}
	for _, l := range p.LostGuest {
		said.Lost = append(said.Lost, proof.Range{Of: l.Of, Offset: l.Offset, Length: l.Length})
	}
	plan := proof.Plan{NewSize: p.NewSize, Declared: said}
	for s := range Stage(stagesCount) {
		c := p.Edits.from(s)
		plan.Stages = append(plan.Stages, (*proofCursor)(&c))
	}
	result := p.Before
	if len(p.turned) > 0 {
		// What the image says with the bits turned back is what must not change. That it
		// says so was found out by a check of all of it.
		var err error
		if r, result, first, err = p.mended(ctx, r, opts); err != nil {
			return err
		}
	}
	err := proof.Prove(ctx, r, p.OldSize, &plan,
		proof.Allowed{DataLoss: opts.AllowDataLoss, Reattach: opts.Reattach, Bitmaps: opts.policy() != PolicyMark, Unowned: opts.FreeUnowned, Device: opts.Device},
		proof.Before{Result: result, Doubts: first.Doubts, Snapshots: first.Snapshots, Bitmaps: first.Bitmaps})
	if refused, ok := errors.AsType[*proof.Error](err); ok {
		return &RefusedError{Err: refused}
	}
	return err
}

// mended gives the image as it was but for what was turned back, and what a check says of it.
func (p *Plan) mended(ctx context.Context, r io.ReaderAt, opts *Options) (io.ReaderAt, *check.Result, *check.Evidence, error) {
	base := newOverlay(r, p.OldSize, opts.Device)
	for i := range p.turned {
		if err := base.write(p.turned[i].at, p.turned[i].new, intent{}); err != nil {
			return nil, nil, nil, err
		}
	}
	img, err := qcow2.Open(base, p.OldSize)
	if err != nil {
		return nil, nil, nil, err
	}
	res, ev, err := check.Inspect(ctx, img, opts.checkOptions())
	return base, res, ev, err
}

// proofCursor shows a plan's edits to its proof.
type proofCursor cursor

func (c *proofCursor) Next() (proof.Edit, bool) {
	ok := (*cursor)(c).next()
	return proof.Edit{Offset: c.Offset, New: c.New}, ok
}

func (c *proofCursor) Clone() proof.Cursor {
	same := *c
	return &same
}
