package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

// damagedLarge makes a sparse image of size bytes, all of it mapped, of which many
// refcounts are wrong: some too low, some too high.
func damagedLarge(t *testing.T, size int64) string {
	t.Helper()
	path := newImage(t, fmt.Sprint(size), "-o", "cluster_size=4096,preallocation=metadata")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	const cluster = 4096
	head := make([]byte, 104)
	_, err = f.ReadAt(head, 0)
	require.NoError(t, err)
	be := binary.BigEndian
	table := make([]byte, cluster*be.Uint32(head[56:]))
	_, err = f.ReadAt(table, int64(be.Uint64(head[48:])))
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(3, 4))
	block := make([]byte, cluster)
	for i := 1; i < len(table)/8; i++ {
		at := int64(be.Uint64(table[8*i:]))
		if at == 0 {
			continue
		}
		_, err = f.ReadAt(block, at)
		require.NoError(t, err)
		for k := 0; k < len(block); k += 2 {
			if be.Uint16(block[k:]) != 0 {
				be.PutUint16(block[k:], uint16(r.IntN(3)))
			}
		}
		_, err = f.WriteAt(block, at)
		require.NoError(t, err)
	}
	return path
}

// copySparse copies a file, holes as holes.
func copySparse(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	require.NoError(t, err)
	defer dst.Close()
	info, err := src.Stat()
	require.NoError(t, err)
	require.NoError(t, dst.Truncate(info.Size()))
	for end := int64(0); ; {
		start, err := src.Seek(end, unix.SEEK_DATA)
		if err != nil {
			return
		}
		end, err = src.Seek(start, unix.SEEK_HOLE)
		require.NoError(t, err)
		_, err = io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start))
		require.NoError(t, err)
	}
}

// A repair, or its undoing, is killed at any moment. The next run, of whichever of the
// two, ends with the image as before or as after, and until then a check says what is
// to be done.
func TestRepairKilled(t *testing.T) {
	t.Parallel()
	size, tries := int64(64<<20), 16
	if testing.Short() {
		tries = 5
	}
	original := damagedLarge(t, size)
	before := contentOf(t, original)
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	journal := path + undofile.Suffix

	copySparse(t, original, path)
	began := time.Now()
	cmd := program(t, "-r", path)
	require.NoError(t, cmd.Run())
	whole := time.Since(began)
	after := contentOf(t, path)
	require.NotEqual(t, before, after)

	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	phases := make(map[repair.Phase]int)
	for try := range tries {
		verb := []string{"-r", path}
		if try%3 == 2 {
			verb = []string{"undo", path}
			if contentOf(t, path) != after {
				cmd := program(t, "-r", path)
				require.NoError(t, cmd.Run())
			}
		} else {
			require.NoError(t, removeIfThere(journal))
			copySparse(t, original, path)
		}
		cmd := program(t, verb...)
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
		require.NoError(t, cmd.Start())
		if try%4 == 3 {
			time.Sleep(time.Duration(r.Int64N(int64(whole))))
		} else {
			// While it writes, which does not take long: from when the journal says
			// so on, and a little later.
			from := repair.PhaseOpen
			if verb[0] == "undo" {
				from = repair.PhaseUndoing
			}
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
				state, err := repair.Glance(&undofile.Place{Path: journal, ReadOnly: true})
				if err == nil && state.Phase >= from || verb[0] == "undo" && state.Phase == repair.PhaseNone {
					break
				}
			}
			time.Sleep(time.Duration(math.Exp2(float64(r.IntN(8)))*r.Float64()*float64(whole)/1000) * time.Nanosecond)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()

		state, err := repair.StateOf(&undofile.Place{Path: journal, ReadOnly: true})
		require.NoError(t, err)
		phases[state.Phase]++
		if state.Pending() {
			code, out, errs := runIn(path)
			assert.Equal(t, 1, code)
			assert.Empty(t, out)
			assert.Regexp(t, `^qcheck: error: .*interrupted.*\nqcheck: hint: .*qcheck -r.*qcheck undo`, errs)
			_, code = checkJSON(t, path)
			assert.Equal(t, 1, code)
			code, _, errs = runIn("info", path)
			assert.Zero(t, code)
			assert.Contains(t, errs, "interrupted")
		}
		if r.IntN(2) == 0 && state.Phase != repair.PhaseNone {
			code, _, errs := runIn("undo", path)
			require.Zero(t, code, "%v: %s", state.Phase, errs)
			require.Equal(t, before, contentOf(t, path), "%v", state.Phase)
			require.NoFileExists(t, journal)
			continue
		}
		code, _, errs := runIn("-q", "-r", path)
		require.Zero(t, code, "%v: %s", state.Phase, errs)
		require.Equal(t, after, contentOf(t, path), "%v", state.Phase)
	}
	assert.True(t, testing.Short() || phases[repair.PhaseOpen]+phases[repair.PhaseVerified]+phases[repair.PhaseUndoing] > 0,
		"none was killed in the middle: %v", phases)
	t.Logf("a repair takes %v; phases found: %v", whole, phases)
}

