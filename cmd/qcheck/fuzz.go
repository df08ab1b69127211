package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/fuzz"
)

// FuzzCmd is `qcheck fuzz [flags] -- COMMAND… {}`.
type FuzzCmd struct {
	Seed     uint64        `default:"1" help:"The number of the first image; the same number gives the same image everywhere. The default is 1." placeholder:"N"`
	Runs     uint64        `help:"How many images. The default is no end." placeholder:"N"`
	Time     time.Duration `help:"When to stop (30s, 10m, 2h). The default is no end." placeholder:"TIME"`
	Cases    string        `help:"Which images to change, as in 'qcheck corpus list'. The default is all." placeholder:"PATTERN"`
	Guest    string        `enum:",qcheck,qemu" default:"" help:"Also compare what the command writes to its standard output, which must be the whole disk, with what this program reads of the image (qcheck) or what QEMU reads (qemu)." placeholder:"READER"`
	Against  string        `help:"Also compare it with what a shell command writes; {} stands for the image." placeholder:"COMMAND"`
	MaxDisk  byteSize      `name:"max-disk" help:"Do not compare images with a larger virtual disk, nor make any of such. The default is to compare up to 64M." placeholder:"SIZE"`
	Resume   bool          `help:"Keep in the folder of --out how far it has come, and go on there the next time."`
	Output   string        `short:"o" enum:"human,junit" default:"human" help:"human (the default) or junit." placeholder:"FORMAT"`
	Corpus   string        `help:"A folder of *.qcow2 files to change, instead of the images that qcheck makes." placeholder:"FOLDER" type:"existingdir"`
	Jobs     number        `short:"j" default:"1" help:"How many run at once. The default is 1." placeholder:"N"`
	Timeout  time.Duration `help:"What one run may take; longer is a hang. The default is 5s." placeholder:"TIME"`
	MaxRSS   byteSize      `name:"max-rss" help:"What one process of a run may take of memory; more is a failure, and the run is ended. The default is 1G." placeholder:"SIZE"`
	Out      string        `default:"qcheck-fuzz" help:"The folder for images on which the command fails. The default is qcheck-fuzz." placeholder:"FOLDER"`
	Replay   string        `help:"Do once more what failed: the mutant.json of an image that was kept. Without a command it runs the one that failed." placeholder:"FILE"`
	Progress string        `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show how far it has come: auto (the default; on a terminal), always or never."`
	Oracle   string        `enum:",qcheck" default:"" help:"qcheck: also compare the exit code, which must be that of 'qemu-img check', with what qcheck says. Without a command QEMU's own tools are asked." placeholder:"qcheck"`
	Command  []string      `arg:"" optional:"" help:"What to run, behind --; {} stands for the image."`
}

// Examples is shown below the command's help.
func (c *FuzzCmd) Examples() string {
	return "  qcheck fuzz --time 10m -j 4 -- ./my-parser {}\n" +
		"  qcheck fuzz --guest=qcheck --max-disk 64M -- ./my-reader --to-stdout {}\n" +
		"  qcheck fuzz --replay qcheck-fuzz/crash-0a1b2c3d/mutant.json\n" +
		"  qcheck fuzz --oracle=qcheck --runs 1000"
}

// Run runs the command on one image after the other.
func (c *FuzzCmd) Run(ctx context.Context, s *streams) error {
	r := &fuzz.Runner{
		Command: c.Command, Oracle: c.Oracle != "", Images: &fuzz.Images{Folder: c.Corpus}, Seed: c.Seed, Runs: c.Runs,
		Jobs: int(c.Jobs), Timeout: c.Timeout, Memory: int64(c.MaxRSS), Out: c.Out,
	}
	switch {
	case len(c.Command) == 0 && c.Oracle == "" && c.Replay == "":
		return &usageError{text: "fuzz: there is no command to run", hint: "`qcheck fuzz -- COMMAND {}` runs one; " + helpHint("fuzz")}
	case len(c.Command) > 0 && !strings.Contains(strings.Join(c.Command, " "), fuzz.Placeholder):
		return &usageError{text: "fuzz: no argument of the command holds {}, which stands for the image", hint: helpHint("fuzz")}
	case c.Guest != "" && c.Against != "", (c.Guest != "" || c.Against != "") && c.Oracle != "":
		return &usageError{text: "fuzz: --guest, --against and --oracle each compare with something else", hint: helpHint("fuzz")}
	case c.Against != "" && !strings.Contains(c.Against, fuzz.Placeholder):
		return &usageError{text: "fuzz: the command of --against does not hold {}, which stands for the image", hint: helpHint("fuzz")}
	case c.Time < 0 || c.Timeout < 0:
		return &usageError{text: "fuzz: a time below zero", hint: helpHint("fuzz")}
	}
	r.Guest, r.Against, r.MaxDisk, r.Resume = fuzz.Guest(c.Guest), c.Against, uint64(c.MaxDisk), c.Resume
	if c.Against != "" {
		r.Guest = fuzz.GuestOther
	}
	if c.Replay != "" {
		return c.replay(ctx, s, r)
	}
	if err := c.choose(r); err != nil {
		return err
	}
	r.Time = c.Time
	s.progress = newProgressLine(c.Progress, s.err, "")
	if line := s.progress; line != nil {
		r.Progress = func(sum fuzz.Summary) { line.show(fuzzLine(&sum)) }
	}
	sum, failed := r.Run(ctx)
	s.progress.done()
	if sum != nil && c.Output == "junit" {
		if err := fuzz.WriteJUnit(s.out, sum); err != nil {
			return err
		}
	} else if sum != nil && (sum.Runs > 0 || len(sum.Failures) > 0 || failed == nil) {
		for _, f := range sum.Failures {
			if err := printFailure(s, f); err != nil {
				return err
			}
		}
		if err := printKnown(s, sum.Known); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(s.out, fuzzLine(sum)); err != nil {
			return err
		}
	}
	switch {
	case failed != nil:
		return failed
	case len(sum.Failures) > 0:
		return exitCorrupt
	case ctx.Err() != nil && (c.Runs > 0 || c.Time > 0):
		return exitTrouble // interrupted; else that is how it ends
	}
	return nil
}

