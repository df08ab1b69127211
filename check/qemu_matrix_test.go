package check_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// shortStride is how much of a long list `go test -short` leaves out: all but one case in so many. No power of
// two, so that it meets every bit of a byte.
const shortStride = 7

// Every kind of image that QEMU makes is clean, and every figure that `qemu-img check` gives is the same here.
func TestQEMUMatrix(t *testing.T) {
	qemutest.Require(t)
	for i, c := range qemutest.Matrix() {
		if testing.Short() && i%shortStride != 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			path := c.Build(t, t.TempDir())
			want := c.Check(t, path)
			require.True(t, want.Ran, "%+v", want)
			require.Zero(t, want.RC, "%+v", want)

			got := checkFile(t, path)
			verdict := check.VerdictClean
			for _, f := range got.Findings {
				if f.Code == problem.BitmapInUse { // what a kill leaves
					verdict = check.VerdictWarnings
					continue
				}
				assert.Equal(t, problem.Note, f.Severity, "%s %s: %s", f.Code, f.Path, f.Text())
			}
			assert.Equal(t, verdict, got.Verdict)
			assert.Equal(t, check.ExitSound, got.ExitCode())
			assertFigures(t, want, got)
			assert.Zero(t, got.Totals.Corruptions)
			assert.Zero(t, got.Totals.Leaks)
			assert.Equal(t, check.OpenOK, got.QEMUOpen.ReadOnly, got.QEMUOpen.Reasons)
			assert.Equal(t, check.OpenOK, got.QEMUOpen.ReadWrite, got.QEMUOpen.Reasons)

			var inUse []string
			for _, b := range got.Bitmaps {
				if b.State == check.BitmapInconsistent {
					inUse = append(inUse, b.Name)
				}
			}
			assert.ElementsMatch(t, c.InUse, inUse)
			if c.Secret == "" {
				assertInfo(t, qemutest.Info(t, path), got)
			}
		})
	}
}

// Images of a killed QEMU: the same leaks; and where refcounts were lazy, the same clusters counted too low.
func TestQEMUCrashed(t *testing.T) {
	qemutest.Require(t)
	for _, c := range qemutest.Crashed() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			path := c.Build(t, t.TempDir())
			want := c.Check(t, path)
			require.True(t, want.Ran, "%+v", want)
			got := checkFile(t, path)
			assertFigures(t, want, got)
			assert.EqualValues(t, want.Leaks, got.Totals.Leaks)
			// QEMU counts such a cluster once more for the COPIED flag that contradicts the wrong refcount.
			assert.EqualValues(t, strings.Count(want.Stderr, "ERROR cluster"), got.Totals.Corruptions)
			assert.Equal(t, qemutest.Info(t, path).DirtyFlag, got.Has(problem.MarkedDirty))
		})
	}
}

// checkFile checks the image at path, which must not change by that.
func checkFile(t *testing.T, path string) *check.Result {
	t.Helper()
	before, err := os.Stat(path)
	require.NoError(t, err)
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	img, err := qcow2.Open(file, before.Size())
	require.NoError(t, err)
	res, err := check.Run(context.Background(), img, check.Options{OpenSibling: siblingsOf(path)})
	require.NoError(t, err)
	after, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, before.ModTime(), after.ModTime(), "the check has written")
	assert.Equal(t, before.Size(), after.Size(), "the check has written")
	return res
}

type sibling struct {
	*os.File
	size int64
}

func (s sibling) Size() int64 { return s.size }

// siblingsOf opens the files that an image names, relative to its own folder.
func siblingsOf(path string) func(check.SiblingKind, string, string) (check.Sibling, error) {
	return func(_ check.SiblingKind, name, _ string) (check.Sibling, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		size, err := file.Seek(0, io.SeekEnd)
		if err != nil {
			file.Close()
			return nil, err
		}
		return sibling{file, size}, nil
	}
}

// assertFigures compares the figures of qemu-img's JSON that do not count faults.
func assertFigures(t *testing.T, want qemutest.CheckResult, got *check.Result) {
	t.Helper()
	assert.EqualValues(t, want.ImageEndOffset, got.ImageEndOffset, "image-end-offset")
	assert.EqualValues(t, want.TotalClusters, got.TotalClusters, "total-clusters")
	assert.EqualValues(t, want.AllocatedClusters, got.AllocatedClusters, "allocated-clusters")
	assert.EqualValues(t, want.FragmentedClusters, got.FragmentedClusters, "fragmented-clusters")
	assert.EqualValues(t, want.CompressedClusters, got.CompressedClusters, "compressed-clusters")
}

// assertInfo compares the snapshots and bitmaps with those that `qemu-img info` lists.
func assertInfo(t *testing.T, want qemutest.InfoResult, got *check.Result) {
	t.Helper()
	var snapshots []qemutest.InfoSnapshot
	for _, s := range got.Snapshots {
		snapshots = append(snapshots, qemutest.InfoSnapshot{ID: s.ID, Name: s.Name, VMStateSize: int64(s.VMStateSize)})
	}
	assert.Equal(t, want.Snapshots, snapshots)

	var bitmaps []qemutest.InfoBitmap
	for _, b := range got.Bitmaps {
		flags := []string{}
		if b.Flags.Has(qcow2.BitmapInUse) {
			flags = append(flags, "in-use")
		}
		if b.Flags.Has(qcow2.BitmapAuto) {
			flags = append(flags, "auto")
		}
		bitmaps = append(bitmaps, qemutest.InfoBitmap{Name: b.Name, Granularity: 1 << b.GranularityBits, Flags: flags})
	}
	assert.ElementsMatch(t, want.FormatSpecific.Data.Bitmaps, bitmaps)
}
