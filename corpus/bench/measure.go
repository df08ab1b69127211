package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is something that is measured.
type command struct {
	argv []string
	env  []string // added to the environment
	// ok are the exit codes that mean that it did its work. The default is 0.
	ok []int
}

// usage is what one run took.
type usage struct {
	wall, cpu time.Duration
	peak      int64 // bytes of memory
	stopped   bool  // it took longer than it was given
}

// run runs a command once, for at most limit. Its output is thrown away.
func (c command) run(ctx context.Context, limit time.Duration) (usage, error) {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(within, c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	var says tail
	cmd.Stderr = &says
	start := time.Now()
	err := cmd.Run()
	u := usage{wall: time.Since(start)}
	if ctx.Err() != nil {
		return u, ctx.Err()
	}
	if cmd.ProcessState == nil {
		return u, err
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.peak = r.Maxrss << 10
	}
	if within.Err() != nil {
		u.stopped = true
		return u, nil
	}
	ok := c.ok
	if len(ok) == 0 {
		ok = []int{0}
	}
	if code := cmd.ProcessState.ExitCode(); !slices.Contains(ok, code) {
		return u, fmt.Errorf("%v: exit code %d: %s", c.argv, code, says)
	}
	return u, nil
}

// tail keeps the beginning of what a program says.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p[:min(len(p), 1000-min(1000, len(*t)))]...)
	return len(p), nil
}

func (t tail) String() string { return string(t) }

// figures are several runs of one command.
type figures []usage

// median gives the run in the middle, by what f says of each.
func median[T int64 | time.Duration](runs figures, f func(usage) T) T {
	all := make([]T, 0, len(runs))
	for _, u := range runs {
		all = append(all, f(u))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (runs figures) wall() time.Duration {
	return median(runs, func(u usage) time.Duration { return u.wall })
}

func (runs figures) cpu() time.Duration {
	return median(runs, func(u usage) time.Duration { return u.cpu })
}

func (runs figures) spread() (least, most time.Duration) {
	least, most = runs[0].wall, runs[0].wall
	for _, u := range runs {
		least, most = min(least, u.wall), max(most, u.wall)
	}
	return least, most
}

// peak is the most memory that any of the runs took.
func (runs figures) peak() int64 {
	peak := int64(0)
	for _, u := range runs {
		peak = max(peak, u.peak)
	}
	return peak
}

// evict makes the kernel forget what it has of a file, so that reading it goes to
// the disk. No privilege is needed; what is not yet on the disk is written first.
func evict(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
