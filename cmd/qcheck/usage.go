package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/alecthomas/kong"

	"github.com/qcheck/qcheck/check"
)

// usageError is a command line that cannot be carried out as it stands.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

// Hint says what to type instead.
func (e *usageError) Hint() string { return e.hint }

// helpHint points to the help of a command; the path of the root is "".
func helpHint(command string) string {
	return fmt.Sprintf("`%s --help` shows how it is used", strings.TrimSpace("qcheck "+command))
}

// usagePatterns are what the parser says. They are compiled only when it says
// something: a command that is run for thousands of images starts often.
var usagePatterns = sync.OnceValue(func() (p struct{ missingArgument, missingValue, flagOfCheck, shortFlag *regexp.Regexp }) {
	p.missingArgument = regexp.MustCompile(`^expected "<(\w+)>`)
	p.missingValue = regexp.MustCompile(`^(--?[\w-]+): (?:.*<EOL>|missing value|expected .* \((?:short|long) flag\))`)
	p.flagOfCheck = regexp.MustCompile(`^flag (--[\w-]+) applies to the default command .*, not "(.+)"`)
	p.shortFlag = regexp.MustCompile(`^unknown flag -[^-]`)
	return p
})

// usage puts an error of the parser in the command's voice.
func usage(err error) *usageError {
	command := ""
	if pe, ok := errors.AsType[*kong.ParseError](err); ok {
		if n := pe.Context.Selected(); n != nil && n.Name != defaultCommand {
			command = n.Path()
		}
	}
	p := usagePatterns()
	// The parser quotes arguments as they are, and a file's name may be one.
	e := &usageError{text: check.Escape(err.Error()), hint: helpHint(command)}
	if m := p.missingArgument.FindStringSubmatch(e.text); m != nil {
		e.text = fmt.Sprintf("%s: no %s named", command, m[1])
		if info, err := os.Stat(command); err == nil && info.Mode().IsRegular() {
			e.hint = fmt.Sprintf("`qcheck ./%s` checks the file of that name; %s", command, e.hint)
		}
	}
	if m := p.missingValue.FindStringSubmatch(e.text); m != nil {
		e.text = m[1] + ": a value is missing"
	}
	if m := p.flagOfCheck.FindStringSubmatch(e.text); m != nil {
		e.text = fmt.Sprintf("%s is given before the command %s: flags of a command come after its name", m[1], m[2])
		e.hint = helpHint(m[2])
	}
	if m := p.shortFlag.FindString(e.text); m != "" {
		e.text = m // one letter resembles every other
	}
	return e
}

// notThereHint is for a first argument that is no file: it may have been meant
// as something else.
func notThereHint(path string, err error) string {
	switch {
	case !errors.Is(err, fs.ErrNotExist) || strings.ContainsAny(path, "/."):
		return ""
	case path == "-":
		return "an image cannot be read from standard input: it is not read from front to back"
	case path == "":
		return ""
	}
	return fmt.Sprintf("if %s is meant as a command: there is none of that name; `qcheck --help` lists those there are", check.Escape(path))
}

// literalArguments makes what follows "--" images for the default command also
// where one has the name of a command: to the parser, only flags end there.
func literalArguments(args []string, commands []*kong.Node) []string {
	for _, a := range args {
		if a == "--" {
			return append([]string{defaultCommand}, args...)
		}
		for _, c := range commands {
			if a == c.Name {
				return args
			}
		}
	}
	return args
}
