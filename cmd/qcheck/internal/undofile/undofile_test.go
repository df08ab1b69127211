package undofile

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestDefault(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	image := filepath.Join(dir, "disk.qcow2")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	link := filepath.Join(t.TempDir(), "link.qcow2")
	require.NoError(t, os.Symlink(image, link))
	assert.Equal(t, image+Suffix, Default(image, false).Path)
	assert.Equal(t, image+Suffix, Default(link, false).Path, "every name leads to the same journal")

	t.Setenv(DirEnv, "/undo")
	a, b := Default("/dev/vg0/vm-disk", true).Path, Default("/dev/vg1/vm-disk", true).Path
	assert.Equal(t, "/undo/vg0%2Fvm-disk"+Suffix, a)
	assert.NotEqual(t, a, b)
	t.Setenv(DirEnv, "")
	assert.Equal(t, defaultDir, filepath.Dir(Default("/dev/sdb", true).Path))
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &Place{Path: filepath.Join(dir, "x"+Suffix)}
	_, err := p.Open()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, p.Remove(), fs.ErrNotExist)

	f, err := p.Create()
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("first"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, p.SyncDir())
	info, err := os.Stat(p.Path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	_, err = p.Create()
	require.ErrorIs(t, err, fs.ErrExist)

	// One that may be replaced stays until the new one is whole.
	p.Replace = true
	f, err = p.Create()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, p.Remove())
	require.NoError(t, p.SyncDir())
	text, err := os.ReadFile(p.Path)
	require.NoError(t, err)
	assert.Equal(t, "first", string(text))
	assert.Equal(t, []string{"x" + Suffix}, names(t, dir))

	f, err = p.Create()
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("second"), 0)
	require.NoError(t, err)
	require.NoError(t, p.SyncDir())
	text, err = os.ReadFile(p.Path)
	require.NoError(t, err)
	assert.Equal(t, "second", string(text))
	info, err = os.Stat(p.Path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	require.NoError(t, f.Close())
	require.NoError(t, p.Remove())
	assert.Empty(t, names(t, dir))
}

func TestMakesItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	t.Setenv(DirEnv, dir)
	p := Default("/dev/vg0/vm-disk", true)
	_, err := p.Open()
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := p.Create()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, p.SyncDir())
}

// What is no file is not waited for.
func TestNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &Place{Path: filepath.Join(dir, "pipe")}
	require.NoError(t, syscall.Mkfifo(p.Path, 0o600))
	for _, readOnly := range []bool{false, true} {
		p.ReadOnly = readOnly
		_, err := p.Open()
		var e *NotAFileError
		require.ErrorAs(t, err, &e)
	}
	_, err := (&Place{Path: dir, ReadOnly: true}).Open()
	require.Error(t, err)
}
