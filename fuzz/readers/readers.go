// Package readers runs a program that reads qcow2 images over the corpus, and compares
// what it reads with what is right.
//
//	corpus case ─build─▶ files ─▶ READER image ─▶ standard output ─digests─▶ Outcome
//
// The reader writes the whole virtual disk to its standard output, or, where its
// command has [OffsetPlaceholder] and [LengthPlaceholder], a part of it. What is right
// is what the guest of a sound image sees, and what QEMU reads of a damaged one.
//
// Threat model: the reader may crash, hang, take all memory, and write without end. It
// is not kept from anything else.
package readers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz/internal/process"
	"github.com/qcheck/qcheck/qcow2"
)

// What stands for something else in a command.
const (
	Placeholder       = "{}"       // the image's path
	OffsetPlaceholder = "{offset}" // of the part of the disk that is asked for, in bytes
	LengthPlaceholder = "{length}" // likewise
	SecretPlaceholder = "{secret}" // the passphrase of the encrypted images
)

// Runner runs a reader over the corpus. The zero value but for Command is right.
type Runner struct {
	// Command is the program and its arguments; one of them holds [Placeholder].
	Command []string
	// Pattern chooses the cases, see [corpus.Select]. The default is all.
	Pattern string
	// MaxDisk leaves out larger virtual disks, in bytes. The default is 64 MiB, and no
	// limit where the command asks for parts.
	MaxDisk uint64
	// Unsupported are features, of those that [corpus.Made] names, that the reader says
	// it does not know: it must refuse sound images with them. The default is none.
	Unsupported []string
	// Jobs is how many run at once. The default is the number of processors.
	Jobs int
	// Timeout is what a run may take. The default is 10 seconds.
	Timeout time.Duration
	// Memory is what a process of a run may take, in bytes. The default is 1 GiB.
	Memory int64
	// Progress is told how many images of how many are done, from one goroutine at a
	// time. The default is nil.
	Progress func(done, of int)
}

// Outcome is what came of a reader on an image.
type Outcome string

// The outcomes.
const (
	// Right: what it read is right; or it refused what QEMU refuses.
	Right Outcome = "right"
	// Wrong: it said that all is well, and what it read is not right.
	Wrong Outcome = "wrong"
	// Refused: it gave an error where QEMU reads the image, or an image of the oldest
	// and plainest features.
	Refused Outcome = "refused"
	// Unsupported: it refused a sound image with a feature that readers may do without.
	Unsupported Outcome = "unsupported"
	// Accepted: it read an image that QEMU refuses, of which nothing tells what is right.
	Accepted Outcome = "accepted"
	Crash    Outcome = "crash"
	Hang     Outcome = "hang"
	Memory   Outcome = "memory"
)

// Outcomes are all of them, in the order of the table.
var Outcomes = []Outcome{Right, Wrong, Refused, Unsupported, Accepted, Crash, Hang, Memory}

// Fault tells whether it is one that the reader's author must mend.
func (o Outcome) Fault() bool { return o == Wrong || o == Crash || o == Hang || o == Memory }

// Result is what came of one image.
type Result struct {
	Name    string  `json:"name"` // of the case
	Outcome Outcome `json:"outcome"`
	// Detail says what is wrong, or what the reader said; empty where it is right.
	Detail   string   `json:"detail,omitempty"`
	Group    string   `json:"group"` // "sound", "damaged", or "refused by QEMU"
	Features []string `json:"features"`
}

// Report is what came of all.
type Report struct {
	Command []string `json:"command"`
	Results []Result `json:"results"`
	// LeftOut counts the images whose disk is too large.
	LeftOut int `json:"left-out"`
}

// Count counts the results of an outcome.
func (r *Report) Count(o Outcome) int {
	n := 0
	for i := range r.Results {
		if r.Results[i].Outcome == o {
			n++
		}
	}
	return n
}

// Faults counts the results that are faults of the reader.
func (r *Report) Faults() int {
	return r.Count(Wrong) + r.Count(Crash) + r.Count(Hang) + r.Count(Memory)
}

