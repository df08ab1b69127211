package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/inputs"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/remote"
	"github.com/qcheck/qcheck/report"
)

// CheckCmd is `qcheck [check]`.
type CheckCmd struct {
	Images    []string `arg:"" optional:"" name:"image" help:"Image files or block devices."`
	FilesFrom []string `sep:"none" placeholder:"FILE" help:"Check also the images that FILE lists, one a line, or separated by NUL bytes ('-': standard input). Can be repeated."`

	Shard shard `placeholder:"I/N" help:"Of all images named, check only those of part I of N, I from 0 to N-1; an image's name decides in which part it is."`

	Output  string `short:"o" enum:"human,json,jsonl,sarif,prometheus" default:"human" placeholder:"FORMAT" help:"How to report: human (the default), json, jsonl (a line for each image, as each ends), sarif (for code scanning tools) or prometheus (for the textfile collector)."`
	Quiet   bool   `short:"q" help:"Say nothing where the exit code is 0, else one line for each image that is not sound: name, verdict, first code (human report)."`
	Verbose bool   `short:"v" help:"Report notes and figures too, and every finding (human report)."`

	Format         string   `short:"f" enum:",qcow2" default:"" placeholder:"qcow2" help:"The format, as qemu-img takes it; there is only one."`
	QMP            string   `name:"qmp" placeholder:"SOCKET" help:"Ask the running QEMU at this QMP socket for its disks and bitmaps, and check those images as -U does; arguments then name nodes or devices (default: all)."`
	ForceShare     bool     `short:"U" help:"Check even while another program writes to the image; findings are provisional."`
	Strict         bool     `help:"Exit with 4 when there are warnings."`
	Untrusted      bool     `help:"Exit with 4 when the image asks for what one from a stranger must not: other files, unknown features, what makes readers fail."`
	MaxVirtualSize byteSize `placeholder:"SIZE" help:"Exit with 4 when the disk, or that of a snapshot, is larger than SIZE, e.g. 1T."`
	MaxFileSize    byteSize `placeholder:"SIZE" help:"Exit with 4 when the file is longer than SIZE."`
	Data           bool     `help:"Decompress every compressed cluster, and name allocated clusters that are holes of the file (takes longer)."`
	Chain          bool     `help:"Check every file below the image in its chain of backing files too, and the bitmaps through the chain."`
	RequireBitmap  []string `sep:"none" placeholder:"NAME[,granularity=N][,state=S]" help:"Exit with 4 when there is no such bitmap that can be used (S: enabled or disabled); with --chain, none that an incremental backup can use. Can be repeated."`
	RequireBitmaps string   `enum:",all" default:"" placeholder:"all" help:"Exit with 4 when one of the bitmaps cannot be used, or when there is none."`
	NoBacking      bool     `help:"Judge the image without its backing file, which may be missing."`
	BitmapData     bool     `help:"Read all stored bitmap data, not only the ends."`

	Jobs        number   `short:"j" placeholder:"N" help:"Read with N threads (default: one for each processor)."`
	Memory      byteSize `placeholder:"SIZE" help:"Use at most SIZE, e.g. 512M, for counting references; end as incomplete beyond it (default: half of the machine's memory)."`
	MaxFindings number   `placeholder:"N" default:"1000" help:"List at most N findings of one code and count the rest (default: 1000)."`

	Progress string `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show how far a check has come that takes longer than half a second: auto (the default; on a terminal), always or never."`

	RepairFlags `embed:""`
}

// Examples is shown below the command's help.
func (c *CheckCmd) Examples() string { return rootExamples }

// Run checks, and repairs where that is asked for, every image.
func (c *CheckCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	opts, err := c.options()
	if err == nil {
		err = c.validateRepair()
	}
	if err == nil {
		err = c.validateChain()
	}
	if err == nil {
		err = c.validateQMP()
	}
	if err == nil {
		err = c.validateRemote()
	}
	if err != nil {
		return err
	}
	if c.QMP == "" && len(c.Images) == 0 && len(c.FilesFrom) == 0 {
		return &usageError{text: "no image named", hint: c.noImageHint()}
	}
	if slices.Contains(c.FilesFrom, "") {
		return &usageError{text: "--files-from: a value is missing", hint: helpHint("")}
	}
	ropts := g.reportOptions(s.out)
	ropts.Verbose, ropts.Quiet, ropts.Version = c.Verbose, c.Quiet, versionNumber()
	rep, err := report.New(report.Format(c.Output), s.out, ropts)
	if err != nil {
		return err
	}
	paths, one := inputs.Paths(c.Images, c.FilesFrom, s.in), c.one
	paths = c.Shard.filter(paths)
	if c.QMP != "" {
		vm, err := c.askVM(ctx)
		if err != nil {
			return err
		}
		defer vm.client.Close()
		paths, one = vm.paths(), vm.one
	}
	if c.writes() {
		paths, one = c.allOrNone(ctx, s, paths)
	}
	var codes []exitCode
	for path, err := range paths {
		if ctx.Err() != nil {
			codes = append(codes, s.fail(fmt.Errorf("%w: not all images were checked", errInterrupted)))
			break
		}
		if err != nil {
			codes = append(codes, s.fail(err))
			continue
		}
		s.progress = newProgressLine(c.Progress, s.err, shownName(path))
		opts.Progress = s.progress.hook()
		began := time.Now()
		image, code := one(ctx, s, path, opts)
		s.progress.done()
		image.Took = time.Since(began)
		codes = append(codes, code)
		if err := rep.Image(image); err != nil {
			return err
		}
	}
	if err := rep.Close(); err != nil {
		return err
	}
	if len(codes) == 0 && c.Shard.of <= 1 { // a part may well have none
		s.warning("the list names no image, so nothing was checked")
	}
	if code := worse(codes); code != exitSound {
		return code
	}
	return nil
}

