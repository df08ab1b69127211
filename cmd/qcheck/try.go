package main

import (
	"context"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/report"
)

// How long it may take to find out what a repair would do, only to give advice: this
// long, or as long as the check where that took longer.
const trialTime = 2 * time.Second

// try finds out what repairs would make of an image: nil where it cannot be told in time,
// or where the image is in use.
func (c *CheckCmd) try(ctx context.Context, s *streams, path string, opts check.Options, took time.Duration) *report.Trial {
	ctx, cancel := context.WithTimeout(ctx, max(trialTime, took))
	defer cancel()
	o, err := openImage(s, path, false)
	if err != nil {
		return nil
	}
	defer o.Close()
	if o.Live() {
		return nil
	}
	opts.Progress = nil
	plan, err := c.makePlan(ctx, o, opts)
	if err != nil {
		return nil
	}
	t := &report.Trial{Changes: !plan.Empty(), Sound: codeOf(plan.After) == exitSound}
	for _, a := range plan.Left {
		t.Left = append(t.Left, report.Advice(a))
	}
	return t
}
