package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/check/rescue"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/qcow2"
)

// RescueCmd is `qcheck rescue IMAGE`.
type RescueCmd struct {
	Image string `arg:"" help:"Image file or block device."`

	Out     string `short:"o" placeholder:"FILE" help:"Write what can be rebuilt to a new image; IMAGE is not changed. Without it, or --in-place, nothing is written."`
	InPlace bool   `help:"Rebuild IMAGE itself, with an undo journal, where there is no room for a copy."`
	Undo    string `placeholder:"FILE" help:"With --in-place: keep the undo journal in FILE instead of IMAGE.qcheck-undo."`

	Orphans string    `placeholder:"FILE" help:"Write what belongs nowhere any more to FILE, sparse, at its offsets in the image, with a list in FILE.json."`
	Offset  *byteSize `placeholder:"SIZE" help:"IMAGE is a whole disk or a larger file, and the image begins at this offset, e.g. 1M."`
	Search  bool      `help:"IMAGE is a whole disk or a larger file: look for the header of an image in it."`

	FromHeader    string   `placeholder:"IMAGE" help:"Take what the header said from a backup or a sibling of the image: sizes, features, other files."`
	ClusterSize   byteSize `placeholder:"SIZE" help:"The cluster size, if you know it, e.g. 64K."`
	VirtualSize   byteSize `placeholder:"SIZE" help:"The size of the disk, if you know it, e.g. 20G."`
	BackingFile   string   `placeholder:"NAME" help:"The backing file's name as the header is to have it."`
	BackingFormat string   `placeholder:"FORMAT" help:"The backing file's format: qcow2 or raw."`
	DataFile      string   `placeholder:"NAME" help:"The external data file's name as the header is to have it."`
	Accept        string   `enum:"guesses," default:"" placeholder:"guesses" help:"Take also what is likely, not proven; each guess is named in the report."`

	Output   string `enum:"human,json" default:"human" placeholder:"FORMAT" help:"How to report: human (the default) or json."`
	Jobs     number `short:"j" placeholder:"N" help:"Check with N threads (default: one for each processor)."`
	Progress string `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show progress: auto (the default; on a terminal), always or never."`
}

// Examples is shown below the command's help.
func (c *RescueCmd) Examples() string {
	return "  qcheck rescue broken.qcow2                  what can be rebuilt; nothing is written\n" +
		"  qcheck rescue broken.qcow2 -o new.qcow2\n" +
		"  qcheck rescue broken.qcow2 --from-header backup.qcow2 -o new.qcow2\n" +
		"  qcheck rescue broken.qcow2 --virtual-size 20G --backing-file base.qcow2 --backing-format qcow2 -o new.qcow2"
}

// Run looks, and writes where that is asked for.
func (c *RescueCmd) Run(ctx context.Context, s *streams) error {
	if c.InPlace && c.Out != "" {
		return &usageError{text: "--in-place and --out exclude each other", hint: helpHint("rescue")}
	}
	if c.InPlace && (c.Offset != nil || c.Search) {
		return &usageError{text: "what lies within a larger file is not rebuilt in place", hint: helpHint("rescue")}
	}
	if c.Undo != "" && !c.InPlace {
		return &usageError{text: "--undo goes with --in-place", hint: helpHint("rescue")}
	}
	f, err := imagefile.Open(c.Image, imagefile.Options{Write: c.InPlace})
	if err != nil {
		return err
	}
	defer f.Close()
	if f.LockState() != imagefile.LockTaken {
		s.warning(check.Escape(c.Image) + ": there are no image locks here; make sure that no VM uses the image")
	}
	r := repairable{f, c.Image}
	places := c.places(r)
	if err := pending(s, r, places); err != nil {
		return err
	}
	part, err := c.section(ctx, s, f)
	if err != nil {
		return err
	}
	plan, err := c.plan(ctx, s, f, part)
	if err != nil {
		return c.failed(err)
	}
	rep := c.report(plan)
	switch {
	case c.Out != "":
		if rep.Result, err = c.writeOut(ctx, f, plan, part != nil); err != nil {
			return err
		}
	case c.InPlace:
		if rep.Result, err = c.inPlace(ctx, s, r, places, plan); err != nil {
			return err
		}
	}
	if c.Orphans != "" {
		if err := c.writeOrphans(ctx, plan, rep); err != nil {
			return err
		}
	}
	if err := rep.write(s.out, c.Output); err != nil {
		return err
	}
	if code := exitCode(rep.ExitCode); code != exitSound {
		return code
	}
	return nil
}

