package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qcheck/qcheck/corpus"
)

// sample writes one of the images of `qcheck corpus samples`, for 0 the healthy
// one.
func sample(t *testing.T, i int) string {
	t.Helper()
	dir := t.TempDir()
	c := corpus.Samples()[i]
	require.NoError(t, c.WriteFiles(dir))
	return filepath.Join(dir, c.Filename())
}

// program gives the command as a program of its own.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return &exec.Cmd{Path: self, Args: append([]string{"qcheck"}, args...)} // see TestMain
}

// busyImage writes an image of so many L2 tables, full and in no order, that
// checking it takes a while.
func busyImage(t *testing.T, tables int) string {
	t.Helper()
	const cluster = 1 << 16
	be := binary.BigEndian
	head := make([]byte, 4*cluster)
	copy(head, "QFI\xfb")
	be.PutUint32(head[4:], 3)                   // version
	be.PutUint32(head[20:], 16)                 // cluster_bits
	be.PutUint64(head[24:], uint64(tables)<<29) // size
	be.PutUint32(head[36:], uint32(tables))     // l1_size
	be.PutUint64(head[40:], 3*cluster)          // l1_table_offset
	be.PutUint64(head[48:], cluster)            // refcount_table_offset
	be.PutUint32(head[56:], 1)                  // refcount_table_clusters
	be.PutUint32(head[96:], 4)                  // refcount_order
	be.PutUint32(head[100:], 104)               // header_length
	for i := range tables {
		be.PutUint64(head[3*cluster+8*i:], uint64(4+i)*cluster|1<<63)
	}
	path := filepath.Join(t.TempDir(), "busy.qcow2")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(head)
	require.NoError(t, err)
	data := rand.Perm(tables * cluster / 8)
	table := make([]byte, cluster)
	for i := range tables {
		for j := range cluster / 8 {
			be.PutUint64(table[8*j:], uint64(4+tables+data[i*cluster/8+j])*cluster|1<<63)
		}
		_, err = f.Write(table)
		require.NoError(t, err)
	}
	require.NoError(t, f.Truncate(int64(4+tables+len(data))*cluster))
	return path
}

// bytesRead is how much a process has read so far.
func bytesRead(t *testing.T, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: how far a process has come cannot be told: %v", err)
	}
	m := regexp.MustCompile(`rchar: (\d+)`).FindSubmatch(text)
	require.NotNil(t, m)
	n, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return n
}

// Ctrl-C in the middle of a check ends it in order: what was found so far is
// reported as incomplete, and the program dies of the signal, so that a shell does not
// go on to its next command.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	tables := 1024
	if testing.Short() {
		tables = 256
	}
	path := busyImage(t, tables)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		for attempt := 1; ; attempt++ {
			var stdout, stderr bytes.Buffer
			cmd := program(t, "-o", "jsonl", "-j", "1", path, "/never/looked/at.qcow2")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Start())
			for deadline := time.Now().Add(20 * time.Second); bytesRead(t, cmd.Process.Pid) < 4<<20 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			require.NoError(t, cmd.Process.Signal(signal))
			err := cmd.Wait()
			require.Error(t, err)
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			assert.True(t, status.Signaled() && status.Signal() == signal, "%v", cmd.ProcessState)

			var c checked
			require.NoError(t, json.NewDecoder(&stdout).Decode(&c))
			if c.Verdict != "incomplete" && attempt < 5 {
				continue // on a busy machine the check may be faster than we are
			}
			assert.Equal(t, path, c.Filename)
			assert.Equal(t, "incomplete", c.Verdict)
			assert.Equal(t, "interrupted", c.Error)
			assert.Contains(t, stderr.String(), "interrupted")
			assert.NotContains(t, stderr.String(), "/never/looked/at.qcow2")
			break
		}
	}
}