// ErrReadsNothing is the error of a reader that reads no sound image right: it is
// likely that the command is wrong, and that nothing was tried.
var ErrReadsNothing = errors.New("the command reads no sound image right")

// ErrNoImage is the error of a choice that leaves no image.
var ErrNoImage = errors.New("no image is chosen")

// optional are the features that a reader may do without.
var optional = []string{"zlib", "zstd", "extended-l2", "data-file", "raw-data-file", "backing-file", "luks", "aes", "dirty", "corrupt"}

func (r *Runner) parts() bool {
	return slices.ContainsFunc(r.Command, func(a string) bool { return strings.Contains(a, OffsetPlaceholder) })
}

func (r *Runner) defaults() error {
	if !slices.ContainsFunc(r.Command, func(a string) bool { return strings.Contains(a, Placeholder) }) {
		return fmt.Errorf("no argument of the command holds %s, which stands for the image", Placeholder)
	}
	if r.MaxDisk == 0 && !r.parts() {
		r.MaxDisk = 64 << 20
	}
	if r.Jobs <= 0 {
		r.Jobs = runtime.GOMAXPROCS(0)
	}
	if r.Timeout <= 0 {
		r.Timeout = 10 * time.Second
	}
	if r.Memory <= 0 {
		r.Memory = 1 << 30
	}
	return nil
}

