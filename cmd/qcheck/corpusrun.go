package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/qcheck/qcheck/fuzz/readers"
)

// CorpusRunCmd is `qcheck corpus run [flags] -- READER… {}`.
type CorpusRunCmd struct {
	Cases       string        `help:"Which images, as in 'qcheck corpus list'. The default is all." placeholder:"PATTERN"`
	MaxDisk     byteSize      `name:"max-disk" help:"Leave out images with a larger virtual disk. The default is 64M; none where the command asks for parts." placeholder:"SIZE"`
	Unsupported []string      `help:"Features that the reader does not know (see docs/corpus.md): refusing sound images with them is right." placeholder:"FEATURE"`
	Jobs        number        `short:"j" help:"How many run at once. The default is the number of processors." placeholder:"N"`
	Timeout     time.Duration `help:"What one run may take; longer is a hang. The default is 10s." placeholder:"TIME"`
	MaxRSS      byteSize      `name:"max-rss" help:"What one process of a run may take of memory. The default is 1G." placeholder:"SIZE"`
	Output      string        `short:"o" enum:"human,json,junit" default:"human" help:"human (the default), json or junit." placeholder:"FORMAT"`
	Verbose     bool          `short:"v" help:"Name the images that were refused, too."`
	Progress    string        `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show how far it has come: auto (the default; on a terminal), always or never."`
	Command     []string      `arg:"" help:"The reader, behind --: it writes the disk to its standard output. {} stands for the image, {offset} and {length} for a part of the disk in bytes, {secret} for the passphrase of encrypted images."`
}

// Examples is shown below the command's help.
func (c *CorpusRunCmd) Examples() string {
	return "  qcheck corpus run -- ./my-reader --raw {}\n" +
		"  qcheck corpus run --unsupported luks,aes -- ./my-reader {}\n" +
		"  qcheck corpus run -o junit -- ./my-reader --offset {offset} --length {length} {}"
}

// Run runs the reader over the corpus.
func (c *CorpusRunCmd) Run(ctx context.Context, s *streams) error {
	if !strings.Contains(strings.Join(c.Command, " "), readers.Placeholder) {
		return &usageError{text: "corpus run: no argument of the command holds {}, which stands for the image", hint: "`qcheck corpus run -- READER {}`; " + helpHint("corpus")}
	}
	r := &readers.Runner{Command: c.Command, Pattern: c.Cases, MaxDisk: uint64(c.MaxDisk), Unsupported: c.Unsupported,
		Jobs: int(c.Jobs), Timeout: c.Timeout, Memory: int64(c.MaxRSS)}
	s.progress = newProgressLine(c.Progress, s.err, "")
	if line := s.progress; line != nil {
		r.Progress = func(done, of int) { line.show(fmt.Sprintf("%d of %d images", done, of)) }
	}
	report, err := r.Run(ctx)
	s.progress.done()
	switch {
	case errors.Is(err, readers.ErrNoImage):
		return noCase(c.Cases)
	case report == nil:
		return err
	}
	write := func() error { return report.WriteText(s.out, c.Verbose) }
	switch c.Output {
	case "json":
		write = func() error { return report.WriteJSON(s.out) }
	case "junit":
		write = func() error { return report.WriteJUnit(s.out) }
	}
	if failed := write(); failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("%w: is the command right?", err)
	}
	if report.Faults() > 0 {
		return exitCorrupt
	}
	return nil
}
