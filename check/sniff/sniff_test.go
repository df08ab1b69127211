package sniff_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// image is a disk with one of each structure; what leads to them is cut off by asking
// about references as if there were none.
func image(t *testing.T, snapshots bool) (*corpus.Image, *qcow2.Image) {
	t.Helper()
	const mib = 1 << 20
	spec := corpus.Spec{ClusterBits: 12, Size: 64*mib + 512, Ops: []corpus.Op{
		corpus.Write{Length: 8192, Pattern: 0x41}, corpus.Write{Offset: 3 * mib, Length: 4096, Pattern: 0x42}, corpus.Write{Offset: 4 * mib, Length: 4096},
	}, Bitmaps: []corpus.Bitmap{
		{Name: "b0", GranularityBits: 9, Auto: true, Dirty: []corpus.Range{{Length: mib}, {Offset: 40 * mib, Length: 4 * mib}}},
		{Name: "b1", GranularityBits: 16},
	}}
	if snapshots {
		spec.Ops = append(spec.Ops, corpus.Snapshot{ID: "1", Name: "first"})
	}
	img, err := corpus.Build(spec)
	require.NoError(t, err)
	opened, err := qcow2.Open(img, img.Size())
	require.NoError(t, err)
	return img, opened
}

// sniffer looks at an image of which nothing is known to refer to anything. The
// refcounts are those of the file.
func sniffer(t *testing.T, img *qcow2.Image, references func(qcow2.HostCluster) uint64) *sniff.Sniffer {
	t.Helper()
	_, ev, err := check.Inspect(t.Context(), img, check.Options{})
	require.NoError(t, err)
	return sniff.New(img, func(cl qcow2.HostCluster) uint64 {
		n, err := ev.Table.Get(cl)
		require.NoError(t, err)
		return n
	}, references)
}

func none(qcow2.HostCluster) uint64 { return 0 }

func find(t *testing.T, img *corpus.Image, g qcow2.Geometry, p corpus.Place) qcow2.HostCluster {
	t.Helper()
	x, err := img.Find(p)
	require.NoError(t, err)
	return g.HostCluster(x.Offset)
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		place corpus.Place
		want  sniff.Kind
	}{
		{corpus.L2Table(0), sniff.L2Table},
		{corpus.L1Table(), sniff.L1Table},
		{corpus.BitmapDirectory(), sniff.BitmapDirectory},
		{corpus.BitmapTable("b0"), sniff.BitmapTable},
		{corpus.BitmapTable("b1"), sniff.Zeros}, // an empty bitmap's
		{corpus.SnapshotTable(), sniff.SnapshotTable},
		{corpus.Data(0), sniff.Data},
		{corpus.Data(4 << 20), sniff.Zeros},
	} {
		t.Run(c.want.String()+" "+c.place.String(), func(t *testing.T) {
			img, opened := image(t, c.want == sniff.SnapshotTable)
			s := sniffer(t, opened, none)
			assert.Equal(t, c.want.String(), s.Classify(find(t, img, opened.Geometry, c.place)).String())
		})
	}
}

// A refcount block is told by what it says of the clusters that have an owner.
func TestClassifyRefcountBlock(t *testing.T) {
	img, opened := image(t, false)
	_, ev, err := check.Inspect(t.Context(), opened, check.Options{})
	require.NoError(t, err)
	s := sniffer(t, opened, ev.Counts.Get)
	assert.Equal(t, "refcount block", s.Classify(find(t, img, opened.Geometry, corpus.RefcountBlock(0))).String())
	assert.Equal(t, "data", s.Classify(find(t, img, opened.Geometry, corpus.Data(0))).String())
}

// What somebody refers to is no part of what was lost.
func TestOwnersSpeakAgainstIt(t *testing.T) {
	img, opened := image(t, false)
	g := opened.Geometry
	data := find(t, img, g, corpus.BitmapData("b0", 2))
	s := sniffer(t, opened, func(cl qcow2.HostCluster) uint64 {
		if cl == data {
			return 1
		}
		return 0
	})
	assert.Equal(t, "data", s.Classify(find(t, img, g, corpus.BitmapTable("b0"))).String())
	_, ok := s.Directory(find(t, img, g, corpus.BitmapDirectory()), nil)
	assert.False(t, ok)
}

// The clusters of a directory are told, each once; they are known from then on.
func TestDirectory(t *testing.T) {
	img, opened := image(t, false)
	g := opened.Geometry
	s := sniffer(t, opened, none)
	at := find(t, img, g, corpus.BitmapDirectory())
	d, ok := s.Directory(at, nil)
	require.True(t, ok)
	assert.Equal(t, qcow2.DecodeBitmapsExtension(opened.Extension(qcow2.ExtBitmaps).Data), d.Extension())
	require.Len(t, d.Entries, 2)
	n := uint64(0)
	for _, r := range d.Clusters {
		n += r.N
	}
	assert.EqualValues(t, 1+2+2, n, "a directory, two tables, two clusters of data")
	s.Learn(d.Clusters)
	assert.Equal(t, "bitmap data", s.Classify(find(t, img, g, corpus.BitmapData("b0", 0))).String())

	// Something behind the entries may be left over from an earlier directory: then
	// the extension must say where it ends.
	_, err := corpus.Put(corpus.BitmapDirectory().At(d.Size, 8), []byte("leftover")).Apply(img)
	require.NoError(t, err)
	_, ok = s.Directory(at, nil)
	assert.False(t, ok)
	_, ok = s.Directory(at, &qcow2.BitmapsExtension{NbBitmaps: 2})
	assert.True(t, ok)
	_, ok = s.Directory(at, &qcow2.BitmapsExtension{NbBitmaps: 3})
	assert.False(t, ok)
}

// A table of the wrong size is none, nor one that names a cluster twice.
func TestDirectoryThatDoesNotFit(t *testing.T) {
	for name, d := range map[string]corpus.Damage{
		"size":     corpus.Add(corpus.BitmapField("b0", qcow2.BitmapFieldTableSize, 4), 1),
		"twice":    corpus.Copy(corpus.BitmapTableEntry("b0", 1), corpus.BitmapTableEntry("b0", 0)),
		"reserved": corpus.SetBits(corpus.BitmapTableEntry("b0", 0), 1<<63),
		"type":     corpus.Set(corpus.BitmapField("b0", qcow2.BitmapFieldType, 1), 2),
	} {
		t.Run(name, func(t *testing.T) {
			img, opened := image(t, false)
			s := sniffer(t, opened, none)
			_, err := d.Apply(img)
			require.NoError(t, err)
			_, ok := s.Directory(find(t, img, opened.Geometry, corpus.BitmapDirectory()), nil)
			assert.False(t, ok)
		})
	}
}
