package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

// advised are the commands that a text tells the user to type.
var advised = regexp.MustCompile("`(qcheck [^`]*)`")

// parses tells whether the grammar takes a command line, whose names need no quotes.
func parses(command string) error {
	var cli CLI
	parser, err := newParser(&cli)
	if err != nil {
		return err
	}
	args := strings.Fields(command)[1:]
	ctx, err := parser.Parse(literalArguments(args, parser.Model.Children))
	if err != nil {
		return err
	}
	if ctx.Command() == "check" || strings.HasPrefix(ctx.Command(), "check ") {
		if err := cli.Check.validateRepair(); err != nil {
			return err
		}
		if len(cli.Check.Images) != 1 {
			return &usageError{text: "no image"}
		}
		if _, err := os.Stat(cli.Check.Images[0]); err != nil {
			return err
		}
	}
	return nil
}

// Every command that is printed as advice, over the corpus in all kinds of runs, can be
// typed as it stands; and of a plain check, one that says that it repairs does so.
func TestAdviceCanBeTyped(t *testing.T) {
	t.Parallel()
	runs := [][]string{
		nil, {"-n"}, {"-n", "--repair=leaks"}, {"-n", "--repair=bitmaps"}, {"-n", "--repair=refcounts"}, {"-n", "--bitmap-policy=mark"},
		{"-n", "--bitmap-policy=remove"}, {"-n", "--bitmap-policy=all-dirty", "--allow-data-loss"}, {"-n", "--reattach"},
		{"-n", "--repair=leaks", "--reattach"}, {"-n", "--repair=bitmaps", "--bitmap-policy=mark", "--compact-bitmaps"}, {"-r", "leaks"}, {"-r", "bitmaps"}, {"-r"},
	}
	stride := 24
	if testing.Short() {
		stride = 60
	}
	if everyCase {
		stride = 1
	}
	commands := make(map[string]bool)
	for i, c := range corpus.Cases() {
		if i%stride != 0 || c.Healthy() || c.Huge || len(c.Unreadable) > 0 || c.MemoryLimit > 0 || strings.HasPrefix(c.Name, "hostile/") {
			continue
		}
		dir := t.TempDir()
		require.NoError(t, c.WriteFiles(dir))
		path := filepath.Join(dir, c.Filename())
		said := make(map[string]bool) // of this image
		for _, flags := range runs {
			code, out, errs := runIn(append(slices.Clone(flags), path)...)
			_, next, _ := strings.Cut(out, "next: ")
			for _, m := range advised.FindAllStringSubmatch(out+errs, -1) {
				if !said[m[1]] {
					said[m[1]] = true
					assert.NoError(t, parses(m[1]), "%s %v: %s", c.Name, flags, m[1])
				}
				commands[strings.ReplaceAll(m[1], path, "IMAGE")] = true
			}
			if len(flags) == 0 {
				assertAdviceHolds(t, c.Name, path, next, code)
			}
			if len(flags) > 0 && flags[0] == "-r" {
				_, _, _ = runIn("undo", path)
			}
		}
		require.NoError(t, os.RemoveAll(dir))
	}
	assert.Greater(t, len(commands), 10)
	for _, c := range []string{"qcheck -r IMAGE", "qcheck -n IMAGE", "qcheck -n --allow-data-loss IMAGE"} {
		assert.True(t, commands[c], "%s is nowhere advised: nothing was tested", c)
	}
}

// assertAdviceHolds asserts that what the last line of a plain check says of repairs is so.
func assertAdviceHolds(t *testing.T, name, path, next string, code int) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	edits := func(flags ...string) int {
		p, _, errs := repairJSON(t, append(flags, path)...)
		require.Empty(t, p.Error, "%s: %s", name, errs)
		return p.Repair.Edits
	}
	switch {
	case strings.Contains(next, "repairs it without"):
		code, _, errs := runIn("-q", "-r", "--no-undo", path)
		assert.Zero(t, code, "%s: %s %s", name, next, errs)
	case strings.Contains(next, "repairs what can be"):
		assert.NotZero(t, edits("-n"), "%s: %s", name, next)
	case strings.Contains(next, "--reattach"):
		assert.NotZero(t, edits("-n", "--reattach"), "%s: %s", name, next)
	case strings.Contains(next, "--allow-data-loss"):
		assert.NotZero(t, edits("-n", "--allow-data-loss"), "%s: %s", name, next)
	case strings.Contains(next, "cannot repair this"):
		assert.Zero(t, edits("-n", "--reattach", "--allow-data-loss"), "%s: %s", name, next)
	}
	require.NoError(t, os.WriteFile(path, content, 0o644))
}
