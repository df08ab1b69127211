package check_test

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

const cutCluster = 4 << 10

// cutSpec is a disk with a snapshot and a bitmap, in clusters of 4 KiB.
func cutSpec() corpus.Spec {
	return corpus.Spec{ClusterBits: 12, Size: 4 << 20, Ops: []corpus.Op{
		corpus.Write{Length: 40 * cutCluster, Pattern: 1}, corpus.Write{Offset: 3 << 20, Length: 10 * cutCluster, Pattern: 2},
		corpus.Snapshot{ID: "1", Name: "one"}, corpus.Write{Offset: cutCluster, Length: cutCluster, Pattern: 3},
	}, Bitmaps: []corpus.Bitmap{{Name: "b", GranularityBits: 9, Auto: true, Dirty: []corpus.Range{{Length: 1 << 20}}}}}
}

func checkOf(t *testing.T, r io.ReaderAt, size int64) *check.Result {
	t.Helper()
	img, err := qcow2.Open(r, size)
	require.NoError(t, err)
	res, err := check.Run(t.Context(), img, check.Options{})
	require.NoError(t, err)
	return res
}

// One flipped bit of any pointer, or of the header, is no truncation, wherever it leads.
func TestOneBitIsNoTruncation(t *testing.T) {
	places := map[string]corpus.Place{
		"L1 entry": corpus.L1Entry(1), "L2 entry": corpus.L2Entry(0), "last L2 entry": corpus.L2Entry(3<<20 + 9*cutCluster), "refcount table": corpus.RefcountTableEntry(0),
		"snapshot L1": corpus.SnapshotL1Entry("1", 0), "snapshot": corpus.SnapshotField("1", 0, 8), "bitmap table": corpus.BitmapTableEntry("b", 0),
		"bitmap": corpus.BitmapField("b", 0, 8), "bitmaps": corpus.ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtDirectoryOffset, 8),
	}
	for name, p := range places {
		for bit := range 64 {
			img, err := corpus.Build(cutSpec())
			require.NoError(t, err)
			_, err = corpus.FlipBits(p, 1<<bit).Apply(img)
			require.NoError(t, err)
			res := checkOf(t, img, img.Size())
			assert.False(t, res.Has(problem.FileTruncated), "%s, bit %d", name, bit)
			assert.Nil(t, res.Truncation)
		}
	}
	for at := range qcow2.HeaderLengthCompression {
		if at < 4 {
			continue // the magic
		}
		for bit := range 8 {
			img, err := corpus.Build(cutSpec())
			require.NoError(t, err)
			_, err = corpus.FlipBits(corpus.Bytes(qcow2.HostOffset(at), 1), 1<<bit).Apply(img)
			require.NoError(t, err)
			assert.False(t, checkOf(t, img, img.Size()).Has(problem.FileTruncated), "header byte %d, bit %d", at, bit)
		}
	}
}

// What QEMU leaves behind is no truncation: a last cluster that is not whole, and refcounts
// past the end of the file.
func TestWhatQEMULeavesIsNoTruncation(t *testing.T) {
	img, err := corpus.Build(corpus.Spec{Size: 8 << 20, Ops: []corpus.Op{corpus.Write{Length: 1 << 20, Pattern: 1}}})
	require.NoError(t, err)
	for _, n := range []int64{1, 512, 65535} {
		res := checkOf(t, io.NewSectionReader(img, 0, img.Size()-n), img.Size()-n)
		assert.Equal(t, check.VerdictClean, res.Verdict, "%d bytes", n)
	}
	_, err = corpus.SetRefcount(corpus.End(100<<16), 1).Apply(img)
	require.NoError(t, err)
	assert.False(t, checkOf(t, img, img.Size()).Has(problem.FileTruncated))
}

