package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/report"
)

// Show is what the commands that show an image, rather than check it, have in
// common.
type Show struct {
	Output     string `short:"o" enum:"human,json" default:"human" placeholder:"FORMAT" help:"How to show: human (the default) or json."`
	ForceShare bool   `short:"U" help:"Read even while another program writes to the image; what it has not written yet is not seen."`
}

// shown is something that can be shown.
type shown interface {
	JSON(io.Writer) error
	Human(io.Writer, report.Options) error
}

// show opens an image, looks at all of it, and shows what f makes of it. Where
// that fails, a program that reads JSON gets an object that says so.
func (c *Show) show(ctx context.Context, g *Globals, s *streams, path string, f func(*opened, *check.Result) (shown, error)) error {
	fail := func(err error) error {
		if c.Output != string(report.FormatJSON) {
			return err
		}
		j := report.NewJSON(s.out)
		if werr := errors.Join(j.Image(report.Image{Name: path, Err: err}), j.Close()); werr != nil {
			return werr
		}
		return err
	}
	o, err := openImage(s, path, c.ForceShare)
	if err != nil {
		return fail(err)
	}
	defer o.Close()
	if o.Live() {
		s.warning(check.Escape(path) + ": another program writes to the image; what it has not written yet is not seen")
	}
	if err := pending(s, o.repairable(), placesOf(path, o.File)); err != nil {
		s.warning(err.Error())
	}
	res, err := checkImage(ctx, o, check.Options{})
	if err != nil {
		return fail(fmt.Errorf("%s: %w", check.Escape(path), err))
	}
	v, err := f(o, res)
	switch {
	case err != nil:
		return fail(fmt.Errorf("%s: %w", check.Escape(path), err))
	case c.Output == string(report.FormatJSON):
		return v.JSON(s.out)
	}
	return v.Human(s.out, g.reportOptions(s.out))
}
