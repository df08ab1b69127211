package fuzz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz/internal/process"
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
func (s *session) execute(ctx context.Context, dir string, img *corpus.Image, out io.Writer) (*Failure, ran, error) {
	dir = filepath.Join(dir, "images")
	if err := os.RemoveAll(dir); err != nil {
		return nil, ran{}, err
	}
	if err := img.WriteFiles(dir, imageName); err != nil {
		return nil, ran{}, err
	}
	return runOn(ctx, s.Command, filepath.Join(dir, imageName), s.Timeout, s.Memory, out)
}

// run runs the command on an image, and compares what it writes where that is asked for.
// With count it is noted whether it accepts the image.
func (s *session) run(ctx context.Context, dir string, img *corpus.Image, count bool) (*Failure, error) {
	if s.Guest == GuestNone {
		f, ran, err := s.execute(ctx, dir, img, nil)
		s.accept(f, ran, err, count)
		return f, err
	}
	// The reference may need the files, which execute writes.
	images := filepath.Join(dir, "images")
	if err := errors.Join(os.RemoveAll(images), img.WriteFiles(images, imageName)); err != nil {
		return nil, err
	}
	ref, size, err := s.reference(ctx, dir, img)
	if err != nil {
		return nil, err
	}
	if c, ok := ref.(io.Closer); ok {
		defer c.Close()
	}
	if ref == nil {
		f, ran, err := s.execute(ctx, dir, img, nil)
		s.accept(f, ran, err, count)
		return f, err
	}
	out := newAgainst(ref, size)
	f, ran, err := s.execute(ctx, dir, img, out)
	s.accept(f, ran, err, count)
	if f == nil && err == nil && ran.rc == 0 {
		f = out.failure(img)
	}
	return f, err
}

// accept notes that the command has ended with exit code 0.
func (s *session) accept(f *Failure, r ran, err error, count bool) {
	if count && f == nil && err == nil && r.rc == 0 {
		s.mu.Lock()
		s.accepted++
		s.mu.Unlock()
	}
}

// runOn runs a command on the image at path.
func runOn(ctx context.Context, command []string, path string, timeout time.Duration, memory int64, out io.Writer) (*Failure, ran, error) {
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, Placeholder, path)
	}
	said := &process.Tail{}
	p := process.Process{Args: args, Stdout: out, Stderr: said, Timeout: timeout, Memory: memory}
	e, err := p.Run(ctx)
	if err != nil {
		return nil, ran{}, err
	}
	kind, detail := e.Fault(said, timeout, memory)
	if kind == "" {
		return nil, ran{rc: e.RC, said: said.String()}, nil
	}
	f := &Failure{Kind: kind, Detail: detail, Said: said.String(), Located: kind == "crash" && said.Stack() != ""}
	if e.Memory > 0 {
		f.Said = fmt.Sprintf("%d MiB\n%s", e.Memory>>20, said)
	}
	return f, ran{}, nil
}
