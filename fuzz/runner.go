package fuzz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// Placeholder is what the image's path takes the place of in a command.
const Placeholder = "{}"

// Runner runs a command on one mutant after the other, and keeps those on which it
// fails.
type Runner struct {
	// Command is the program and its arguments; one of them holds [Placeholder].
	// With Oracle it may be empty: `qemu-img check` then, and opening with qemu-io.
	Command []string
	// Oracle compares what the command says (the exit code of `qemu-img check`) with
	// what a check says. The default is false: only crashes, hangs and memory count.
	Oracle bool
	// Guest says with what the command's standard output is compared, where it ends with
	// exit code 0: it must be the whole virtual disk then. The default is nothing.
	Guest Guest
	// Against is the shell command whose standard output is compared with, for
	// [GuestOther]; {} in it stands for the image.
	Against string
	// MaxDisk leaves mutants with larger virtual disks out of that, in bytes. The default
	// is 64 MiB.
	MaxDisk uint64
	// Names are the images that mutants are made of. The default is all of Images.
	Names []string
	// Images are what mutants are made of. The default is the corpus.
	Images *Images
	// Seed is the number of the first mutant.
	Seed uint64
	// Runs is how many there are. The default is no end but the context's.
	Runs uint64
	// Time is how long mutants are tried, not counting what comes before and after them.
	// The default is no end but the context's.
	Time time.Duration
	// Jobs is how many run at once. The default is 1.
	Jobs int
	// Timeout is what a run may take. The default is 5 seconds.
	Timeout time.Duration
	// Memory is what one process of a run may take at most, in bytes. Linux: a run
	// that takes more is ended. Other Unix systems: it is judged when it has ended,
	// and by its first process alone. The default is 1 GiB.
	Memory int64
	// Out is the folder for the images on which the command fails. The default is
	// that they are not kept.
	Out string
	// Resume keeps in Out how far the session has come, and goes on where the last one that
	// did has stopped. The default is to begin with Seed.
	Resume bool
	// Progress is told of the state now and then, from one goroutine at a time.
	// The default is nil.
	Progress func(Summary)
}

// Failure is a way in which the command fails, with the least mutant that shows it.
type Failure struct {
	Kind   string // crash, hang, memory, difference
	Detail string // signal, message, kind of difference
	// Where names what the mutant changes, without values: crashes of one kind that
	// come from other structures are likely to be other faults.
	Where string
	// Located tells that Detail names the place in the program, from the stack that it
	// wrote: whatever the mutant changes, it is one fault.
	Located bool
	Said    string // what the command said last
	Mutant  *Mutant
	// Changes are the bytes that make the difference, before and after.
	Changes []Change
	Dir     string // where the image is kept
	Count   uint64 // mutants that fail like it
}

// Summary is how far it has come.
type Summary struct {
	Runs     uint64
	Failed   uint64 // of these
	Accepted uint64 // of these: the command ended with exit code 0
	// Dropped counts failures that did not happen again when they were tried once more.
	Dropped     int
	Calibration Calibration
	Took        time.Duration
	// Codes are what checks of the mutants have met; only where Oracle asks for checks.
	Codes    []problem.Code
	Failures []*Failure
	// Known counts the mutants on which the command and the check disagree as they
	// are meant to, by kind of difference; see [Known].
	Known map[string]uint64
}

// defaults fills in what is not given.
func (r *Runner) defaults() error {
	if r.Images == nil {
		r.Images = new(Images)
	}
	if r.Jobs <= 0 {
		r.Jobs = 1
	}
	if r.Timeout <= 0 {
		r.Timeout = 5 * time.Second
	}
	if r.Memory <= 0 {
		r.Memory = 1 << 30
	}
	if r.MaxDisk == 0 {
		r.MaxDisk = 64 << 20
	}
	if len(r.Command) == 0 && !r.Oracle {
		return errors.New("there is no command to run")
	}
	if len(r.Command) > 0 && !slices.ContainsFunc(r.Command, hasPlaceholder) {
		return fmt.Errorf("no argument of the command holds %s, which stands for the image", Placeholder)
	}
	return nil
}

// session is a run of a Runner.
type session struct {
	*Runner
	names       []string
	start       time.Time
	calibration Calibration

	mu       sync.Mutex
	order    *order
	accepted uint64
	dropped  int
	done     uint64
	failed   uint64
	codes    map[problem.Code]bool
	failures map[string]*alike // by kind and detail
	known    map[string]uint64 // differences
	told     time.Time

	telling sync.Mutex // held while Progress runs
}