// A loop of a shell ends with the check that Ctrl-C ends, and the shell sees which signal
// it was.
func TestInterruptedLoop(t *testing.T) {
	t.Parallel()
	path := busyImage(t, 256)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		var stdout bytes.Buffer
		cmd := program(t, "-o", "jsonl", "-j", "1", path)
		// The shell waits for qcheck, which gets the signal as from a terminal: with
		// everything else in its process group.
		script := `for i in $(seq 60); do "$@"; echo "status $?"; done`
		named := filepath.Join(t.TempDir(), "qcheck")
		require.NoError(t, os.Symlink(cmd.Path, named))
		cmd.Args = append([]string{"sh", "-c", script, "sh", named}, cmd.Args[1:]...)
		sh, err := exec.LookPath("bash") // dash, too, but only in a terminal's foreground
		if err != nil {
			t.Skipf("SKIPPED, NOT TESTED: there is no bash here: %v", err)
		}
		cmd.Path, cmd.Stdout = sh, &stdout
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		time.Sleep(300 * time.Millisecond)
		var failed error
		for try := 0; failed == nil && try < 20; try++ {
			// A signal is lost on a process that the kernel is just taking down, and the
			// shell believes then that it was for qcheck alone. People press the key again.
			if try > 0 {
				t.Logf("%v was lost", signal)
			}
			require.NoError(t, syscall.Kill(-cmd.Process.Pid, signal))
			select {
			case failed = <-ended:
				require.Error(t, failed, "%s", &stdout)
			case <-time.After(2 * time.Second):
			}
		}
		require.Error(t, failed, "the loop runs on")
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		assert.True(t, status.Signaled() && status.Signal() == signal, "%v", cmd.ProcessState)
		assert.NotContains(t, stdout.String(), "status 1\n")
	}
}

// Exit code 2 says that an image is corrupt. What makes Go's runtime give up ends by a
// signal, so that nobody takes one for the other.
func TestTheRuntimeNeverEndsWithTwo(t *testing.T) {
	t.Parallel()
	path := sample(t, 1)
	// waiting is a check that has seen one image and waits for the names of others.
	waiting := func() (*exec.Cmd, *bytes.Buffer) {
		var stderr bytes.Buffer
		cmd := program(t, "-o", "jsonl", path, "--files-from", "-")
		cmd.Dir, cmd.Stderr = t.TempDir(), &stderr // a core goes there
		names, err := cmd.StdinPipe()
		require.NoError(t, err)
		t.Cleanup(func() { names.Close() })
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = out.Read(make([]byte, 1))
		require.NoError(t, err)
		return cmd, &stderr
	}
	for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGBUS} {
		cmd, stderr := waiting()
		require.NoError(t, cmd.Process.Signal(signal))
		require.Error(t, cmd.Wait(), "%v", signal)
		assert.Equal(t, syscall.SIGABRT, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(), "%v", signal)
		assert.Contains(t, stderr.String(), "goroutine", "%v", signal)
	}
}

// Where addresses are bounded, counting references stays within what is left of them: the
// check is incomplete, rather than dead.
func TestLimitOfAddresses(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no shell: %v", err)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "qcheck")))
	path := sample(t, 0)
	for _, kib := range []int{2 << 20, 4 << 20} {
		cmd := exec.Command(shell, "-c", fmt.Sprintf("ulimit -v %d && exec %s %s", kib, filepath.Join(dir, "qcheck"), path))
		out, _ := cmd.CombinedOutput()
		assert.NotEqual(t, 2, cmd.ProcessState.ExitCode(), "%d KiB: %s", kib, out)
	}
	least := func(limit uint64) uint64 {
		return addressesLeft(unix.Rlimit{Cur: limit, Max: limit})
	}
	left := least(16 << 30)
	assert.Less(t, left, uint64(16<<30))
	assert.Greater(t, left, uint64(1<<30))
	assert.EqualValues(t, 1, least(4096), "used up already; 0 would be no bound")
}

// terminal makes a pseudo-terminal of so many columns; output gives what has been
// written to it.
func terminal(t *testing.T, columns uint16) (tty *os.File, output func() string) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: there are no pseudo-terminals here: %v", err)
	}
	fd := int(ptmx.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: columns}))
	text := make(chan string)
	go func() {
		var b bytes.Buffer
		_, _ = b.ReadFrom(ptmx) // it ends with an error once the terminal is closed
		text <- b.String()
	}()
	return tty, func() string {
		tty.Close()
		defer ptmx.Close()
		return strings.ReplaceAll(<-text, "\r\n", "\n")
	}
}

