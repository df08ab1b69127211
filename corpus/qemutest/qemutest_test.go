package qemutest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newImage(t *testing.T, args ...string) string {
	t.Helper()
	Require(t)
	path := filepath.Join(t.TempDir(), "t.qcow2")
	Img(t, append([]string{"create", "-q", "-f", "qcow2", path}, args...)...)
	return path
}

func TestVersion(t *testing.T) {
	Require(t)
	major, _ := Version(t)
	assert.GreaterOrEqual(t, major, 4, "bitmaps can be managed since QEMU 4.x")
}

func TestCheckInfoMap(t *testing.T) {
	t.Parallel()
	path := newImage(t, "4M")
	IO(t, path, "write -P 7 1M 128k")

	check := Check(t, path)
	assert.True(t, check.Ran)
	assert.Equal(t, 0, check.RC)
	assert.Equal(t, "qcow2", check.Format)
	assert.EqualValues(t, 64, check.TotalClusters)
	assert.EqualValues(t, 2, check.AllocatedClusters)
	assert.Positive(t, check.ImageEndOffset)

	info := Info(t, path)
	assert.EqualValues(t, 4<<20, info.VirtualSize)
	assert.EqualValues(t, 64<<10, info.ClusterSize)
	assert.Equal(t, "1.1", info.FormatSpecific.Data.Compat)

	extents := Map(t, path)
	i := slices.IndexFunc(extents, func(e Extent) bool { return e.Data })
	require.GreaterOrEqual(t, i, 0)
	assert.EqualValues(t, 1<<20, extents[i].Start)
	assert.EqualValues(t, 128<<10, extents[i].Length)
	assert.NotNil(t, extents[i].Offset)
}

func TestCheckOfDamage(t *testing.T) {
	t.Parallel()
	path := newImage(t, "4M")
	require.NoError(t, os.Truncate(path, 1<<20))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()

	// The refcount block of a new image with clusters of 64 KiB is its third cluster: a count of one for
	// cluster 8, which nothing refers to, is a leak.
	_, err = file.WriteAt([]byte{0, 1}, 2<<16+8*2)
	require.NoError(t, err)
	check := Check(t, path)
	assert.Equal(t, 3, check.RC)
	assert.EqualValues(t, 1, check.Leaks)
	assert.Zero(t, check.Corruptions)

	_, err = file.WriteAt([]byte("not!"), 0)
	require.NoError(t, err)
	check = Check(t, path)
	assert.Equal(t, 1, check.RC)
	assert.False(t, check.Ran)
	assert.NotEmpty(t, check.Stderr)
}

func TestRunCountsASignalAsAShellDoes(t *testing.T) {
	t.Parallel()
	path := newImage(t, "4M")
	res := Run(t, QemuIO, "-f", "qcow2", "-c", "sigraise 15", path)
	assert.Equal(t, 128+int(syscall.SIGTERM), res.RC)
}

func TestShellLine(t *testing.T) {
	t.Parallel()
	assert.Equal(t, `qemu-io -c 'write 0 1k' '' 'it'\''s' a.qcow2`,
		shellLine([]string{"qemu-io", "-c", "write 0 1k", "", "it's", "a.qcow2"}))
}

func TestDaemonBitmaps(t *testing.T) {
	t.Parallel()
	Require(t, QemuDaemon)
	path := newImage(t, "64M")
	AddImageBitmap(t, path, "old", 65536, false)

	d := Serve(t, path)
	d.AddBitmap(Bitmap{Name: "new", Granularity: 32768})
	clean := d.SHA256(Disk, "new")
	d.IO("write -P 1 1M 64k", "write -P 2 1088k 64k", "write -P 3 32M 4k")
	assert.NotEqual(t, clean, d.SHA256(Disk, "new"))
	assert.Len(t, d.SHA256(Disk, "old"), 64)

	d.DisableBitmap(Disk, "new")
	d.IO("write -P 9 48M 64k")
	assert.Equal(t, []Range{{1 << 20, 128 << 10}, {32 << 20, 32 << 10}}, d.DirtyExtents(Disk, "new"))

	d.AddBitmap(Bitmap{Name: "sum", Granularity: 65536, Disabled: true})
	d.MergeBitmaps(Disk, "sum", "old", "new")
	assert.Equal(t, d.SHA256(Disk, "old"), d.SHA256(Disk, "sum"))

	d.AddBitmap(Bitmap{Name: "passing", Transient: true})
	d.ClearBitmap(Disk, "sum")
	d.RemoveBitmap(Disk, "sum")
	d.EnableBitmap(Disk, "new")
	states := d.Bitmaps(Disk)
	require.Len(t, states, 3)
	i := slices.IndexFunc(states, func(b BitmapState) bool { return b.Name == "new" })
	require.GreaterOrEqual(t, i, 0)
	assert.Equal(t, BitmapState{Name: "new", Granularity: 32768, Count: 160 << 10, Recording: true, Persistent: true}, states[i])
	d.Quit()

	assert.ElementsMatch(t, []InfoBitmap{
		{Name: "old", Granularity: 65536, Flags: []string{"auto"}},
		{Name: "new", Granularity: 32768, Flags: []string{"auto"}},
	}, Info(t, path).FormatSpecific.Data.Bitmaps)
	assert.Equal(t, 0, Check(t, path).RC)
}

