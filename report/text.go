package report

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fatih/color"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// style holds the colours. They are switched on or off for each reporter, never
// for the process: a library must not change what its caller prints.
type style struct {
	bold, good, mild, bad, faint *color.Color
}

func newStyle(on bool) style {
	mk := func(attrs ...color.Attribute) *color.Color {
		c := color.New(attrs...)
		if on {
			c.EnableColor()
		} else {
			c.DisableColor()
		}
		return c
	}
	return style{
		bold:  mk(color.Bold),
		good:  mk(color.FgGreen),
		mild:  mk(color.FgYellow),
		bad:   mk(color.FgRed, color.Bold),
		faint: mk(color.Faint),
	}
}

func (s style) severity(v problem.Severity) *color.Color {
	switch v {
	case problem.Corruption, problem.Trouble:
		return s.bad
	case problem.Leak, problem.InDoubt, problem.Warning:
		return s.mild
	}
	return s.faint
}

func (s style) verdict(v check.Verdict) *color.Color {
	switch v {
	case check.VerdictClean:
		return s.good
	case check.VerdictWarnings, check.VerdictLeaks, check.VerdictInDoubt:
		return s.mild
	}
	return s.bad
}

// printable makes text safe for a terminal that may already hold escapes of
// [check.Escape]: unlike that it leaves backslashes alone.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || unprintable(r) {
			b.WriteString(check.Escape(s[:n]))
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// raw gives a string for JSON: as it is where it is UTF-8, else escaped. The
// second value tells that it was escaped.
func raw(s string) (string, bool) {
	if utf8.ValidString(s) {
		return s, false
	}
	return check.Escape(s), true
}

// jsonPrintable replaces what a terminal might obey by JSON's escapes, which
// stand for the same string. Outside of strings JSON has nothing but ASCII.
func jsonPrintable(b []byte) []byte {
	if !bytes.ContainsFunc(b, func(r rune) bool { return r >= 0x7f && unprintable(r) }) {
		return b
	}
	out := make([]byte, 0, len(b)+32)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r < 0x7f || !unprintable(r):
			out = append(out, b[:n]...)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		b = b[n:]
	}
	return out
}

// size writes a number of bytes as people read it: exact where it is a whole
// number of units, else with one decimal.
func size(n uint64) string { return check.ReadableSize(n) }

func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// percent writes a share as `qemu-img check` does.
func percent(part, whole uint64) string {
	if whole == 0 {
		return "0.00%"
	}
	return fmt.Sprintf("%.2f%%", 100*float64(part)/float64(whole))
}

// printer writes lines and remembers the first error of the writer.
type printer struct {
	w     io.Writer
	width int
	style
	err error
}

func (p *printer) line(s string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, strings.TrimRight(s, " ")+"\n")
	}
}

func (p *printer) linef(format string, args ...any) { p.line(fmt.Sprintf(format, args...)) }

// wrapped writes text after head, broken between words so that it fits the
// width; further lines start with indent spaces. Colours may be in head only.
func (p *printer) wrapped(head string, headWidth int, text string, indent int) {
	// A narrow terminal gets long lines rather than one word a line.
	if p.width < indent+30 {
		p.line(head + text)
		return
	}
	col, line, fresh := headWidth, head, true
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		if !fresh && col+1+n > p.width {
			p.line(line)
			line, col, fresh = strings.Repeat(" ", indent), indent, true
		}
		if !fresh {
			line += " "
			col++
		}
		line += word
		col += n
		fresh = false
	}
	p.line(line)
}

// structureTitle names a structure as headings do: "L1 table".
func structureTitle(s problem.Structure) string {
	t := strings.ReplaceAll(string(s), "-", " ")
	if strings.HasPrefix(t, "l1") || strings.HasPrefix(t, "l2") {
		t = "L" + t[1:]
	}
	return t
}

// table writes rows in columns, the first row as their heading. The last column
// is not filled up.
func (p *printer) table(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		line := strings.TrimRight(b.String(), " ")
		if n == 0 {
			line = p.bold.Sprint(line)
		}
		p.line(line)
	}
}
