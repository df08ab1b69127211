package metadump_test

import (
	"bytes"
	"context"
	"flag"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/metadump"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

var every = flag.Int("metadump.every", 8, "copy the metadata of every N-th image of the corpus")

// overlaid are the images in which guest data is read as a table. It is left out of the
// copy, so that what a check says of its bytes cannot be the same.
var overlaid = map[string]string{
	"incident/l2-tables-reused":         "guest data lies in two L2 tables",
	"fuzzed/stale-bitmap-table-is-data": "the table of a stale bitmap is guest data by now",
	"fuzzed/l1-table-over-data":         "the L1 table reaches over all guest data",
}

// TestCorpus holds for images of all kinds that a check finds the same in the copy of their
// metadata, and that no byte of a guest's is in it.
func TestCorpus(t *testing.T) {
	t.Parallel()
	step := *every
	if testing.Short() {
		step *= 8
	}
	for i, c := range append(corpus.Cases(), corpus.Samples()...) {
		_, over := overlaid[c.Name]
		if c.NotQcow2() || c.MemoryLimit > 0 || len(c.Unreadable) > 0 || i%step != 0 && !over {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := c.Build()
			require.NoError(t, err)
			before := img.Sum()
			guest := guestClusters(t, c)
			for _, anonymize := range []bool{false, true} {
				opts := metadump.Options{Anonymize: anonymize}
				d, out := dump(t, img, img.Size(), opts)
				assert.Equal(t, before, img.Sum(), "the image is only read")
				assert.Equal(t, img.Size(), out.Size())
				res, err := metadump.Check(context.Background(), out, out.Size(), opts)
				require.NoError(t, err)
				if diff := metadump.Differences(d.Result, res); over {
					assert.NotEmpty(t, diff, "it need not be in the list")
				} else {
					assert.Empty(t, diff, "anonymize: %v", anonymize)
				}
				for _, x := range guest {
					noGuest(t, img, out, x)
				}
			}
		})
	}
}

func dump(t *testing.T, r corpusFile, size int64, opts metadump.Options) (*metadump.Dump, *corpus.Store) {
	t.Helper()
	d, err := metadump.Make(context.Background(), r, size, opts)
	require.NoError(t, err)
	out := corpus.NewStore(size)
	st, err := d.CopyTo(context.Background(), out)
	require.NoError(t, err)
	require.Positive(t, st.Copied)
	return d, out
}

type corpusFile interface {
	ReadAt(p []byte, off int64) (int, error)
}

// guestClusters gives the clusters in which the image, before it was damaged, had data of
// the active disk or of a snapshot, and not of anything else.
func guestClusters(t *testing.T, c corpus.Case) (all []qcow2.Extent) {
	t.Helper()
	c.Damage, c.Missing = nil, nil
	sound, err := c.Build()
	require.NoError(t, err)
	img, err := sound.Open()
	require.NoError(t, err)
	_, ev, err := check.Inspect(context.Background(), img, check.Options{NoBacking: true})
	require.NoError(t, err)
	g := img.Geometry
	meta := make(map[qcow2.HostCluster]bool)
	for o := range ev.Metadata() {
		first, n := g.ClusterSpan(o.Extent.Offset, o.Extent.Length)
		for k := range n {
			meta[first+qcow2.HostCluster(k)] = true
		}
	}
	for r := range ev.Counts.Runs(1) {
		for k := range min(r.N, 4096) {
			if cl := r.First + qcow2.HostCluster(k); !meta[cl] {
				all = append(all, qcow2.Extent{Offset: g.HostOffset(cl), Length: g.ClusterSize()})
			}
		}
	}
	return all
}

// noGuest holds that of a cluster in which a guest's data was there is nothing in the copy
// but zeros and the filler, where it is guest data still.
func noGuest(t *testing.T, img, out corpusFile, x qcow2.Extent) {
	t.Helper()
	is, was := make([]byte, x.Length), make([]byte, x.Length)
	img.ReadAt(was, int64(x.Offset))
	out.ReadAt(is, int64(x.Offset))
	for at := 0; at < len(is); at += qcow2.SectorSize {
		s := is[at : at+qcow2.SectorSize]
		if len(bytes.Trim(s, "\x00")) == 0 || len(bytes.Trim(s, "\x00")) > 0 && bytes.Contains(s, []byte("?removed")) || s[0] == '?' && s[8] == '?' {
			continue
		}
		assert.Failf(t, "guest data", "in the sector at 0x%x of the copy: % x…", int(x.Offset)+at, s[:32])
		return
	}
}
