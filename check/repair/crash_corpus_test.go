//go:build repair

package repair

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

// Real repairs: of the damaged images of the corpus that are small enough to be held
// many times over.
func TestCrashCorpus(t *testing.T) {
	const largest = 3 << 20
	every := 1
	if testing.Short() {
		every = 10
	}
	cases, states := 0, 0
	for i, c := range corpus.Cases() {
		if c.Healthy() || c.Huge || c.Unreadable != nil || i%every != 0 {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		if img.Size() > largest {
			continue
		}
		plan, err := Make(t.Context(), img, img.Size(), Options{AllowDataLoss: true, Reattach: true, BitmapPolicy: PolicyAllDirty})
		if err != nil || plan.Empty() {
			continue
		}
		s := scene{name: c.Name, before: make([]byte, img.Size()), plan: plan}
		require.NoError(t, readZeros(img, s.before, 0))
		s.after = append(bytes.Clone(s.before), make([]byte, plan.NewSize-plan.OldSize)...)
		for _, e := range plan.Edits {
			copy(s.after[e.Offset:], e.New)
		}
		s.marks = canMark(s.before)

		w := s.applied(t)
		r := rand.New(rand.NewPCG(uint64(i), 29))
		w.everyCrash(r, func(n int, c *world) {
			if r.IntN(3) != 0 {
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
		cases++
	}
	t.Logf("%d images, %d states of the disk", cases, states)
	if !testing.Short() {
		require.Greater(t, cases, 30)
	}
}