func (c *CheckCmd) options() (check.Options, error) {
	opts := check.Options{
		Jobs: int(c.Jobs), MemoryLimit: int64(c.Memory), MaxFindings: int(c.MaxFindings),
		Untrusted: c.Untrusted, Strict: c.Strict, BitmapData: c.BitmapData, NoBacking: c.NoBacking,
		MaxVirtualSize: uint64(c.MaxVirtualSize), MaxFileSize: uint64(c.MaxFileSize),
		Data: c.Data, RequireAll: c.RequireBitmaps == "all",
	}
	if opts.MemoryLimit == 0 {
		opts.MemoryLimit = defaultMemory()
	}
	for _, text := range c.RequireBitmap {
		r, err := check.ParseBitmapRequirement(text)
		if err != nil {
			return opts, &usageError{text: "--require-bitmap: " + check.Escape(err.Error()), hint: helpHint("")}
		}
		opts.Require = append(opts.Require, r)
	}
	return opts, nil
}

// one checks one image and gives what is to be reported, with its exit code.
func (c *CheckCmd) one(ctx context.Context, s *streams, path string, opts check.Options) (report.Image, exitCode) {
	if remote.Is(path) {
		return c.remoteOne(ctx, s, path, opts)
	}
	image := report.Image{Name: path, MaxFindings: opts.MaxFindings}
	o, err := openImage(s, path, c.ForceShare)
	if err != nil {
		return c.notOpened(s, path, err)
	}
	defer o.Close()
	places := c.undoPlaces(path, o.File)
	if c.Untrusted {
		places.found = nil // a stranger's image must not make us open files
	}
	if err := pending(s, o.repairable(), places); err != nil {
		image.Err = err
		return image, s.fail(err)
	}
	if o.img.GeometryOK {
		image.ClusterSize = o.img.Geometry.ClusterSize()
	}
	began := time.Now()
	if c.Chain {
		image.Chain, image.Err = checkChain(ctx, o, opts)
		image.Result = image.Chain.Layers[0].Result
	} else {
		image.Result, image.Err = checkImage(ctx, o, opts)
	}
	took := time.Since(began)
	image.Keeps = keepsUnowned(o.repairable(), places) != nil
	image.Try = func() *report.Trial { return c.try(ctx, s, path, opts, took) }
	if c.DryRun && image.Err == nil {
		if image.Repair, err = c.planOne(ctx, o, opts); err != nil {
			image.Err, image.Result.Verdict = err, check.VerdictIncomplete
		}
	}
	return c.finish(s, o, image)
}

// notOpened tells of an image that could not be opened.
func (c *CheckCmd) notOpened(s *streams, path string, err error) (report.Image, exitCode) {
	code := s.fail(err)
	if len(c.Images) > 0 && path == c.Images[0] {
		hint := notThereHint(path, err)
		if hint != "" && c.asked() && isScope(path) {
			hint = fmt.Sprintf("if %s is meant as what to repair: it follows -r at once, as in `qcheck -r %[1]s IMAGE`", path)
		}
		if hint != "" {
			s.hint(hint)
		}
	}
	return report.Image{Name: path, Err: err}, code
}

// finish says of an image that was checked what the report does not, and gives the
// exit code.
func (c *CheckCmd) finish(s *streams, o *opened, image report.Image) (report.Image, exitCode) {
	if o.hint != "" {
		s.hint(check.Escape(o.path) + ": " + o.hint)
	}
	if image.Err != nil {
		// The human report has it in the image's first line.
		if c.Output != string(report.FormatHuman) {
			s.error(fmt.Errorf("%s: %w", check.Escape(o.path), image.Err))
		}
		if e, ok := errors.AsType[*repairFailure](image.Err); ok && e.hint != "" {
			s.hint(e.hint)
		}
		if pe, ok := errors.AsType[*check.PassError](image.Err); ok {
			s.bug(pe, pe.Stack)
		}
	}
	return image, codeOf(image.Result)
}

// errInterrupted is what the user wanted.
var errInterrupted = errors.New("interrupted")

// liveRounds is how often an image that another program writes to is read at
// most, until two readings agree. Before each it is given time to go on to what it
// does next: taking a snapshot, for one, is a row of changes.
const (
	liveRounds = 4
	livePause  = 100 * time.Millisecond // more with each round
)

// checkImage checks an open image. One that is being written to is checked again
// until two checks agree; what only one of them saw was the change, not a fault.
func checkImage(ctx context.Context, o *opened, opts check.Options) (*check.Result, error) {
	if !opts.Untrusted && opts.OpenSibling == nil { // a stranger's image must not make us open files
		opts.OpenSibling = o.sibling
	}
	opts.Live = o.Live()
	res, err := check.Run(ctx, o.img, opts)
	for round := 1; err == nil && o.Live() && round < liveRounds && res.Verdict != check.VerdictClean; round++ {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(round) * livePause):
		}
		if err = o.reopen(); err != nil {
			break
		}
		opts.Live = true
		var again *check.Result
		if again, err = check.Run(ctx, o.img, opts); err != nil {
			res = again
			break
		}
		agreed := check.SameFindings(res, again)
		res = check.Confirm(res, again)
		if agreed {
			break
		}
	}
	res.Provisional = o.Live() // even if it came to life only meanwhile
	if errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	return res, err
}
