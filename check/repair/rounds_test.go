package repair

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
)

// However few findings a round goes by, and however few of them have words, the same
// comes of a repair.
func TestRepairInSmallRounds(t *testing.T) {
	every := stride(16, 300)
	for i, c := range repairCases() {
		for k, way := range ways {
			if (i*2+k)%every != 0 || c.QEMUSlow { // too many for so small rounds
				continue
			}
			t.Run(c.Name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				img, err := c.Build()
				require.NoError(t, err)
				testSmallRounds(t, img, way.opts)
			})
		}
	}
}

// Clusters of a bitmap that are all ones, and not next to each other.
func TestRepairInSmallRoundsCompacts(t *testing.T) {
	const mib = 1 << 20
	img, err := corpus.Build(corpus.Spec{ClusterBits: 9, Size: 10 * mib, Bitmaps: []corpus.Bitmap{{Name: "b", GranularityBits: 9,
		Dirty: []corpus.Range{{Offset: 0, Length: 2 * mib}, {Offset: 2*mib + 512, Length: 512}, {Offset: 4 * mib, Length: 2 * mib}, {Offset: 6*mib + 512, Length: 512}, {Offset: 8 * mib, Length: 2 * mib}}}}})
	require.NoError(t, err)
	plan := testSmallRounds(t, img, Options{})
	assert.Equal(t, uint64(3), listedCounts(plan.Before)[problem.BitmapDataUniform])
}

// testSmallRounds makes the plan with small rounds and gives the other one.
func testSmallRounds(t *testing.T, img source, opts Options) *Plan {
	opts.CompactBitmaps = true
	want, err := work(t.Context(), img, img.Size(), opts)
	require.NoError(t, err)
	opts.MaxFindings, opts.perRound = 1, 2
	got, err := work(t.Context(), img, img.Size(), opts)
	require.NoError(t, err)
	assert.Equal(t, listedCounts(want.After), listedCounts(got.After))
	assert.Equal(t, want.LostGuest, got.LostGuest)
	assert.Equal(t, want.NewSize, got.NewSize)
	a, b := after(t, img, want), after(t, img, got)
	for name, d := range disks(t, a, a.size) {
		assertSameGuest(t, name, d, disks(t, b, b.size)[name], false)
	}
	assert.Equal(t, sumsOf(t, a, a.size), sumsOf(t, b, b.size))
	return want
}

// However many entries are wrong, the image is looked at a few times only.
func TestRepairTakesFewRounds(t *testing.T) {
	const size = 64 << 10
	flags := corpus.Case{Spec: corpus.Spec{ClusterBits: 9, Size: size, Ops: []corpus.Op{corpus.Write{Length: size}}}}
	for off := uint64(0); off < size; off += 2 << 9 { // every other one, so that they do not join
		flags.Damage = append(flags.Damage, corpus.ClearBits(corpus.L2Entry(off), bitCopied))
	}
	wild, ok := corpus.Lookup("fuzzed/l1-table-over-data")
	require.True(t, ok)
	for _, tt := range []struct {
		name string
		c    corpus.Case
		opts Options
		code problem.Code
		n    uint64
	}{
		{"COPIED", flags, Options{MaxFindings: 1, perRound: 2}, problem.L2Copied, 64},
		{"L1 entries", wild, Options{AllowDataLoss: true}, problem.L1Unaligned, 2 << 19},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.c.QEMUSlow {
				t.Skip("takes a while with the race detector")
			}
			img, err := tt.c.Build()
			require.NoError(t, err)
			rounds, last := 0, ""
			tt.opts.Progress = func(p check.Progress) {
				if p.Pass == "header" && last != "header" {
					rounds++
				}
				last = p.Pass
			}
			plan, err := work(t.Context(), img, img.Size(), tt.opts)
			require.NoError(t, err)
			assert.GreaterOrEqual(t, listedCounts(plan.Before)[tt.code], tt.n)
			if tt.code == problem.L1Unaligned {
				// The table is said to reach over guest data: nothing is written there.
				assert.Empty(t, plan.LostGuest)
			} else {
				assert.Zero(t, listedCounts(plan.After)[tt.code])
			}
			assert.Less(t, rounds, 8)
			t.Log(rounds)
		})
	}
}
