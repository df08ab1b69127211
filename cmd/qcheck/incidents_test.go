package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

// incidents are the images of the corpus that show what has happened to real ones: how a
// repair makes each sound, where one can.
var incidents = map[string]struct {
	repair []string // nil: none does
	code   exitCode // of a check without any flag
	left   exitCode // after the repair
}{
	"wiped-l2-table":       {nil, exitCorrupt, 0},
	"l2-tables-reused":     {[]string{"-r", "--allow-data-loss"}, exitCorrupt, exitLeaks}, /* the data that was kept */
	"backing-deleted":      {nil, exitCorrupt, 0},
	"header-overwritten":   {nil, exitNotQcow2, 0},
	"copied-never-set":     {[]string{"-r"}, exitCorrupt, exitSound},
	"counted-past-the-end": {[]string{"-r"}, exitSound, exitSound},
	"torn-overlay":         {[]string{"-r", "--allow-data-loss"}, exitCorrupt, exitSound},
	"torn-overlay-counted": {[]string{"-r", "--allow-data-loss"}, exitCorrupt, exitSound},
	"killed-hypervisor":    {[]string{"-r", "--bitmap-policy=all-dirty"}, exitSound, exitSound},
	"cut-short":            {[]string{"-r", "--allow-data-loss"}, exitCorrupt, exitSound},
	"cut-in-a-table":       {[]string{"-r", "--allow-data-loss"}, exitCorrupt, exitSound},
	"refcounts-far-off":    {[]string{"-r"}, exitCorrupt, exitSound},
}

// Every incident is found by `qcheck` alone, and where it can be repaired QEMU finds
// nothing any more.
func TestIncidents(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, c := range corpus.Cases() {
		name, ok := strings.CutPrefix(c.Name, "incident/")
		if !ok {
			continue
		}
		seen++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, ok := incidents[name]
			require.True(t, ok)
			dir := t.TempDir()
			require.NoError(t, c.WriteFiles(dir))
			path := filepath.Join(dir, c.Filename())
			code, out, errs := runIn(path)
			assert.EqualValues(t, want.code, code, "%s%s", out, errs)
			assert.LessOrEqual(t, strings.Count(out, "\n"), 100, "no screens of one thing")
			if want.repair == nil {
				return
			}
			code, out, errs = runIn(append(want.repair, path)...)
			assert.EqualValues(t, want.left, code, "%s%s", out, errs)
			qemutest.Require(t)
			assert.EqualValues(t, want.left, qemutest.Check(t, path).RC)
		})
	}
	assert.Equal(t, len(incidents), seen)
}

// TestIncidentsPage holds what docs/incidents.md shows of qcheck: each block that begins
// with a command is what that command says today. Run it with -update to write them anew.
func TestIncidentsPage(t *testing.T) {
	const page = "../../docs/incidents.md"
	wd, err := os.Getwd()
	require.NoError(t, err)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	dir := t.TempDir()
	for _, c := range corpus.Cases() {
		if strings.HasPrefix(c.Name, "incident/") {
			require.NoError(t, c.WriteFiles(dir))
			assert.Contains(t, string(text), "`"+c.Name+"`")
		}
	}
	t.Chdir(dir)
	parts := strings.Split(string(text), "```\n")
	for i := 1; i < len(parts); i += 2 {
		command, _, _ := strings.Cut(parts[i], "\n")
		args, ok := strings.CutPrefix(command, "$ qcheck ")
		if !ok {
			continue
		}
		code, out, errs := runIn(strings.Fields(args)...)
		now := command + "\n" + out + errs + "$ echo $?\n" + strconv.Itoa(code) + "\n"
		if !*update {
			assert.Equal(t, parts[i], now, "run this test with -update")
		}
		parts[i] = now
	}
	if *update {
		require.NoError(t, os.WriteFile(filepath.Join(wd, page), []byte(strings.Join(parts, "```\n")), 0o666))
	}
}
