package refcount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// memFile is a Reader of refcount blocks at any offset.
type memFile struct {
	cluster int
	blocks  map[qcow2.HostOffset][]byte // by cluster
	broken  map[qcow2.HostOffset]bool   // clusters that cannot be read
	reads   atomic.Int64
	bytes   atomic.Int64
}

var errBroken = errors.New("broken")

func (f *memFile) ReadAt(p []byte, off qcow2.HostOffset) error {
	f.reads.Add(1)
	f.bytes.Add(int64(len(p)))
	for len(p) > 0 {
		start := off - off%qcow2.HostOffset(f.cluster)
		if f.broken[start] {
			return errBroken
		}
		n := min(len(p), f.cluster-int(off-start))
		clear(p[:n])
		if b := f.blocks[start]; b != nil {
			copy(p[:n], b[off-start:])
		}
		p, off = p[n:], off+qcow2.HostOffset(n)
	}
	return nil
}

// holeFile is a memFile that knows where it has data.
type holeFile struct{ *memFile }

func (f holeFile) NextData(off qcow2.HostOffset) (start, end qcow2.HostOffset) {
	cluster := qcow2.HostOffset(f.cluster)
	best := qcow2.HostOffset(1 << 62)
	for o := range f.blocks {
		if o+cluster > off {
			best = min(best, o)
		}
	}
	if best == 1<<62 {
		return best, best
	}
	return max(best, off), best + cluster
}

// scene is a file with refcounts, and references, both as maps too.
type scene struct {
	g        qcow2.Geometry
	file     *memFile
	counts   *Counts
	refs     *model
	blocks   []Block
	unusable []Entries
	end      uint64 // file clusters
}

// spots are where the clusters of a scene are: in few chunks, far apart.
func (s *scene) spots() []uint64 {
	per := s.g.RefcountBlockEntries()
	last := uint64(1)<<(64-s.g.ClusterBits) - 1
	return []uint64{0, 3*chunkClusters - 3*per - 5, 17 * chunkClusters, (1<<30 - 1) / per * per, last - 2*per - 70}
}

func newScene(t *testing.T, rng *rand.Rand, order uint) *scene {
	s := &scene{
		g:      qcow2.Geometry{ClusterBits: 9 + rng.UintN(2), RefcountOrder: order},
		counts: New(Options{}), refs: newModel(),
	}
	s.file = &memFile{cluster: int(s.g.ClusterSize()), blocks: map[qcow2.HostOffset][]byte{}, broken: map[qcow2.HostOffset]bool{}}
	per := s.g.RefcountBlockEntries()
	last := uint64(1)<<(64-s.g.ClusterBits) - 1
	claim := func(first, n, times uint64) {
		if first > last {
			return
		}
		n = min(n, last-first+1)
		require.NoError(t, s.counts.Claim(qcow2.HostCluster(first), n, times))
		s.refs.claim(first, n, times, 0)
	}
	for _, spot := range s.spots() {
		switch rng.IntN(4) {
		case 0: // a few runs
			for range 1 + rng.IntN(10) {
				claim(spot+rng.Uint64N(2*per), 1+rng.Uint64N(per), 1+rng.Uint64N(2))
			}
		case 1, 2: // in planes, dense, with holes and shared clusters
			claim(spot, 2*per, 1)
			for range 300 {
				claim(spot+rng.Uint64N(3*per), 1+rng.Uint64N(per/8), 1)
			}
		}
	}
	// The file agrees at first, as far as there are blocks and bits.
	free := qcow2.HostOffset(1 << 20)
	indexes := map[uint64]bool{}
	for cluster := range s.refs.refs {
		indexes[cluster/per] = true
	}
	for range 6 {
		indexes[s.spots()[rng.IntN(5)]/per+rng.Uint64N(4)] = true
	}
	for _, index := range slices.Sorted(maps.Keys(indexes)) {
		switch {
		case index*per > last, rng.IntN(12) == 0:
			continue
		case rng.IntN(12) == 0:
			s.unusable = append(s.unusable, Entries{First: index, N: 1 + rng.Uint64N(2)})
			if rng.IntN(2) == 0 {
				continue
			}
		}
		free += qcow2.HostOffset(s.g.ClusterSize()) * qcow2.HostOffset(1+rng.IntN(2)*rng.IntN(3))
		b := Block{Index: index, Offset: free}
		s.blocks = append(s.blocks, b)
		if rng.IntN(10) == 0 {
			continue // a hole of the file
		}
		if rng.IntN(10) == 0 {
			s.file.broken[b.Offset] = true
		}
		s.file.blocks[b.Offset] = make([]byte, s.g.ClusterSize())
		rc := s.g.RefcountBlock(s.file.blocks[b.Offset])
		for i := range rc.Len() {
			if refs := s.refs.refs[index*per+uint64(i)]; refs > 0 {
				rc.Set(i, min(refs, rc.Max()))
			}
		}
		for range rng.IntN(6) { // runs that differ
			v, at := rng.Uint64N(4)&rc.Max(), rng.IntN(rc.Len())
			for i := at; i < min(rc.Len(), at+1+rng.IntN(rc.Len())) && index*per+uint64(i) <= last; i++ {
				rc.Set(i, v)
			}
		}
	}
	rng.Shuffle(len(s.blocks), func(i, j int) { s.blocks[i], s.blocks[j] = s.blocks[j], s.blocks[i] })
	s.end = s.spots()[rng.IntN(5)] + rng.Uint64N(per)
	return s
}

