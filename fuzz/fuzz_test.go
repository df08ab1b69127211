package fuzz_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz"
	"github.com/qcheck/qcheck/qcow2"
)

var (
	mutants   = flag.Int("mutants", 1500, "how many mutants are made and checked")
	firstSeed = flag.Uint64("first-seed", 1, "the number of the first one")
)

// images are shared by the tests, which need the same ones.
var images fuzz.Images

// mostTime is how long a check may take. It is far above what any takes, so that a
// busy machine does not matter.
const mostTime = 20 * time.Second

// mostAllocated is what a check may allocate in all, in bytes; what it holds at a time
// is far less.
const mostAllocated = 1 << 30

// allocated is what was allocated since the program began, in bytes.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

// verify checks a mutant and asserts what must be so of any image at all.
func verify(t testing.TB, c *corpus.Case, img *corpus.Image, said string) *check.Result {
	t.Helper()
	before := img.Sum()
	opened, err := qcow2.Open(img, img.Size())
	if err != nil {
		require.ErrorIs(t, err, qcow2.ErrNotQcow2, said)
		return nil
	}
	run := func(jobs int) *check.Result {
		ctx, cancel := context.WithTimeout(context.Background(), mostTime)
		defer cancel()
		opts := c.Options(img)
		opts.Jobs = jobs
		start, had := time.Now(), allocated()
		res, err := check.Run(ctx, opened, opts)
		require.Less(t, allocated()-had, uint64(mostAllocated), "bytes were allocated: %s", said)
		if pass, ok := errors.AsType[*check.PassError](err); ok {
			require.FailNow(t, "a pass failed", "%v\n%s\n%s", pass, pass.Stack, said)
		}
		require.NoError(t, err, "after %v: %s", time.Since(start), said)
		require.Equal(t, problem.Count(res.Findings), res.Totals, said)
		return res
	}
	res := run(1)
	again := run(4)
	again.MemoryPeak = res.MemoryPeak // it depends on who comes first
	require.Equal(t, res, again, "other findings with more jobs: %s", said)
	require.Equal(t, before, img.Sum(), "the check has changed the image: %s", said)
	return res
}

// No mutant makes a check panic, hang or contradict itself.
func TestMutants(t *testing.T) {
	n := *mutants
	if testing.Short() {
		n /= 15
	}
	codes := make(map[problem.Code]int)
	worst, slowest := time.Duration(0), ""
	for i := range n {
		m, img, err := fuzz.NewMutant(&images, fuzz.Cases(), *firstSeed+uint64(i))
		require.NoError(t, err)
		c, ok := corpus.Lookup(m.Case)
		require.True(t, ok)
		start := time.Now()
		res := verify(t, &c, img, m.String())
		if took := time.Since(start); took > worst {
			worst, slowest = took, m.String()
		}
		if res != nil {
			for i := range res.Findings {
				codes[res.Findings[i].Code]++
			}
		}
	}
	t.Logf("%d mutants, %d codes met; the slowest took %v: %s", n, len(codes), worst, slowest)
	if n >= 1500 {
		assert.Greater(t, len(codes), 60, "mutants must reach most of what a check looks at")
	}
}

// The same number is the same mutant, and what is stored as JSON is the same again.
func TestMutantsAreTheSameEverywhere(t *testing.T) {
	var other fuzz.Images
	seeds := uint64(100)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		m, img, err := fuzz.NewMutant(&images, fuzz.Cases(), seed)
		require.NoError(t, err)
		again, twin, err := fuzz.NewMutant(&other, fuzz.Cases(), seed)
		require.NoError(t, err)
		require.Equal(t, m, again)
		require.Equal(t, img.Sum(), twin.Sum(), "%s", m)
		text, err := json.Marshal(m)
		require.NoError(t, err)
		var read fuzz.Mutant
		require.NoError(t, json.Unmarshal(text, &read))
		require.Equal(t, *m, read)
		_, rebuilt, err := read.Build(&images)
		require.NoError(t, err)
		require.Equal(t, img.Sum(), rebuilt.Sum(), "%s", m)
	}
}
