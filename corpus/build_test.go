package corpus

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func TestBuildIsDeterministic(t *testing.T) {
	t.Parallel()
	for i, c := range Cases() {
		if i%4 != 0 || strings.HasPrefix(c.Name, "hostile/") {
			continue // made by the same code as the others
		}
		a, err := c.Build()
		require.NoError(t, err)
		b, err := c.Build()
		require.NoError(t, err)
		assert.Equal(t, a.Sum(), b.Sum(), c.Name)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Spec{
		"cluster bits":              {ClusterBits: 8, Size: mib},
		"subclusters too small":     {ClusterBits: 13, ExtendedL2: true, Size: mib},
		"refcount width":            {RefcountBits: 3, Size: mib},
		"version 2 with features":   {Version: 2, Lazy: true, Size: mib},
		"beyond the disk":           {Size: mib, Ops: []Op{Write{Offset: mib, Length: 1}}},
		"half a cluster zeroed":     {Size: mib, Ops: []Op{Zero{Length: 512}}},
		"snapshot needs wider":      {RefcountBits: 1, Size: mib, Ops: []Op{Write{Length: 1}, Snapshot{ID: "1"}}},
		"no such snapshot":          {Size: mib, Ops: []Op{DropSnapshot{ID: "1"}}},
		"snapshot with a data file": {Size: mib, DataFile: &DataFile{Name: "d"}, Ops: []Op{Write{Length: 1}, Snapshot{ID: "1"}}},
		"dirty beyond the disk":     {Size: mib, Bitmaps: []Bitmap{{Name: "b", Dirty: []Range{{mib, 1}}}}},
		"bitmap of nothing":         {Bitmaps: []Bitmap{{Name: "b"}}},
		"header too full":           {ClusterBits: 9, Size: mib, Extensions: []RawExtension{{1, make([]byte, 400)}}},
	} {
		_, err := Build(s)
		assert.Error(t, err, name)
	}
}

// TestBuildLarge builds the metadata of a large disk: it must be a matter of
// seconds, and of memory for the metadata alone.
func TestBuildLarge(t *testing.T) {
	t.Parallel()
	img, err := Build(Spec{Size: 64 * gib, Ops: []Op{Map{Length: 64 * gib, Shuffle: 1}}})
	require.NoError(t, err)
	assert.Greater(t, img.Size(), int64(64*gib))
	assert.Less(t, len(img.chunks)*chunkSize, int(12*mib))
}

func BenchmarkBuild1TiB(b *testing.B) {
	for b.Loop() {
		_, err := Build(Spec{Size: tib, Ops: []Op{Map{Length: tib}}})
		require.NoError(b, err)
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	s := snapshotHistory(Spec{Size: 8 * mib}, 0)
	s.Bitmaps = []Bitmap{{Name: "b0", Dirty: []Range{{0, mib}}}}
	s.Ops = append(s.Ops, Reserve{Name: "room", Clusters: 2})
	img, err := Build(s)
	require.NoError(t, err)
	const c = 64 << 10
	for _, tt := range []struct {
		p    Place
		want qcow2.Extent
	}{
		{HeaderField(qcow2.FieldSize), qcow2.Extent{Offset: 24, Length: 8}},
		{RefcountTable(), qcow2.Extent{Offset: c, Length: c}},
		{RefcountBlock(0), qcow2.Extent{Offset: 2 * c, Length: c}},
		{L1Entry(0), qcow2.Extent{Offset: 3 * c, Length: 8}},
		{RefcountOf(L1Table()), qcow2.Extent{Offset: 2*c + 6, Length: 2}},
		{ExtensionLength(qcow2.ExtBitmaps), qcow2.Extent{Offset: 112 + 392 + 4, Length: 4}},
	} {
		got, err := img.Find(tt.p)
		require.NoError(t, err, tt.p)
		assert.Equal(t, tt.want, got, tt.p)
	}
	// What a place names is what the bytes there say.
	get := func(p Place) uint64 {
		x, err := img.Find(p)
		require.NoError(t, err, p)
		b := make([]byte, 8)
		img.read(b, int64(x.Offset))
		return getRefcount(b, 6, 0)
	}
	at := func(p Place) uint64 {
		x, err := img.Find(p)
		require.NoError(t, err, p)
		return uint64(x.Offset)
	}
	assert.Equal(t, at(L2Table(0))|1<<63, get(L1Entry(0)))
	assert.Equal(t, at(Data(8*c))|1<<63, get(L2Entry(8*c)))
	assert.Equal(t, at(SnapshotL1("2")), get(SnapshotEntry("2")))
	assert.Equal(t, at(SnapshotL2Table("2", 0))|1<<63, get(SnapshotL1Entry("2", 0)), "the flag is the one of the moment")
	assert.Equal(t, at(BitmapTable("b0")), get(BitmapEntry("b0")))
	assert.Equal(t, at(BitmapData("b0", 0)), get(BitmapTableEntry("b0", 0)))
	assert.NotEqual(t, at(Data(c)), at(SnapshotData("1", c)), "the guest wrote here after the snapshot")
	assert.Equal(t, at(Data(0)), at(SnapshotData("1", 0)), "and not here")
	x, err := img.Find(Reserved("room"))
	require.NoError(t, err)
	assert.EqualValues(t, 2*c, x.Length)
	for _, p := range []Place{L1Entry(1), L2Entry(4 * mib << 20), BitmapEntry("b1"), SnapshotEntry("9"), CryptoHeader(), RefcountBlock(1)} {
		_, err := img.Find(p)
		assert.Error(t, err, p)
	}
}
