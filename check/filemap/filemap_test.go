package filemap_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/filemap"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

func mapOf(t *testing.T, c *corpus.Case, opts filemap.Options) *filemap.Map {
	t.Helper()
	built, err := c.Build()
	require.NoError(t, err)
	img, err := built.Open()
	require.NoError(t, err)
	res, ev, err := check.Inspect(context.Background(), img, check.Options{NoBacking: true})
	require.NoError(t, err)
	m, err := filemap.Make(context.Background(), img, res, ev, opts)
	require.NoError(t, err)
	return m
}

// TestSamples holds that clusters are told as what they are.
func TestSamples(t *testing.T) {
	t.Parallel()
	samples := corpus.Samples()
	healthy := mapOf(t, &samples[0], filemap.Options{})
	assert.Equal(t, uint64(1), healthy.PerCell)
	for kind, want := range map[filemap.Kind]uint64{filemap.Header: 1, filemap.L1: 2, filemap.L2: 2, filemap.Refcounts: 2,
		filemap.Snapshots: 1, filemap.Bitmaps: 5, filemap.Data: 96, filemap.Compressed: 1, filemap.Leaked: 0, filemap.Overlapping: 0} {
		assert.Equal(t, want, healthy.Totals[kind], kind.String())
	}
	assert.Equal(t, uint64(1), healthy.Cells[0][filemap.Header])
	require.Len(t, healthy.Snapshots, 1)
	assert.Equal(t, "before-upgrade", healthy.Snapshots[0].Name)
	assert.Equal(t, uint64(4<<20), healthy.Snapshots[0].Bytes[qcow2.GuestData]+healthy.Snapshots[0].Bytes[qcow2.GuestCompressed])
	require.Len(t, healthy.Bitmaps, 2)
	assert.Equal(t, uint64(5<<20), healthy.Bitmaps[0].Bytes)
	assert.Equal(t, uint8(255), healthy.Bitmaps[1].Dirty[40<<20/healthy.GuestBytes])
	assert.Zero(t, healthy.Bitmaps[1].Dirty[0])

	wrong := mapOf(t, &samples[2], filemap.Options{})
	assert.Equal(t, uint64(5), wrong.Totals[filemap.Leaked])
	coarse := mapOf(t, &samples[2], filemap.Options{Cells: 10, GuestCells: 10})
	assert.LessOrEqual(t, len(coarse.Cells), 10)
	assert.Len(t, coarse.Active.Cells, 10)
	assert.Equal(t, wrong.Totals, coarse.Totals, "however fine it is drawn")
	assert.Equal(t, wrong.Active.Bytes, coarse.Active.Bytes)
	assert.Equal(t, "inconsistent", mapOf(t, &samples[3], filemap.Options{}).Bitmaps[1].Why)
}

// TestCorpus holds that every cluster of a file is told as one thing, whatever is wrong with
// it.
func TestCorpus(t *testing.T) {
	t.Parallel()
	for i, c := range corpus.Cases() {
		if i%15 != 0 || c.NotQcow2() || c.MemoryLimit > 0 || c.Huge || c.Long {
			continue
		}
		m := mapOf(t, &c, filemap.Options{Cells: 500})
		if m.ClusterSize == 0 {
			continue
		}
		sum := uint64(0)
		for k := range filemap.Overlapping {
			sum += m.Totals[k]
		}
		clusters := (m.FileSize + m.ClusterSize - 1) / m.ClusterSize
		assert.Equal(t, clusters, sum, c.Name)
	}
	overlap, ok := corpus.Lookup("overlap/l2-on-l2")
	if !ok {
		overlap, ok = firstOf("overlap/")
	}
	require.True(t, ok)
	assert.Positive(t, mapOf(t, &overlap, filemap.Options{}).Totals[filemap.Overlapping], overlap.Name)
}

func firstOf(prefix string) (corpus.Case, bool) {
	for _, c := range corpus.Cases() {
		if len(c.Name) > len(prefix) && c.Name[:len(prefix)] == prefix {
			return c, true
		}
	}
	return corpus.Case{}, false
}