// places are where the undo journals of the image are.
func (c *RescueCmd) places(r repairable) undoPlaces {
	ck := &CheckCmd{}
	if c.Undo != "" {
		ck.Undo = &c.Undo
	}
	return ck.undoPlaces(r.path, r.File)
}

// plan works out what can be made of the file.
func (c *RescueCmd) plan(ctx context.Context, s *streams, f *imagefile.File, part *rescue.Section) (*rescue.Plan, error) {
	opts := rescue.Options{
		ClusterSize: uint64(c.ClusterSize), VirtualSize: uint64(c.VirtualSize),
		BackingFile: c.BackingFile, BackingFormat: c.BackingFormat, DataFile: c.DataFile,
		AcceptGuesses: c.Accept == "guesses", Keep: c.InPlace, Device: c.InPlace && f.IsDevice(), Jobs: int(c.Jobs), MemoryLimit: defaultMemory(),
	}
	if c.FromHeader != "" {
		o, err := openImage(s, c.FromHeader, true)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		opts.Sibling = o.img
	}
	s.progress = newProgressLine(c.Progress, s.err, c.Image)
	defer s.progress.done()
	opts.Progress = s.progress.hook()
	tidy()
	if part == nil {
		return rescue.Make(ctx, f, f.Size(), opts)
	}
	plan, err := rescue.Make(ctx, part, part.Length, opts)
	if err != nil || plan.End() == part.Length {
		return plan, err
	}
	part.Length = plan.End() // the rest is not the image's
	return rescue.Make(ctx, part, part.Length, opts)
}

// failed says why nothing comes of it, and what may help.
func (c *RescueCmd) failed(err error) error {
	e := &repairFailure{image: c.Image, err: err}
	guess, isGuess := errors.AsType[*rescue.GuessError](err)
	switch {
	case errors.Is(err, context.Canceled):
		e.err = errInterrupted
	case errors.Is(err, rescue.ErrNothing):
		e.err = fmt.Errorf("%w: %w", qcow2.ErrNotQcow2, err)
	case isGuess:
		e.err = guess
		e.hint = "options can tell what is missing (--cluster-size, --virtual-size, --from-header); `--accept guesses` takes what is likely"
	case errors.Is(err, rescue.ErrNoMapping):
		e.hint = "nothing has been written; keep the file as it is"
	case errors.Is(err, repair.ErrNoSpace):
		e.hint = "a device cannot grow: write a new image with --out"
	}
	return e
}

// inPlace carries the plan out on the image itself.
func (c *RescueCmd) inPlace(ctx context.Context, s *streams, r repairable, places undoPlaces, p *rescue.Plan) (*check.Result, error) {
	plan, err := p.InPlace()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", check.Escape(c.Image), err)
	}
	if plan.Empty() {
		return p.Result, nil
	}
	if err := makeRoom(r, places); err != nil {
		return nil, err
	}
	if err := stillThere(r); err != nil {
		return nil, err
	}
	var after *check.Result
	verify := func(ctx context.Context, file io.ReaderAt, size int64) (err error) {
		img, err := qcow2.Open(file, size)
		if err != nil {
			return err
		}
		if after, err = check.Run(ctx, img, check.Options{Jobs: int(c.Jobs), MemoryLimit: defaultMemory(), NoBacking: true}); err != nil {
			return err
		}
		if after.Totals != p.Result.Totals {
			return fmt.Errorf("a check finds %s, not %s", after.Verdict, p.Result.Verdict)
		}
		return nil
	}
	applied, err := repair.Apply(ctx, r, plan, places.keep, repair.ApplyOptions{Verify: verify})
	places.settle(err)
	if err != nil {
		return nil, applyError(c.Image, places, err)
	}
	if applied.Unclosed != nil {
		s.warning(fmt.Sprintf("%s: the image is rebuilt, but the undo journal could not be marked as finished: %v", check.Escape(c.Image), applied.Unclosed))
	}
	return after, nil
}
