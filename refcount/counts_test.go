package refcount

import (
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// model is Counts as anybody would write it first.
type model struct {
	refs  map[uint64]uint64
	marks map[uint64]Marks
}

func newModel() *model {
	return &model{refs: map[uint64]uint64{}, marks: map[uint64]Marks{}}
}

func (m *model) claim(first, n, times uint64, marks Marks) {
	for c := first; times > 0 && c < first+n; c++ {
		if m.refs[c] > 0 && (marks&MarkSole != 0 || marks&MarkCompressed != 0 && m.marks[c]&MarkCompressed == 0) {
			m.marks[c] |= MarkShared
		}
		m.refs[c] = satAdd(m.refs[c], times)
		m.marks[c] |= marks & marksKept
	}
}

func (m *model) runs(atLeast uint64) (runs []Run) {
	var clusters []uint64
	for c, refs := range m.refs {
		if refs >= atLeast {
			clusters = append(clusters, c)
		}
	}
	slices.Sort(clusters)
	for _, c := range clusters {
		if n := len(runs); n > 0 && uint64(runs[n-1].First)+runs[n-1].N == c && runs[n-1].References == m.refs[c] {
			runs[n-1].N++
			continue
		}
		runs = append(runs, Run{First: qcow2.HostCluster(c), N: 1, References: m.refs[c]})
	}
	return runs
}

// check compares everything that can be asked of c with the model.
func (m *model) check(t *testing.T, c *Counts) {
	t.Helper()
	highest, ok := uint64(0), false
	for cluster, refs := range m.refs {
		require.Equal(t, refs, c.Get(qcow2.HostCluster(cluster)), "cluster %d", cluster)
		copied, not := c.Said(qcow2.HostCluster(cluster))
		require.Equal(t, m.marks[cluster]&MarkCopied != 0, copied, "cluster %d", cluster)
		require.Equal(t, m.marks[cluster]&MarkNotCopied != 0, not, "cluster %d", cluster)
		highest, ok = max(highest, cluster), true
	}
	for _, atLeast := range []uint64{0, 1, 2, 3, 300} {
		require.Equal(t, m.runs(max(1, atLeast)), slices.Collect(c.Runs(atLeast)), "at least %d", atLeast)
	}
	contradictions := map[uint64]bool{}
	for cluster, refs := range m.refs {
		if copied := m.marks[cluster]&MarkCopied != 0; copied && refs != 1 || m.marks[cluster]&MarkNotCopied != 0 && refs == 1 {
			contradictions[cluster] = true
		}
	}
	require.Equal(t, contradictions, clusterSet(t, c.Contradictions()))
	got, gotOK := c.Highest()
	require.Equal(t, ok, gotOK)
	require.Equal(t, highest, uint64(got))
}

// shared gives the clusters that the model marks as shared.
func (m *model) shared() map[uint64]bool {
	set := map[uint64]bool{}
	for cluster, marks := range m.marks {
		if marks&MarkShared != 0 {
			set[cluster] = true
		}
	}
	return set
}

// clusterSet makes a set of runs, which must ascend and not touch.
func clusterSet(t *testing.T, runs iter.Seq2[qcow2.HostCluster, uint64]) map[uint64]bool {
	t.Helper()
	set := map[uint64]bool{}
	end := uint64(0)
	for first, n := range runs {
		require.NotZero(t, n)
		require.True(t, len(set) == 0 || uint64(first) > end, "runs ascend and do not touch")
		for i := range n {
			set[uint64(first)+i] = true
		}
		end = uint64(first) + n
	}
	return set
}

type claimArgs struct {
	first, n, times uint64
	marks           Marks
}

// randomClaims makes claims of the kinds that images make, in a small space so
// that they meet, astride chunk borders and far out.
func randomClaims(rng *rand.Rand, n int) []claimArgs {
	bases := []uint64{0, chunkClusters - 200, 5 * chunkClusters, 1<<54 - 300}
	var all []claimArgs
	for range n {
		a := claimArgs{first: bases[rng.IntN(len(bases))] + rng.Uint64N(400), n: 1, times: 1}
		if rng.IntN(3) == 0 {
			a.n = rng.Uint64N(300)
		}
		switch rng.IntN(8) {
		case 0:
			a.times = rng.Uint64N(5)
		case 1:
			a.times = 1 << rng.IntN(40)
		}
		a.marks = []Marks{0, MarkCopied, MarkNotCopied, MarkSole, MarkSole | MarkCopied, MarkCompressed}[rng.IntN(6)]
		all = append(all, a)
	}
	return all
}

func TestCountsAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c, m := New(Options{}), newModel()
		k := c.Claimer()
		// Few claims stay runs, many become planes.
		for _, a := range randomClaims(rng, 20<<seed/(1+int(seed)/2)) {
			require.NoError(t, k.ClaimMarked(qcow2.HostCluster(a.first), a.n, a.times, a.marks))
			m.claim(a.first, a.n, a.times, a.marks)
		}
		m.check(t, c)
		// Which claim came second matters, so this holds for one goroutine only.
		require.Equal(t, m.shared(), clusterSet(t, c.Shared()))
	}
}

