package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

// leaky writes an image that QEMU opens and that a repair changes.
func leaky(t *testing.T) string {
	t.Helper()
	path := newImage(t, "16M")
	qemutest.IO(t, path, "write -P 1 0 64k")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{0, 1}, 2<<16+2*9) // one cluster more is counted as taken
	require.NoError(t, err)
	require.NoError(t, f.Truncate(16<<16))
	_, code := checkJSON(t, path)
	require.Equal(t, int(exitLeaks), code)
	return path
}

// qemuNBD starts a qemu-nbd that has an image open.
func qemuNBD(t *testing.T, path string, args ...string) {
	t.Helper()
	qemutest.Require(t, qemutest.QemuNBD)
	program, _ := qemutest.Find(qemutest.QemuNBD)
	dir, err := os.MkdirTemp("", "nbd") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	pidFile := filepath.Join(dir, "pid")
	args = append([]string{"--fork", "-t", "-f", "qcow2", "-k", filepath.Join(dir, "socket"), "--pid-file", pidFile}, append(args, path)...)
	out, err := exec.Command(program, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
}

// qemuIO starts a qemu-io that has an image open until the test ends.
func qemuIO(t *testing.T, path string) {
	t.Helper()
	program, _ := qemutest.Find(qemutest.QemuIO)
	cmd := exec.Command(program, "-f", "qcow2", path)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	_, err = io.WriteString(stdin, "read 0 512\n")
	require.NoError(t, err)
	for buf := make([]byte, 4096); ; {
		n, err := stdout.Read(buf)
		require.NoError(t, err)
		if bytes.Contains(buf[:n], []byte("512")) {
			return
		}
	}
}

// What a QEMU has open, for whatever reason, is not repaired, and nothing is taken
// back in it.
func TestRepairOfWhatIsInUse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		reader bool
		hold   func(t *testing.T, path string)
	}{
		{"daemon", false, func(t *testing.T, path string) { qemutest.Serve(t, path) }},
		{"daemon that reads", true, func(t *testing.T, path string) {
			qemutest.Start(t).Open(qemutest.Disk, path, map[string]any{"read-only": true,
				"file": map[string]any{"driver": "file", "filename": path, "read-only": true}})
		}},
		{"daemon that reads and shares", true, func(t *testing.T, path string) {
			qemutest.Start(t).Open(qemutest.Disk, path, map[string]any{"read-only": true, "force-share": true,
				"file": map[string]any{"driver": "file", "filename": path, "read-only": true, "force-share": true}})
		}},
		{"backing file", true, func(t *testing.T, path string) {
			qemutest.Serve(t, newImage(t, "16M", "-b", path, "-F", "qcow2"))
		}},
		{"qemu-nbd", false, func(t *testing.T, path string) { qemuNBD(t, path) }},
		{"qemu-nbd that reads", true, func(t *testing.T, path string) { qemuNBD(t, path, "-r") }},
		{"qemu-io", false, qemuIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := leaky(t)
			tt.hold(t, path)
			before := contentOf(t, path)
			for _, args := range [][]string{{"-r", path}, {"-r", "--no-undo", path}, {"--repair=leaks", "--undo", path + ".x", path}, {"undo", path}} {
				code, out, errs := runIn(args...)
				assert.Equal(t, 1, code)
				assert.Empty(t, out)
				lines := strings.Split(strings.TrimSpace(errs), "\n")
				if assert.Len(t, lines, 2, "%s", errs) {
					assert.Regexp(t, `^qcheck: error: .*disk\.qcow2: .*(holds|reads) this image`, lines[0])
					assert.Regexp(t, `^qcheck: hint: .*(stop|wait)`, lines[1])
					assert.NotContains(t, lines[1], "-U", "what is in use is never repaired")
				}
			}
			assert.Equal(t, before, contentOf(t, path))
			code, _, errs := runIn("-n", path)
			if tt.reader {
				assert.Equal(t, int(exitLeaks), code, "a plan only reads: %s", errs)
			} else {
				assert.Equal(t, 1, code)
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			assert.Len(t, entries, 1, "no journal is made")
		})
	}
}

