package check

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// A disk that is resized while its bitmaps are in use leaves tables of the old
// size behind when QEMU is killed: worth knowing, and no fault.
func TestBitmapsOfQEMUResizedAndKilled(t *testing.T) {
	t.Parallel()
	qemutest.Require(t, qemutest.QemuDaemon)
	for _, size := range []int64{1 << 20, 32 << 20} {
		path := createImage(t, "4M", "cluster_size=512")
		qemutest.AddImageBitmap(t, path, "b", 512, false)
		qemutest.IO(t, path, "write 0 64k")
		d := qemutest.Serve(t, path)
		d.Do("block_resize", map[string]any{"node-name": qemutest.Disk, "size": size})
		d.Kill9()
		r := inspectFile(t, path, Options{})
		e := r.bitmaps[0].EntryOffset
		assertSpots(t, []spot{{problem.BitmapSizeMismatch, e + qcow2.BitmapFieldTableSize, 4}, {problem.BitmapInUse, e + qcow2.BitmapFieldFlags, 4}}, r.res.Findings)
		assert.Zero(t, r.res.Totals.Corruptions+r.res.Totals.Leaks)
		assert.EqualValues(t, len(r.res.Bitmaps), r.res.Totals.Warnings, "that they were in use")
		assert.Equal(t, 0, qemutest.Check(t, path).RC)
		assert.Equal(t, BitmapInconsistent, r.res.Bitmaps[0].State)
	}
}

// What QEMU takes for a fault of the bitmaps is one for us, and where we see
// nothing QEMU sees nothing: each bit of the extension, the directory and the
// tables is flipped, a sample of which is shown to QEMU.
func TestBitmapFaultsAreQEMUs(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	m := newBitmapImage(t, nil, nil, newBitmap("a", auto), newBitmap("bb", 0), newBitmap("c", inUse))
	path := filepath.Join(t.TempDir(), "image.qcow2")
	ask := func() qemutest.CheckResult {
		b := make([]byte, m.size)
		m.copyOut(b, 0)
		require.NoError(t, os.WriteFile(path, b, 0o644))
		return qemutest.Check(t, path)
	}
	require.Equal(t, 0, ask().RC)
	extents := []qcow2.Extent{at(m.extAt, qcow2.BitmapsExtensionSize), at(m.ext.DirectoryOffset, len(m.directory))}
	for _, b := range m.bitmaps {
		extents = append(extents, at(b.TableOffset, 24))
	}
	every, n := 23, 0
	if testing.Short() {
		every = 191
	}
	for _, x := range extents {
		for bit := range x.Length * 8 {
			if n++; n%every != 0 {
				continue
			}
			where, mask := x.Offset+qcow2.HostOffset(bit/8), byte(1)<<(bit%8)
			m.flip(where, mask)
			res, qemu := m.inspect(t, Options{}).res, ask()
			m.flip(where, mask)
			// For later versions of the format: QEMU refuses what is no fault.
			later := res.Has(problem.BitmapExtensionReserved) || res.Has(problem.BitmapExtraData)
			refused := qemu.RC != 0 && qemu.RC != 3
			if refused && !later || res.Totals.Corruptions == 0 && res.Totals.Warnings == 0 {
				assert.Equal(t, refused, res.Totals.Corruptions > 0, "bit %d of byte %v: %v, %v", bit%8, where, qemu, res.Findings)
			}
		}
	}
}

// Bitmaps that QEMU takes for stale are leaks for it; for us they are the
// bitmaps', and QEMU's figures are right as soon as it has dropped them.
func TestBitmapsOfQEMUStale(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	path := createImage(t, "64M")
	qemutest.AddImageBitmap(t, path, "b", 65536, false)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 8), qcow2.FieldAutoclearFeatures)
	require.NoError(t, err)

	r := inspectFile(t, path, Options{})
	assertSpots(t, []spot{{problem.BitmapsStale, qcow2.FieldAutoclearFeatures, 8}}, r.res.Findings)
	assert.Equal(t, VerdictLeaks, r.res.Verdict)
	qemu := qemutest.Check(t, path)
	assert.Positive(t, qemu.Leaks)
	assert.EqualValues(t, qemu.Leaks, r.res.Totals.Leaks)
	assert.EqualValues(t, qemu.ImageEndOffset, r.res.ImageEndOffset)

	qemutest.IO(t, path, "write 0 64k") // QEMU drops the extension
	r = inspectFile(t, path, Options{})
	qemu = qemutest.Check(t, path)
	unowned := uint64(0)
	for _, f := range r.res.Findings {
		if f.Code == problem.OwnerUnknown {
			unowned += f.Count
		}
		if assert.Contains(t, []problem.Code{problem.OwnerUnknown, problem.BitmapsOrphaned}, f.Code) {
			assert.NotEqual(t, problem.Corruption, f.Severity, "QEMU has done that")
		}
	}
	assert.EqualValues(t, qemu.Leaks, unowned, "what the bitmap had is found")
	assert.EqualValues(t, qemu.ImageEndOffset, r.res.ImageEndOffset)
}

// Where autoclear bit 0 is set and the bitmaps extension is gone, QEMU writes nothing to
// the disk, so that the bit vouches for the bitmaps that are found again.
func TestQEMUWritesNothingWithoutTheExtension(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	path := createImage(t, "64M")
	qemutest.AddImageBitmap(t, path, "b", 65536, false)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	open := func() *qcow2.Image {
		st, err := f.Stat()
		require.NoError(t, err)
		img, err := qcow2.Open(f, st.Size())
		require.NoError(t, err)
		return img
	}
	ext := open().Extension(qcow2.ExtBitmaps)
	require.NotNil(t, ext)
	_, err = f.WriteAt([]byte{0x12}, int64(ext.Offset))
	require.NoError(t, err)

	run := qemutest.Run(t, qemutest.QemuIO, "-c", "write 0 64k", path)
	assert.NotZero(t, run.RC, "%v", run)
	img := open()
	assert.True(t, img.Header.AutoclearFeatures.Has(qcow2.AutoclearBitmaps))
	assert.True(t, img.Header.IncompatibleFeatures.Has(qcow2.IncompatCorrupt))
	disk, err := img.ActiveDisk(qcow2.DiskOptions{})
	require.NoError(t, err)
	for x, err := range disk.Map(0, 64<<20) {
		require.NoError(t, err)
		assert.Equal(t, qcow2.GuestUnallocated, x.Kind)
	}
}
