package rescue_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/rescue"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	if size > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, size-int64(len(m.b)))...)
	}
	m.b = m.b[:size]
	return nil
}

func load(t *testing.T, img *corpus.Image) *memory {
	t.Helper()
	m := &memory{make([]byte, img.Size())}
	n, err := img.ReadAt(m.b, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	require.EqualValues(t, img.Size(), n)
	return m
}

// mapping gives what a disk's mapping says of its first bytes.
func mapping(t *testing.T, d *qcow2.Disk, n uint64) (list []qcow2.GuestExtent) {
	t.Helper()
	for x, err := range d.Map(0, qcow2.GuestOffset(n)) {
		require.NoError(t, err)
		if x.Kind == qcow2.GuestZero && !x.HasHost || x.Kind == qcow2.GuestUnallocated {
			x.HasHost = false
		}
		list = append(list, x)
	}
	return list
}

// sameDisks holds that the active disk and each snapshot of two images map the same data.
func sameDisks(t *testing.T, was, is *qcow2.Image) {
	t.Helper()
	size := was.Header.Size &^ (qcow2.SectorSize - 1)
	disk := func(img *qcow2.Image) *qcow2.Disk {
		d, err := img.ActiveDisk(qcow2.DiskOptions{})
		require.NoError(t, err)
		return d
	}
	if is.Header.Size < size { // rounded up from the end of what is mapped
		for x, err := range disk(was).Map(qcow2.GuestOffset(is.Header.Size), qcow2.GuestOffset(size)) {
			require.NoError(t, err)
			assert.Equal(t, qcow2.GuestUnallocated, x.Kind)
		}
		size = is.Header.Size
	}
	assert.Equal(t, mapping(t, disk(was), size), mapping(t, disk(is), size))
	before, after := qcow2.ReadSnapshotTable(was), qcow2.ReadSnapshotTable(is)
	require.Len(t, after.Snapshots, len(before.Snapshots))
	for i := range before.Snapshots {
		a, err := was.SnapshotDisk(&before.Snapshots[i], qcow2.DiskOptions{})
		require.NoError(t, err)
		b, err := is.SnapshotDisk(&after.Snapshots[i], qcow2.DiskOptions{})
		require.NoError(t, err)
		n := min(uint64(a.Size()), uint64(b.Size()))
		assert.Equal(t, mapping(t, a, n), mapping(t, b, n), before.Snapshots[i].ID)
	}
}

// rescued makes an image of a file, holds that it is sound, and that the file was not
// changed on the way.
func rescued(t *testing.T, m *memory, opts rescue.Options) (*rescue.Plan, *qcow2.Image) {
	t.Helper()
	damaged := bytes.Clone(m.b)
	plan, err := rescue.Make(t.Context(), m, int64(len(m.b)), opts)
	require.NoError(t, err)
	require.True(t, bytes.Equal(damaged, m.b))
	require.NoError(t, plan.WriteTo(t.Context(), m))
	out, err := qcow2.Open(m, int64(len(m.b)))
	require.NoError(t, err)
	res, err := check.Run(t.Context(), out, check.Options{NoBacking: true})
	require.NoError(t, err)
	assert.Equal(t, check.ExitSound, res.ExitCode(), "%v", res.Findings)
	assert.Equal(t, plan.Result.Totals, res.Totals)
	if t.Failed() {
		for _, f := range plan.Facts {
			t.Logf("%s: %s (%s; %s)", f.What, f.Value, f.Source, f.Why)
		}
	}
	return plan, out
}

// sound gives the sound images of the corpus, of all shapes.
func sound(t *testing.T, largest int64, do func(t *testing.T, i int, c *corpus.Case, img *corpus.Image)) {
	i := 0
	for _, c := range corpus.Cases() {
		if !c.Healthy() || c.Huge || c.Long || len(c.Damage) > 0 {
			continue
		}
		i++
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := corpus.Build(c.Spec)
			require.NoError(t, err)
			if img.Size() > largest {
				t.Skip("large")
			}
			do(t, i, &c, img)
		})
	}
}

// Without its first sector, or its first cluster, an image of any shape comes back whole.
func TestHeaderGone(t *testing.T) {
	largest := int64(16 << 20)
	if testing.Short() {
		largest = 4 << 20
	}
	sound(t, largest, func(t *testing.T, i int, c *corpus.Case, img *corpus.Image) {
		was, err := img.Open()
		require.NoError(t, err)
		m := load(t, img)
		n := qcow2.SectorSize
		if i%2 == 0 {
			n = int(was.Geometry.ClusterSize())
		}
		junk := make([]byte, n)
		if i/2%2 == 0 {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for k := range junk {
				junk[k] = byte(r.Uint32())
			}
		}
		copy(m.b, junk)
		opts := rescue.Options{}
		if c.Spec.DataFile != nil {
			opts.DataFile = "data"
		}
		plan, out := rescued(t, m, opts)
		assert.True(t, plan.Complete(), "%v %v", plan.Missing, plan.Facts)
		if was.Header.CryptMethod == qcow2.CryptLUKS {
			assert.Equal(t, qcow2.CryptLUKS, out.Header.CryptMethod)
			assert.Equal(t, was.Extension(qcow2.ExtCrypto).Data, out.Extension(qcow2.ExtCrypto).Data)
		}
		res, err := check.Run(t.Context(), was, check.Options{NoBacking: true})
		require.NoError(t, err)
		if res.CompressedClusters > 0 { // else nothing in the file shows the method
			assert.Equal(t, was.Header.CompressionType, out.Header.CompressionType)
		}
		assert.Equal(t, qcow2.ReadBitmapDirectory(was, bitmaps(was)).Entries == nil, qcow2.ReadBitmapDirectory(out, bitmaps(out)).Entries == nil)
		sameDisks(t, was, out)
	})
}

func bitmaps(img *qcow2.Image) qcow2.BitmapsExtension {
	if e := img.Extension(qcow2.ExtBitmaps); e != nil {
		return qcow2.DecodeBitmapsExtension(e.Data)
	}
	return qcow2.BitmapsExtension{}
}
