package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/qcheck/qcheck/report"
)

const description = `The fsck of qcow2 disk images: says everything that is wrong with an image, and never writes to it.`

// CLI is the grammar of the command line.
type CLI struct {
	Globals

	Check   CheckCmd   `cmd:"" default:"withargs" help:"Check images (the default)."`
	Info    InfoCmd    `cmd:"" help:"Show what an image is, and whether QEMU opens it."`
	Bitmaps BitmapsCmd `cmd:"" help:"List the persistent dirty bitmaps of an image, or show the content of one."`
	Explain ExplainCmd `cmd:"" help:"Explain the code of a finding."`

	Version kong.VersionFlag `help:"Show the version and exit."`
}

// Globals are the flags of every command.
type Globals struct {
	Color string `enum:"auto,always,never" default:"auto" help:"Colour the output: ${enum}." placeholder:"WHEN"`
}

// reportOptions gives the options of a human report to w.
func (g *Globals) reportOptions(w io.Writer) report.Options {
	o := report.Options{Color: g.Color == "always"}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			o.Width = width
		}
		if g.Color == "auto" {
			// https://no-color.org, and terminals that know none.
			o.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		}
	}
	return o
}

// version is set by the linker in a release build.
var version = ""

func versionText() string {
	v := version
	if v == "" {
		v = "unknown version"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			v = info.Main.Version
		}
	}
	return "qcheck " + v
}

// help adds to kong's help the examples that a command has.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	text := rootExamples
	if n := ctx.Selected(); n != nil && n.Target.IsValid() && n.Target.CanAddr() {
		if e, ok := n.Target.Addr().Interface().(interface{ Examples() string }); ok && !isDefault(ctx) {
			text = e.Examples()
		}
	}
	_, err := fmt.Fprintf(ctx.Stdout, "\nExamples:\n%s\n", text)
	return err
}

// isDefault tells that no command was named.
func isDefault(ctx *kong.Context) bool {
	for _, p := range ctx.Path {
		if p.Command != nil {
			return false
		}
	}
	return true
}

const rootExamples = `  qcheck disk.qcow2                              check an image
  qcheck -o json disk.qcow2                      for a program to read
  qcheck -U disk.qcow2                           while a VM uses it (findings are provisional)
  qcheck --require-bitmap backup-7 disk.qcow2    before an incremental backup
  qcheck --untrusted upload.qcow2                before an import from a stranger
  qcheck info disk.qcow2                         header, features, snapshots, bitmaps
  qcheck bitmaps disk.qcow2 backup-7             what a bitmap calls dirty
  qcheck explain MAP003                          what a finding means

Exit codes: 0 sound, 1 could not complete, 2 corruption, 3 leaks only,
4 sound but a requirement is not met, 63 not a qcow2 image.`
