package corpus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// pending are cases whose findings are known to be wrong, with the reason. It
// must be empty.
var pending = map[string]string{}

// notAlone are codes that no image gives alone, with the reason.
var notAlone = map[problem.Code]string{
	problem.HeaderCut:            "a file without a whole header has no tables either",
	problem.FileTruncated:        "the end of the file takes with it what something names",
	problem.OrphanL2Table:        "a lost table makes what it owns seem nobody's",
	problem.TableWiped:           "a wiped table makes what it owned seem nobody's",
	problem.SnapshotsOrphaned:    "lost snapshots make what they own seem nobody's",
	problem.BitmapsOrphaned:      "what the bitmaps own seems nobody's",
	problem.BitmapTableElsewhere: "the table and what it names seem nobody's",
	problem.DataFileMisplaced:    "a matter of the folder that QEMU is started in, which an image alone does not show",
	problem.BackingLength:        "found only where the files below are checked as well, which is another check",
	problem.BackingInUse:         "a matter of what other programs do, which an image does not show",
	problem.BackingUnsound:       "found only where the files below are checked as well, which is another check",
	problem.QEMURefuses:          "found only where no other finding says why QEMU refuses, which no image is known to do",
}

func TestCases(t *testing.T) {
	t.Parallel()
	for _, c := range append(corpus.Cases(), corpus.Samples()...) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := c.Build()
			require.NoError(t, err)
			before := img.Sum()
			res := runCheck(t, &c, img, 1)
			assert.Equal(t, before, img.Sum(), "a check changes nothing")

			diff := compare(t, &c, img, res.Findings)
			if why, ok := pending[c.Name]; ok {
				assert.NotEmpty(t, diff, "this case is right now and must not be pending: %s", why)
				t.Skipf("pending: %s\n%s", why, strings.Join(diff, "\n"))
			}
			assert.Empty(t, diff, "%s\n%s", c.Story, list(res.Findings))
			assert.Equal(t, problem.Count(res.Findings), res.Totals)
			if !c.NotQcow2() { // else there is no result, and the report is of another kind
				checkReports(t, &c, res)
			}

			more := []int{2, 7}
			if strings.HasPrefix(c.Name, "hostile/") || strings.Contains(c.Name, "-clusters-") {
				more = []int{3} // each takes a second or more, or there is one like it
			}
			for _, jobs := range more {
				again := runCheck(t, &c, img, jobs)
				assert.Equal(t, list(res.Findings), list(again.Findings), "%d jobs", jobs)
				again.MemoryPeak = res.MemoryPeak // it depends on who comes first
				assert.Equal(t, res, again, "%d jobs", jobs)
			}
		})
	}
}

// runCheck checks a case's image. What is no qcow2 image gives the finding that
// says so, as every user of the library makes it.
func runCheck(t *testing.T, c *corpus.Case, img *corpus.Image, jobs int) *check.Result {
	t.Helper()
	r, err := c.Reader(img)
	require.NoError(t, err)
	opened, err := qcow2.Open(r, img.Size())
	if err != nil {
		require.ErrorIs(t, err, qcow2.ErrNotQcow2)
		return &check.Result{Findings: []problem.Finding{{Code: problem.NotQcow2, Severity: problem.Corruption, Count: 1,
			Extent: qcow2.Extent{Length: 4}}}, Totals: problem.Totals{Corruptions: 1}}
	}
	opts := c.Options(img)
	opts.Jobs = jobs
	res, err := check.Run(context.Background(), opened, opts)
	require.NoError(t, err)
	return res
}

