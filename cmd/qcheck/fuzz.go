package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/fuzz"
)

// FuzzCmd is `qcheck fuzz [flags] -- COMMAND… {}`.
type FuzzCmd struct {
	Seed    uint64        `default:"1" help:"The number of the first image; the same number gives the same image everywhere." placeholder:"N"`
	Runs    uint64        `help:"How many images. The default is no end." placeholder:"N"`
	Time    time.Duration `help:"When to stop (30s, 10m, 2h). The default is no end." placeholder:"TIME"`
	Corpus  string        `help:"A folder of *.qcow2 files to change, instead of the images that qcheck makes." placeholder:"FOLDER" type:"existingdir"`
	Jobs    number        `short:"j" default:"1" help:"How many run at once." placeholder:"N"`
	Timeout time.Duration `default:"5s" help:"What one run may take; longer is a hang." placeholder:"TIME"`
	MaxRSS  byteSize      `name:"max-rss" default:"1G" help:"What one run may take of memory; more is a failure." placeholder:"SIZE"`
	Out     string        `default:"qcheck-fuzz" help:"The folder for images on which the command fails." placeholder:"FOLDER"`
	Replay  string        `help:"Run the command once, on an image that was kept: its mutant.json." placeholder:"FILE"`
	Oracle  string        `enum:",qcheck" default:"" help:"qcheck: also compare the exit code, which must be that of 'qemu-img check', with what qcheck says. Without a command QEMU's own tools are asked." placeholder:"qcheck"`
	Command []string      `arg:"" optional:"" help:"What to run, behind --; {} stands for the image."`
}

// Examples is shown below the command's help.
func (c *FuzzCmd) Examples() string {
	return "  qcheck fuzz --time 10m -j 4 -- ./my-parser {}\n" +
		"  qcheck fuzz --replay qcheck-fuzz/crash-0a1b2c3d/mutant.json -- ./my-parser {}\n" +
		"  qcheck fuzz --oracle=qcheck --runs 1000"
}

// Run runs the command on one image after the other.
func (c *FuzzCmd) Run(ctx context.Context, s *streams) error {
	r := &fuzz.Runner{
		Command: c.Command, Oracle: c.Oracle != "", Images: &fuzz.Images{Folder: c.Corpus}, Seed: c.Seed, Runs: c.Runs,
		Jobs: int(c.Jobs), Timeout: c.Timeout, Memory: int64(c.MaxRSS), Out: c.Out,
	}
	switch {
	case len(c.Command) == 0 && c.Oracle == "":
		return &usageError{text: "fuzz: there is no command to run", hint: "`qcheck fuzz -- COMMAND {}` runs one; " + helpHint("fuzz")}
	case len(c.Command) > 0 && !strings.Contains(strings.Join(c.Command, " "), fuzz.Placeholder):
		return &usageError{text: "fuzz: no argument of the command holds {}, which stands for the image", hint: helpHint("fuzz")}
	}
	if c.Replay != "" {
		return c.replay(ctx, s, r)
	}
	if c.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Time)
		defer cancel()
	}
	if terminalWidth(s.err) > 0 {
		r.Progress = func(sum fuzz.Summary) { fmt.Fprintf(s.err, "\r\x1b[K%s", fuzzLine(&sum)) }
	}
	sum, err := r.Run(ctx)
	if r.Progress != nil {
		fmt.Fprint(s.err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	for _, f := range sum.Failures {
		if err := printFailure(s, f); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(s.out, fuzzLine(sum)); err != nil {
		return err
	}
	switch {
	case len(sum.Failures) > 0:
		return exitCorrupt
	case c.Runs > 0 && sum.Runs < c.Runs && c.Time == 0:
		return exitTrouble // interrupted
	}
	return nil
}

// replay runs the command on one mutant.
func (c *FuzzCmd) replay(ctx context.Context, s *streams, r *fuzz.Runner) error {
	m, err := fuzz.LoadMutant(c.Replay)
	if err != nil {
		return err
	}
	fs, err := r.Replay(ctx, m)
	if err != nil {
		return err
	}
	if len(fs) == 0 {
		_, err := fmt.Fprintln(s.out, "the command does not fail")
		return err
	}
	for _, f := range fs {
		if err := printFailure(s, f); err != nil {
			return err
		}
	}
	return exitCorrupt
}

// fuzzLine sums up how far it has come.
func fuzzLine(s *fuzz.Summary) string {
	kinds := "no failures"
	if n := len(s.Failures); n > 0 {
		total := uint64(0)
		for _, f := range s.Failures {
			total += f.Count
		}
		kinds = fmt.Sprintf("%d kinds of failures on %d images", n, total)
		if n == 1 {
			kinds = fmt.Sprintf("1 kind of failure on %d images", total)
		}
	}
	return fmt.Sprintf("%d runs, %.0f a second, %s; the images met %d of %d codes of findings",
		s.Runs, float64(s.Runs)/max(s.Took.Seconds(), 0.001), kinds, len(s.Codes), len(check.Catalog()))
}

func printFailure(s *streams, f *fuzz.Failure) error {
	text := fmt.Sprintf("%s: %s", f.Kind, check.Escape(f.Detail))
	if f.Count > 1 {
		text += fmt.Sprintf(" (%d images)", f.Count)
	}
	text += "\n"
	text += fmt.Sprintf("  seed %d, %s\n", f.Mutant.Seed, f.Mutant.Case)
	for i := range f.Mutant.Mutations {
		text += "  " + check.Escape(f.Mutant.Mutations[i].Text) + "\n"
	}
	if f.Dir != "" {
		text += "  kept in " + check.Escape(f.Dir) + "\n"
	}
	_, err := fmt.Fprint(s.out, text)
	return err
}