// A table most of whose entries lead past the end of the file is a table, one whose entries
// lead where no file has ever reached is none.
func TestEntriesPastTheEndAreEntries(t *testing.T) {
	whole, err := corpus.Build(cutSpec())
	require.NoError(t, err)
	x, err := whole.Find(corpus.Data(2 * cutCluster))
	require.NoError(t, err)
	res := checkOf(t, io.NewSectionReader(whole, 0, int64(x.Offset)), int64(x.Offset))
	assert.True(t, res.Has(problem.FileTruncated))
	assert.False(t, res.Has(problem.NotAnL2Table))
	assert.Equal(t, problem.FileTruncated, res.Findings[0].Code, "it comes first")

	table, err := whole.Find(corpus.L2Table(0))
	require.NoError(t, err)
	wild := make([]byte, table.Length)
	for i := 0; i < len(wild); i += 8 {
		binary.BigEndian.PutUint64(wild[i:], 1<<63|uint64(i+1)<<40)
	}
	_, err = corpus.Put(corpus.L2Table(0), wild).Apply(whole)
	require.NoError(t, err)
	res = checkOf(t, whole, whole.Size())
	assert.True(t, res.Has(problem.NotAnL2Table))
	assert.False(t, res.Has(problem.FileTruncated))
}

// The same for the table of a bitmap: its sound half counts.
func TestBitmapEntriesPastTheEndAreEntries(t *testing.T) {
	spec := corpus.Spec{ClusterBits: 9, Size: 64 << 20, Bitmaps: []corpus.Bitmap{{Name: "b", GranularityBits: 9, Auto: true,
		Dirty: []corpus.Range{{Length: 64 << 20}}}}}
	img, err := corpus.Build(spec)
	require.NoError(t, err)
	table, err := img.Find(corpus.BitmapTable("b"))
	require.NoError(t, err)
	raw := make([]byte, table.Length)
	_, err = img.ReadAt(raw, int64(table.Offset))
	require.NoError(t, err)
	const sound = 4
	for i := sound; i < len(raw)/8; i++ {
		binary.BigEndian.PutUint64(raw[i*8:], (uint64(img.Size())+511)&^511+uint64(i-sound)*512)
	}
	_, err = corpus.Put(corpus.BitmapTable("b"), raw).Apply(img)
	require.NoError(t, err)
	res := checkOf(t, img, img.Size())
	var lines []string
	for _, f := range res.Findings {
		if f.Code == problem.BitmapEntryPastEnd {
			lines = append(lines, f.Text())
		}
	}
	require.Len(t, lines, 1, "neighbours are one")
	assert.Contains(t, lines[0], "entries behind it name data of bitmap b past the end of the file")
}

// A header that was overwritten is told from a file that never was an image.
func TestFirstLook(t *testing.T) {
	for _, bits := range []uint32{9, 12, 16, 21} {
		c := int64(1) << bits
		img, err := corpus.Build(corpus.Spec{ClusterBits: bits, Size: 64 << 20, Ops: []corpus.Op{
			corpus.Write{Length: uint64(8 * c), Pattern: 1}, corpus.Write{Offset: 20 << 20, Length: uint64(c), Pattern: 1}}})
		require.NoError(t, err)
		_, err = corpus.Wipe(corpus.HeaderCluster()).Apply(img)
		require.NoError(t, err)
		found := check.FirstLook(img, img.Size())
		require.NotNil(t, found, bits)
		l1, err := img.Find(corpus.L1Table())
		require.NoError(t, err)
		assert.Equal(t, l1.Offset, found.L1Table)
		assert.EqualValues(t, bits, found.ClusterBits)
		assert.Contains(t, found.String(), "qcow2 structures follow: L1 table at")
	}
	for name, content := range map[string]string{"text": strings.Repeat("remember the milk\n", 1<<16), "zeros": strings.Repeat("\x00", 1<<20),
		"ones": strings.Repeat("\xff", 1<<20), "numbers": strings.Repeat("\x00\x00\x00\x00\x00\x01\x00\x00", 1<<17), "flags": strings.Repeat("\x80\x00\x00\x00\x00\x01\x00\x00", 1<<17)} {
		assert.Nil(t, check.FirstLook(strings.NewReader(content), int64(len(content))), name)
	}
}
