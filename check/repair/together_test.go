package repair

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// fullSpec is an image with some of everything.
func fullSpec() corpus.Spec {
	return corpus.Spec{ClusterBits: 12, Size: 40 << 20, Ops: []corpus.Op{
		corpus.Write{Length: 64 << 10, Pattern: 1},
		corpus.Write{Offset: 9 << 20, Length: 64 << 10, Pattern: 2},
		corpus.Snapshot{ID: "1", Name: "first"},
		corpus.Write{Offset: 16 << 10, Length: 64 << 10, Pattern: 3},
		corpus.Snapshot{ID: "2", Name: "second"},
		corpus.Write{Offset: 2 << 20, Length: 32 << 10, Pattern: 4},
		corpus.Write{Offset: 20 << 20, Length: 16 << 10, Pattern: 5, Compressed: true},
	}, Bitmaps: []corpus.Bitmap{
		{Name: "sound", GranularityBits: 16, Auto: true, Dirty: []corpus.Range{{Offset: 1 << 20, Length: 3 << 20}}},
		{Name: "other", GranularityBits: 12, Dirty: []corpus.Range{{Length: 1 << 20}}},
	}}
}

// faults are damages of all structures of that image.
var faults = []corpus.Damage{
	corpus.SetBits(corpus.HeaderField(qcow2.FieldIncompatibleFeatures), uint64(qcow2.IncompatDirty)),
	corpus.SetBits(corpus.HeaderField(qcow2.FieldIncompatibleFeatures), uint64(qcow2.IncompatCorrupt)),
	corpus.SetBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), 1<<40),
	corpus.Set(corpus.HeaderField(qcow2.FieldRefcountTableClusters), 0),
	corpus.FlipBits(corpus.HeaderField(qcow2.FieldRefcountTableOffset), 1<<40),
	corpus.FlipBits(corpus.HeaderField(qcow2.FieldSnapshotsOffset), 1<<40),
	corpus.FlipBits(corpus.HeaderField(qcow2.FieldL1TableOffset), 1<<35),
	corpus.Set(corpus.HeaderField(qcow2.FieldL1Size), 2),
	corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots), 1),
	corpus.SetBits(corpus.RefcountTableEntry(0), 8),
	corpus.FlipBits(corpus.RefcountTableEntry(0), 1<<33),
	corpus.Point(corpus.RefcountTableEntry(0), corpus.L1Table()),
	corpus.Point(corpus.RefcountTableEntry(0), corpus.L2Table(0)),
	corpus.Point(corpus.RefcountTableEntry(0), corpus.SnapshotTable()),
	corpus.AddRefcount(corpus.Data(0), 3),
	corpus.AddRefcount(corpus.Data(9<<20), -1),
	corpus.AddRefcount(corpus.L2Table(0), -1),
	corpus.FlipBits(corpus.L1Entry(0), 1<<63),
	corpus.SetBits(corpus.L1Entry(1), 1<<3),
	corpus.FlipBits(corpus.L1Entry(4), 1<<14),
	corpus.FlipBits(corpus.L1Entry(0), 1<<15),
	corpus.FlipBits(corpus.L1Entry(10), 1<<50),
	corpus.Set(corpus.L1Entry(0), 0),
	corpus.Point(corpus.L1Entry(4), corpus.L2Table(0)),
	corpus.Point(corpus.L1Entry(4), corpus.RefcountTable()),
	corpus.Point(corpus.L1Entry(4), corpus.Data(0)),
	corpus.FlipBits(corpus.L2Entry(0), 1<<63),
	corpus.SetBits(corpus.L2Entry(8<<10), 1<<5),
	corpus.FlipBits(corpus.L2Entry(16<<10), 1<<9),
	corpus.FlipBits(corpus.L2Entry(20<<10), 1<<45),
	corpus.Point(corpus.L2Entry(24<<10), corpus.L1Table()),
	corpus.Point(corpus.L2Entry(28<<10), corpus.RefcountBlock(0)),
	corpus.Point(corpus.L2Entry(32<<10), corpus.BitmapTable("other")),
	corpus.Point(corpus.L2Entry(36<<10), corpus.Data(0)),
	corpus.FlipBits(corpus.L2Entry(20<<20), 1<<40),
	corpus.SetBits(corpus.L2Entry(20<<20), 1<<63),
	corpus.Wipe(corpus.L2Table(2 << 20)),
	corpus.FlipBits(corpus.SnapshotField("1", qcow2.SnapshotFieldL1TableOffset, 8), 1<<38),
	corpus.SetOffset(corpus.SnapshotField("2", qcow2.SnapshotFieldL1TableOffset, 8), corpus.L2Table(0), 0),
	corpus.Set(corpus.SnapshotField("2", qcow2.SnapshotFieldNameSize, 2), 60_000),
	corpus.Set(corpus.SnapshotField("1", qcow2.SnapshotFieldExtraDataSize, 4), 1<<20),
	corpus.FlipBits(corpus.SnapshotL1Entry("1", 0), 1<<44),
	corpus.FlipBits(corpus.SnapshotL2Entry("1", 0), 1<<10),
	corpus.SetBits(corpus.BitmapField("other", qcow2.BitmapFieldFlags, 4), 1),
	corpus.SetBits(corpus.BitmapField("other", qcow2.BitmapFieldFlags, 4), 1<<9),
	corpus.SetBits(corpus.BitmapTableEntry("other", 0), 1<<60),
	corpus.Point(corpus.BitmapTableEntry("other", 0), corpus.L2Table(0)),
	corpus.SetOffset(corpus.BitmapField("other", qcow2.BitmapFieldTableOffset, 8), corpus.RefcountBlock(0), 0),
	corpus.Set(corpus.ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtNbBitmaps, 4), 3),
	corpus.SetOffset(corpus.ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtDirectoryOffset, 8), corpus.L1Table(), 0),
	corpus.ClearBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), uint64(qcow2.AutoclearBitmaps)),
	corpus.Extend(3 << 20),
}

