package qemutest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// dieWithParent makes the process end when the test binary does, even if that is killed and no cleanup
// runs. The kernel ties this to the thread that forks, so the calling goroutine keeps its thread until it has
// called release, after the process has ended.
func dieWithParent(cmd *exec.Cmd) (release func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return runtime.UnlockOSThread
}
