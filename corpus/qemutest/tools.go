package qemutest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The programs that QEMU's own packages bring. QemuSystem is not among those that Require asks for:
// it is large, and only needed for the state of a virtual machine.
const (
	QemuImg    = "qemu-img"
	QemuIO     = "qemu-io"
	QemuNBD    = "qemu-nbd"
	QemuDaemon = "qemu-storage-daemon"
	QemuSystem = "qemu-system-x86_64"
)

// DirEnv is the environment variable that names a directory to look for QEMU's programs in before PATH.
const DirEnv = "QCHECK_QEMU_DIR"

// commandTimeout bounds one run of a QEMU program. The slowest that tests do takes a second or two; the
// bound is there so that a hang fails the test that caused it and not the whole run.
const commandTimeout = 2 * time.Minute

// Find returns the path of the named QEMU program, and false if it is not there.
func Find(name string) (string, bool) {
	if dir := os.Getenv(DirEnv); dir != "" {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, true
		}
	}
	p, err := exec.LookPath(name)
	return p, err == nil
}

// Require ends the test unless qemu-img, qemu-io and the further programs named are there: it is skipped,
// or fails where the environment says CI=true. QemuSystem is skipped even there, because a system
// emulator is more than a machine that checks images can be expected to have.
func Require(t testing.TB, more ...string) {
	t.Helper()
	for _, name := range append([]string{QemuImg, QemuIO}, more...) {
		if _, ok := Find(name); ok {
			continue
		}
		if os.Getenv("CI") == "true" && name != QemuSystem {
			t.Fatalf("%s is missing and CI=true: install qemu-utils and qemu-system-common, or set %s", name, DirEnv)
		}
		t.Skipf("SKIPPED, NOT TESTED against QEMU: %s is missing (install qemu-utils and qemu-system-common, or set %s)", name, DirEnv)
	}
}

// mustFind is Find for a program that the test cannot do without.
func mustFind(t testing.TB, name string) string {
	t.Helper()
	Require(t, name)
	p, _ := Find(name)
	return p
}

var versions sync.Map // path of a program -> its version line

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)`)

// Version returns QEMU's major and minor version, as qemu-img tells it.
func Version(t testing.TB) (major, minor int) {
	t.Helper()
	path := mustFind(t, QemuImg)
	line, ok := versions.Load(path)
	if !ok {
		line = Run(t, QemuImg, "--version").mustSucceed(t).Stdout
		versions.Store(path, line)
	}
	m := versionPattern.FindStringSubmatch(line.(string))
	if m == nil {
		t.Fatalf("cannot read a version from %q", line)
	}
	if _, err := fmt.Sscan(m[1]+" "+m[2], &major, &minor); err != nil {
		t.Fatalf("cannot read a version from %q: %v", line, err)
	}
	return major, minor
}

// Result is how one run of a program ended.
type Result struct {
	// Args is the command line, the program first.
	Args []string
	// RC is the exit code, or 128 plus the signal's number for a program that a signal ended, as a shell
	// counts it (134 for an assertion that failed).
	RC     int
	Stdout string
	Stderr string
}

func (r Result) String() string {
	return fmt.Sprintf("$ %s\nexit code %d\n--- stdout\n%s--- stderr\n%s", shellLine(r.Args), r.RC, r.Stdout, r.Stderr)
}

func (r Result) mustSucceed(t testing.TB) Result {
	t.Helper()
	if r.RC != 0 {
		t.Fatalf("%v", r)
	}
	return r
}

// Run runs one of QEMU's programs without standard input and returns how it ended, whatever its exit code;
// the test fails if it cannot be started or does not end in time.
func Run(t testing.TB, program string, args ...string) Result {
	t.Helper()
	res := runOnce(t, program, args...)
	// To make a LUKS header QEMU measures how fast the machine derives keys, and gives up where others keep it
	// too busy for that.
	for try := 0; try < 20 && res.RC != 0 && strings.Contains(res.Stderr, "accurate CPU usage"); try++ {
		time.Sleep(100 * time.Millisecond)
		res = runOnce(t, program, args...)
	}
	return res
}

func runOnce(t testing.TB, program string, args ...string) Result {
	t.Helper()
	path := mustFind(t, program)
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()

	res := Result{Args: append([]string{program}, args...), Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("no end after %v, killed\n%v", commandTimeout, res)
	case errors.As(err, &exit):
		res.RC = exitCode(exit.ProcessState)
	case err != nil:
		t.Fatalf("cannot run %s: %v", shellLine(res.Args), err)
	}
	return res
}

func exitCode(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// Img runs qemu-img and returns its standard output; the test fails if it does not succeed.
func Img(t testing.TB, args ...string) string {
	t.Helper()
	return Run(t, QemuImg, args...).mustSucceed(t).Stdout
}

// IO opens the qcow2 image at path for writing with qemu-io, runs the commands in order ("write -P 1 0 64k",
// "read -P 1 0 64k", "discard 0 1M") and closes it; the test fails if one of them does. What it printed is
// returned.
func IO(t testing.TB, path string, commands ...string) string {
	t.Helper()
	return IOArgs(t, []string{"-f", "qcow2", "-d", "unmap", path}, commands...)
}

// IOArgs is IO with qemu-io's own arguments, for images that need more than a path.
func IOArgs(t testing.TB, args []string, commands ...string) string {
	t.Helper()
	// One flush at the end, as a guest's disk has it; qemu-io's default is one after each command.
	line := []string{"-t", "writeback"}
	for _, c := range commands {
		line = append(line, "-c", c)
	}
	res := Run(t, QemuIO, append(line, args...)...).mustSucceed(t)
	// Not every failing command makes qemu-io's exit code say so.
	for _, bad := range []string{"failed", "Pattern verification"} {
		if strings.Contains(res.Stdout, bad) {
			t.Fatalf("a command failed\n%v", res)
		}
	}
	return res.Stdout
}

// shellLine writes a command line so that it can be pasted into a shell.
func shellLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$&|;<>*?()[]{}`!#~") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}
