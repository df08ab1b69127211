package fuzz

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// process is a program to be run, and what it may take.
type process struct {
	args           []string
	dir            string // where it is started; empty: here
	stdout, stderr io.Writer
	timeout        time.Duration
	memory         int64 // bytes; 0: as much as it likes
}

// end is how a program has ended.
type end struct {
	rc       int   // its exit code, or 128 and the signal that ended it
	signal   int   // that signal; 0 where it ended by itself
	overtime bool  // it was ended for the time that it took
	memory   int64 // what it took, in bytes, where that was too much
}

// errMemory is why a program is ended that takes too much memory.
var errMemory = errors.New("too much memory")

// waitForPipe is how long a program's children may keep its output open after it
// has ended.
const waitForPipe = time.Second

// run runs the program until it ends, or the context does, or it has taken more than
// it may; then whatever it has started goes with it. The error is that of the
// context, or tells that there is no such program.
func (p *process) run(ctx context.Context) (end, error) {
	limited, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	watched, exceeded := context.WithCancelCause(limited)
	defer exceeded(nil)
	cmd := exec.CommandContext(watched, p.args[0], p.args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = p.dir, p.stdout, p.stderr, waitForPipe
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return end{}, err
	}
	tooMuch := make(chan int64, 1)
	go func() {
		defer close(tooMuch)
		if p.memory == 0 {
			return
		}
		if most := watchMemory(watched, cmd.Process.Pid, p.memory); most > p.memory {
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
		return end{}, ctx.Err()
	}
	e := end{rc: cmd.ProcessState.ExitCode(), memory: most}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.signal = int(status.Signal())
		e.rc = 128 + e.signal
	}
	switch {
	case e.memory > 0:
	case limited.Err() != nil:
		e.overtime = true
	default:
		if peak := peakMemory(cmd.ProcessState); p.memory > 0 && peak > p.memory {
			e.memory = peak
		}
	}
	return e, nil
}
