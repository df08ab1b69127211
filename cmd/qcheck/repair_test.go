package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/corpus"
)

// everyCase makes the test of the corpus take every image; the `repair` build tag sets
// it.
var everyCase bool

// repaired is what tests look at in the JSON of a repair.
type repaired struct {
	Verdict          string `json:"verdict"`
	Error            string `json:"error"`
	Corruptions      int    `json:"corruptions"`
	Leaks            int    `json:"leaks"`
	CorruptionsFixed int    `json:"corruptions-fixed"`
	LeaksFixed       int    `json:"leaks-fixed"`
	Findings         []struct {
		Code  string `json:"code"`
		Fixed bool   `json:"fixed"`
	} `json:"findings"`
	Repair struct {
		DryRun bool             `json:"dry-run"`
		Edits  int              `json:"edits"`
		Grows  int64            `json:"grows"`
		Undo   string           `json:"undo"`
		Lost   []string         `json:"lost"`
		Left   []map[string]any `json:"left"`
		Plan   []map[string]any `json:"plan"`
	} `json:"repair"`
}

// repairJSON repairs, or plans to, in the test's process.
func repairJSON(t *testing.T, args ...string) (r repaired, code int, errs string) {
	t.Helper()
	code, out, errs := runIn(append([]string{"-o", "json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(out), &r), "%s%s", out, errs)
	return r, code, errs
}

// Every image of the corpus: what -r would do and what it did are the same list, the
// exit code is that of a check of what is left, a second repair does nothing, and
// undoing gives the file back byte for byte, with and without the flags that ask for
// more.
func TestRepairCorpus(t *testing.T) {
	t.Parallel()
	changed, stride := 0, 9
	if testing.Short() {
		stride = 20
	}
	if everyCase {
		stride = 1
	}
	for i, c := range corpus.Cases() {
		if c.Healthy() || c.Huge || len(c.Unreadable) > 0 || c.MemoryLimit > 0 || strings.HasPrefix(c.Name, "hostile/") || c.NotQcow2() {
			continue
		}
		for k, flags := range [][]string{nil, {"--allow-data-loss", "--reattach", "--bitmap-policy=all-dirty"}} {
			if (i+k)%stride != 0 {
				continue
			}
			name := []string{"plain", "all"}[k]
			t.Run(c.Name+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				require.NoError(t, c.WriteFiles(dir))
				path := filepath.Join(dir, c.Filename())
				before, content := folderState(t, dir), contentOf(t, path)
				_, checkCode := checkJSON(t, path)

				plan, code, _ := repairJSON(t, append(flags, "-n", path)...)
				assert.Equal(t, checkCode, code)
				assert.True(t, plan.Repair.DryRun)
				assert.Zero(t, plan.CorruptionsFixed+plan.LeaksFixed)
				require.Equal(t, before, folderState(t, dir), "a plan is only a plan")

				done, code, errs := repairJSON(t, append(flags, "-r", path)...)
				require.Empty(t, done.Error, "%s", errs)
				assert.False(t, done.Repair.DryRun)
				done.Repair.DryRun = true
				assert.Equal(t, plan.Repair, done.Repair, "what -r would do and what it did are the same list")
				left, leftCode := checkJSON(t, path)
				assert.Equal(t, leftCode, code)
				assert.Equal(t, left.Verdict, done.Verdict)
				fixed := 0
				for _, f := range done.Findings {
					if f.Fixed {
						fixed++
					}
				}
				assert.Equal(t, len(left.Findings), len(done.Findings)-fixed)
				if done.Repair.Edits == 0 {
					assert.Equal(t, before, folderState(t, dir))
					assert.Zero(t, fixed)
					return
				}
				changed++
				assert.NotZero(t, fixed)

				after := folderState(t, dir)
				again, code, _ := repairJSON(t, append(flags, "-r", path)...)
				if again.Repair.Edits != 0 {
					// The data of what was given up was kept, and is a leak from then on.
					assert.True(t, len(done.Repair.Lost) > 0 || leftCode != int(exitSound), "what was kept was said")
					assert.Equal(t, exitSound, exitCode(code))
					code, _, errs = runIn("undo", path)
					require.Zero(t, code, "%s", errs)
				} else {
					assert.Equal(t, leftCode, code)
					assert.Zero(t, again.CorruptionsFixed+again.LeaksFixed)
					assert.Equal(t, after, folderState(t, dir))
				}

				code, _, errs = runIn("undo", path)
				require.Zero(t, code, "%s", errs)
				assert.Equal(t, content, contentOf(t, path))
				assert.Equal(t, names(before), names(folderState(t, dir)))
			})
		}
	}
	assert.Greater(t, changed, 5)
}

// contentOf gives the length of a file and a digest of its bytes, whether zeros are
// stored or not.
func contentOf(t *testing.T, path string) string {
	t.Helper()
	f, err := imagefile.Open(path, imagefile.Options{ForceShare: true})
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	var block [4096]byte
	for start, end := int64(0), int64(0); ; {
		start, end, err = f.NextData(end)
		require.NoError(t, err)
		if start == end {
			return fmt.Sprintf("%d bytes, %x", f.Size(), h.Sum(nil))
		}
		for at := start &^ (int64(len(block)) - 1); at < end; at += int64(len(block)) {
			n, err := f.ReadAt(block[:], at)
			require.True(t, err == nil || err == io.EOF, "%v", err)
			if bytes.ContainsFunc(block[:n], func(r rune) bool { return r != 0 }) {
				fmt.Fprintln(h, at, n)
				h.Write(block[:n])
			}
		}
	}
}

func names(files map[string]fileState) []string { return slices.Sorted(maps.Keys(files)) }

// What a check finds in a repaired image has to be what the plan says, but for what the
// user's own flags make it look at; and a sound image must not have become corrupt.
func TestAsPlanned(t *testing.T) {
	t.Parallel()
	result := func(v check.Verdict, fs ...problem.Finding) *check.Result {
		return &check.Result{Verdict: v, Findings: fs}
	}
	leak := func(n uint64) problem.Finding { return problem.Finding{Code: problem.RefcountTooHigh, Count: n} }
	for _, tt := range []struct {
		name                 string
		before, after, found *check.Result
		ok                   bool
	}{
		{"nothing left", result(check.VerdictCorrupt), result(check.VerdictClean), result(check.VerdictClean), true},
		{"what was to be left", result(check.VerdictCorrupt), result(check.VerdictLeaks, leak(3)), result(check.VerdictLeaks, leak(1), leak(2)), true},
		{"more", result(check.VerdictCorrupt), result(check.VerdictLeaks, leak(3)), result(check.VerdictLeaks, leak(4)), false},
		{"less", result(check.VerdictCorrupt), result(check.VerdictLeaks, leak(3)), result(check.VerdictClean), false},
		{"something else", result(check.VerdictCorrupt), result(check.VerdictLeaks, leak(1)),
			result(check.VerdictCorrupt, problem.Finding{Code: problem.L1PastEnd, Count: 1}), false},
		{"bitmap data", result(check.VerdictCorrupt), result(check.VerdictClean), result(check.VerdictClean, problem.Finding{Code: problem.BitmapDataUniform, Count: 9}), true},
		{"worse than before", result(check.VerdictLeaks), result(check.VerdictCorrupt), result(check.VerdictCorrupt), false},
	} {
		err := asPlanned(&repair.Plan{Before: tt.before, After: tt.after}, tt.found)
		assert.Equal(t, tt.ok, err == nil, "%s: %v", tt.name, err)
	}
}