// outcome is what a comparison tells, the calls in order.
type outcome struct {
	calls  []string
	totals Totals
}

func (o *outcome) diff(d Diff) { o.calls = append(o.calls, fmt.Sprintf("%+v", d)) }
func (o *outcome) blockError(b Block, err error) {
	o.calls = append(o.calls, fmt.Sprintf("block %+v: %v", b, err))
}

// naive compares cluster by cluster.
func (s *scene) naive() outcome {
	var o outcome
	per := s.g.RefcountBlockEntries()
	blocks := map[uint64]Block{}
	for _, b := range s.blocks {
		if _, twice := blocks[b.Index]; !twice {
			blocks[b.Index] = b
		}
	}
	bad := map[uint64]bool{}
	for _, e := range s.unusable {
		for i := range e.N {
			bad[e.First+i] = true
		}
	}
	indexes := map[uint64]bool{}
	for cluster := range s.refs.refs {
		indexes[cluster/per] = true
	}
	for i := range blocks {
		indexes[i] = true
	}
	var pending Diff
	flush := func() {
		if d := pending; d.N > 0 {
			sums := &o.totals.InFile
			if uint64(d.First) >= s.end {
				sums = &o.totals.PastEnd
			}
			switch {
			case d.Coverage == Unknown:
				sums.Unknown += d.N
			case d.Refcount > d.References:
				sums.Leaked += d.N
			default:
				sums.Low += d.N
				if d.Coverage == Uncovered {
					sums.Uncovered += d.N
				}
			}
			o.diff(d)
		}
		pending = Diff{}
	}
	for _, index := range slices.Sorted(maps.Keys(indexes)) {
		b, there := blocks[index]
		coverage := Covered
		var raw []byte
		switch {
		case bad[index]:
			coverage = Unknown
		case !there:
			coverage = Uncovered
		case s.file.broken[b.Offset]:
			coverage = Unknown
			flush()
			o.blockError(b, errBroken)
		default:
			raw = s.file.blocks[b.Offset]
		}
		for i := range per {
			cluster := index*per + i
			refs, refcount := s.refs.refs[cluster], uint64(0)
			if raw != nil {
				refcount = s.g.RefcountBlock(raw).Get(int(i))
			}
			sums := &o.totals.InFile
			if cluster >= s.end {
				sums = &o.totals.PastEnd
			}
			if refs > 0 || refcount > 0 {
				sums.Highest, sums.Any = qcow2.HostCluster(cluster), true
			}
			if refs == refcount {
				continue
			}
			next := Diff{First: qcow2.HostCluster(cluster), N: 1, Refcount: refcount, References: refs, Coverage: coverage}
			if pending.joins(next, s.end) {
				pending.N++
				continue
			}
			flush()
			pending = next
		}
	}
	flush()
	return o
}

func (s *scene) table(r Reader) *Table { return NewTable(r, s.g, s.blocks, s.unusable) }

func (s *scene) compare(t *testing.T, r Reader, jobs int) outcome {
	t.Helper()
	var o outcome
	var err error
	o.totals, err = Compare(t.Context(), s.counts, s.table(r), CompareOptions{
		Jobs: jobs, FileClusters: s.end, Diff: o.diff, BlockError: o.blockError,
	})
	require.NoError(t, err)
	return o
}

