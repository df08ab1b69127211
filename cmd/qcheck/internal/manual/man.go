// Package manual makes manual pages and shell completions from the grammar of the command line,
// so that they say what the program does.
package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// Page is a manual page.
type Page struct {
	Name string // of the file: "qcheck-info.1"
	Text string // roff
}

// Texts are what a page says besides the grammar.
type Texts struct {
	Description string
	ExitCodes   string
	Examples    string // of the program; those of a command are its own
	Default     string // the command that need not be named
	Date        string // of the release, as in "2026-11-21"; may be empty
	Version     string
}

// Pages gives a page for the program and one for each command.
func Pages(root *kong.Node, t Texts) []Page {
	pages := []Page{{root.Name + ".1", t.root(root)}}
	var walk func(n *kong.Node, path string)
	walk = func(n *kong.Node, path string) {
		for _, c := range n.Children {
			if c.Hidden {
				continue
			}
			name := path + "-" + c.Name
			pages = append(pages, Page{name + ".1", t.command(c, name)})
			walk(c, name)
		}
	}
	walk(root, root.Name)
	return pages
}

// roff is a page under way.
type roff struct{ strings.Builder }

func (r *roff) linef(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// escape makes a text stand for itself.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

func (r *roff) text(s string) { r.linef("%s", escape(strings.ReplaceAll(s, "\n", " "))) }

func (t Texts) head(name, what string) *roff {
	r := &roff{}
	r.linef(`.TH %s 1 "%s" "qcheck %s" "qcheck"`, strings.ToUpper(escape(name)), t.Date, escape(t.Version))
	r.linef(".SH NAME")
	r.linef(`%s \- %s`, escape(name), escape(strings.TrimSuffix(what, ".")))
	return r
}

func (r *roff) examples(text string) {
	if strings.TrimSpace(text) == "" {
		return
	}
	r.linef(".SH EXAMPLES\n.nf")
	for line := range strings.Lines(text) {
		r.text(strings.TrimRight(line, "\n"))
	}
	r.linef(".fi")
}

func (r *roff) flags(title string, flags []*kong.Flag) {
	if len(flags) == 0 {
		return
	}
	r.linef(".SH %s", title)
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		name := `\fB` + escape("--"+f.Name) + `\fR`
		if f.Short != 0 {
			name = `\fB` + escape("-"+string(f.Short)) + `\fR, ` + name
		}
		switch {
		case !f.IsBool():
			name += `=\fI` + escape(f.FormatPlaceHolder()) + `\fR`
		case f.PlaceHolder != "":
			name += `\fI` + escape(f.PlaceHolder) + `\fR`
		}
		r.linef(".TP\n%s", name)
		r.text(f.Help)
	}
}

func (t Texts) root(root *kong.Node) string {
	r := t.head(root.Name, "the fsck of qcow2 disk images")
	r.linef(".SH SYNOPSIS")
	r.linef(`.B %s`+"\n"+`[\fIflags\fR] \fIIMAGE\fR...`+"\n.br\n.B %s\n"+`\fICOMMAND\fR [\fIflags\fR] ...`, root.Name, root.Name)
	r.linef(".SH DESCRIPTION")
	r.text(t.Description)
	r.linef(".SH COMMANDS")
	for _, c := range root.Children {
		if c.Hidden {
			continue
		}
		r.linef(".TP\n\\fB%s\\fR(1)", escape(root.Name+"-"+c.Name))
		r.text(c.Help)
	}
	for _, c := range root.Children {
		if c.Name == t.Default {
			r.flags("OPTIONS", c.Flags)
		}
	}
	r.flags("OPTIONS OF EVERY COMMAND", root.Flags)
	r.linef(".SH EXIT STATUS")
	r.text(t.ExitCodes)
	r.examples(t.Examples)
	return r.String()
}

func (t Texts) command(n *kong.Node, name string) string {
	r := t.head(name, n.Help)
	r.linef(".SH SYNOPSIS\n.B %s", escape("qcheck "+n.Path()))
	usage := ""
	if len(n.Children) > 0 {
		usage += ` \fICOMMAND\fR`
	}
	usage += ` [\fIflags\fR]`
	for _, a := range n.Positional {
		s := `\fI` + escape(strings.ToUpper(a.Name)) + `\fR`
		if a.IsCumulative() {
			s += "..."
		}
		if !a.Required {
			s = "[" + s + "]"
		}
		usage += " " + s
	}
	r.linef("%s", strings.TrimSpace(usage))
	r.linef(".SH DESCRIPTION")
	r.text(n.Help)
	for _, a := range n.Positional {
		r.linef(".TP\n\\fI%s\\fR", escape(strings.ToUpper(a.Name)))
		r.text(a.Help)
	}
	for _, c := range n.Children {
		r.linef(".TP\n\\fB%s\\fR", escape(c.Name))
		r.text(c.Help)
	}
	r.flags("OPTIONS", n.Flags)
	if e, ok := n.Target.Addr().Interface().(interface{ Examples() string }); ok {
		r.examples(e.Examples())
	}
	r.linef(".SH SEE ALSO\n.BR qcheck (1)")
	return r.String()
}
