package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"

	"github.com/alecthomas/kong"

	"github.com/qcheck/qcheck/report"
)

// CLI is the grammar of the command line.
type CLI struct {
	Globals

	Check    CheckCmd    `cmd:"" default:"withargs" help:"Check images, and repair them with -r (the default)."`
	Info     InfoCmd     `cmd:"" help:"Show what an image is, and whether QEMU opens it."`
	Bitmaps  BitmapsCmd  `cmd:"" help:"List the persistent dirty bitmaps of an image, or show the content of one."`
	Undo     UndoCmd     `cmd:"" help:"Take the last repair of an image back."`
	Map      MapCmd      `cmd:"" help:"Draw a map of an image: who owns which clusters of the file, how the disk is stored."`
	Rescue   RescueCmd   `cmd:"" help:"Rebuild an image whose header or tables are gone."`
	Metadump MetadumpCmd `cmd:"" help:"Copy the metadata of an image, and nothing that a guest has written, for a bug report."`
	Explain  ExplainCmd  `cmd:"" help:"Explain the code of a finding."`
	Summary  SummaryCmd  `cmd:"" help:"Sum up what checks of many images have written with -o jsonl."`
	Corpus   CorpusCmd   `cmd:"" help:"Named healthy and broken images, to test with."`
	Fuzz     FuzzCmd     `cmd:"" help:"Run a program on broken images, and keep those on which it crashes or hangs."`

	Completion CompletionCmd `cmd:"" help:"Write the completions of a shell: flags, commands, codes, bitmaps of the image at hand."`
	Man        ManCmd        `cmd:"" hidden:"" help:"Write manual pages to a folder."`
	Help       HelpCmd       `cmd:"" help:"Show how a command is used."`
	VersionCmd VersionCmd    `cmd:"" name:"version" help:"Show the version."`

	Version kong.VersionFlag `help:"Show the version and exit."`
}

// newParser makes the parser of the grammar.
func newParser(cli *CLI, options ...kong.Option) (*kong.Kong, error) {
	parser, err := kong.New(cli, append([]kong.Option{
		kong.Name("qcheck"),
		kong.Help(help),
		kong.Vars{"version": versionText()},
		kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)),
	}, options...)...)
	if err == nil {
		parser.Model.HelpFlag.Help = "Show how it is used and exit."
	}
	return parser, err
}

// verbatim takes a text from the command line byte for byte. The parser's own way leads
// through JSON, which has no names that are not UTF-8; a file can have one.
func verbatim(ctx *kong.DecodeContext, target reflect.Value) error {
	t, err := ctx.Scan.PopValue("string")
	if err == nil {
		target.SetString(t.String())
	}
	return err
}

// defaultCommand is the command that need not be named.
const defaultCommand = "check"

// Globals are the flags of every command.
type Globals struct {
	Color string `enum:"auto,always,never" default:"auto" help:"Colour the output: auto (the default; on a terminal, unless NO_COLOR is set), always or never." placeholder:"WHEN"`
}

// reportOptions gives the options of a human report to w.
func (g *Globals) reportOptions(w io.Writer) report.Options {
	o := report.Options{Color: g.Color == "always", Width: terminalWidth(w)}
	if o.Width > 0 && g.Color == "auto" {
		// https://no-color.org, and terminals that know none.
		o.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return o
}

// number is a count given on the command line.
type number int

// UnmarshalText parses a number from 1 to 2^31-1.
func (n *number) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil || v == 0 {
		return fmt.Errorf("%q is not a number from 1 to %d", text, math.MaxInt32)
	}
	*n = number(v)
	return nil
}

// version is set by the linker in a release build.
var version = ""

func versionText() string { return "qcheck " + versionNumber() }

func versionNumber() string {
	v := version
	if v == "" {
		v = "unknown version"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			v = info.Main.Version
		}
	}
	return v
}
