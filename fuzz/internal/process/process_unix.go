//go:build unix

package process

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// ownGroup puts a program that is to be started into a process group of its own, so
// that what it starts can be ended along with it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd) }
}

// killGroup ends a program and what it has started.
func killGroup(cmd *exec.Cmd) error {
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err == syscall.ESRCH {
		return os.ErrProcessDone
	} else {
		return err
	}
}

// peakMemory is what a process that has ended took at most, in bytes; 0 where that
// is not known.
func peakMemory(p *os.ProcessState) int64 {
	usage, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	peak := int64(usage.Maxrss) << 10
	switch runtime.GOOS {
	case "darwin", "ios":
		peak = int64(usage.Maxrss)
	case "linux":
		// Until it runs its program, a child uses its parent's memory, and that is
		// counted for it.
		var own syscall.Rusage
		if syscall.Getrusage(syscall.RUSAGE_SELF, &own) == nil && usage.Maxrss <= own.Maxrss {
			return 0
		}
	}
	return peak
}
