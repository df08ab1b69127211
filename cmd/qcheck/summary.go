package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/inputs"
	"github.com/qcheck/qcheck/report"
)

// SummaryCmd is `qcheck summary`.
type SummaryCmd struct {
	Files   []string `arg:"" name:"file" help:"What checks have written with -o jsonl ('-': standard input)."`
	Expect  []string `sep:"none" placeholder:"LIST" help:"Say which of the images that LIST names were not checked, or twice; written as for --files-from. Can be repeated."`
	Output  string   `short:"o" enum:"human,json,prometheus" default:"human" placeholder:"FORMAT" help:"How to report: human (the default), json or prometheus."`
	Verbose bool     `short:"v" help:"Name up to 1,000 images of a kind, not 20."`
}

// Run sums up.
func (c *SummaryCmd) Run(g *Globals, s *streams) error {
	f := report.NewFleet()
	for _, name := range c.Files {
		if err := readLines(f, name, s.in); err != nil {
			return fmt.Errorf("%s: %w", check.Escape(name), err)
		}
	}
	for path, err := range inputs.Paths(nil, c.Expect, s.in) {
		if err != nil {
			return err
		}
		f.Expect(path)
	}
	var err error
	switch c.Output {
	case "json":
		err = f.JSON(s.out)
	case "prometheus":
		err = f.Prometheus(s.out)
	default:
		opts := g.reportOptions(s.out)
		opts.Verbose = c.Verbose
		err = f.Human(s.out, opts)
	}
	if code := exitCode(f.ExitCode()); err == nil && code != exitSound {
		return code
	}
	return err
}

// readLines reads one file.
func readLines(f *report.Fleet, name string, stdin io.Reader) error {
	if name == inputs.Stdin {
		return f.Read(stdin)
	}
	file, err := os.Open(name)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return err
	}
	defer file.Close()
	return f.Read(file)
}
