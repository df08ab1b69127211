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

func write(t *testing.T, p *Place, text string) {
	t.Helper()
	f, err := p.Create()
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &Place{Path: filepath.Join(dir, "x"+Suffix)}
	_, err := p.Open()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, p.Remove(), fs.ErrNotExist)

	// Nothing has the name until the journal is whole.
	write(t, p, "first")
	_, err = p.Open()
	require.ErrorIs(t, err, fs.ErrNotExist)
	left := p.Unfinished()
	require.Len(t, left, 1)
	assert.Equal(t, "first", text(t, left[0].Path))
	require.NoError(t, p.Publish())
	assert.Equal(t, []string{"x" + Suffix}, names(t, dir))
	info, err := os.Stat(p.Path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	_, err = p.Create()
	require.ErrorIs(t, err, fs.ErrExist)

	// One that must make room stays until the new one is whole.
	p.Rotate = true
	write(t, p, "given up")
	require.NoError(t, p.Remove())
	require.NoError(t, p.SyncDir())
	assert.Equal(t, "first", text(t, p.Path))
	assert.Equal(t, []string{"x" + Suffix}, names(t, dir))
	write(t, p, "second")
	assert.Equal(t, "first", text(t, p.Path))
	require.NoError(t, p.Publish())
	assert.Equal(t, "second", text(t, p.Path))
	assert.Equal(t, "first", text(t, p.Path+".1"))

	// Numbers only rise, whatever is in between.
	require.NoError(t, os.WriteFile(p.Path+".9", []byte("another's"), 0o600))
	require.NoError(t, os.WriteFile(p.Path+".08", nil, 0o600))
	require.NoError(t, os.WriteFile(p.Path+".x", nil, 0o600))
	write(t, p, "third")
	require.NoError(t, p.Publish())
	assert.Equal(t, "second", text(t, p.Path+".10"))
	older, err := p.Older()
	require.NoError(t, err)
	var list []string
	for _, o := range older {
		list = append(list, filepath.Base(o.Path))
	}
	assert.Equal(t, []string{"x" + Suffix + ".10", "x" + Suffix + ".9", "x" + Suffix + ".1"}, list)

	// The image was renamed over meanwhile, say: the journal does not count.
	p.Announce = func() error { return syscall.ESTALE }
	write(t, p, "fourth")
	require.ErrorIs(t, p.Publish(), syscall.ESTALE)
	require.NoError(t, p.Remove())
	require.NoFileExists(t, p.Path)
	assert.Equal(t, "third", text(t, p.Path+".11"))
}

// Publishing never takes a name from another file, also one that came meanwhile.
func TestPublishReplacesNothing(t *testing.T) {
	t.Parallel()
	for name, rename := range map[string]func(from, to string) error{"in one step": rename, "in two": renameIfFree} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		require.NoError(t, os.WriteFile(from, []byte("ours"), 0o600))
		require.NoError(t, os.WriteFile(to, []byte("theirs"), 0o600))
		require.ErrorIs(t, rename(from, to), fs.ErrExist, name)
		assert.Equal(t, "ours", text(t, from))
		assert.Equal(t, "theirs", text(t, to))
		require.NoError(t, os.Remove(to))
		require.NoError(t, rename(from, to), name)
		assert.Equal(t, "ours", text(t, to))
	}
	p := &Place{Path: filepath.Join(t.TempDir(), "x"+Suffix)}
	write(t, p, "ours")
	require.NoError(t, os.WriteFile(p.Path, []byte("theirs"), 0o600))
	require.ErrorIs(t, p.Publish(), fs.ErrExist)
	assert.Equal(t, "theirs", text(t, p.Path))
	require.NoError(t, p.Remove())
	assert.Equal(t, "theirs", text(t, p.Path))
}

// A journal is followed only if its owner is the caller or the image's, and nobody else
// can have written to it.
func TestTrust(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image := filepath.Join(dir, "x")
	require.NoError(t, os.WriteFile(image, nil, 0o644))
	p := &Place{Path: filepath.Join(dir, "x"+Suffix)}
	write(t, p, "journal")
	require.NoError(t, p.Publish())
	opens := func() error {
		info, err := os.Stat(image)
		require.NoError(t, err)
		p.Image = info
		f, err := p.Open()
		if err == nil {
			return f.Close()
		}
		var e *UntrustedError
		require.ErrorAs(t, err, &e)
		assert.NotEmpty(t, e.Hint)
		return err
	}
	require.NoError(t, opens())
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o644: true, 0o620: false, 0o602: false, 0o666: false} {
		require.NoError(t, os.Chmod(p.Path, mode))
		assert.Equal(t, ok, opens() == nil, "%o", mode)
	}
	require.NoError(t, os.Chmod(p.Path, 0o600))
	for mode, ok := range map[fs.FileMode]bool{0o755: true, 0o775: true, 0o777: false, 0o777 | fs.ModeSticky: true} {
		require.NoError(t, os.Chmod(dir, mode))
		assert.Equal(t, ok, opens() == nil, "%v", mode)
		_, err := (&Place{Path: filepath.Join(dir, "y")}).Create()
		assert.Equal(t, ok, err == nil, "%v: what would not be followed is not made", mode)
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	if os.Geteuid() != 0 {
		t.Log("SKIPPED, NOT TESTED with other owners: only root can give files away")
		return
	}
	for _, c := range []struct {
		image, journal int
		ok             bool
	}{{0, 0, true}, {0, 4711, false}, {4711, 4711, true}, {4711, 4712, false}, {4711, 0, true}} {
		require.NoError(t, os.Chown(image, c.image, -1))
		require.NoError(t, os.Chown(p.Path, c.journal, -1))
		assert.Equal(t, c.ok, opens() == nil, "%+v", c)
	}
}

func TestRegister(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	t.Setenv(DirEnv, dir)
	require.NoError(t, Unregister(1, 2))
	require.Empty(t, Registered(1, 2))
	require.NoError(t, Register(1, 2, "/vm/x"+Suffix))
	require.NoError(t, Register(1, 3, "/vm/y"+Suffix))
	require.NoError(t, Register(1, 2, "/vm/z"+Suffix))
	assert.Equal(t, "/vm/z"+Suffix, Registered(1, 2))
	assert.Equal(t, "/vm/y"+Suffix, Registered(1, 3))
	require.NoError(t, Unregister(1, 2))
	assert.Empty(t, Registered(1, 2))
	// Where others can put what they like, nothing is believed.
	require.NoError(t, os.Chmod(dir, 0o777))
	assert.Empty(t, Registered(1, 3))
	// A file of somebody's is left alone.
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pending-4-5"), nil, 0o600))
	require.Error(t, Register(4, 5, "/vm/x"))
	require.NoError(t, Unregister(4, 5))
	require.FileExists(t, filepath.Join(dir, "pending-4-5"))
	assert.Empty(t, Registered(4, 5))
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
	require.NoError(t, p.Publish())
	list := Devices(nil)
	require.Len(t, list, 1)
	require.Equal(t, p.Path, list[0].Path)
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
	for _, to := range []string{"file", "pipe", "nowhere"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		link := &Place{Path: filepath.Join(dir, "link-"+to)}
		require.NoError(t, os.Symlink(to, link.Path))
		_, err := link.Open()
		var e *NotAFileError
		require.ErrorAs(t, err, &e, "a link is not followed")
	}
	_, err := (&Place{Path: dir, ReadOnly: true}).Open()
	require.Error(t, err)
}