// compare tells what is wanted and not found, and found and not wanted.
func compare(t *testing.T, c *corpus.Case, img *corpus.Image, findings []problem.Finding) (diff []string) {
	t.Helper()
	for _, w := range c.Want {
		if !slices.ContainsFunc(findings, func(f problem.Finding) bool { return meets(t, img, w, &f) }) {
			where := ""
			if w.At.String() != "" {
				x, _ := img.Find(w.At)
				where = fmt.Sprintf(" at %v+%d (%s)", x.Offset, x.Length, w.At)
			}
			diff = append(diff, fmt.Sprintf("missing: %s%s", w.Code, where))
		}
	}
	for i := range findings {
		f := &findings[i]
		if !c.Any && !slices.ContainsFunc(c.Want, func(w corpus.Want) bool { return w.Code == f.Code }) {
			diff = append(diff, fmt.Sprintf("unwanted: %s %s", f.Code, f.Text()))
		}
	}
	return diff
}

func meets(t *testing.T, img *corpus.Image, w corpus.Want, f *problem.Finding) bool {
	t.Helper()
	if f.Code != w.Code || w.Count != 0 && f.Count != w.Count || f.Severity != w.ExpectedSeverity() ||
		w.Bitmap != "" && f.Bitmap != w.Bitmap || w.Snapshot != "" && f.Snapshot != w.Snapshot {
		return false
	}
	if w.At.String() == "" {
		return true
	}
	x, err := img.Find(w.At)
	require.NoError(t, err)
	// The finding must name the bytes at fault: all those that the case names, or
	// a part of them that is not empty.
	return covers(f.Extent, x) || covers(x, f.Extent) && f.Extent.Length != 0
}

func covers(x, y qcow2.Extent) bool {
	return x.Offset <= y.Offset && y.Offset+qcow2.HostOffset(y.Length) <= x.Offset+qcow2.HostOffset(x.Length)
}

func list(fs []problem.Finding) string {
	var b strings.Builder
	for _, f := range fs {
		fmt.Fprintf(&b, "%s %s %v+%d ×%d %s\n", f.Code, f.Severity, f.Extent.Offset, f.Extent.Length, f.Count, f.Text())
	}
	return b.String()
}

// TestCodes tests that every code of the catalogue is met by a case, alone where
// that is possible: notes do not count as company.
func TestCodes(t *testing.T) {
	t.Parallel()
	met, alone := make(map[problem.Code]bool), make(map[problem.Code]bool)
	for _, c := range corpus.Cases() {
		if c.Any {
			continue // there may be more than what it wants
		}
		codes := make(map[problem.Code]bool)
		for _, w := range c.Want {
			met[w.Code] = true
			if w.ExpectedSeverity() != problem.Note && w.Code != problem.BitmapInUse || len(c.Want) == 1 {
				codes[w.Code] = true
			}
		}
		if len(codes) == 1 {
			for code := range codes {
				alone[code] = true
			}
		}
	}
	for _, r := range problem.Catalog() {
		why, exempt := notAlone[r.Code]
		assert.True(t, alone[r.Code] || exempt, "no case gives %s alone: %s", r.Code, r.Title)
		assert.False(t, alone[r.Code] && exempt, "%s: %s; but a case does", r.Code, why)
	}
	for _, code := range []problem.Code{problem.HeaderCut, problem.OwnerUnknown} {
		assert.True(t, met[code], "no case gives %s", code)
	}
}

func TestCaseNames(t *testing.T) {
	t.Parallel()
	names, files := make(map[string]bool), make(map[string]string)
	for _, c := range corpus.Cases() {
		assert.False(t, names[c.Name], "two cases are named %s", c.Name)
		names[c.Name] = true
		assert.Regexp(t, `^[a-z0-9-]+/[a-z0-9-]+$`, c.Name)
		assert.NotEmpty(t, c.Story, c.Name)
		got, ok := corpus.Lookup(c.Name)
		assert.True(t, ok)
		assert.Equal(t, c.Story, got.Story)

		if c.Spec.Backing == nil && c.Spec.DataFile == nil {
			continue // there are no other files
		}
		img, err := c.Build()
		require.NoError(t, err)
		for name := range img.Siblings {
			assert.Empty(t, files[name], "%s and %s need a file named %s", c.Name, files[name], name)
			files[name] = c.Name
		}
	}
}
