package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// Words that people type as commands where others type flags.

// HelpCmd is `qcheck help [COMMAND]`.
type HelpCmd struct {
	Command []string `arg:"" optional:"" help:"The command to explain."`
}

// Run is not reached: see [asFlag].
func (c *HelpCmd) Run() error { return nil }

// VersionCmd is `qcheck version`.
type VersionCmd struct{}

// Run shows the version.
func (c *VersionCmd) Run(s *streams) error {
	_, err := fmt.Fprintln(s.out, versionText())
	return err
}

// asFlag makes `qcheck help COMMAND` what it means, `qcheck COMMAND --help`. What is no command
// is an error, and not a file to be checked.
func asFlag(args []string, commands []*kong.Node) ([]string, error) {
	if len(args) == 0 || args[0] != "help" {
		return args, nil
	}
	for _, a := range args[1:] {
		known := false
		for _, c := range commands {
			if c.Name == a {
				commands, known = c.Children, true
				break
			}
		}
		if !known && a != "--help" && a != "-h" {
			return nil, &usageError{text: fmt.Sprintf("there is no command %q", a), hint: helpHint("")}
		}
	}
	return append(append([]string{}, args[1:]...), "--help"), nil
}
