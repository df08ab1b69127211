package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/report"
)

// writes tells that images are repaired, not only looked at.
func (r *RepairFlags) writes() bool { return r.Repair != "" && !r.DryRun }

// errOthers is why an image was left alone that could have been repaired.
var errOthers = errors.New("not repaired, since not all of the images named can be opened")

// one is what is done with an image: a check, or a repair.
type one = func(context.Context, *streams, string, check.Options) (report.Image, exitCode)

// allOrNone looks, before anything is written to any image, whether all of them can be
// opened and all lists be read: a command line with a slip in it does not mean what it
// says. It gives the images, and what to do with each: to repair it, or to say why it is
// not repaired.
func (c *CheckCmd) allOrNone(ctx context.Context, s *streams, paths iter.Seq2[string, error]) (iter.Seq2[string, error], one) {
	type named struct {
		path string
		err  error // of a list, which has no path
	}
	var all []named
	failed := make(map[string]error)
	lists := 0
	for path, err := range paths {
		all = append(all, named{path, err})
		if err != nil {
			lists++
		}
	}
	for _, n := range all {
		if len(all) == 1 || ctx.Err() != nil {
			break
		}
		if n.err != nil {
			continue
		}
		f, err := imagefile.Open(n.path, imagefile.Options{Write: true})
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			failed[n.path] = err
		}
	}
	again := func(yield func(string, error) bool) {
		for _, n := range all {
			if !yield(n.path, n.err) {
				return
			}
		}
		if len(failed)+lists > 0 && len(all) > 1 {
			s.error(errors.New("no image has been repaired, since not all of those named can be opened"))
			s.hint("leave out what cannot be opened, then run the same command again")
		}
	}
	if len(failed)+lists == 0 {
		return again, c.repairOne
	}
	return again, func(_ context.Context, s *streams, path string, _ check.Options) (report.Image, exitCode) {
		if err := failed[path]; err != nil {
			return c.notOpened(s, path, err)
		}
		return report.Image{Name: path, Err: fmt.Errorf("%s: %w", check.Escape(path), errOthers)}, exitTrouble
	}
}

// noImageHint says what to type where a word that could have been an image was taken
// for the scope of a repair.
func (c *CheckCmd) noImageHint() string {
	if name := string(c.Repair); name != "" {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			return fmt.Sprintf("%s says what to repair here; `qcheck -r ./%[1]s` repairs the file of that name", name)
		}
	}
	return helpHint("")
}
