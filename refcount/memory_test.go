package refcount

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// Under any bound Counts stays usable: it refuses with ErrMemory, never holds
// more than allowed, never says more than the truth, and says it exactly if it
// has refused nothing.
func TestCountsMemoryBound(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	claims := randomClaims(rng, 2000)
	free := New(Options{})
	for _, a := range claims {
		require.NoError(t, free.claim(nil, a.first, a.n, a.times, a.marks))
	}
	for limit := int64(1); limit < free.Memory(); limit += 1 + free.Memory()/20 {
		c, m := New(Options{MaxMemory: limit}), newModel()
		k := c.Claimer()
		refused := 0
		for _, a := range claims {
			if err := k.ClaimMarked(qcow2.HostCluster(a.first), a.n, a.times, a.marks); err != nil {
				require.ErrorIs(t, err, ErrMemory)
				refused++
			}
			m.claim(a.first, a.n, a.times, a.marks)
			require.LessOrEqual(t, c.Memory(), max(limit, minSlots*slotBytes))
		}
		for cluster, refs := range m.refs {
			require.LessOrEqual(t, c.Get(qcow2.HostCluster(cluster)), refs)
		}
		if refused == 0 { // lists of runs take less than planes where they must
			m.check(t, c)
		}
	}

	c := New(Options{MaxMemory: free.Memory() + 2*planeBytes})
	for _, a := range claims {
		require.NoError(t, c.claim(nil, a.first, a.n, a.times, a.marks))
	}
}

func TestCountsMemoryBoundConcurrent(t *testing.T) {
	c := New(Options{MaxMemory: 1 << 20})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 9))
			k := c.Claimer()
			for range 20000 {
				err := k.ClaimCopied(qcow2.HostCluster(rng.Uint64N(1<<34)), 1+rng.Uint64N(3), 1+rng.Uint64N(3), g == 0)
				if !assert.True(t, err == nil || errors.Is(err, ErrMemory)) {
					return
				}
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, c.Memory(), int64(1<<20))
}

// What an image can make Counts hold for each 8-byte reference in it.
func TestCountsMemoryFollowsReferences(t *testing.T) {
	for _, tc := range []struct {
		name    string
		refs    int
		cluster func(i int) uint64
		times   uint64
		perRef  int64 // bytes
	}{
		{"each in a chunk of its own, over all offsets", 1 << 14, func(i int) uint64 { return uint64(i) << 40 }, 1, 256},
		{"two thousand in each chunk", 1 << 14, func(i int) uint64 { return uint64(i) * 32 }, 1, 16},
		{"as few as turn a chunk to planes", 1 << 14, func(i int) uint64 { return uint64(i) * 496 }, 1, 128},
		{"the same with counts beyond measure", 1 << 14, func(i int) uint64 { return uint64(i) * 496 }, math.MaxUint64 >> 1, 256},
		{"shuffled and dense", 1 << 17, func(i int) uint64 { return uint64(i) * 0x9e3779b1 % (1 << 17) }, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := New(Options{})
			for i := range tc.refs {
				require.NoError(t, c.Claim(qcow2.HostCluster(tc.cluster(i)), 1, tc.times))
			}
			assert.LessOrEqual(t, c.Memory()/int64(tc.refs), tc.perRef)
			assert.Equal(t, tc.times, c.Get(qcow2.HostCluster(tc.cluster(tc.refs-1))))
		})
	}
}

// Memory that is charged is memory that is held: no more is given back than
// was taken, when chunks change their form and when that fails.
func TestCountsMemoryIsAccounted(t *testing.T) {
	c := New(Options{})
	rng := rand.New(rand.NewPCG(5, 5))
	for _, a := range randomClaims(rng, 5000) {
		require.NoError(t, c.claim(nil, a.first, a.n, a.times, a.marks))
	}
	var want int64
	for _, ch := range c.dir.sorted() {
		want += chunkBytes + ch.runs.bytes()
		if ch.wide == nil {
			continue
		}
		want += wideBytes
		planes := []*atomic.Pointer[plane]{&ch.one, &ch.two}
		for kind := range planeKinds {
			planes = append(planes, &ch.marked[kind])
		}
		for _, p := range planes {
			if p.Load() != nil {
				want += planeBytes
			}
		}
		if ch.more.blocks == nil {
			continue
		}
		want += blocksBytes
		for i := range ch.more.blocks {
			p := &ch.more.blocks[i]
			want += int64(len(p.words))*8 + int64(len(p.few))*fewBytes
		}
	}
	want += int64(len(c.dir.slots.Load().chunk)) * slotBytes
	assert.Equal(t, want, c.Memory())
}
