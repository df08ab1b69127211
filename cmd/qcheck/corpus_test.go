package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/corpus"
)

// codeWanted is the exit code that a case's findings ask for.
func codeWanted(c *corpus.Case) exitCode {
	code := exitSound
	for _, w := range c.Want {
		r, _ := problem.Lookup(w.Code)
		severity := r.Severity
		if w.Severity != 0 {
			severity = w.Severity
		}
		switch {
		case w.Code == problem.NotQcow2:
			return exitNotQcow2
		case w.Code.Is(problem.UnknownFormat), severity == problem.Trouble:
			return exitTrouble
		case w.Code.Unsupported() && code != exitCorrupt && c.QEMU.ReadOnly != check.OpenOK:
			code = exitTrouble
		case severity == problem.Corruption:
			code = exitCorrupt
		case (severity == problem.Leak || severity == problem.InDoubt) && code == exitSound:
			code = exitLeaks
		}
	}
	return code
}

// folderState gives the state of all files in a folder: size, times and a digest
// of every byte that is stored.
func folderState(t *testing.T, dir string) map[string]fileState {
	t.Helper()
	states := make(map[string]fileState)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		f, err := imagefile.Open(filepath.Join(dir, e.Name()), imagefile.Options{ForceShare: true})
		require.NoError(t, err)
		h := sha256.New()
		for start, end := int64(0), int64(0); ; {
			start, end, err = f.NextData(end)
			require.NoError(t, err)
			if start == end {
				break
			}
			fmt.Fprintln(h, start, end)
			_, err = io.Copy(h, io.NewSectionReader(f, start, end-start))
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		states[e.Name()] = fileState{size: info.Size(), mode: info.Mode(), time: info.ModTime(), digest: string(h.Sum(nil))}
	}
	return states
}

// TestCorpus runs the commands on every image of the corpus: the exit code is that
// of the findings wanted, standard output can be used, and no byte changes.
func TestCorpus(t *testing.T) {
	t.Parallel()
	for i, c := range corpus.Cases() {
		if testing.Short() && i%8 != 0 {
			continue
		}
		if c.Huge || len(c.Unreadable) > 0 || strings.HasPrefix(c.Name, "hostile/") {
			continue // they exist in memory only, or want no exact findings
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, c.WriteFiles(dir))
			path := filepath.Join(dir, c.Filename())
			before := folderState(t, dir)
			want := codeWanted(&c)

			args := []string{"-o", "json", "--bitmap-data", path}
			if c.Data {
				args = append(args, "--data")
			}
			if c.MemoryLimit > 0 {
				args = append(args, "--memory", fmt.Sprint(c.MemoryLimit))
			}
			code, out, errs := runIn(args...)
			assert.Equal(t, int(want), code, "%s", errs)
			var object struct {
				Verdict  string `json:"verdict"`
				Findings []struct {
					Code problem.Code `json:"code"`
				} `json:"findings"`
			}
			require.NoError(t, json.Unmarshal([]byte(out), &object))
			for _, w := range c.Want {
				found := want == exitNotQcow2
				for _, f := range object.Findings {
					found = found || f.Code == w.Code
				}
				assert.True(t, found, "%s is missing", w.Code)
			}

			code, out, errs = runIn(append(args, "-v", "-o", "human")...)
			assert.Equal(t, int(want), code, "%s", errs)
			assert.Equal(t, want == exitNotQcow2, out == "")
			assertHarmless(t, out+errs)
			for _, command := range []string{"info", "bitmaps"} {
				code, out, errs = runIn(command, path)
				assert.Equal(t, want == exitNotQcow2, code == int(exitNotQcow2), "%s", errs)
				assert.True(t, code == 0 || want == exitNotQcow2, "%s ends with %d: %s", command, code, errs)
				assertHarmless(t, out+errs)
				code, out, _ = runIn(command, "-o", "json", path)
				assert.True(t, code == 0 || want == exitNotQcow2, "%s ends with %d", command, code)
				assert.True(t, json.Valid([]byte(out)))
			}
			assert.Equal(t, before, folderState(t, dir), "a check never writes")
		})
	}
}

// assertHarmless asserts that text holds nothing that a terminal obeys.
func assertHarmless(t *testing.T, text string) {
	t.Helper()
	assert.NotRegexp(t, `[^\P{C}\n]`, text)
}