func TestCompareAgainstNaive(t *testing.T) {
	for order := range uint(qcow2.MaxRefcountOrder + 1) {
		for seed := range uint64(4) {
			s := newScene(t, rand.New(rand.NewPCG(seed, uint64(order))), order)
			want := s.naive()
			for _, how := range []struct {
				jobs int
				r    Reader
			}{{1, s.file}, {3, s.file}, {0, holeFile{s.file}}} {
				got := s.compare(t, how.r, how.jobs)
				got.totals.Bytes = 0
				for i := range min(len(want.calls), len(got.calls)) {
					require.Equal(t, want.calls[i], got.calls[i], "order %d, seed %d, jobs %d, call %d", order, seed, how.jobs, i)
				}
				require.Equal(t, len(want.calls), len(got.calls), "order %d, seed %d", order, seed)
				require.Equal(t, want.totals, got.totals)
			}
		}
	}
}

func TestTableGet(t *testing.T) {
	for order := range uint(qcow2.MaxRefcountOrder + 1) {
		s := newScene(t, rand.New(rand.NewPCG(5, uint64(order))), order)
		table := s.table(s.file)
		lookup := NewLookup(table)
		per := s.g.RefcountBlockEntries()
		seen := map[uint64]bool{}
		for _, b := range s.blocks {
			seen[b.Index] = true
			for _, i := range []uint64{0, 1, per / 3, per/2 + 1, per - 1} {
				cluster := qcow2.HostCluster(b.Index*per + i)
				got, err := table.Get(cluster)
				for range 2 { // read, and kept
					again, failed := lookup.Get(cluster)
					require.Equal(t, got, again)
					require.Equal(t, err, failed)
				}
				switch {
				case table.isUnusable(b.Index):
					require.ErrorIs(t, err, ErrUnknown)
				case s.file.broken[b.Offset]:
					require.ErrorIs(t, err, errBroken)
				case s.file.blocks[b.Offset] == nil:
					require.NoError(t, err)
					require.Zero(t, got)
				default:
					require.NoError(t, err)
					require.Equal(t, s.g.RefcountBlock(s.file.blocks[b.Offset]).Get(int(i)), got)
				}
			}
		}
		got, err := table.Get(qcow2.HostCluster(1 << 29))
		require.NoError(t, err)
		require.Zero(t, got, "no block there")
		got, err = table.Get(^qcow2.HostCluster(0))
		require.NoError(t, err)
		require.Zero(t, got)
	}
}

func TestNewTable(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 16, RefcountOrder: 4}
	blocks := []Block{{7, 0x70000}, {3, 0x30000}, {7, 0x80000}, {4, 0x40000}, {1 << 60, 0x90000}, {9, 0x90000}}
	unusable := []Entries{{9, 2}, {1 << 62, 1 << 40}, {4, 1}, {5, 1}, {10, 1}, {20, 0}}
	table := NewTable(&memFile{}, g, blocks, unusable)
	assert.Equal(t, []Block{{3, 0x30000}, {7, 0x70000}}, table.Blocks())
	assert.Equal(t, []Entries{{4, 2}, {9, 2}}, table.unusable)
	for index, want := range map[uint64]bool{3: false, 4: true, 5: true, 6: false, 9: true, 10: true, 11: false} {
		assert.Equal(t, want, table.isUnusable(index), "%d", index)
	}
}

// A block where no file reaches is an error of that block alone.
func TestCompareBlockBeyondAllFiles(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 9, RefcountOrder: 4}
	for _, r := range []Reader{&memFile{cluster: 512}, holeFile{&memFile{cluster: 512}}} {
		table := NewTable(r, g, []Block{{0, ^qcow2.HostOffset(511)}, {1, 1 << 63}, {2, 512}}, nil)
		c := New(Options{})
		require.NoError(t, c.Claim(0, 600, 1))
		var failed []uint64
		totals, err := Compare(t.Context(), c, table, CompareOptions{
			BlockError: func(b Block, err error) { failed = append(failed, b.Index); assert.ErrorIs(t, err, errPlace) },
		})
		require.NoError(t, err)
		assert.Equal(t, []uint64{0, 1}, failed)
		assert.Equal(t, Sums{Low: 88, Unknown: 512, Highest: 599, Any: true}, totals.InFile)
	}
}

