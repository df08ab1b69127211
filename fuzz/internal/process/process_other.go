//go:build !unix

package process

import (
	"os"
	"os/exec"
)

// ownGroup leaves a program where it is: there are no process groups here.
func ownGroup(*exec.Cmd) {}

// killGroup ends a program alone.
func killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }

// peakMemory is 0: what a process took is not told here.
func peakMemory(*os.ProcessState) int64 { return 0 }
