package repair

import (
	"context"
	"errors"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// The options that a repair can be given on top of those that it has.
const (
	adviseDataLoss = "--allow-data-loss"
	adviseReattach = "--reattach"
	adviseAll      = "--repair=all"
	adviseFree     = "--free-unowned"
	adviseAllDirty = "--bitmap-policy=all-dirty"
)

// advise says which findings that a plan leaves would be settled by which option. It
// finds out by making a plan with that option, but for bitmaps in use, so that nothing false is promised.
func advise(ctx context.Context, r io.ReaderAt, size int64, opts Options, p *Plan) ([]Advice, error) {
	var wanted struct{ all, reattach, loss, dirty, free bool }
	for i := range p.After.Findings {
		switch f := &p.After.Findings[i]; {
		case f.Code == problem.BitmapInUse:
			wanted.dirty = opts.policy() == PolicyMark
		case f.Severity == problem.Note:
		case f.Repair == problem.RepairLossy:
			wanted.loss, wanted.reattach = true, true
		case f.Repair == problem.RepairReattach, f.Code == problem.OwnerUnknown, f.Code == problem.L1Misplaced:
			wanted.reattach = true
		case f.Repair == problem.RepairSafe, f.Repair == problem.RepairPolicy:
			wanted.all = true
		}
	}
	wanted.free = p.Kept && opts.KeepUnowned && opts.leaks()
	var left []Advice
	if wanted.dirty { // that is what this policy is for
		left = append(left, Advice{Code: problem.BitmapInUse, Option: adviseAllDirty})
	}
	try := func(option string, wanted bool, change func(o *Options)) error {
		more := opts
		more.Progress = nil
		more.settled, more.turned, more.sizeOpen, more.open = opts.everything(), p.turned, p.sizeOpen, p.open
		if change(&more); !wanted || more.same(&opts) {
			return nil
		}
		with, err := work(ctx, r, size, more)
		if err != nil {
			_, refused := errors.AsType[*RefusedError](err)
			if refused || errors.Is(err, ErrNoProgress) || errors.Is(err, ErrNoSpace) || errors.Is(err, errGrown) {
				return nil // then the option is of no use
			}
			return err
		}
		then := listedCounts(with.After)
		said := make(map[problem.Code]bool)
		for _, a := range left {
			said[a.Code] = true
		}
		for i := range p.After.Findings {
			f := &p.After.Findings[i]
			if said[f.Code] || then[f.Code] > 0 {
				continue
			}
			said[f.Code] = true
			left = append(left, Advice{Code: f.Code, Option: option})
		}
		return nil
	}
	for _, t := range []struct {
		option string
		wanted bool
		change func(o *Options)
	}{
		{adviseAll, wanted.all, func(o *Options) { o.Scope = ScopeAll }},
		{adviseReattach, wanted.reattach, func(o *Options) { o.Scope, o.Reattach = ScopeAll, true }},
		{adviseDataLoss, wanted.loss, func(o *Options) { o.Scope, o.AllowDataLoss = ScopeAll, true }},
		{adviseFree, wanted.free, func(o *Options) { o.FreeUnowned = true }},
	} {
		if err := try(t.option, t.wanted, t.change); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// same tells whether two sets of options ask for the same repair.
func (o *Options) same(p *Options) bool {
	return o.scope() == p.scope() && o.policy() == p.policy() && o.AllowDataLoss == p.AllowDataLoss && o.Reattach == p.Reattach && o.FreeUnowned == p.FreeUnowned
}

// listedCounts counts the findings of each code.
func listedCounts(r *check.Result) map[problem.Code]uint64 {
	n := make(map[problem.Code]uint64)
	for i := range r.Findings {
		n[r.Findings[i].Code] += r.Findings[i].Count
	}
	return n
}
