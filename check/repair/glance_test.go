package repair

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A glance sees the phase that reading all of a journal gives, wherever the repair
// was interrupted; and an image that was not touched by others belongs to it.
func TestGlance(t *testing.T) {
	phases := make(map[Phase]int)
	for _, s := range scenes(40) {
		w := s.applied(t)
		for k := range len(w.log) + 1 {
			c := w.killed(k)
			want, err := StateOf(place{c})
			require.NoError(t, err, s.name)
			got, err := Glance(place{c})
			require.NoError(t, err, s.name)
			require.Equal(t, want, got, "%s, %d operations", s.name, k)
			phases[got.Phase]++
			if got.Undoable() {
				fit, err := FitOf(file{c}, place{c})
				require.NoError(t, err, s.name)
				require.Equal(t, FitUndo, fit, "%s, %d operations", s.name, k)
				c.image = append(c.image, 1, 2, 3)
				fit, err = FitOf(file{c}, place{c})
				require.NoError(t, err, s.name)
				require.Equal(t, FitNone, fit, s.name)
			}
		}
	}
	for _, p := range []Phase{PhaseNone, PhaseIncomplete, PhaseOpen, PhaseVerified, PhaseFinished} {
		require.NotZero(t, phases[p], p)
	}
}
