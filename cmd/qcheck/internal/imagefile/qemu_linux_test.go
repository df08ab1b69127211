package imagefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// newImage makes an image of 1 MiB with qemu-img create's further arguments.
func newImage(t *testing.T, args ...string) string {
	t.Helper()
	qemutest.Require(t, qemutest.QemuDaemon)
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	create := append([]string{"create", "-q", "-f", "qcow2"}, args...)
	qemutest.Img(t, append(create, path, "1M")...)
	return path
}

// serveReadOnly has a daemon open an image read-only.
func serveReadOnly(t *testing.T, path string) *qemutest.Daemon {
	t.Helper()
	d := qemutest.Start(t)
	d.Open(qemutest.Disk, path, map[string]any{
		"read-only": true,
		"file":      map[string]any{"driver": "file", "filename": path, "read-only": true},
	})
	return d
}

// refused asserts that path cannot be opened so because of pid.
func refused(t *testing.T, path string, opts Options, why Conflict, pid int) {
	t.Helper()
	f, err := Open(path, opts)
	if err == nil {
		f.Close()
	}
	locked, ok := errors.AsType[*LockedError](err)
	require.True(t, ok, "%s %+v: %v", path, opts, err)
	assert.Equal(t, why, locked.Conflict)
	require.NotNil(t, locked.Holder)
	assert.Equal(t, pid, locked.Holder.PID)
	assert.NotEmpty(t, locked.Holder.Name)
}

// admitted asserts that path can be opened so.
func admitted(t *testing.T, path string, opts Options) {
	t.Helper()
	f, err := Open(path, opts)
	if assert.NoError(t, err, "%s %+v", path, opts) {
		assert.Equal(t, LockTaken, f.LockState())
		assert.NoError(t, f.Close())
	}
}

func TestBesideAQEMUThatWrites(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	d := qemutest.Serve(t, path)
	assert.Equal(t, qemuWriter, newOther(t, path).seen(), "what the other tests take for a QEMU")

	for _, kind := range []Kind{Image, DataFile, BackingFile} {
		refused(t, path, Options{Kind: kind}, ConflictWriter, d.Pid())
	}
	refused(t, path, repairing, ConflictWriter, d.Pid())
	f := mustOpen(t, path, sharing)
	assert.True(t, f.Live())

	// The guest goes on writing, and what it wrote can be read.
	d.IO("write -P 7 0 64k")
	now, err := f.CurrentSize()
	require.NoError(t, err)
	assert.Greater(t, now, f.Size())
	require.NoError(t, f.Close())

	d.Quit()
	admitted(t, path, checking)
	admitted(t, path, repairing)
	assert.False(t, mustOpen(t, path, sharing).Live())
}

func TestBesideAKilledQEMU(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	d := qemutest.Serve(t, path)
	d.Kill9()
	admitted(t, path, repairing)
}

func TestBesideAQEMUThatReads(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	d := serveReadOnly(t, path)
	assert.Equal(t, qemuReader, newOther(t, path).seen())
	admitted(t, path, checking)
	admitted(t, path, sharing)
	refused(t, path, repairing, ConflictReader, d.Pid())
	d.Quit()
	admitted(t, path, repairing)
}

func TestBesideAQEMUWithABackingFile(t *testing.T) {
	t.Parallel()
	base := newImage(t)
	overlay := newImage(t, "-b", base, "-F", "qcow2")
	d := qemutest.Serve(t, overlay)
	assert.Equal(t, qemuReader, newOther(t, base).seen())
	admitted(t, base, Options{Kind: BackingFile})
	admitted(t, base, checking)
	refused(t, base, repairing, ConflictReader, d.Pid())
	refused(t, overlay, checking, ConflictWriter, d.Pid())
}

// export lets the daemon's node be used over NBD, as a guest would use it.
func export(d *qemutest.Daemon, socket string, writable bool) {
	d.Do("nbd-server-start", map[string]any{
		"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}},
	})
	d.Do("block-export-add", map[string]any{"type": "nbd", "id": "e", "node-name": qemutest.Disk, "writable": writable})
}

func TestBesideAQEMUWithADataFile(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data.raw")
	path := newImage(t, "-o", "data_file="+data)
	sockets, err := os.MkdirTemp("", "if") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(sockets) })

	d := qemutest.Serve(t, path)
	// As long as nobody uses the node QEMU claims the image, but of the data file
	// only that its length stays.
	assert.Equal(t, []int64{203}, newOther(t, data).seen())
	refused(t, path, checking, ConflictWriter, d.Pid())
	refused(t, data, Options{Kind: DataFile, Write: true}, ConflictReader, d.Pid())

	export(d, filepath.Join(sockets, "w"), true)
	assert.Equal(t, qemuDataWriter, newOther(t, data).seen())
	refused(t, data, Options{Kind: DataFile}, ConflictWriter, d.Pid())
	refused(t, data, Options{Kind: DataFile, Write: true}, ConflictWriter, d.Pid())
	assert.True(t, mustOpen(t, data, Options{Kind: DataFile, ForceShare: true}).Live())
	d.Quit()

	d = serveReadOnly(t, path)
	export(d, filepath.Join(sockets, "r"), false)
	assert.Equal(t, qemuDataReader, newOther(t, data).seen())
	admitted(t, data, Options{Kind: DataFile})
	refused(t, data, Options{Kind: DataFile, Write: true}, ConflictReader, d.Pid())
}

