package repair

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
)

// Refcounts of many blocks are wrong in both directions. They are mended in two rounds
// of checking, with a few edits for each block, by any number of goroutines.
func TestManyRefcounts(t *testing.T) {
	img, err := corpus.Build(corpus.Spec{ClusterBits: 9, Size: 16 << 20, Ops: []corpus.Op{corpus.Map{Length: 16 << 20}}})
	require.NoError(t, err)
	const step, n = 5 << 9, 6000
	for i := range uint64(n) {
		delta := int64(1)
		if i%2 == 0 {
			delta = -1
		}
		_, err := corpus.AddRefcount(corpus.Data(i*step), delta).Apply(img)
		require.NoError(t, err)
	}
	plan, err := Make(t.Context(), img, img.Size(), Options{Jobs: 4})
	require.NoError(t, err)
	assert.EqualValues(t, n, plan.Before.Totals.Corruptions+plan.Before.Totals.Leaks-n/2)
	assert.EqualValues(t, n/2, listedCounts(plan.Before)[problem.L2Copied], "COPIED contradicts a refcount of 2")
	assert.Equal(t, check.VerdictClean, plan.After.Verdict)
	blocks := 0
	for e := range plan.Edits.All() {
		want := problem.RefcountTooLow
		if e.Stage == StageRelease {
			want = problem.RefcountTooHigh
			blocks++
		}
		require.Equal(t, []problem.Code{want}, e.Codes)
	}
	assert.Greater(t, blocks, 100)
	assert.Less(t, plan.Edits.Len(), n/2)
	o := after(t, img, plan)
	res, _ := inspect(t, o, o.size)
	assert.Equal(t, check.VerdictClean, res.Verdict)

	leaks, err := Make(t.Context(), img, img.Size(), Options{Scope: ScopeLeaks})
	require.NoError(t, err)
	assert.Zero(t, leaks.After.Totals.Leaks)
	assert.EqualValues(t, n/2, leaks.After.Totals.Corruptions, "what is too low, and nothing else")
	assert.Equal(t, []Advice{{Code: problem.RefcountTooLow, Option: "--repair=all"}}, leaks.Left)
}
