package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

const description = `The fsck of qcow2 disk images: says everything that is wrong with an image, and repairs it where that is asked for (-r); without it nothing is ever written.`

const exitCodesText = `Exit codes: 0 sound, 1 could not complete, 2 corruption, 3 leaks only, 4 sound but a requirement is not met, ` +
	`63 not a qcow2 image.`

const rootExamples = `  qcheck disk.qcow2                              check an image
  qcheck -n disk.qcow2                           what a repair would do
  qcheck -r disk.qcow2                           repair it, without losing data
  qcheck -r leaks disk.qcow2                     only free what is leaked
  qcheck undo disk.qcow2                         take the repair back
  qcheck -o json disk.qcow2                      for a program to read
  qcheck -U disk.qcow2                           while a VM uses it (findings are provisional)
  qcheck --require-bitmap backup-7 disk.qcow2    before an incremental backup
  qcheck --untrusted upload.qcow2                before an import from a stranger
  find /vm -name '*.qcow2' | qcheck -q --files-from -
  qcheck info disk.qcow2                         header, features, snapshots, bitmaps
  qcheck bitmaps disk.qcow2 backup-7             what a bitmap calls dirty
  qcheck explain MAP003                          what a finding means`

// terminalWidth is the width of w in columns, or 0 where w is no terminal.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 0
}

// helpPage collects the text of a help page.
type helpPage struct {
	strings.Builder
	width int // columns
}

// help shows how a command is used. The default command's flags are shown with
// the root, since nobody types its name.
func help(_ kong.HelpOptions, ctx *kong.Context) error {
	p := &helpPage{width: 80}
	if w := terminalWidth(ctx.Stdout); w > 0 {
		p.width = max(60, min(w, 100))
	}
	if n := ctx.Selected(); n != nil && !isDefault(ctx) {
		p.command(n)
	} else {
		p.root(ctx.Model.Node)
	}
	_, err := io.WriteString(ctx.Stdout, p.String())
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

func (p *helpPage) root(root *kong.Node) {
	fmt.Fprintf(p, "Usage: %s [flags] IMAGE...\n       %[1]s COMMAND [flags] ...\n\n", root.Name)
	p.paragraph(description)
	p.commands(root)
	for _, c := range root.Children {
		if c.Name == defaultCommand {
			p.flagsOfCheck(c.Flags)
		}
	}
	p.flags("Flags of every command", root.Flags)
	p.paragraph("\n`qcheck COMMAND --help` shows the flags and arguments of a command.")
	p.examples(rootExamples)
	p.paragraph("\n" + exitCodesText)
}

func (p *helpPage) command(n *kong.Node) {
	usage := "Usage: qcheck " + n.Path()
	if len(n.Children) > 0 {
		usage += " COMMAND"
	}
	usage += " [flags]"
	for _, a := range n.Positional {
		usage += " " + argument(a)
	}
	fmt.Fprintf(p, "%s\n\n", usage)
	p.paragraph(n.Help)
	p.commands(n)
	if len(n.Positional) > 0 {
		p.heading("Arguments")
		var rows [][2]string
		for _, a := range n.Positional {
			rows = append(rows, [2]string{argument(a), a.Help})
		}
		p.columns(rows)
	}
	switch {
	case n.Name == defaultCommand:
		p.flagsOfCheck(n.Flags)
	case len(n.Flags) > 0:
		p.flags("Flags", n.Flags)
	}
	root := n
	for root.Parent != nil {
		root = root.Parent
	}
	p.flags("Flags of every command", root.Flags)
	if e, ok := n.Target.Addr().Interface().(interface{ Examples() string }); ok {
		p.examples(e.Examples())
	}
	if n.Name == defaultCommand {
		p.paragraph("\n" + exitCodesText)
	}
}

// argument writes a positional argument as usage lines do: IMAGE, [NAME], CODE...
func argument(a *kong.Positional) string {
	s := strings.ToUpper(a.Name)
	if a.IsCumulative() {
		s += "..."
	}
	if !a.Required {
		s = "[" + s + "]"
	}
	return s
}

func (p *helpPage) heading(text string) { fmt.Fprintf(p, "\n%s:\n", text) }

func (p *helpPage) examples(text string) {
	p.heading("Examples")
	p.WriteString(text + "\n")
}

func (p *helpPage) commands(n *kong.Node) {
	if len(n.Children) == 0 {
		return
	}
	p.heading("Commands")
	var rows [][2]string
	for _, c := range n.Children {
		rows = append(rows, [2]string{c.Name, c.Help})
	}
	p.columns(rows)
}

// flagsOfCheck shows those of a repair apart.
func (p *helpPage) flagsOfCheck(flags []*kong.Flag) {
	var check, repair []*kong.Flag
	for _, f := range flags {
		if f.Group != nil {
			repair = append(repair, f)
		} else {
			check = append(check, f)
		}
	}
	p.flags("Flags of a check", check)
	p.flags("Flags of a repair", repair)
}

func (p *helpPage) flags(title string, flags []*kong.Flag) {
	p.heading(title)
	var rows [][2]string
	for _, f := range flags {
		left := "    "
		if f.Short != 0 {
			left = "-" + string(f.Short) + ", "
		}
		left += "--" + f.Name
		switch {
		case !f.IsBool():
			left += "=" + f.FormatPlaceHolder()
		case f.PlaceHolder != "":
			left += f.PlaceHolder // a value that may be left out
		}
		rows = append(rows, [2]string{left, f.Help})
	}
	p.columns(rows)
}

// widest is the most that the left column takes; what is wider has a line of its
// own.
const widest = 24

// columns writes rows of a name and a text that is broken between words.
func (p *helpPage) columns(rows [][2]string) {
	left := 0
	for _, r := range rows {
		if len(r[0]) <= widest {
			left = max(left, len(r[0]))
		}
	}
	indent := 2 + left + 2
	for _, r := range rows {
		fmt.Fprintf(p, "  %-*s", left, r[0])
		if len(r[0]) > left {
			fmt.Fprintf(p, "\n%*s", 2+left, "")
		}
		p.WriteString("  ")
		p.wrapped(r[1], indent)
	}
}

func (p *helpPage) paragraph(text string) {
	if rest, ok := strings.CutPrefix(text, "\n"); ok {
		p.WriteString("\n")
		text = rest
	}
	p.wrapped(text, 0)
}

// wrapped writes a text whose first line starts, and whose others are indented,
// at a column.
func (p *helpPage) wrapped(text string, indent int) {
	col := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case col+1+len(word) > p.width:
			fmt.Fprintf(p, "\n%*s", indent, "")
			col = indent
		default:
			p.WriteString(" ")
			col++
		}
		p.WriteString(word)
		col += len(word)
	}
	p.WriteString("\n")
}
