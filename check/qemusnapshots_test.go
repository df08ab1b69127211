package check

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// inspectFile checks an image file and gives the check's inner state.
func inspectFile(t testing.TB, path string, opts Options) *run {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	img, err := qcow2.Open(f, st.Size())
	require.NoError(t, err)
	c := newRun(context.Background(), img, opts)
	require.NoError(t, c.runPasses())
	c.res.Findings = c.Collector.Findings()
	c.res.settle()
	return c
}

// createImage makes an image with qemu-img.
func createImage(t testing.TB, size string, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.qcow2")
	args := []string{"create", "-q", "-f", "qcow2"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	qemutest.Img(t, append(args, path, size)...)
	return path
}

// Snapshots that QEMU takes are sound, also after the disk has changed its size
// and where there is no disk at all.
func TestSnapshotsOfQEMU(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	for _, c := range []struct{ size, options, resize string }{
		{"64M", "", ""},
		{"64M", "compat=0.10", ""},
		{"3G", "cluster_size=64k", "1G"},
		{"1M", "cluster_size=512", "64M"},
		{"0", "", "5G"},
		{"1000001", "cluster_size=4k", ""},
	} {
		t.Run(c.size+","+c.options, func(t *testing.T) {
			var options []string
			if c.options != "" {
				options = append(options, c.options)
			}
			path := createImage(t, c.size, options...)
			qemutest.Img(t, "snapshot", "-c", "first", path)
			if c.resize != "" {
				qemutest.Img(t, "resize", "-q", "--shrink", "-f", "qcow2", path, c.resize)
			}
			qemutest.Img(t, "snapshot", "-c", "zweiter – ü", path)
			r := inspectFile(t, path, Options{})
			assertSpots(t, nil, r.res.Findings)
			assert.Empty(t, r.doubts)
			require.Len(t, r.res.Snapshots, 2)
			for i, want := range qemutest.Info(t, path).Snapshots {
				assert.Equal(t, want.ID, r.res.Snapshots[i].ID)
				assert.Equal(t, want.Name, r.res.Snapshots[i].Name)
			}
			assert.Equal(t, 0, qemutest.Check(t, path).RC)
		})
	}
}

func TestSnapshotsOfQEMUWithVMState(t *testing.T) {
	t.Parallel()
	qemutest.Require(t, qemutest.QemuSystem)
	path := createImage(t, "1M", "cluster_size=512")
	d := qemutest.StartSystem(t, 8)
	d.Open(qemutest.Disk, path, nil)
	d.SaveVM("first")
	d.SaveVM("second")
	d.Quit()
	r := inspectFile(t, path, Options{})
	assertSpots(t, nil, r.res.Findings)
	require.Len(t, r.res.Snapshots, 2)
	assert.Positive(t, r.res.Snapshots[0].VMStateSize)
}
