package repair

import (
	"context"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair/proof"
	"github.com/qcheck/qcheck/qcow2"
)

// Change is some bytes of a file as they are to be.
type Change struct {
	Offset qcow2.HostOffset
	New    []byte
}

// MakeFrom makes a plan of changes that were worked out elsewhere, by a repair of a copy of
// the metadata: [Apply] carries it out like any other. The file gets newSize bytes, and
// never fewer than it has. The plan is proven like every plan, with nothing declared: one
// by which a guest byte is lost, or whose safety cannot be told, is refused with a
// [*RefusedError].
func MakeFrom(ctx context.Context, r io.ReaderAt, size int64, changes []Change, newSize int64, opts Options) (*Plan, error) {
	inspect := func(r io.ReaderAt, size int64) (*qcow2.Image, *check.Result, *check.Evidence, error) {
		img, err := qcow2.Open(r, size)
		if err != nil {
			return nil, nil, nil, err
		}
		res, ev, err := check.Inspect(ctx, img, check.Options{
			Jobs: opts.Jobs, MemoryLimit: opts.MemoryLimit, Progress: opts.Progress, OpenSibling: opts.OpenSibling, NoBacking: opts.NoBacking,
		})
		return img, res, ev, err
	}
	img, before, ev, err := inspect(r, size)
	if err != nil {
		return nil, err
	}
	o := newOverlay(r, size, opts.Device)
	o.bits = img.Geometry.ClusterBits
	for _, c := range changes {
		why := intent{reason: "as in the copy of the metadata"}
		cl := img.Geometry.HostCluster(c.Offset)
		switch owner, owned := ev.MetadataAt(cl); {
		case owned && owner.Structure == problem.StructRefcountBlock:
			why.refcounts = img.Geometry.RefcountBits()
		case !owned && ev.Counts.Get(cl) == 0:
			o.fresh[cl] = struct{}{}
		}
		if err := o.write(c.Offset, c.New, why); err != nil {
			return nil, err
		}
	}
	o.size = max(o.size, newSize)
	p := &Plan{OldSize: size, NewSize: o.size, Before: before}
	if _, p.After, _, err = inspect(o, o.size); err != nil {
		return nil, err
	}
	if err := o.edits(&p.Edits); err != nil {
		return nil, err
	}
	return p, p.prove(ctx, r, proof.Declared{}, ev, &opts)
}
