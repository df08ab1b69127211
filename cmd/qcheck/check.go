package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/inputs"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report"
)

// CheckCmd is `qcheck [check]`.
type CheckCmd struct {
	Images    []string `arg:"" optional:"" name:"image" help:"Image files or block devices."`
	FilesFrom []string `sep:"none" placeholder:"FILE" help:"Check also the images that FILE lists, one a line ('-': standard input)."`

	Output  string `short:"o" enum:"human,json,jsonl" default:"human" placeholder:"FORMAT" help:"How to report: ${enum}."`
	Quiet   bool   `short:"q" help:"Report only images that are not clean."`
	Verbose bool   `short:"v" help:"Report notes and figures too, and every finding."`

	ForceShare    bool     `short:"U" help:"Check even while another program writes to the image; findings are provisional."`
	Strict        bool     `help:"Exit with 4 when there are warnings."`
	Untrusted     bool     `help:"Exit with 4 when the image asks for what one from a stranger must not: other files, unknown features, what makes readers fail."`
	RequireBitmap []string `sep:"none" placeholder:"NAME[,granularity=N][,state=S]" help:"Exit with 4 when there is no such bitmap that can be used (S: enabled, disabled). Can be repeated."`
	BitmapData    bool     `help:"Read all stored bitmap data, not only the ends."`

	Jobs        int      `short:"j" placeholder:"N" help:"Read with N threads (default: one for each processor)."`
	Memory      byteSize `placeholder:"SIZE" help:"Use at most SIZE for counting references, e.g. 512M; end as incomplete beyond it."`
	MaxFindings int      `placeholder:"N" default:"1000" help:"List at most N findings of one code; the rest is counted."`
}

// Examples is shown below the command's help.
func (c *CheckCmd) Examples() string { return rootExamples }

// Run checks every image.
func (c *CheckCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	opts, err := c.options()
	if err != nil {
		return err
	}
	if len(c.Images) == 0 && len(c.FilesFrom) == 0 {
		return errors.New("no image named; `qcheck --help` shows how it is used")
	}
	ropts := g.reportOptions(s.out)
	ropts.Verbose, ropts.Quiet = c.Verbose, c.Quiet
	rep, err := report.New(report.Format(c.Output), s.out, ropts)
	if err != nil {
		return err
	}
	var codes []exitCode
	for path, err := range inputs.Paths(c.Images, c.FilesFrom, s.in) {
		if err != nil {
			s.error(err)
			codes = append(codes, exitTrouble)
			continue
		}
		image, code := c.one(ctx, s, path, opts)
		codes = append(codes, code)
		if err := rep.Image(image); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err := rep.Close(); err != nil {
		return err
	}
	if code := worse(codes); code != exitSound {
		return code
	}
	return nil
}

func (c *CheckCmd) options() (check.Options, error) {
	opts := check.Options{
		Jobs: c.Jobs, MemoryLimit: int64(c.Memory), MaxFindings: c.MaxFindings,
		Untrusted: c.Untrusted, Strict: c.Strict, BitmapData: c.BitmapData,
	}
	if c.Jobs < 0 || c.MaxFindings < 0 {
		return opts, errors.New("--jobs and --max-findings take no negative numbers")
	}
	for _, text := range c.RequireBitmap {
		r, err := check.ParseBitmapRequirement(text)
		if err != nil {
			return opts, fmt.Errorf("--require-bitmap: %w", err)
		}
		opts.Require = append(opts.Require, r)
	}
	return opts, nil
}

// one checks one image and gives what is to be reported, with its exit code.
func (c *CheckCmd) one(ctx context.Context, s *streams, path string, opts check.Options) (report.Image, exitCode) {
	image := report.Image{Name: path}
	o, err := openImage(path, c.ForceShare)
	if err != nil {
		image.Err = err
		return image, openFailure(s, err)
	}
	defer o.Close()
	if o.img.GeometryOK {
		image.ClusterSize = o.img.Geometry.ClusterSize()
	}
	image.Result, image.Err = checkImage(ctx, o, opts, c.ForceShare)
	if image.Err != nil {
		s.error(fmt.Errorf("%s: %w", check.Escape(path), image.Err))
	}
	return image, codeOf(image.Result)
}

// openFailure tells why an image could not be opened, what can be done about it,
// and gives the exit code.
func openFailure(s *streams, err error) exitCode {
	s.error(err)
	if l, ok := errors.AsType[*imagefile.LockedError](err); ok {
		s.hint(l.Hint())
	}
	if errors.Is(err, qcow2.ErrNotQcow2) {
		return exitNotQcow2
	}
	return exitTrouble
}

// liveRounds is how often an image that another program writes to is read at
// most, until two readings agree.
const liveRounds = 4

// checkImage checks an open image. One that is being written to is checked again
// until two checks agree; what only one of them saw was the change, not a fault.
func checkImage(ctx context.Context, o *opened, opts check.Options, forceShare bool) (*check.Result, error) {
	if !opts.Untrusted { // a stranger's image must not make us open files
		opts.OpenSibling = func(kind check.SiblingKind, name, format string) (check.Sibling, error) {
			return o.sibling(kind, name, format, forceShare)
		}
	}
	opts.Live = o.Live()
	res, err := check.Run(ctx, o.img, opts)
	for round := 1; err == nil && o.Live() && round < liveRounds && res.Verdict != check.VerdictClean; round++ {
		if err := o.reopen(); err != nil {
			return res, err
		}
		opts.Live = true
		again, err := check.Run(ctx, o.img, opts)
		if err != nil {
			return again, err
		}
		agreed := check.SameFindings(res, again)
		res = check.Confirm(res, again)
		if agreed {
			break
		}
	}
	return res, err
}
