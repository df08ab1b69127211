// Package process runs a program that may crash, hang or take all memory, and tells how
// it ended.
package process

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// Process is a program to be run, and what it may take.
type Process struct {
	Args []string
	// Dir is where it is started. The default is here.
	Dir            string
	Stdout, Stderr io.Writer
	Timeout        time.Duration
	// Memory is what it may take, in bytes. The default is as much as it likes.
	Memory int64
}

// End is how a program has ended.
type End struct {
	RC       int   // its exit code, or 128 and the signal that ended it
	Signal   int   // that signal; 0 where it ended by itself
	Overtime bool  // it was ended for the time that it took
	Memory   int64 // what it took, in bytes, where that was too much
}

// errMemory is why a program is ended that takes too much memory.
var errMemory = errors.New("too much memory")

// waitForPipe is how long a program's children may keep its output open after it
// has ended.
const waitForPipe = time.Second

// Run runs the program until it ends, or the context does, or it has taken more than
// it may; then whatever it has started goes with it. The error is that of the
// context, or tells that there is no such program.
func (p *Process) Run(ctx context.Context) (End, error) {
	limited, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	watched, exceeded := context.WithCancelCause(limited)
	defer exceeded(nil)
	cmd := exec.CommandContext(watched, p.Args[0], p.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = p.Dir, p.Stdout, p.Stderr, waitForPipe
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return End{}, err
	}
	tooMuch := make(chan int64, 1)
	go func() {
		defer close(tooMuch)
		if p.Memory == 0 {
			return
		}
		if most := watchMemory(watched, cmd.Process.Pid, p.Memory); most > p.Memory {
			tooMuch <- most
			exceeded(errMemory)
		}
	}()
	err := cmd.Wait()
	exceeded(nil)
	most := <-tooMuch
	if errors.Is(err, exec.ErrWaitDelay) {
		killGroup(cmd) // children that are still there
	}
	if ctx.Err() != nil {
		return End{}, ctx.Err()
	}
	e := End{RC: cmd.ProcessState.ExitCode(), Memory: most}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = int(status.Signal())
		e.RC = 128 + e.Signal
	}
	switch {
	case e.Memory > 0:
	case limited.Err() != nil:
		e.Overtime = true
	default:
		if peak := peakMemory(cmd.ProcessState); p.Memory > 0 && peak > p.Memory {
			e.Memory = peak
		}
	}
	return e, nil
}
