package imagefile

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOpenDoesNotWaitForAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	within(t, func() {
		_, err := Open(path, Options{})
		kind, ok := errors.AsType[*NotRegularError](err)
		if assert.True(t, ok, "%v", err) {
			assert.Equal(t, fs.ModeNamedPipe, kind.Mode.Type())
		}
	})
	// Put there between the look and the open.
	within(t, func() {
		file, err := openFile(path, false)
		if !assert.NoError(t, err) {
			return
		}
		defer file.Close()
		_, err = newFile(file, Options{})
		_, ok := errors.AsType[*NotRegularError](err)
		assert.True(t, ok, "%v", err)
	})
}

func TestDescriptorFlags(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	for _, tc := range []struct {
		opts Options
		mode int
	}{
		{Options{}, unix.O_RDONLY},
		{Options{ForceShare: true}, unix.O_RDONLY},
		{Options{Kind: BackingFile}, unix.O_RDONLY},
		{Options{Write: true}, unix.O_RDWR},
	} {
		f := mustOpen(t, path, tc.opts)
		conn, err := f.f.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, conn.Control(func(fd uintptr) {
			fl, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			assert.NoError(t, err)
			assert.Equal(t, tc.mode, fl&unix.O_ACCMODE)
			fl, err = unix.FcntlInt(fd, unix.F_GETFD, 0)
			assert.NoError(t, err)
			assert.NotZero(t, fl&unix.FD_CLOEXEC)
		}))
		require.NoError(t, f.Close())
	}
}

func TestACheckLeavesTheAccessTimeAlone(t *testing.T) {
	path := newFileOf(t, make([]byte, 64<<10))
	long := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	accessed := func() time.Time {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(path, &st))
		return time.Unix(st.Atim.Unix()).UTC()
	}
	require.NoError(t, os.Chtimes(path, long, time.Now()))
	_, err := os.ReadFile(path)
	require.NoError(t, err)
	if accessed().Equal(long) {
		t.Skip("SKIPPED: the file system of temporary files keeps no access times")
	}

	require.NoError(t, os.Chtimes(path, long, time.Now()))
	f := mustOpen(t, path, Options{})
	_, err = f.ReadAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	assert.Equal(t, long, accessed())
}

// newLoop gives a loop device over the file at path; the test is skipped where
// there can be none.
func newLoop(t *testing.T, path string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, block devices NOT TESTED: making a loop device needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("SKIPPED, block devices NOT TESTED: %v", err)
	}
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skipf("SKIPPED, block devices NOT TESTED: %v", err)
	}
	out, err := exec.Command(losetup, "-f", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED, block devices NOT TESTED: losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		out, err := exec.Command(losetup, "-d", dev).CombinedOutput()
		assert.NoError(t, err, "%s", out)
	})
	return dev
}

func TestBlockDevice(t *testing.T) {
	const size = 3<<20 + 512
	path := newFileOf(t, nil)
	require.NoError(t, os.Truncate(path, size))
	dev := newLoop(t, path)

	check := mustOpen(t, dev, Options{})
	assert.True(t, check.IsDevice())
	assert.EqualValues(t, size, check.Size())
	assert.Equal(t, LockTaken, check.LockState())
	start, end, err := check.NextData(1 << 20)
	assert.NoError(t, err)
	assert.EqualValues(t, 1<<20, start)
	assert.EqualValues(t, size, end)
	n, err := check.ReadAt(make([]byte, 1024), size-512)
	assert.Equal(t, 512, n)
	assert.Error(t, err)

	_, err = Open(dev, Options{Write: true})
	locked, ok := errors.AsType[*LockedError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, ConflictReader, locked.Conflict)
	require.NoError(t, check.Close())

	repair := mustOpen(t, dev, Options{Write: true})
	_, err = repair.WriteAt([]byte{0xab}, size-1)
	require.NoError(t, err)
	require.NoError(t, repair.Sync())
	assert.Error(t, repair.Truncate(size+512), "a device cannot grow")
	now, err := repair.CurrentSize()
	require.NoError(t, err)
	assert.EqualValues(t, size, now)
	require.NoError(t, repair.Close())

	last := make([]byte, 1)
	image := mustOpen(t, path, Options{})
	_, err = image.ReadAt(last, size-1)
	require.NoError(t, err)
	assert.Equal(t, []byte{0xab}, last)
}
