package fuzz

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/qcheck/qcheck/corpus"
)

func hasPlaceholder(arg string) bool { return strings.Contains(arg, Placeholder) }

// imageName is the name of the mutant's file in a folder of its own.
const imageName = "image.qcow2"

// ran is what came of a run that ended by itself.
type ran struct {
	rc   int
	said string // the end of its standard error
}

// execute runs the command on an image; the failure is nil where it ends as a
// program ends, whatever its exit code.
func (s *session) execute(ctx context.Context, dir string, img *corpus.Image) (*Failure, ran, error) {
	dir = filepath.Join(dir, "images")
	if err := os.RemoveAll(dir); err != nil {
		return nil, ran{}, err
	}
	if err := img.WriteFiles(dir, imageName); err != nil {
		return nil, ran{}, err
	}
	return runOn(ctx, s.Command, filepath.Join(dir, imageName), s.Timeout, s.Memory)
}

// runOn runs a command on the image at path.
func runOn(ctx context.Context, command []string, path string, timeout time.Duration, memory int64) (*Failure, ran, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, Placeholder, path)
	}
	cmd := exec.CommandContext(limited, args[0], args[1:]...)
	cmd.WaitDelay = time.Second // for children that keep the pipe open
	said := &tail{}
	cmd.Stderr = said
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ran{}, nil
	}
	if limited.Err() != nil {
		return &Failure{Kind: "hang", Detail: fmt.Sprintf("longer than %v", timeout), Said: said.String()}, ran{}, nil
	}
	exit, exited := errors.AsType[*exec.ExitError](err)
	if err != nil && !exited && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, ran{}, err // it could not even be started
	}
	rc := cmd.ProcessState.ExitCode()
	signal := 0
	if exited {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			signal = int(status.Signal())
		}
	}
	if signal == 0 && rc > 128 && rc < 160 {
		signal = rc - 128 // as a shell tells it
	}
	complaint := said.complaint()
	switch {
	case signal != 0:
		return &Failure{Kind: "crash", Detail: strings.TrimSpace(fmt.Sprintf("signal %d %s", signal, complaint)), Said: said.String()}, ran{}, nil
	case complaint != "":
		return &Failure{Kind: "crash", Detail: complaint, Said: said.String()}, ran{}, nil
	}
	if most := peakMemory(cmd.ProcessState); most > memory {
		return &Failure{Kind: "memory", Detail: fmt.Sprintf("more than %d MiB", memory>>20), Said: fmt.Sprintf("%d MiB\n%s", most>>20, said)}, ran{}, nil
	}
	return nil, ran{rc: rc, said: said.String()}, nil
}

// tail keeps the start and the end of what is written to it.
type tail struct{ head, rest bytes.Buffer }

const tailBytes = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if room := tailBytes - t.head.Len(); room > 0 {
		k := min(room, len(p))
		t.head.Write(p[:k])
		p = p[k:]
	}
	t.rest.Write(p)
	if over := t.rest.Len() - tailBytes; over > 0 {
		t.rest.Next(over)
	}
	return n, nil
}

func (t *tail) String() string { return t.head.String() + t.rest.String() }

// What sanitizers and runtimes say when a program goes wrong in a way that no input
// should be able to bring about.
var (
	complaints = regexp.MustCompile(`(?m)^.*(ERROR: \w*Sanitizer|WARNING: \w*Sanitizer|runtime error:|^panic: |^fatal error: |' panicked at |Assertion .* failed|terminate called after).*$`)
	numbers    = regexp.MustCompile(`0x[0-9a-fA-F]+|[0-9]+`)
)

// complaint gives such a line, without the numbers, which differ from run to run.
func (t *tail) complaint() string {
	line := strings.TrimSpace(complaints.FindString(t.String()))
	line = numbers.ReplaceAllString(line, "N")
	return line[:min(len(line), 160)]
}

// save keeps the failure's image in a folder of its own below out, with what made it.
func (f *Failure) save(images *Images, out string, command []string) error {
	h := fnv.New32a()
	h.Write([]byte(f.Kind + f.Detail))
	dir := filepath.Join(out, fmt.Sprintf("%s-%08x", f.Kind, h.Sum32()))
	_, img, err := f.Mutant.Build(images)
	if err != nil {
		return err
	}
	if err := img.WriteFiles(dir, imageName); err != nil {
		return err
	}
	text, err := json.MarshalIndent(f.Mutant, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "mutant.json"), append(text, '\n'), 0o666); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\ncommand: %s\nimage: %s, seed %d\n", f.Kind, f.Detail, strings.Join(command, " "), f.Mutant.Case, f.Mutant.Seed)
	for i := range f.Mutant.Mutations {
		fmt.Fprintf(&b, "  %d. %s\n", i+1, f.Mutant.Mutations[i].Text)
	}
	fmt.Fprintf(&b, "\n%s\n", f.Said)
	f.Dir = dir
	return os.WriteFile(filepath.Join(dir, "what.txt"), []byte(b.String()), 0o666)
}

// LoadMutant reads a mutant that was kept.
func LoadMutant(path string) (*Mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := new(Mutant)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Replay runs the command once on a mutant, and gives how it fails: nothing where it
// does not.
func (r *Runner) Replay(ctx context.Context, m *Mutant) ([]*Failure, error) {
	if err := r.defaults(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "qcheck-fuzz-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, img, err := m.Build(r.Images)
	if err != nil {
		return nil, err
	}
	s := &session{Runner: r}
	fs, err := s.try(ctx, dir, c, img, false)
	for _, f := range fs {
		f.Mutant, f.Count = m, 1
	}
	return fs, err
}