// stopAtWork starts a repair of a copy of an image and stops it while it writes: its
// journal says so.
func stopAtWork(t *testing.T, original string) (path string, cmd *exec.Cmd) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.qcow2")
	journal := &undofile.Place{Path: path + undofile.Suffix, ReadOnly: true}
	for range 50 { // it may be done before it stops
		require.NoError(t, removeIfThere(journal.Path))
		copySparse(t, original, path)
		cmd := program(t, "-r", path)
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		phase := func() repair.Phase {
			state, err := repair.Glance(journal)
			require.NoError(t, err)
			return state.Phase
		}
		for deadline := time.Now().Add(20 * time.Second); phase() < repair.PhaseOpen; {
			require.True(t, time.Now().Before(deadline), "the repair has not begun")
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		for running := true; running; {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
			require.NoError(t, err)
			_, state, _ := strings.Cut(string(text), ") ")
			running = state[0] != 'T' && state[0] != 'Z'
		}
		if p := phase(); p == repair.PhaseOpen || p == repair.PhaseVerified {
			return path, cmd
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		require.NoError(t, cmd.Wait())
	}
	t.Fatal("a repair could never be stopped while it writes")
	return "", nil
}

// While a repair is at work no QEMU gets at the image, not even to read it with -U,
// and neither does another qcheck.
func TestRepairHoldsQEMUOff(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	path, cmd := stopAtWork(t, damagedLarge(t, 128<<20))
	for _, args := range [][]string{
		{qemutest.QemuIO, "-f", "qcow2", "-c", "write 0 64k", path},
		{qemutest.QemuIO, "-r", "-f", "qcow2", "-c", "read 0 64k", path},
		{qemutest.QemuImg, "info", path},
		{qemutest.QemuImg, "check", "-U", path},
	} {
		r := qemutest.Run(t, args[0], args[1:]...)
		assert.NotZero(t, r.RC, "%v", args)
		assert.Contains(t, r.Stderr, "lock", "%v", args)
	}
	for _, args := range [][]string{{path}, {"-U", path}, {"-r", path}, {"undo", path}} {
		code, _, errs := runIn(args...)
		assert.Equal(t, 1, code)
		assert.Regexp(t, `^qcheck: error: .*lets nobody else read it`, errs)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	require.NoError(t, cmd.Wait())
	assert.Zero(t, qemutest.Check(t, path).RC)
}

// A hypervisor is killed while the guest writes: refcounts that were never written, a
// bitmap left in use. A repair makes the image sound, what the guest had flushed is
// there, and the chain of incremental backups goes on.
func TestRepairAfterACrash(t *testing.T) {
	t.Parallel()
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(round), 7))
			path := newImage(t, "256M", "-o", "lazy_refcounts=on")
			qemutest.AddImageBitmap(t, path, "backup", 65536, false)
			d := qemutest.Serve(t, path)
			d.IO("write -P 17 0 8M", "write -P 34 100M 3M") // and flushed

			dir, err := os.MkdirTemp("", "nbd")
			require.NoError(t, err)
			defer os.RemoveAll(dir)
			socket := filepath.Join(dir, "s")
			d.Do("nbd-server-stop", nil)
			d.Do("nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}})
			d.Do("block-export-add", map[string]any{"type": "nbd", "id": "busy", "node-name": qemutest.Disk, "name": "busy", "writable": true})
			name, _ := qemutest.Find(qemutest.QemuIO)
			guest := exec.Command(name, "-f", "raw", "nbd+unix:///busy?socket="+socket)
			var script strings.Builder
			for range 20000 {
				fmt.Fprintf(&script, "write -P %d %dk %dk\n", 50+r.IntN(100), 128<<10+64*r.IntN(2000), 4<<r.IntN(6))
			}
			guest.Stdin = strings.NewReader(script.String())
			require.NoError(t, guest.Start())
			was, err := os.Stat(path)
			require.NoError(t, err)
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				if is, err := os.Stat(path); err == nil && is.Size() > was.Size() {
					break // it is at work
				}
			}
			time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
			d.Kill9()
			_ = guest.Wait()

			c, code := checkJSON(t, path)
			assert.Contains(t, []int{0, 2, 3}, code)
			t.Logf("round %d: %s, %d findings", round, c.Verdict, len(c.Findings))
			require.NotEmpty(t, c.Findings)
			before := contentOf(t, path)

			done, code, errs := repairJSON(t, "-r", "--bitmap-policy=all-dirty", path)
			require.Zero(t, code, "%s", errs)
			assert.Equal(t, "clean", done.Verdict)
			assert.NotZero(t, done.Repair.Edits)
			_, code = checkJSON(t, path)
			assert.Zero(t, code)
			assert.Zero(t, qemutest.Check(t, path).RC)
			code, _, errs = runIn("undo", path)
			require.Zero(t, code, "%s", errs)
			assert.Equal(t, before, contentOf(t, path))
			_, code, _ = repairJSON(t, "-r", "--bitmap-policy=all-dirty", path)
			require.Zero(t, code)
			qemutest.IOArgs(t, []string{"-r", "-f", "qcow2", path}, "read -P 17 0 8M", "read -P 34 100M 3M")

			// The bitmap: QEMU loads it, it records, and all is in the next backup.
			d = qemutest.Serve(t, path)
			states := d.Bitmaps("")
			if assert.Len(t, states, 1) {
				assert.True(t, states[0].Recording && states[0].Persistent && !states[0].Inconsistent)
				assert.EqualValues(t, 256<<20, states[0].Count)
			}
			target := newImage(t, "256M")
			d.Open("target", target, nil)
			d.Backup("", "target", "backup")
			d.IO("write -P 99 4k 4k")
			states = d.Bitmaps("")
			if assert.Len(t, states, 1) {
				assert.EqualValues(t, 65536, states[0].Count, "the next backup copies what has changed since")
			}
			d.Quit()
			qemutest.IO(t, target, "write -P 99 4k 4k")
			qemutest.Img(t, "compare", "-q", path, target)
			_, code = checkJSON(t, path)
			assert.Zero(t, code)
		})
	}
}