// Run goes on until all mutants are through or the context ends. The error is one of
// the surroundings; that the command fails is none. With an error, too, there is a
// summary if anything was run.
func (r *Runner) Run(ctx context.Context) (*Summary, error) {
	if err := r.defaults(); err != nil {
		return nil, err
	}
	names := r.Names
	if len(names) == 0 {
		var err error
		if names, err = r.Images.Names(); err != nil {
			return nil, err
		}
	}
	undo, err := r.prepare()
	if err != nil {
		return nil, err
	}
	defer undo()
	s := &session{Runner: r, names: names, start: time.Now(), codes: make(map[problem.Code]bool), failures: make(map[string]*alike), known: make(map[string]uint64)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dir, err := os.MkdirTemp("", "qcheck-fuzz-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if len(r.Command) > 0 && !r.Oracle {
		if err := s.calibrate(ctx, dir); err != nil {
			return s.summary(), err
		}
	}
	s.order = newOrder(len(s.names), r.Seed, r.Runs)
	if r.Resume {
		if err := s.resume(); err != nil {
			return s.summary(), err
		}
	}
	s.start = time.Now()
	if r.Time > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, r.Time)
		defer stop()
	}
	var workers sync.WaitGroup
	for range r.Jobs {
		workers.Go(func() {
			if err := s.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	if err := s.saveState(); err != nil {
		return s.summary(), err
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return s.summary(), err
	}
	// That the time is up is no reason not to try again what has failed.
	again, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(1+len(s.failures))*4*r.Timeout)
	defer stop()
	if err := s.confirm(again, dir); err != nil {
		return s.summary(), err
	}
	return s.summary(), nil
}

func (s *session) summary() *Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := &Summary{Runs: s.done, Failed: s.failed, Accepted: s.accepted, Dropped: s.dropped, Calibration: s.calibration, Took: time.Since(s.start), Codes: slices.Sorted(maps.Keys(s.codes)), Known: maps.Clone(s.known)}
	for _, k := range slices.Sorted(maps.Keys(s.failures)) {
		for _, f := range s.failures[k].kept {
			copied := *f
			sum.Failures = append(sum.Failures, &copied)
		}
	}
	return sum
}

// work takes mutants until there is none left.
func (s *session) work(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "qcheck-fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for ctx.Err() == nil {
		s.mu.Lock()
		seed, more := s.order.take()
		s.mu.Unlock()
		if !more {
			return nil
		}
		m, img, err := NewMutant(s.Images, s.names, seed)
		if err != nil {
			return err
		}
		c, err := s.Images.caseOf(m.Case)
		if err != nil {
			return err
		}
		fs, err := s.try(ctx, dir, c, img, true)
		if err != nil || ctx.Err() != nil {
			return err
		}
		for _, f := range fs {
			f.Mutant = m
			if err := s.take(ctx, dir, f); err != nil {
				return err
			}
		}
		s.finished(len(fs) > 0)
	}
	return nil
}

func (s *session) finished(failed bool) {
	s.mu.Lock()
	s.done++
	if failed {
		s.failed++
	}
	tell := s.Progress != nil && time.Since(s.told) > 200*time.Millisecond
	if tell {
		s.told = time.Now()
	}
	s.mu.Unlock()
	if tell && s.telling.TryLock() {
		s.Progress(*s.summary())
		s.telling.Unlock()
	}
}

// try runs the command on an image, and gives how it fails. With count the codes
// that a check of it meets are noted.
func (s *session) try(ctx context.Context, dir string, c *corpus.Case, img *corpus.Image, count bool) ([]*Failure, error) {
	var res *check.Result
	opened, err := qcow2.Open(img, img.Size())
	if err == nil && s.Oracle {
		limited, cancel := context.WithTimeout(ctx, 4*s.Timeout)
		res, err = check.Run(limited, opened, c.Options(img))
		cancel()
		if ctx.Err() != nil {
			return nil, nil
		}
		if err != nil {
			return []*Failure{{Kind: "crash", Detail: "the check itself", Said: err.Error()}}, nil
		}
	}
	if res != nil && count {
		s.mu.Lock()
		for i := range res.Findings {
			s.codes[res.Findings[i].Code] = true
		}
		s.mu.Unlock()
	}
	if !s.Oracle {
		f, err := s.run(ctx, dir, img, count)
		if f == nil || err != nil {
			return nil, outside(ctx, err)
		}
		return []*Failure{f}, nil
	}
	if res == nil {
		return nil, nil
	}
	return s.differ(ctx, dir, c, img, opened, res, count)
}

// differ compares a check with the command. With count the known differences are
// counted.
func (s *session) differ(ctx context.Context, dir string, c *corpus.Case, img *corpus.Image, opened *qcow2.Image, res *check.Result, count bool) ([]*Failure, error) {
	var said *Said
	if len(s.Command) == 0 {
		q := &QEMU{Dir: filepath.Join(dir, "images"), Timeout: s.Timeout, Memory: s.Memory}
		var err error
		for program, path := range map[string]*string{"qemu-img": &q.Img, "qemu-io": &q.IO} {
			if *path, err = exec.LookPath(program); err != nil {
				return nil, err
			}
		}
		if said, err = q.Ask(ctx, c, img); errors.Is(err, ErrNotAsked) {
			return nil, nil
		} else if err != nil {
			return nil, outside(ctx, err)
		}
	} else {
		f, ran, err := s.execute(ctx, dir, img, nil)
		if err != nil {
			return nil, outside(ctx, err)
		}
		if f != nil {
			return []*Failure{f}, nil
		}
		said = &Said{RC: ran.rc, Stderr: ran.said}
	}
	var fs []*Failure
	for _, d := range Compare(opened, res, said) {
		switch {
		case Known()[d.Key] == "":
			fs = append(fs, &Failure{Kind: "difference", Detail: d.Key, Said: d.Text})
		case count:
			s.mu.Lock()
			s.known[d.Key]++
			s.mu.Unlock()
		}
	}
	return fs, nil
}

// outside gives an error unless it only says that the context has ended.
func outside(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