func TestBesideAQEMUThatTakesNoLocks(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	d := qemutest.Start(t)
	d.Open(qemutest.Disk, path, map[string]any{
		"file": map[string]any{"driver": "file", "filename": path, "locking": "off"},
	})
	assert.Empty(t, newOther(t, path).seen(), "nothing to see it by")
	admitted(t, path, checking)
}

func TestQEMUBesideACheck(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	f := mustOpen(t, path, checking)

	assert.Zero(t, qemutest.Run(t, qemutest.QemuImg, "check", "-q", path).RC)
	assert.Zero(t, qemutest.Run(t, qemutest.QemuImg, "check", "-q", "-U", path).RC)
	assert.Zero(t, qemutest.Run(t, qemutest.QemuImg, "info", path).RC)
	for _, args := range [][]string{
		{qemutest.QemuIO, "-c", "write 0 64k", path},
		{qemutest.QemuImg, "check", "-r", "all", path},
	} {
		res := qemutest.Run(t, args[0], args[1:]...)
		assert.NotZero(t, res.RC, "%v", res)
		assert.Contains(t, res.Stderr, `"write" lock`)
	}
	_, err = qemutest.Start(t).Try("blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": "disk", "file": map[string]any{"driver": "file", "filename": path},
	})
	assert.Error(t, err)

	after, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, before, after)
	require.NoError(t, f.Close())
	qemutest.IO(t, path, "write 0 64k")
}

func TestQEMUBesideAForcedCheck(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	f := mustOpen(t, path, sharing)
	assert.False(t, f.Live())
	qemutest.IO(t, path, "write 0 64k")
	assert.False(t, f.Live(), "it came and went")
	qemutest.Serve(t, path)
	assert.True(t, f.Live())
}

func TestQEMUBesideARepair(t *testing.T) {
	t.Parallel()
	path := newImage(t)
	f := mustOpen(t, path, repairing)
	for _, args := range [][]string{
		{qemutest.QemuImg, "check", path},
		{qemutest.QemuImg, "check", "-U", path},
		{qemutest.QemuIO, "-c", "write 0 64k", path},
		{qemutest.QemuIO, "-r", "-U", "-c", "read 0 64k", path},
		{qemutest.QemuImg, "info", path},
	} {
		res := qemutest.Run(t, args[0], args[1:]...)
		assert.NotZero(t, res.RC, "%v", res)
		assert.Contains(t, res.Stderr, "lock", "%v", res)
	}
	require.NoError(t, f.Close())
	assert.Zero(t, qemutest.Check(t, path).RC)
}

// A data file that we repair keeps QEMU off though the image itself is free.
func TestQEMUBesideARepairOfADataFile(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data.raw")
	path := newImage(t, "-o", "data_file="+data)
	f := mustOpen(t, data, Options{Kind: DataFile, Write: true})
	res := qemutest.Run(t, qemutest.QemuImg, "check", path)
	assert.NotZero(t, res.RC, "%v", res)
	require.NoError(t, f.Close())
	assert.Zero(t, qemutest.Check(t, path).RC)
}

func TestBlockDeviceBesideQEMU(t *testing.T) {
	qemutest.Require(t, qemutest.QemuDaemon)
	file := newFileOf(t, nil)
	require.NoError(t, os.Truncate(file, 4<<20))
	dev := newLoop(t, file)
	qemutest.Img(t, "create", "-q", "-f", "qcow2", dev, "1M")

	d := qemutest.Start(t)
	d.Open(qemutest.Disk, dev, map[string]any{"file": map[string]any{"driver": "host_device", "filename": dev}})
	refused(t, dev, checking, ConflictWriter, d.Pid())
	f := mustOpen(t, dev, sharing)
	assert.True(t, f.Live())
	assert.EqualValues(t, 4<<20, f.Size())
	require.NoError(t, f.Close())
	d.Quit()

	f = mustOpen(t, dev, repairing)
	res := qemutest.Run(t, qemutest.QemuImg, "check", "-U", "-f", "qcow2", dev)
	assert.NotZero(t, res.RC, "%v", res)
	require.NoError(t, f.Close())
	admitted(t, dev, checking)
}
