package check_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

func checkLive(t *testing.T, spec corpus.Spec, damage ...corpus.Damage) *check.Result {
	t.Helper()
	img, err := corpus.Build(spec)
	require.NoError(t, err)
	for _, d := range damage {
		_, err := d.Apply(img)
		require.NoError(t, err)
	}
	q, err := img.Open()
	require.NoError(t, err)
	res, err := check.Run(context.Background(), q, check.Options{Live: true})
	require.NoError(t, err)
	return res
}

// What a running VM with lazy refcounts and bitmaps leaves undone until it closes
// the image is noted, and no more than that. A real fault beside it is one.
func TestLiveWithLazyRefcounts(t *testing.T) {
	spec := flipSpec()
	spec.Lazy, spec.Dirty = true, true
	spec.Bitmaps = []corpus.Bitmap{{Name: "b0", InUse: true}}
	spec.Ops = append(spec.Ops, corpus.Reserve{Name: "freed", Clusters: 3})
	behind := []corpus.Damage{
		corpus.SetRefcount(corpus.Data(600*mib), 0),
		corpus.SetRefcount(corpus.Reserved("freed"), 1),
	}
	res := checkLive(t, spec, behind...)
	assert.Equal(t, check.VerdictClean, res.Verdict)
	assert.True(t, res.Provisional)
	for _, code := range []problem.Code{problem.MarkedDirty, problem.RefcountTooLow, problem.RefcountTooHigh, problem.BitmapInUse} {
		assert.True(t, res.Has(code), "%s", code)
	}

	res = checkLive(t, spec, append(behind, corpus.Point(corpus.L2Entry(0), corpus.L1Table()))...)
	assert.Equal(t, check.VerdictCorrupt, res.Verdict)
	assert.True(t, res.Has(problem.MetadataOverlap))

	// Without lazy refcounts they are up to date at any time.
	spec.Lazy, spec.Dirty = false, false
	res = checkLive(t, spec, behind...)
	assert.Equal(t, check.VerdictCorrupt, res.Verdict)
}

// Two readings of an image that is being written to: what only one of them has
// seen is no finding, and of counts the smaller one is.
func TestConfirm(t *testing.T) {
	finding := func(code problem.Code, offset qcow2.HostOffset, count uint64) problem.Finding {
		r, _ := problem.Lookup(code)
		return problem.Finding{Code: code, Severity: r.Severity, Count: count, Extent: qcow2.Extent{Offset: offset, Length: 8}}
	}
	stays, gone, comes := finding(problem.L1PastEnd, 0x100, 1), finding(problem.RefcountTooLow, 0x200, 5), finding(problem.L2PastEnd, 0x300, 2)
	earlier := &check.Result{Findings: []problem.Finding{stays, gone, finding(problem.RefcountTooHigh, 0x400, 7)}}
	later := &check.Result{Findings: []problem.Finding{stays, comes, finding(problem.RefcountTooHigh, 0x400, 9)}, TotalClusters: 4}

	got := check.Confirm(earlier, later)
	assert.Equal(t, []problem.Finding{stays, finding(problem.RefcountTooHigh, 0x400, 7)}, got.Findings)
	assert.Equal(t, problem.Totals{Corruptions: 1, Leaks: 7}, got.Totals)
	assert.Equal(t, check.VerdictCorrupt, got.Verdict)
	assert.True(t, got.Provisional)
	assert.Equal(t, uint64(4), got.TotalClusters)

	got = check.Confirm(&check.Result{}, later)
	assert.Empty(t, got.Findings)
	assert.Equal(t, check.VerdictClean, got.Verdict)

	assert.True(t, check.SameFindings(earlier, earlier))
	assert.False(t, check.SameFindings(earlier, later))
	assert.False(t, check.SameFindings(earlier, got))
}
