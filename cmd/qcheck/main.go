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
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	// Where the runtime gives up, it would end with 2, which here means a corrupt image:
	// out of memory, a signal that asks for a dump, a fault in a goroutine. So it ends by a
	// signal of its own (SIGABRT) instead; docs/exit-codes.md says where it cannot.
	// SIGQUIT must be left to it: it has its threads dump their stacks by it, and would wait
	// ten seconds for those that do not.
	debug.SetTraceback("crash")
	code, by := execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if by != nil {
		dieOf(by)
	}
	os.Exit(code)
}

// streams is where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
	told     map[string]bool // warnings given already
	progress *progressLine   // goes away before anything is said
}

// execute carries out a command line and gives the exit code, or the signal that cut
// the command short.
func execute(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int, by os.Signal) {
	s := &streams{in: stdin, out: stdout, err: stderr, told: make(map[string]bool)}
	// The runtime would end with 2, which means that an image is corrupt.
	defer func() {
		if r := recover(); r != nil {
			s.bug(r, debug.Stack())
			code = int(exitTrouble)
		}
	}()
	var cli CLI
	exited := -1
	parser, err := newParser(&cli, kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code }), kong.Bind(s))
	if err != nil {
		s.error(err) // the grammar itself is wrong
		return int(exitTrouble), nil
	}
	args, err = asFlag(args, parser.Model.Children)
	if err != nil {
		return int(s.fail(err)), nil
	}
	kctx, err := parser.Parse(literalArguments(args, parser.Model.Children))
	if exited >= 0 { // --help, --version
		return exited, nil
	}
	if err != nil {
		return int(s.fail(usage(err))), nil
	}

	in := listen()
	defer in.stop()
	kctx.BindTo(in.ctx, (*context.Context)(nil))
	err = kctx.Run(&cli.Globals)
	sig := in.stop()
	if e, ok := kctx.Selected().Target.Addr().Interface().(interface{ endsBySignal() bool }); !ok || !e.endsBySignal() {
		by = sig
	}
	if err == nil {
		return int(exitSound), by
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code), by
	}
	if errors.Is(err, syscall.EPIPE) {
		return int(exitTrouble), by // whoever read the output has gone
	}
	return int(s.fail(err)), by
}

// fail tells of an error, and what can be done about it, and gives the exit code.
func (s *streams) fail(err error) exitCode {
	s.error(err)
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok && h.Hint() != "" {
		s.hint(h.Hint())
	}
	return exitOf(err)
}

// error, warning and hint are the command's voice on standard error: lower case,
// no full stop.
func (s *streams) error(err error)     { s.say("error", err.Error()) }
func (s *streams) warning(text string) { s.say("warning", text) }
func (s *streams) hint(text string)    { s.say("hint", text) }

func (s *streams) say(kind, text string) {
	s.progress.done()
	fmt.Fprintf(s.err, "qcheck: %s: %s\n", kind, text)
}

// warnOnce warns of what would be said of each of many images.
func (s *streams) warnOnce(key, text string) {
	if !s.told[key] {
		s.told[key] = true
		s.warning(text)
	}
}

// bug tells of a fault of our own.
func (s *streams) bug(cause any, stack []byte) {
	s.error(fmt.Errorf("a fault of qcheck itself: %v", cause))
	s.hint("please report it, with what follows")
	fmt.Fprintf(s.err, "%s\n%s", versionText(), stack)
}