// A block of 2 MiB of 1-bit refcounts covers many units; when it cannot be
// read that is said once.
func TestCompareLargeBlocks(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 21, RefcountOrder: 0}
	f := &memFile{cluster: 2 << 20, blocks: map[qcow2.HostOffset][]byte{}, broken: map[qcow2.HostOffset]bool{4 << 20: true}}
	raw := make([]byte, 2<<20)
	for i := range raw {
		raw[i] = 0xff
	}
	f.blocks[2<<20] = raw
	blocks := []Block{{0, 2 << 20}, {1, 4 << 20}}
	c := New(Options{})
	require.NoError(t, c.Claim(0, 16<<20, 1))
	require.NoError(t, c.Claim(20<<20, 1, 1))
	require.NoError(t, c.Claim(30<<20, 1, 1))
	raw[5<<20/8] = 0xfe
	var o outcome
	var progress []uint64
	totals, err := Compare(t.Context(), c, NewTable(f, g, blocks, nil), CompareOptions{
		Diff: o.diff, BlockError: o.blockError,
		Progress: func(bytes uint64) { progress = append(progress, bytes) },
	})
	require.NoError(t, err)
	assert.Greater(t, len(progress), 16)
	assert.IsIncreasing(t, progress)
	assert.Equal(t, totals.Bytes, progress[len(progress)-1])
	assert.EqualValues(t, 4<<20, totals.Bytes)
	assert.Equal(t, []string{
		fmt.Sprintf("%+v", Diff{First: 5 << 20, N: 1, Refcount: 0, References: 1}),
		fmt.Sprintf("block %+v: %v", blocks[1], errBroken),
		fmt.Sprintf("%+v", Diff{First: 20 << 20, N: 1, References: 1, Coverage: Unknown}),
		fmt.Sprintf("%+v", Diff{First: 30 << 20, N: 1, References: 1, Coverage: Unknown}),
	}, o.calls)
	assert.Equal(t, Sums{Low: 1, Unknown: 2, Highest: 30 << 20, Any: true}, totals.InFile)
}

// Neighbours in the file are read in one go, and a bad one among them spoils
// only itself.
func TestCompareCoalescesReads(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 9, RefcountOrder: 4}
	f := &memFile{cluster: 512, blocks: map[qcow2.HostOffset][]byte{}, broken: map[qcow2.HostOffset]bool{}}
	var blocks []Block
	for i := range uint64(64) {
		offset := qcow2.HostOffset(1<<20 + (i^1)*512) // out of order in pairs
		blocks = append(blocks, Block{i, offset})
	}
	_, err := Compare(t.Context(), New(Options{}), NewTable(f, g, blocks, nil), CompareOptions{})
	require.NoError(t, err)
	assert.EqualValues(t, 1, f.reads.Load())
	assert.EqualValues(t, 64*512, f.bytes.Load())

	f.broken[blocks[9].Offset] = true
	var failed []Block
	_, err = Compare(t.Context(), New(Options{}), NewTable(f, g, blocks, nil), CompareOptions{
		BlockError: func(b Block, _ error) { failed = append(failed, b) },
	})
	require.NoError(t, err)
	assert.Equal(t, blocks[9:10], failed)
}

// Holes cost nothing, even when a table full of entries names them.
func TestCompareSkipsHoles(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 21, RefcountOrder: 6}
	f := holeFile{&memFile{cluster: 2 << 20}}
	var blocks []Block
	for i := range uint64(1 << 14) {
		blocks = append(blocks, Block{i, qcow2.HostOffset(i+1) << 21})
	}
	totals, err := Compare(t.Context(), New(Options{}), NewTable(f, g, blocks, nil), CompareOptions{})
	require.NoError(t, err)
	assert.Zero(t, totals)
	assert.Zero(t, f.reads.Load())
}

func TestCompareCancelled(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 16, RefcountOrder: 4}
	f := &memFile{cluster: 1 << 16}
	var blocks []Block
	for i := range uint64(4096) {
		blocks = append(blocks, Block{i, qcow2.HostOffset(i+1) << 16})
	}
	c := New(Options{})
	for i := range 4096 {
		require.NoError(t, c.Claim(qcow2.HostCluster(i)<<15, 1, 1))
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	totals, err := Compare(ctx, c, NewTable(f, g, blocks, nil), CompareOptions{Jobs: 3, Diff: func(Diff) {
		if calls++; calls == 100 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	assert.Less(t, totals.InFile.Low, uint64(4096))
	assert.GreaterOrEqual(t, totals.InFile.Low, uint64(100))
}

func TestCompareNothing(t *testing.T) {
	totals, err := Compare(t.Context(), New(Options{}), NewTable(&memFile{}, qcow2.Geometry{ClusterBits: 16}, nil, nil), CompareOptions{})
	require.NoError(t, err)
	assert.Zero(t, totals)
}