// Ctrl-C in the middle of a repair: it is rolled back, in order, or was not begun yet,
// or could not be stopped any more.
func TestRepairInterrupted(t *testing.T) {
	t.Parallel()
	original := damagedLarge(t, 64<<20)
	before := contentOf(t, original)
	interrupted := 0
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		path, cmd := stopAtWork(t, original)
		require.NoError(t, cmd.Process.Signal(signal))
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		err := cmd.Wait()
		if err != nil {
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			assert.True(t, status.Signaled() && status.Signal() == signal, "%v", cmd.ProcessState)
		}
		if _, there := os.Stat(path + undofile.Suffix); there == nil {
			code, _, errs := runIn("undo", path)
			require.Zero(t, code, "%s", errs)
		} else {
			interrupted++
		}
		assert.Equal(t, before, contentOf(t, path))
		assert.NoFileExists(t, path+undofile.Suffix)
	}
	t.Logf("%d of 3 interrupted", interrupted)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !os.IsNotExist(err) {
		return err
	}
	return nil
}

// smallDisk mounts a file system of so many bytes, which needs root.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("SKIPPED, NOT TESTED on a disk that is full: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A disk with whatever little room: the image is repaired, or is as before and that is
// said in an error and a hint; no half of a journal is left.
func TestRepairOnAFullDisk(t *testing.T) {
	t.Parallel()
	original := damagedLarge(t, 32<<20)
	before := contentOf(t, original)
	info, err := os.Stat(original)
	require.NoError(t, err)
	stored := int(info.Sys().(*syscall.Stat_t).Blocks) * 512
	refused, done := 0, 0
	for _, room := range []int{0, 4 << 10, 16 << 10, 24 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20, 8 << 20} {
		for _, elsewhere := range []bool{false, true} {
			dir := smallDisk(t, 4<<20)
			path := filepath.Join(dir, "disk.qcow2")
			copySparse(t, original, path)
			fill(t, dir, room)
			args := []string{"-r", path}
			journal := path + undofile.Suffix
			if elsewhere {
				journal = filepath.Join(t.TempDir(), "undo")
				args = append(args, "--undo", journal)
			}
			code, out, errs := runIn(args...)
			switch code {
			case 0:
				done++
				code, _, errs := runIn("undo", "--undo", journal, path)
				require.Zero(t, code, "%s", errs)
			case 1:
				refused++
				assert.Empty(t, out)
				assert.Regexp(t, `^qcheck: error: .*(no space left|not been touched|as before).*\nqcheck: hint: .*\n$`, errs)
				assert.NoFileExists(t, journal)
			default:
				t.Errorf("exit code %d: %s%s", code, out, errs)
			}
			assert.Equal(t, before, contentOf(t, path), "room %d", room)
		}
	}
	t.Logf("%d bytes stored; %d repaired, %d refused", stored, done, refused)
	assert.NotZero(t, refused)
	assert.NotZero(t, done)
}

// The journal is elsewhere, and the image has to grow: what was written by then is rolled
// back.
func TestGrowthOnAFullDisk(t *testing.T) {
	t.Parallel()
	cases, err := corpus.Select("bitmap/table-size")
	require.NoError(t, err)
	require.Len(t, cases, 1)
	rolledBack, done := 0, 0
	for _, room := range []int{0, 4 << 10, 8 << 10, 16 << 10, 1 << 20} {
		dir, journal := smallDisk(t, 4<<20), filepath.Join(t.TempDir(), "undo")
		require.NoError(t, cases[0].WriteFiles(dir))
		path := filepath.Join(dir, cases[0].Filename())
		before := contentOf(t, path)
		fill(t, dir, room)
		code, out, errs := runIn("-r", "--bitmap-policy=all-dirty", "--undo", journal, path)
		if code == 0 {
			done++
			code, _, errs = runIn("undo", path, "--undo", journal)
			require.Zero(t, code, "%s", errs)
		} else {
			rolledBack++
			assert.Equal(t, 1, code)
			assert.Empty(t, out)
			assert.Regexp(t, `^qcheck: error: .*no space left.*as before\nqcheck: hint: make room.*\n$`, errs)
		}
		assert.NoFileExists(t, journal)
		assert.Equal(t, before, contentOf(t, path), "room %d", room)
	}
	assert.NotZero(t, rolledBack)
	assert.NotZero(t, done)
}

