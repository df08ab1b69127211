package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/manual"
	"github.com/qcheck/qcheck/qcow2"
)

// CompletionCmd is `qcheck completion SHELL`.
type CompletionCmd struct {
	Shell string   `arg:"" optional:"" help:"bash, zsh or fish."`
	Words bool     `hidden:"" help:"Complete the last of the words."`
	Line  []string `arg:"" optional:"" hidden:"" help:"Words of a command line, for --words."`
}

// Examples is shown below the command's help.
func (c *CompletionCmd) Examples() string {
	return "  source <(qcheck completion bash)\n  qcheck completion zsh > ~/.zfunc/_qcheck\n  qcheck completion fish > ~/.config/fish/completions/qcheck.fish"
}

// Run writes the script for a shell, or completes a word for it.
func (c *CompletionCmd) Run(kctx *kong.Context, s *streams) error {
	if c.Words {
		words := c.Line
		if c.Shell != "" || len(c.Line) > 0 {
			words = append([]string{c.Shell}, c.Line...)
		}
		for _, w := range manual.Complete(kctx.Model.Node, words, manual.Words{Codes: codeNames, Bitmaps: bitmapNames, Default: defaultCommand}) {
			if _, err := fmt.Fprintln(s.out, w); err != nil {
				return err
			}
		}
		return nil
	}
	script, ok := manual.Script(c.Shell)
	if !ok {
		return &usageError{text: "completion: name a shell: bash, zsh or fish", hint: helpHint("completion")}
	}
	_, err := io.WriteString(s.out, script)
	return err
}

func codeNames() (names []string) {
	for _, r := range problem.Catalog() {
		names = append(names, string(r.Code))
	}
	return names
}

// bitmapNames gives the names of an image's bitmaps, as they can be typed. It reads the
// directory alone, and says nothing of what is in the way.
func bitmapNames(path string) (names []string) {
	f, err := imagefile.Open(path, imagefile.Options{ForceShare: true})
	if err != nil {
		return nil
	}
	defer f.Close()
	img, err := qcow2.Open(f, f.Size())
	if err != nil || !img.GeometryOK {
		return nil
	}
	ext := img.Extension(qcow2.ExtBitmaps)
	if ext == nil {
		return nil
	}
	for _, e := range qcow2.ReadBitmapDirectory(img, qcow2.DecodeBitmapsExtension(ext.Data)).Entries {
		names = append(names, check.Escape(string(e.Name)))
	}
	return names
}

// ManCmd is `qcheck man DIR`: what `make dist` asks for.
type ManCmd struct {
	Dir  string `arg:"" help:"The folder to write manual pages to."`
	Date string `help:"The date in the pages."`
}

// Run writes the manual pages.
func (c *ManCmd) Run(kctx *kong.Context) error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	for _, p := range manual.Pages(kctx.Model.Node, manual.Texts{Description: description, ExitCodes: exitCodesText, Examples: rootExamples,
		Default: defaultCommand, Date: c.Date, Version: versionNumber()}) {
		if err := os.WriteFile(filepath.Join(c.Dir, p.Name), []byte(p.Text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
