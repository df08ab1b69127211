package proof

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// A set says of ranges what a map of single clusters says.
func TestSet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s, other, is := newSet(), newSet(), make(map[uint64]bool)
		for range rnd.IntN(12) {
			first, n := rnd.Uint64N(4<<chunkBits), rnd.Uint64N(300)+1
			if rnd.IntN(2) == 0 {
				s.add(qcow2.HostCluster(first), n)
			} else {
				other.add(qcow2.HostCluster(first), n)
			}
			for c := first; c < first+n; c++ {
				is[c] = true
			}
		}
		s.join(other)
		s.freeze()
		for range 500 {
			first, n := rnd.Uint64N(4<<chunkBits), rnd.Uint64N(1<<rnd.IntN(18))
			want := false
			for c := first; c < first+n && !want; c++ {
				want = is[c]
			}
			require.Equal(t, want, s.any(qcow2.HostCluster(first), n), "%d clusters from %d", n, first)
		}
		seen := 0
		for c := range s.all {
			seen++
			assert.True(t, is[uint64(c)])
		}
		assert.Equal(t, len(is), seen)
	}
}