func TestCountsConcurrentClaims(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	claims := randomClaims(rng, 6000)
	c, m := New(Options{}), newModel()
	var wg sync.WaitGroup
	for part := range slices.Chunk(claims, len(claims)/4) {
		wg.Go(func() {
			k := c.Claimer()
			for i, a := range part {
				assert.NoError(t, k.ClaimMarked(qcow2.HostCluster(a.first), a.n, a.times, a.marks))
				if i%50 == 0 && a.n > 0 && a.times > 0 { // reading alongside is allowed
					assert.NotZero(t, c.Get(qcow2.HostCluster(a.first)))
				}
			}
		})
	}
	wg.Wait()
	for _, a := range claims {
		m.claim(a.first, a.n, a.times, a.marks)
	}
	m.check(t, c)
}

func TestCountsLongRuns(t *testing.T) {
	c := New(Options{})
	require.NoError(t, c.Claim(100, 10*chunkClusters, 1))
	require.NoError(t, c.Claim(3*chunkClusters, chunkClusters, 2))
	want := []Run{
		{First: 100, N: 3*chunkClusters - 100, References: 1},
		{First: 3 * chunkClusters, N: chunkClusters, References: 3},
		{First: 4 * chunkClusters, N: 6*chunkClusters + 100, References: 1},
	}
	assert.Equal(t, want, slices.Collect(c.Runs(1)))
	assert.Equal(t, want[1:2], slices.Collect(c.Runs(2)))
	assert.Less(t, c.Memory(), int64(11*(chunkBytes+4*runBytes)+64*slotBytes), "runs cost a few bytes each")

	for run := range c.Runs(1) { // stops where the caller does
		assert.Equal(t, want[0], run)
		break
	}
}

func TestCountsEmpty(t *testing.T) {
	c := New(Options{})
	require.NoError(t, c.Claim(5, 0, 1))
	require.NoError(t, c.Claim(5, 1, 0))
	assert.Zero(t, c.Get(5))
	_, ok := c.Highest()
	assert.False(t, ok)
	assert.Empty(t, slices.Collect(c.Runs(0)))
}

func TestCountsRange(t *testing.T) {
	require.ErrorIs(t, New(Options{}).Claim(1<<55-1, 2, 1), ErrRange)
	require.NoError(t, New(Options{}).Claim(1<<55-1, 1, 1))
	c := New(Options{Clusters: 1000})
	require.NoError(t, c.Claim(999, 1, 1))
	require.NoError(t, c.Claim(1000, 0, 1))
	for _, a := range []claimArgs{{first: 1000, n: 1}, {first: 999, n: 2}, {first: 1, n: math.MaxUint64}, {first: math.MaxUint64, n: 2}} {
		assert.ErrorIs(t, c.Claim(qcow2.HostCluster(a.first), a.n, 1), ErrRange)
		assert.ErrorIs(t, c.ClaimCopied(qcow2.HostCluster(a.first), a.n, 1, true), ErrRange)
	}
	assert.Equal(t, []Run{{First: 999, N: 1, References: 1}}, slices.Collect(c.Runs(1)))
}

// Numbers of every size beside each other, and each growing from size to size.
func TestCountsWiden(t *testing.T) {
	for _, spread := range []uint64{1, 3, 64, 1000} {
		c, m := New(Options{}), newModel()
		rng := rand.New(rand.NewPCG(spread, 2))
		for shift := 0; shift < 64; shift += 3 {
			for range 200 {
				first, times := rng.Uint64N(200)*spread, uint64(1)<<shift+rng.Uint64N(3)
				require.NoError(t, c.Claim(qcow2.HostCluster(first), 1, times))
				m.claim(first, 1, times, 0)
			}
		}
		m.check(t, c)
	}
}

func TestCountsSaturate(t *testing.T) {
	for _, dense := range []bool{false, true} {
		c := New(Options{})
		if dense {
			for i := range sparseClaims + 1 {
				require.NoError(t, c.Claim(qcow2.HostCluster(1000+2*i), 1, 1))
			}
		}
		for i, steps := range [][]uint64{
			{math.MaxUint64, 1}, {1, math.MaxUint64}, {math.MaxUint64 - 1, 1}, {math.MaxUint64 - 1, 5},
			{1 << 63, 1 << 63}, {1 << 63, 1<<63 - 1}, {1, 1, math.MaxUint64},
		} {
			for _, times := range steps {
				require.NoError(t, c.Claim(qcow2.HostCluster(i), 1, times))
			}
			assert.Equal(t, uint64(math.MaxUint64), c.Get(qcow2.HostCluster(i)), "%d, dense %v", i, dense)
		}
		require.NoError(t, c.Claim(50, 1, math.MaxUint64-1))
		assert.Equal(t, uint64(math.MaxUint64-1), c.Get(50))
	}
}
