package fuzz_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/fuzz"
)

// The same bytes give the same mutant, each string gives one, and more bytes more
// changes.
func TestNewMutantFrom(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 1))
	cases, ops := make(map[string]bool), make(map[fuzz.Op]bool)
	for n := range 200 {
		choices := make([]byte, n%60)
		for i := range choices {
			choices[i] = byte(rnd.Uint32())
		}
		m, img, err := fuzz.NewMutantFrom(&images, choices)
		require.NoError(t, err)
		again, twin, err := fuzz.NewMutantFrom(&images, choices)
		require.NoError(t, err)
		require.Equal(t, m, again)
		require.Equal(t, img.Sum(), twin.Sum())
		_, built, err := m.Build(&images)
		require.NoError(t, err)
		require.Equal(t, img.Sum(), built.Sum(), "the list of mutations tells all")
		cases[m.Case] = true
		for i := range m.Mutations {
			ops[m.Mutations[i].Op] = true
		}
		if len(choices) <= 2 {
			assert.Empty(t, m.Mutations)
		}
	}
	assert.Greater(t, len(cases), 50)
	assert.Len(t, ops, 5)
}

// BenchmarkNewMutantFrom measures mutants in process, of one image after the other.
func BenchmarkNewMutantFrom(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 1))
	choices := make([]byte, 24)
	start, n := time.Now(), 0
	for b.Loop() {
		for i := range choices {
			choices[i] = byte(rnd.Uint32())
		}
		// As a fuzzer does that works on one input: the image stays for a while.
		choices[0], choices[1] = byte(n/4096), byte(n/4096)
		if _, _, err := fuzz.NewMutantFrom(&images, choices); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(n)/time.Since(start).Minutes(), "mutants/min")
}