// Run runs the reader on each image. The error is one of the surroundings, or
// [ErrReadsNothing] with a report.
func (r *Runner) Run(ctx context.Context) (*Report, error) {
	if err := r.defaults(); err != nil {
		return nil, err
	}
	cases, err := corpus.Select(r.Pattern)
	if err != nil {
		return nil, err
	}
	cases = slices.DeleteFunc(cases, func(c corpus.Case) bool { return c.Huge || len(c.Unreadable) > 0 || c.MemoryLimit > 0 })
	if len(cases) == 0 {
		return nil, ErrNoImage
	}
	results := make([]Result, len(cases))
	var mu sync.Mutex
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Jobs)
	for i := range cases {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			res, err := r.one(ctx, &cases[i])
			if err != nil {
				return err
			}
			results[i] = res
			if r.Progress != nil {
				mu.Lock()
				defer mu.Unlock()
				done++
				r.Progress(done, len(cases))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	report := &Report{Command: r.Command, Results: slices.DeleteFunc(results, func(x Result) bool { return x.Name == "" })}
	report.LeftOut = len(cases) - len(report.Results)
	if len(report.Results) == 0 {
		return nil, ErrNoImage
	}
	sound := slices.ContainsFunc(report.Results, func(x Result) bool { return x.Group == "sound" })
	if sound && !slices.ContainsFunc(report.Results, func(x Result) bool { return x.Group == "sound" && x.Outcome == Right }) {
		return report, ErrReadsNothing
	}
	return report, nil
}

// one runs the reader on a case's image; a result without a name is of one that is
// left out.
func (r *Runner) one(ctx context.Context, c *corpus.Case) (Result, error) {
	img, err := c.Build()
	if err != nil {
		return Result{}, err
	}
	if r.MaxDisk > 0 && img.DiskSize() > r.MaxDisk {
		return Result{}, nil
	}
	dir, err := os.MkdirTemp("", "qcheck-corpus-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	if err := img.WriteFiles(dir, c.Filename()); err != nil {
		return Result{}, err
	}
	want, known := c.QEMURead(img)
	res := Result{Name: c.Name, Features: c.Entry().Made.Features, Group: "damaged"}
	switch {
	case c.Healthy():
		// Of a disk that is not even whole sectors readers may well give whole ones.
		want, res.Group = img.GuestRead(), "sound"
		known = want.Size%qcow2.SectorSize == 0
	case c.QEMU.Checked && c.QEMU.ReadOnly != check.OpenOK:
		res.Group = "refused by QEMU"
	}
	path := filepath.Join(dir, c.Filename())
	if r.parts() && known {
		err = r.byParts(ctx, path, want, &res)
	} else {
		err = r.whole(ctx, path, want, known, img.DiskSize(), &res)
	}
	if res.Outcome == Refused {
		r.excuse(&res)
	}
	return res, err
}

// excuse says of a refused image whether that is as it should be.
func (r *Runner) excuse(res *Result) {
	switch {
	case res.Group == "refused by QEMU":
		res.Outcome, res.Detail = Right, ""
	case res.Group == "sound" && slices.ContainsFunc(res.Features, func(f string) bool {
		return slices.Contains(optional, f) || slices.Contains(r.Unsupported, f)
	}):
		res.Outcome = Unsupported
	}
}

// whole has the reader write the whole disk.
func (r *Runner) whole(ctx context.Context, path string, want corpus.DiskRead, known bool, size uint64, res *Result) error {
	c := newComparison(want)
	c.most = max(want.Size, size) + 1<<20
	bad, err := r.execute(ctx, path, "", "", c, res)
	if err != nil || bad {
		return err
	}
	if !known {
		res.Outcome = Accepted
		return nil
	}
	res.Outcome, res.Detail = c.outcome()
	return nil
}

// byParts has the reader write the parts of which it is known what they hold.
func (r *Runner) byParts(ctx context.Context, path string, want corpus.DiskRead, res *Result) error {
	samples := want.Samples
	if want.SHA256 != "" && want.Size > 0 {
		samples = []corpus.Sample{{ByteRange: corpus.ByteRange{Length: want.Size}, SHA256: want.SHA256}}
	}
	res.Outcome = Right
	for _, s := range samples {
		c := newComparison(corpus.DiskRead{Size: s.Length, SHA256: s.SHA256})
		c.most = s.Length + 1<<20
		bad, err := r.execute(ctx, path, fmt.Sprint(s.Offset), fmt.Sprint(s.Length), c, res)
		if err != nil || bad {
			return err
		}
		if o, detail := c.outcome(); o != Right {
			res.Outcome, res.Detail = o, fmt.Sprintf("at %#x: %s", s.Offset, detail)
			return nil
		}
	}
	for _, x := range want.Unreadable {
		c := newComparison(corpus.DiskRead{})
		c.most = x.Length + 1<<20
		var tried Result
		if bad, err := r.execute(ctx, path, fmt.Sprint(x.Offset), fmt.Sprint(x.Length), c, &tried); err != nil {
			return err
		} else if bad && tried.Outcome != Refused {
			res.Outcome, res.Detail = tried.Outcome, tried.Detail
			return nil
		} else if !bad {
			res.Outcome, res.Detail = Wrong, madeUp(x)
			return nil
		}
	}
	return nil
}

func madeUp(x corpus.ByteRange) string {
	return fmt.Sprintf("gives %d bytes at %#x, where nothing can be read", x.Length, x.Offset)
}

// execute runs the reader once. bad tells that it did not end well; res then says how.
func (r *Runner) execute(ctx context.Context, path, offset, length string, out *comparison, res *Result) (bad bool, err error) {
	replace := strings.NewReplacer(Placeholder, path, OffsetPlaceholder, offset, LengthPlaceholder, length, SecretPlaceholder, corpus.Secret)
	args := make([]string, len(r.Command))
	for i, a := range r.Command {
		args[i] = replace.Replace(a)
	}
	said := &process.Tail{}
	p := process.Process{Args: args, Stdout: out, Stderr: said, Timeout: r.Timeout, Memory: r.Memory}
	e, err := p.Run(ctx)
	if err != nil {
		return true, err
	}
	if out.over {
		return false, nil // it was stopped for that; the comparison tells
	}
	kind, detail := e.Fault(said, r.Timeout, r.Memory)
	switch {
	case kind != "":
		res.Outcome, res.Detail = Outcome(kind), detail
		return true, nil
	case e.RC != 0:
		res.Outcome, res.Detail = Refused, strings.TrimSpace(fmt.Sprintf("exit code %d %s", e.RC, said.LastLine()))
		return true, nil
	}
	return false, nil
}
