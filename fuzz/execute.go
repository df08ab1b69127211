package fuzz

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/qcheck/qcheck/corpus"
)

func hasPlaceholder(arg string) bool { return strings.Contains(arg, Placeholder) }

// imageName is the name of the mutant's file in a folder of its own.
const imageName = "image.qcow2"

// ran is what came of a run that ended by itself.
type ran struct {
	rc   int
	said string // the start and the end of its standard error
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
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, Placeholder, path)
	}
	said := &tail{}
	p := process{args: args, stderr: said, timeout: timeout, memory: memory}
	e, err := p.run(ctx)
	if err != nil {
		return nil, ran{}, err
	}
	signal := e.signal
	if signal == 0 && e.rc > 128 && e.rc < 160 {
		signal = e.rc - 128 // as a shell tells it
	}
	complaint := said.complaint()
	f := &Failure{Said: said.String()}
	switch {
	case e.overtime:
		f.Kind, f.Detail = "hang", fmt.Sprintf("longer than %v", timeout)
	case e.memory > 0:
		f.Kind, f.Detail = "memory", fmt.Sprintf("more than %d MiB", memory>>20)
		f.Said = fmt.Sprintf("%d MiB\n%s", e.memory>>20, said)
	case signal != 0:
		f.Kind, f.Detail = "crash", strings.TrimSpace(fmt.Sprintf("signal %d %s", signal, complaint))
	case complaint != "":
		f.Kind, f.Detail = "crash", complaint
	default:
		return nil, ran{rc: e.rc, said: said.String()}, nil
	}
	return f, ran{}, nil
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
