package fuzz

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Kept is a failure as it is stored: the mutant, and what was run on it.
type Kept struct {
	Mutant
	Failure string   `json:"failure"` // kind and detail
	Command []string `json:"command,omitempty"`
	Oracle  bool     `json:"oracle,omitempty"`
	// Folder is where the image is from, if not of the corpus.
	Folder  string        `json:"folder,omitempty"`
	Timeout time.Duration `json:"timeout"` // nanoseconds
	Memory  int64         `json:"memory"`  // bytes
}

// The files of a failure, beside its image.
const (
	mutantName = "mutant.json"
	wordsName  = "what.txt"
	seedsName  = "seeds.txt"
)

// folder is where a failure is kept: the same one whenever it is met.
func (f *Failure) folder(out string) string {
	h := fnv.New32a()
	h.Write([]byte(f.Kind + f.Detail + f.Where))
	return filepath.Join(out, fmt.Sprintf("%s-%08x", f.Kind, h.Sum32()))
}

// save keeps the failure's image in a folder of its own below Out, with what made it.
func (r *Runner) save(f *Failure) error {
	dir := f.folder(r.Out)
	_, img, err := f.Mutant.Build(r.Images)
	if err != nil {
		return err
	}
	if err := img.WriteFiles(dir, imageName); err != nil {
		return err
	}
	k := Kept{Mutant: *f.Mutant, Failure: f.Kind + ": " + f.Detail, Command: r.Command, Oracle: r.Oracle, Timeout: r.Timeout, Memory: r.Memory}
	if r.Images.Folder != "" {
		if k.Folder, err = filepath.Abs(r.Images.Folder); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(&k, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, mutantName), append(text, '\n'), 0o666); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", f.Kind, f.Detail)
	if len(r.Command) > 0 {
		fmt.Fprintf(&b, "command: %s\n", strings.Join(r.Command, " "))
	}
	fmt.Fprintf(&b, "image: %s, seed %d\n", f.Mutant.Case, f.Mutant.Seed)
	if len(f.Mutant.Mutations) == 0 {
		fmt.Fprintln(&b, "  as it is")
	}
	for i := range f.Mutant.Mutations {
		fmt.Fprintf(&b, "  %d. %s\n", i+1, f.Mutant.Mutations[i].Text)
	}
	fmt.Fprintf(&b, "\n%s\n", f.Said)
	if err := os.WriteFile(filepath.Join(dir, wordsName), []byte(b.String()), 0o666); err != nil {
		return err
	}
	f.Dir = dir
	return os.WriteFile(filepath.Join(dir, seedsName), fmt.Appendf(nil, "%d\n", f.Mutant.Seed), 0o666)
}

// noteSeed adds a mutant that fails like one that is kept.
func (f *Failure) noteSeed(seed uint64) error {
	if f.Dir == "" {
		return nil
	}
	list, err := os.OpenFile(filepath.Join(f.Dir, seedsName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(list, seed)
	if closed := list.Close(); err == nil {
		err = closed
	}
	return err
}

// prepare makes Out, so that what cannot be written there is known before anything
// runs; undo takes it away if it was not there and nothing has come into it.
func (r *Runner) prepare() (undo func(), err error) {
	if r.Out == "" {
		return func() {}, nil
	}
	_, err = os.Stat(r.Out)
	made := os.IsNotExist(err)
	if err := os.MkdirAll(r.Out, 0o777); err != nil {
		return nil, err
	}
	undo = func() {
		if made {
			os.Remove(r.Out) // fails where there is something in it
		}
	}
	probe, err := os.MkdirTemp(r.Out, "")
	if err == nil {
		err = os.Remove(probe)
	}
	if err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// Load reads a failure that was kept: its mutant.json.
func Load(path string) (*Kept, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k := new(Kept)
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// Replay runs the command once on a mutant, and gives how it fails: nothing where it
// does not. What the Runner does not say is as it was when the failure was kept, the
// command included.
func (r *Runner) Replay(ctx context.Context, k *Kept) ([]*Failure, error) {
	if len(r.Command) == 0 && !r.Oracle {
		r.Command, r.Oracle = k.Command, k.Oracle
	}
	if r.Images == nil {
		r.Images = &Images{Folder: k.Folder}
	}
	if r.Timeout <= 0 {
		r.Timeout = k.Timeout
	}
	if r.Memory <= 0 {
		r.Memory = k.Memory
	}
	if err := r.defaults(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "qcheck-fuzz-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, img, err := k.Mutant.Build(r.Images)
	if err != nil {
		return nil, err
	}
	s := &session{Runner: r}
	fs, err := s.try(ctx, dir, c, img, false)
	for _, f := range fs {
		f.Mutant, f.Count = &k.Mutant, 1
	}
	return fs, err
}