func TestKill9LeavesBitmapsInUse(t *testing.T) {
	t.Parallel()
	Require(t, QemuDaemon)
	path := newImage(t, "4M")
	AddImageBitmap(t, path, "b", 65536, false)

	d := Serve(t, path)
	d.AddBitmap(Bitmap{Name: "lost"})
	d.IO("write -P 1 0 64k")
	d.Kill9()

	assert.Equal(t, []InfoBitmap{{Name: "b", Granularity: 65536, Flags: []string{"in-use", "auto"}}},
		Info(t, path).FormatSpecific.Data.Bitmaps)
	IO(t, path, "read -P 1 0 64k")
}

func TestTryReportsARefusal(t *testing.T) {
	t.Parallel()
	Require(t, QemuDaemon)
	d := Start(t)
	_, err := d.Try("block-dirty-bitmap-add", map[string]any{"node": "nowhere", "name": "b"})
	var refusal *QMPError
	require.ErrorAs(t, err, &refusal)
	assert.NotEmpty(t, refusal.Desc)
	_, err = d.Try("query-version", nil)
	assert.NoError(t, err)
}

func TestDaemonEndsWithItsTest(t *testing.T) {
	t.Parallel()
	Require(t, QemuDaemon)
	path := newImage(t, "4M")
	var pid int
	t.Run("inner", func(t *testing.T) { pid = Serve(t, path).Pid() })
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	assert.Equal(t, 0, Check(t, path).RC, "its locks are gone with it")
}

// The daemon must not outlive a test binary that is killed: no cleanup runs then.
func TestDaemonDiesWithTheTestBinary(t *testing.T) {
	if path := os.Getenv("QEMUTEST_VICTIM_PIDFILE"); path != "" {
		d := Start(t)
		require.NoError(t, os.WriteFile(path+".tmp", []byte(strconv.Itoa(d.Pid())), 0o600))
		require.NoError(t, os.Rename(path+".tmp", path))
		require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	t.Parallel()
	Require(t, QemuDaemon)
	pidfile := filepath.Join(t.TempDir(), "pid")
	self := exec.Command(os.Args[0], "-test.run=^TestDaemonDiesWithTheTestBinary$")
	self.Env = append(os.Environ(), "QEMUTEST_VICTIM_PIDFILE="+pidfile)
	var exit *exec.ExitError
	require.ErrorAs(t, self.Run(), &exit, "the inner test binary kills itself")
	require.Equal(t, 128+int(syscall.SIGKILL), exitCode(exit.ProcessState))

	text, err := os.ReadFile(pidfile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(string(text))
	require.NoError(t, err)
	// Where nothing reaps orphans it stays as a zombie, which holds no file and no lock.
	ended := func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	}
	require.Eventually(t, ended, 10*time.Second, 10*time.Millisecond)
}

func TestSaveVM(t *testing.T) {
	t.Parallel()
	Require(t, QemuSystem)
	path := newImage(t, "1M")
	d := StartSystem(t, 8)
	d.Open(Disk, path, nil)
	d.SaveVM("first")
	d.SaveVM("second")
	d.Quit()
	snapshots := Info(t, path).Snapshots
	require.Len(t, snapshots, 2)
	assert.Positive(t, snapshots[0].VMStateSize)
	assert.Equal(t, 0, Check(t, path).RC)
}