// Several damages at random: a repair comes to an end, nothing that could be read
// reads otherwise but for what is said to be lost, sound bitmaps keep their bits, and
// a second repair finds nothing to do.
func TestFaultsTogether(t *testing.T) {
	all := func(*problem.Finding) bool { return true }
	for i := range 1200 / stride(10, 72) {
		r := rand.New(rand.NewPCG(uint64(i), 31))
		way := ways[i%len(ways)]
		t.Run(fmt.Sprintf("%d/%s", i, way.name), func(t *testing.T) {
			t.Parallel()
			img := damaged(t, r, 2+r.IntN(4))
			testRepair(t, img, way.opts, all)
		})
	}
}

// damaged is the image with so many faults.
func damaged(t *testing.T, r *rand.Rand, n int) *corpus.Image {
	t.Helper()
	img, err := corpus.Build(fullSpec())
	require.NoError(t, err)
	var texts []string
	for range n {
		d := faults[r.IntN(len(faults))]
		_, err := d.Apply(img)
		require.NoError(t, err)
		texts = append(texts, d.String())
	}
	t.Log(strings.Join(texts, "; "))
	return img
}

// Ten faults in six structures, all of which can be repaired without loss: one run
// leaves only the refcount block that nothing named, since features that nobody knows
// might have owned it; a second one frees it.
func TestTenFaults(t *testing.T) {
	img, err := corpus.Build(fullSpec())
	require.NoError(t, err)
	before := contents(t, img, img.Size())
	for _, d := range []corpus.Damage{
		corpus.SetBits(corpus.HeaderField(qcow2.FieldIncompatibleFeatures), uint64(qcow2.IncompatDirty|qcow2.IncompatCorrupt)),
		corpus.SetBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), 1<<40),
		corpus.Point(corpus.RefcountTableEntry(0), corpus.SnapshotTable()),
		corpus.SetBits(corpus.L1Entry(1), 1<<3),
		corpus.FlipBits(corpus.L2Entry(0), 1<<63),
		corpus.SetBits(corpus.L2Entry(8<<10), 1<<5),
		corpus.SetBits(corpus.L2Entry(20<<20), 1<<63),
		corpus.SetBits(corpus.BitmapField("other", qcow2.BitmapFieldFlags, 4), 1<<9),
		corpus.SetBits(corpus.BitmapTableEntry("other", 0), 1<<60),
		corpus.SetBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), uint64(qcow2.AutoclearRawData)),
		corpus.SetBits(corpus.SnapshotL1Entry("1", 0), 1<<6),
	} {
		_, err := d.Apply(img)
		require.NoError(t, err)
	}
	plan, err := Make(t.Context(), img, img.Size(), Options{})
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(listed(plan.Before.Findings, func(f *problem.Finding) bool { return f.Severity > problem.Note })), 8)
	assert.Equal(t, check.VerdictLeaks, plan.After.Verdict, "%v", plan.After.Findings)
	assert.EqualValues(t, 1, plan.After.Totals.Leaks)
	assert.Empty(t, plan.Lost)
	o := after(t, img, plan)
	second, err := Make(t.Context(), o, o.size, Options{})
	require.NoError(t, err)
	assert.Equal(t, check.VerdictClean, second.After.Verdict, "%v", second.After.Findings)
	assert.Equal(t, before, contents(t, o, o.size))
}