// On a terminal reports are coloured, unless that is unwanted, and lines fit.
func TestTerminal(t *testing.T) {
	path := sample(t, 1)
	escape := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for _, tt := range []struct {
		name  string
		env   map[string]string
		flags []string
		color bool
	}{
		{"plain", nil, nil, true},
		{"NO_COLOR", map[string]string{"NO_COLOR": "1"}, nil, false},
		{"dumb", map[string]string{"TERM": "dumb"}, nil, false},
		{"never", nil, []string{"--color=never"}, false},
		{"always beats NO_COLOR", map[string]string{"NO_COLOR": "1"}, []string{"--color=always"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			t.Setenv("TERM", "xterm")
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			tty, output := terminal(t, 72)
			var stderr bytes.Buffer
			code := run(append(tt.flags, path), strings.NewReader(""), tty, &stderr)
			text := output()
			assert.Equal(t, 2, code)
			assert.Empty(t, stderr.String())
			assert.Equal(t, tt.color, escape.MatchString(text))
			for line := range strings.Lines(escape.ReplaceAllString(text, "")) {
				if !strings.Contains(line, path) { // which cannot be broken
					assert.LessOrEqual(t, len([]rune(line)), 72+1, "%q", line)
				}
			}

			for _, args := range [][]string{{"--help"}, {"check", "--help"}, {"explain", "all"}} {
				tty, output := terminal(t, 72)
				assert.Zero(t, run(args, strings.NewReader(""), tty, &stderr))
				for line := range strings.Lines(escape.ReplaceAllString(output(), "")) {
					if !strings.Contains(line, "  qcheck ") { // an example
						assert.LessOrEqual(t, len([]rune(line)), 72+1, "%q", line)
					}
				}
			}
		})
	}
}

// A file that must not be read is an error in one line.
func TestUnreadable(t *testing.T) {
	path := sample(t, 0)
	require.NoError(t, os.Chmod(path, 0))
	if os.Getuid() == 0 {
		// Root reads everything, unless this thread alone is somebody else where
		// files are concerned. It ends with the goroutine.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			if _, err := unix.SetfsuidRetUid(65534); err != nil {
				t.Errorf("setfsuid: %v", err)
				return
			}
			assertUnreadable(t, path)
		}()
		<-done
		return
	}
	assertUnreadable(t, path)
}

func assertUnreadable(t *testing.T, path string) {
	t.Helper()
	for _, args := range [][]string{{path}, {"info", path}, {"bitmaps", path}} {
		code, out, errs := runIn(args...)
		assert.Equal(t, 1, code)
		assert.Empty(t, out)
		assert.Regexp(t, `^qcheck: error: .*permission denied\n$`, errs)
	}
	code, _, errs := runIn("--files-from", path)
	assert.Equal(t, 1, code)
	assert.Regexp(t, `^qcheck: error: .*permission denied\n$`, errs)
}

// loopDevice has the kernel make a block device of a file, which needs root.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	skip := func(what string, err error) {
		t.Skipf("SKIPPED, NOT TESTED with a block device: %s: %v", what, err)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		skip("no loop devices", err)
	}
	defer control.Close()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	for range 10 { // another may be faster with the number that is free
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			skip("no free loop device", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			skip("a loop device without a file in /dev", err)
		}
		t.Cleanup(func() { dev.Close() })
		err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
		if err == unix.EBUSY {
			continue
		}
		if err != nil {
			skip("a file cannot be made a device", err)
		}
		t.Cleanup(func() { _ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0) })
		return name
	}
	skip("all loop devices are taken", fs.ErrExist)
	return ""
}

// A block device is checked like a file. What lies behind the image's end on it is
// nobody's.
func TestBlockDevice(t *testing.T) {
	path := sample(t, 2)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(32<<20))
	require.NoError(t, f.Close())
	device := loopDevice(t, path)

	ofFile, code := checkJSON(t, path)
	assert.Equal(t, 2, code)
	ofDevice, code := checkJSON(t, device)
	assert.Equal(t, 2, code)
	assert.Equal(t, ofFile.Findings, ofDevice.Findings)
	code, out, errs := runIn("info", device)
	assert.Equal(t, 0, code)
	assert.Contains(t, out, "33554432")
	assert.Empty(t, errs)
}
