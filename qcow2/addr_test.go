package qcow2_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// edges gives numbers around n, and n, that fit 64 bits.
func edges(n uint64) []uint64 { return []uint64{n - 1, n, n + 1} }

// TestRangesDoNotWrap compares the guards with sums that cannot overflow.
func TestRangesDoNotWrap(t *testing.T) {
	var values []uint64
	for _, n := range []uint64{0, 512, 65536, 1 << 32, math.MaxInt64, 1 << 63, math.MaxUint64 - 65536} {
		values = append(values, edges(n)...)
	}
	sum := func(a, b uint64) *big.Int {
		return new(big.Int).Add(new(big.Int).SetUint64(a), new(big.Int).SetUint64(b))
	}
	g := qcow2.Geometry{ClusterBits: 16}
	for _, offset := range values {
		for _, length := range values {
			end := sum(offset, length)
			for _, size := range values {
				require.Equal(t, end.Cmp(new(big.Int).SetUint64(size)) <= 0, qcow2.RangeFits(offset, length, size),
					"%#x + %#x in %#x", offset, length, size)
				if size > math.MaxInt64 || length == 0 {
					continue
				}
				past := end.Cmp(sum(size, g.ClusterSize())) >= 0
				require.Equal(t, past, g.PastEnd(qcow2.HostOffset(offset), length, int64(size)),
					"%#x + %#x in a file of %#x", offset, length, size)
			}
		}
	}
	assert.False(t, g.PastEnd(65536, 0, 65536))
	assert.True(t, g.PastEnd(65537, 0, 65536))
}

func TestGeometry(t *testing.T) {
	for _, tc := range []struct {
		g                                               qcow2.Geometry
		cluster, l2Entries, coverage, sub, blockEntries uint64
	}{
		{qcow2.Geometry{ClusterBits: 9, RefcountOrder: 4}, 512, 64, 32 << 10, 512, 256},
		{qcow2.Geometry{ClusterBits: 16, RefcountOrder: 0}, 65536, 8192, 512 << 20, 65536, 524288},
		{qcow2.Geometry{ClusterBits: 16, RefcountOrder: 6, ExtendedL2: true}, 65536, 4096, 256 << 20, 2048, 8192},
		{qcow2.Geometry{ClusterBits: 21, RefcountOrder: 4}, 2 << 20, 262144, 512 << 30, 2 << 20, 1 << 20},
	} {
		g := tc.g
		assert.Equal(t, tc.cluster, g.ClusterSize())
		assert.Equal(t, tc.l2Entries, g.L2Entries())
		assert.Equal(t, tc.coverage, g.L2Coverage())
		assert.Equal(t, tc.sub, g.SubclusterSize())
		assert.Equal(t, tc.blockEntries, g.RefcountBlockEntries())
		assert.EqualValues(t, 7, g.HostCluster(g.HostOffset(7)+qcow2.HostOffset(tc.cluster-1)))
		assert.EqualValues(t, 7, g.GuestCluster(g.GuestOffset(7)+qcow2.GuestOffset(tc.cluster-1)))
		assert.True(t, g.Aligned(g.HostOffset(7)))
		assert.False(t, g.Aligned(g.HostOffset(7)+1))
		assert.EqualValues(t, 0, g.Clusters(0))
		assert.EqualValues(t, 1, g.Clusters(1))
		assert.EqualValues(t, 1, g.Clusters(tc.cluster))
		assert.EqualValues(t, 2, g.Clusters(tc.cluster+1))
		assert.EqualValues(t, uint64(1)<<(64-g.ClusterBits), g.Clusters(math.MaxUint64))
		assert.EqualValues(t, 0, g.L1EntriesFor(0))
		assert.EqualValues(t, 1, g.L1EntriesFor(1))
		assert.EqualValues(t, 2, g.L1EntriesFor(tc.coverage+1))
	}
	g := qcow2.Geometry{ClusterBits: 12}
	for _, tc := range []struct {
		offset, length uint64
		first, n       uint64
	}{
		{0, 0, 0, 0}, {0, 1, 0, 1}, {4095, 1, 0, 1}, {4095, 2, 0, 2}, {4096, 4096, 1, 1}, {5000, 8192, 1, 3},
		{math.MaxUint64, 1, 1<<52 - 1, 1},
	} {
		first, n := g.ClusterSpan(qcow2.HostOffset(tc.offset), tc.length)
		assert.EqualValues(t, tc.first, first)
		assert.Equal(t, tc.n, n)
	}
}

func TestBitmapBits(t *testing.T) {
	for _, tc := range []struct {
		size uint64
		bits uint
		want uint64
	}{
		{0, 16, 0}, {1, 16, 1}, {65536, 16, 1}, {65537, 16, 2}, {math.MaxUint64, 9, 1 << 55},
		{math.MaxUint64, 63, 2}, {math.MaxUint64, 64, 1}, {0, 64, 0}, {5, 255, 1},
	} {
		assert.Equal(t, tc.want, qcow2.BitmapBits(tc.size, tc.bits))
	}
	g := qcow2.Geometry{ClusterBits: 9}
	for bits, want := range map[uint64]uint64{0: 0, 1: 1, 4096: 1, 4097: 2, math.MaxUint64: 1 << 52} {
		assert.Equal(t, want, g.BitmapTableEntries(bits))
	}
}

// TestProblemsHaveNames holds that no reason or problem is printed as a number,
// and that no two are printed alike.
func TestProblemsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	unique := func(s string) {
		t.Helper()
		assert.False(t, seen[s], "%q twice", s)
		assert.NotRegexp(t, `^(problem \d+|unknown|)$`, s)
		seen[s] = true
	}
	for p := qcow2.ProblemUnreadable; p <= qcow2.ProblemBackingFile; p++ {
		unique(p.String())
		unique((&qcow2.GuestError{Problem: p}).Error())
	}
	for p := qcow2.BitmapUnsaved; p <= qcow2.BitmapUnreadable; p++ {
		unique(p.String())
		unique((&qcow2.BitmapError{Problem: p}).Error())
	}
	for r := qcow2.StopEnd; r <= qcow2.StopUnreadable; r++ {
		unique(r.String())
	}
	for k := qcow2.GuestUnallocated; k <= qcow2.GuestCompressed; k++ {
		unique(k.String())
	}
}
