package repair

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Real repairs: of the damaged images of the corpus that are small enough to be held
// many times over.
func TestCrashCorpus(t *testing.T) {
	every := stride(12, 144)
	var cases, states atomic.Int64
	t.Run("cases", func(t *testing.T) {
		for i, c := range repairCases() {
			if i%every != 0 {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				img, err := c.Build()
				require.NoError(t, err)
				way := ways[i/every%len(ways)]
				if n := crashRepair(t, img, way.opts, i); n > 0 {
					cases.Add(1)
					states.Add(int64(n))
				}
			})
		}
	})
	t.Logf("%d images, %d states of the disk", cases.Load(), states.Load())
	if every <= 3 {
		require.Greater(t, cases.Load(), int64(30))
	}
}

// crashRepair lets the power fail, and the disk be full, at any time of a repair. It
// gives the number of states of the disk that were tried.
func crashRepair(t *testing.T, img source, opts Options, seed int) (states int) {
	const largest = 3 << 20
	if img.Size() > largest {
		return 0
	}
	plan, err := work(t.Context(), img, img.Size(), opts)
	if err != nil || plan.Empty() || plan.NewSize > largest {
		return 0
	}
	s := scene{name: t.Name(), before: make([]byte, img.Size()), plan: plan}
	require.NoError(t, readZeros(img, s.before, 0))
	s.after = append(bytes.Clone(s.before), make([]byte, plan.NewSize-plan.OldSize)...)
	for e := range plan.Edits.All() {
		copy(s.after[e.Offset:], e.New)
	}
	s.marks = canMark(s.before)

	w := s.applied(t)
	r := rand.New(rand.NewPCG(uint64(seed), 29))
	oneIn := stride(12, 24)
	w.everyCrash(r, func(n int, c *world) {
		if r.IntN(oneIn) != 0 {
			return
		}
		states++
		at := fmt.Sprintf("%s, after operation %d of %d", s.name, n, len(w.log))
		if s.marks && s.half(c.image) {
			require.True(t, marked(c.image), at)
		}
		_, err := Recover(file{c}, place{c})
		require.NoError(t, err, at)
		s.settled(t, c, at)
	})
	for k := range w.log {
		f := worldOf(s.before)
		f.fail = failOnce(k, 100, syscall.ENOSPC)
		done, err := s.apply(f)
		at := fmt.Sprintf("%s, failing at operation %d of %d", s.name, k, len(w.log))
		s.failed(t, f, done, err, syscall.ENOSPC, at)
		_, stuck := errors.AsType[*RollbackFailedError](err)
		require.False(t, stuck, at)
	}
	return states
}
