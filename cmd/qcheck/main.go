// Command qcheck is the fsck of qcow2 disk images.
//
// This package is the command line alone: grammar, files and locks, exit codes.
// What it knows of the format it asks of the other packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// streams is where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run carries out a command line and gives the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s := &streams{in: stdin, out: stdout, err: stderr}
	var cli CLI
	exited := -1
	parser, err := kong.New(&cli,
		kong.Name("qcheck"),
		kong.Description(description),
		kong.UsageOnError(),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 100}),
		kong.Help(help),
		kong.Vars{"version": versionText()},
		kong.Bind(s),
	)
	if err != nil {
		s.error(err) // the grammar itself is wrong
		return int(exitTrouble)
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 { // --help, --version
		return exited
	}
	if err != nil {
		s.error(err)
		s.hint("`qcheck --help` shows how it is used")
		return int(exitTrouble)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kctx.BindTo(ctx, (*context.Context)(nil))
	err = kctx.Run(&cli.Globals)
	var code exitCode
	switch {
	case err == nil:
		return int(exitSound)
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, syscall.EPIPE):
		return int(exitTrouble) // whoever read the output has gone
	}
	s.error(err)
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok && h.Hint() != "" {
		s.hint(h.Hint())
	}
	return int(exitTrouble)
}

// error, warning and hint are the command's voice on standard error: lower case,
// no full stop.
func (s *streams) error(err error)     { fmt.Fprintf(s.err, "qcheck: error: %v\n", err) }
func (s *streams) warning(text string) { fmt.Fprintf(s.err, "qcheck: warning: %s\n", text) }
func (s *streams) hint(text string)    { fmt.Fprintf(s.err, "qcheck: hint: %s\n", text) }