// choose takes the images that mutants are made of.
func (c *FuzzCmd) choose(r *fuzz.Runner) error {
	if c.Cases == "" && c.MaxDisk == 0 {
		return nil
	}
	if c.Corpus != "" {
		if c.Cases != "" {
			return &usageError{text: "fuzz: --cases chooses images that qcheck makes, and --corpus takes others", hint: helpHint("fuzz")}
		}
		return nil
	}
	names, err := fuzz.Select(c.Cases, uint64(c.MaxDisk))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return noCase(c.Cases)
	}
	r.Names = names
	return nil
}

// replay does once more what failed.
func (c *FuzzCmd) replay(ctx context.Context, s *streams, r *fuzz.Runner) error {
	k, err := fuzz.Load(c.Replay)
	if err != nil {
		return err
	}
	if c.Corpus == "" {
		r.Images = nil // from where it was
	}
	fs, err := r.Replay(ctx, k)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return exitTrouble
	}
	if len(r.Command) > 0 {
		if _, err := fmt.Fprintf(s.out, "command: %s\n", check.Escape(strings.Join(r.Command, " "))); err != nil {
			return err
		}
	}
	if len(fs) == 0 {
		_, err := fmt.Fprintln(s.out, "the command does not fail")
		return err
	}
	for _, f := range fs {
		if err := printFailure(s, f); err != nil {
			return err
		}
		for line := range strings.Lines(f.Said) {
			if _, err := fmt.Fprintln(s.out, "  | "+check.Escape(strings.TrimRight(line, "\r\n"))); err != nil {
				return err
			}
		}
	}
	return exitCorrupt
}

// endsBySignal tells that a signal is the way to end it: without a limit it would run
// for ever, and what it has found decides the exit code.
func (c *FuzzCmd) endsBySignal() bool { return c.Replay == "" }

// fuzzLine sums up how far it has come.
func fuzzLine(s *fuzz.Summary) string {
	failures := "no failures"
	switch n := len(s.Failures); {
	case s.Failed == 1:
		failures = "1 failure"
	case s.Failed > 0 && n > 1:
		failures = fmt.Sprintf("%d failures of %d kinds", s.Failed, n)
	case s.Failed > 0:
		failures = fmt.Sprintf("%d failures", s.Failed)
	}
	line := fmt.Sprintf("%d runs, %.0f/s, %s", s.Runs, float64(s.Runs)/max(s.Took.Seconds(), 0.001), failures)
	if s.Calibration.Tried > 0 {
		line += fmt.Sprintf(", %d images accepted, %d rejected; %d of %d sound images accepted",
			s.Accepted, s.Runs-min(s.Runs, s.Accepted+s.Failed), s.Calibration.Accepted, s.Calibration.Tried)
	}
	if n := len(s.Calibration.SetAside); n > 0 {
		line += fmt.Sprintf(", %d of them set aside", n)
	}
	if s.Dropped > 0 {
		line += fmt.Sprintf(", %d dropped that did not fail again", s.Dropped)
	}
	if len(s.Codes) > 0 {
		line += fmt.Sprintf(", %d of %d codes of findings met", len(s.Codes), len(problem.Catalog()))
	}
	return line
}

// printKnown lists the differences that are meant to be.
func printKnown(s *streams, known map[string]uint64) error {
	if len(known) == 0 {
		return nil
	}
	text := "differences that are known, with the number of images:\n"
	for _, key := range slices.Sorted(maps.Keys(known)) {
		text += fmt.Sprintf("  %6d  %s\n", known[key], key)
	}
	_, err := fmt.Fprint(s.out, text)
	return err
}

func printFailure(s *streams, f *fuzz.Failure) error {
	text := fmt.Sprintf("%s: %s", f.Kind, check.Escape(f.Detail))
	if f.Count > 1 {
		text += fmt.Sprintf(" (%d images)", f.Count)
	}
	text += "\n"
	text += fmt.Sprintf("  seed %d, %s\n", f.Mutant.Seed, f.Mutant.Case)
	if len(f.Mutant.Mutations) == 0 {
		text += "  as it is\n"
	}
	for i := range f.Mutant.Mutations {
		text += "  " + check.Escape(f.Mutant.Mutations[i].Text) + "\n"
	}
	for _, x := range f.Changes {
		text += fmt.Sprintf("  %#x: %x becomes %x\n", x.Offset, x.Before, x.After)
	}
	if f.Dir != "" {
		text += "  kept in " + check.Escape(f.Dir) + "\n"
	}
	_, err := fmt.Fprint(s.out, text)
	return err
}