// fill leaves so much room in a folder's file system.
func fill(t *testing.T, dir string, room int) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	require.NoError(t, err)
	defer f.Close()
	n := int64(0)
	for block := make([]byte, 4096); ; n += int64(len(block)) {
		if _, err := f.Write(block); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			break
		}
	}
	require.NoError(t, f.Truncate(max(0, n-int64(room))))
}

// An image on a block device is repaired within the device, and taken back; what
// lies behind the image is not touched. Where there is no room the device says so.
func TestRepairOnABlockDevice(t *testing.T) {
	t.Setenv(undofile.DirEnv, filepath.Join(t.TempDir(), "undo"))
	path := sample(t, 3)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(16<<20))
	tail := bytes.Repeat([]byte("behind"), 1000)
	_, err = f.WriteAt(tail, 15<<20)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	before := contentOf(t, path)
	device := loopDevice(t, path)

	done, code, errs := repairJSON(t, "-r", "--bitmap-policy=all-dirty", device)
	require.Zero(t, code, "%s", errs)
	assert.Equal(t, "clean", done.Verdict)
	assert.Zero(t, done.Repair.Grows)
	assert.Equal(t, os.Getenv(undofile.DirEnv), filepath.Dir(done.Repair.Undo))
	assert.FileExists(t, done.Repair.Undo)
	_, code = checkJSON(t, device)
	assert.Zero(t, code)
	code, _, errs = runIn("undo", device)
	require.Zero(t, code, "%s", errs)
	flush(t, device)
	assert.Equal(t, before, contentOf(t, path))
}

// A device that ends with the image: either there is room within it for what a repair
// has to make anew, or that is said and the device is as before. It never grows.
func TestRepairOnAFullBlockDevice(t *testing.T) {
	t.Setenv(undofile.DirEnv, filepath.Join(t.TempDir(), "undo"))
	refused, done := 0, 0
	for _, name := range []string{"header/refcount-table-none", "bitmap/table-size", "bitmap/table-huge", "bitmap/in-use"} {
		dir := t.TempDir()
		cases, err := corpus.Export(dir, name)
		require.NoError(t, err)
		require.Len(t, cases, 1)
		path := filepath.Join(dir, cases[0].Filename())
		before := contentOf(t, path)
		device := loopDevice(t, path)
		_, checkCode := checkJSON(t, device)
		r, code, errs := repairJSON(t, "-r", "--bitmap-policy=all-dirty", device)
		t.Logf("%s: %d, %d edits %s", name, code, r.Repair.Edits, errs)
		assert.Zero(t, r.Repair.Grows)
		switch {
		case r.Error != "":
			refused++
			assert.Equal(t, 1, code)
			assert.Regexp(t, `^qcheck: error: .*no room.*\nqcheck: hint: .*device.*\n$`, errs)
		case r.Repair.Edits == 0:
			refused++
			assert.Equal(t, checkCode, code)
		default:
			done++
			assert.Zero(t, code)
			code, _, errs = runIn("undo", device)
			require.Zero(t, code, "%s", errs)
		}
		flush(t, device)
		assert.Equal(t, before, contentOf(t, path))
	}
	assert.NotZero(t, refused)
	assert.NotZero(t, done)
}

// flush has the kernel write what it keeps of a device.
func flush(t *testing.T, device string) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

// A folder that cannot be written to holds no journal: the error says what else there
// is.
func TestRepairInAReadOnlyFolder(t *testing.T) {
	dir := smallDisk(t, 8<<20)
	elsewhere := filepath.Join(t.TempDir(), "undo")
	qemutest.Require(t)
	copySparse(t, sample(t, 2), filepath.Join(dir, "x"))
	// The file can be written to, its folder's file system cannot take another.
	path := filepath.Join(dir, "x")
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "nr_inodes=2,size=8388608"))
	before := contentOf(t, path)
	code, out, errs := runIn("-r", path)
	assert.Equal(t, 1, code)
	assert.Empty(t, out)
	assert.Regexp(t, `^qcheck: error: .*not been touched\nqcheck: hint: .*--undo FILE.*--no-undo.*\n$`, errs)
	assert.Equal(t, before, contentOf(t, path))
	code, _, errs = runIn("-r", "--undo", elsewhere, path)
	assert.Zero(t, code, "%s", errs)
	code, _, errs = runIn("undo", "--undo", elsewhere, path)
	assert.Zero(t, code, "%s", errs)
	assert.Equal(t, before, contentOf(t, path))
}
