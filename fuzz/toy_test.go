package fuzz_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/fuzz"
)

// toyFolder holds the toy parser.
var toyFolder string

func TestMain(m *testing.M) {
	code := m.Run()
	if toyFolder != "" {
		os.RemoveAll(toyFolder)
	}
	os.Exit(code)
}

// buildToy builds the toy parser, without the race detector: it is run hundreds of
// times.
var buildToy = sync.OnceValues(func() (string, error) {
	var err error
	if toyFolder, err = os.MkdirTemp("", "qcheck-toy-"); err != nil {
		return "", err
	}
	path := filepath.Join(toyFolder, "toy")
	out, err := exec.Command("go", "build", "-o", path, "./testdata/toy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// toyRunner runs the toy parser, with the faults that how stands for.
func toyRunner(t *testing.T, how string) *fuzz.Runner {
	t.Helper()
	toy, err := buildToy()
	require.NoError(t, err)
	return &fuzz.Runner{Command: []string{toy, how, fuzz.Placeholder}, Images: &images, Jobs: 2, Out: t.TempDir(), Timeout: 20 * time.Second}
}

// A parser that is broken on purpose is caught, and what it takes is one mutation.
func TestToyIsCaught(t *testing.T) {
	for _, test := range []struct {
		how   string
		wants []string // the least mutations, or the places in the program
	}{
		{"fragile", []string{"main.toy main.go:61"}},
		{"sanitized", []string{"header field l1_size"}},
		{"fragile twice", []string{"main.toy main.go:61", "main.toy main.go:63"}},
	} {
		t.Run(test.how, func(t *testing.T) {
			if testing.Short() && len(test.wants) == 1 {
				t.Skip("the one with two faults is enough")
			}
			r := toyRunner(t, test.how)
			r.Seed, r.Runs = 1, 5000 // a hundred or two will do
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r.Progress = func(sum fuzz.Summary) {
				met := func(where string) bool {
					return slices.ContainsFunc(sum.Failures, func(f *fuzz.Failure) bool { return place(f) == where })
				}
				if !slices.ContainsFunc(test.wants, func(where string) bool { return !met(where) }) {
					cancel()
				}
			}
			sum, err := r.Run(ctx)
			require.NoError(t, err)
			assert.Less(t, sum.Runs, r.Runs)
			assert.Positive(t, sum.Calibration.Accepted)
			var wheres []string
			counted := uint64(0)
			for _, f := range sum.Failures {
				assert.Equal(t, "crash", f.Kind)
				counted += f.Count
				verifyKept(t, r, f)
				if f.Located {
					wheres = append(wheres, place(f))
					assert.Len(t, sum.Failures, len(test.wants), "one fault is one failure")
					continue
				}
				if len(f.Mutant.Mutations) == 0 { // the image alone is enough
					assert.Equal(t, path.Dir(f.Mutant.Case), f.Where)
					continue
				}
				wheres = append(wheres, f.Where)
				if !slices.Contains(test.wants, f.Where) {
					continue // the end came while it was minimised
				}
				assert.Len(t, f.Mutant.Mutations, 1, "%s: %s", f.Detail, f.Mutant)
				assert.Len(t, f.Mutant.Mutations[0].Bytes, 1, "one byte is enough")
			}
			assert.Subset(t, wheres, test.wants)
			assert.Equal(t, sum.Failed, counted)
		})
	}
}

// place is where the fault is: in the program, or in the image.
func place(f *fuzz.Failure) string {
	if _, at, ok := strings.Cut(f.Detail, " in "); ok && f.Located {
		return at
	}
	return f.Where
}

// verifyKept asserts that a failure is kept with all that it takes to see it again.
func verifyKept(t *testing.T, r *fuzz.Runner, f *fuzz.Failure) {
	t.Helper()
	k, err := fuzz.Load(filepath.Join(f.Dir, "mutant.json"))
	require.NoError(t, err)
	assert.Equal(t, *f.Mutant, k.Mutant)
	again, err := new(fuzz.Runner).Replay(t.Context(), k) // the command is kept as well
	require.NoError(t, err)
	require.Len(t, again, 1)
	assert.Equal(t, f.Kind, again[0].Kind)
	assert.Equal(t, f.Detail, again[0].Detail)

	_, img, err := f.Mutant.Build(r.Images)
	require.NoError(t, err)
	kept, err := os.ReadFile(filepath.Join(f.Dir, "image.qcow2"))
	require.NoError(t, err)
	want := make([]byte, img.Size())
	_, err = img.ReadAt(want, 0)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, kept))

	words, err := os.ReadFile(filepath.Join(f.Dir, "what.txt"))
	require.NoError(t, err)
	for _, m := range f.Mutant.Mutations {
		assert.Contains(t, string(words), m.Text)
	}
	seeds, err := os.ReadFile(filepath.Join(f.Dir, "seeds.txt"))
	require.NoError(t, err)
	lines := strings.Fields(string(seeds))
	require.Len(t, lines, int(f.Count))
	for _, line := range lines {
		seed, err := strconv.ParseUint(line, 10, 64)
		require.NoError(t, err)
		_, img, err := fuzz.NewMutant(r.Images, fuzz.Cases(), seed)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "image.qcow2")
		require.NoError(t, img.WriteFiles(filepath.Dir(path), filepath.Base(path)))
		err = exec.Command(r.Command[0], r.Command[1], path).Run()
		assert.Error(t, err, "seed %d is told to fail", seed)
	}
}

// manySnapshots is what makes the toy hang, or take memory.
var manySnapshots = fuzz.Kept{Mutant: fuzz.Mutant{Case: "healthy/empty", Mutations: []fuzz.Mutation{{Op: fuzz.OpWrite, At: 60, Bytes: []byte{0xff}, Text: "nb_snapshots"}}}}

// A run that does not end is ended, and what it has started as well.
func TestToyHangs(t *testing.T) {
	for _, how := range []string{"slow", "slow child"} {
		r := toyRunner(t, how)
		r.Timeout = 2 * time.Second
		start := time.Now()
		fs, err := r.Replay(t.Context(), &manySnapshots)
		require.NoError(t, err)
		require.Len(t, fs, 1, how)
		assert.Equal(t, "hang", fs[0].Kind, how)
		assert.Less(t, time.Since(start), 30*time.Second, how)
	}
}

// A run that takes too much memory is ended, long before its time is up.
func TestToyTakesMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere memory is looked at when a run has ended")
	}
	for _, how := range []string{"greedy", "greedy child"} {
		r := toyRunner(t, how)
		r.Timeout, r.Memory = 50*time.Second, 128<<20
		start := time.Now()
		fs, err := r.Replay(t.Context(), &manySnapshots)
		require.NoError(t, err)
		require.Len(t, fs, 1, how)
		assert.Equal(t, "memory", fs[0].Kind, how)
		assert.Less(t, time.Since(start), 25*time.Second, how)
	}
}

// The memory of the fuzzer itself is not held against what it runs.
func TestMemoryOfTheFuzzer(t *testing.T) {
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = 1
	}
	r := toyRunner(t, "verdict")
	r.Memory = 48 << 20
	fs, err := r.Replay(t.Context(), &manySnapshots)
	require.NoError(t, err)
	assert.Empty(t, fs)
	runtime.KeepAlive(held)
}

// A parser that finds everything sound is told what it misses, each kind once.
func TestToyIsCompared(t *testing.T) {
	r := toyRunner(t, "verdict")
	r.Seed, r.Runs, r.Oracle = 1, 60, true
	sum, err := r.Run(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, sum.Failures)
	seen := make(map[string]bool)
	for _, f := range sum.Failures {
		assert.Equal(t, "difference", f.Kind)
		assert.False(t, seen[f.Detail], f.Detail)
		seen[f.Detail] = true
		assert.DirExists(t, f.Dir)
		assert.Empty(t, fuzz.Known()[f.Detail])
	}
}

// What fails when the time is up is kept as far as it is minimised.
func TestToyIsInterrupted(t *testing.T) {
	r := toyRunner(t, "stuck")
	r.Timeout, r.Jobs, r.Runs = time.Second, 1, 1
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Not of sound images, on which it is tried first.
	var err error
	r.Names, err = fuzz.Select("mapping", 0)
	require.NoError(t, err)
	for ; ; r.Seed++ { // to try each of its mutations takes longer than there is time
		m, _, err := fuzz.NewMutant(&images, r.Names, r.Seed)
		require.NoError(t, err)
		if len(m.Mutations) == 6 {
			break
		}
	}
	time.AfterFunc(3500*time.Millisecond, cancel)
	sum, err := r.Run(ctx)
	require.NoError(t, err)
	require.Len(t, sum.Failures, 1)
	f := sum.Failures[0]
	assert.Equal(t, "hang", f.Kind)
	assert.NotEmpty(t, f.Mutant.Mutations)
	k, err := fuzz.Load(filepath.Join(f.Dir, "mutant.json"))
	require.NoError(t, err)
	assert.Equal(t, *f.Mutant, k.Mutant)
}

// A command that takes everything is run on every mutant, several at once.
func TestRunnerGoesOn(t *testing.T) {
	nothing, err := exec.LookPath("true")
	if err != nil {
		t.Skip("there is no program that does nothing")
	}
	told := 0
	r := &fuzz.Runner{Command: []string{nothing, fuzz.Placeholder}, Runs: 60, Jobs: 4, Images: new(fuzz.Images), Progress: func(fuzz.Summary) { told++ }}
	sum, err := r.Run(context.Background())
	require.NoError(t, err)
	assert.EqualValues(t, 60, sum.Runs)
	assert.Empty(t, sum.Failures)
	assert.EqualValues(t, 60, sum.Accepted)
	assert.Equal(t, 48, sum.Calibration.Accepted)
	assert.Empty(t, sum.Codes, "nobody asked for a check")
	assert.Positive(t, told)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	sum, err = r.Run(ctx)
	require.NoError(t, err)
	assert.Zero(t, sum.Runs)
}

// What is no command, or ends with any exit code, is no failure.
func TestRunnerUsage(t *testing.T) {
	_, err := (&fuzz.Runner{}).Run(context.Background())
	assert.Error(t, err)
	_, err = (&fuzz.Runner{Command: []string{"true"}}).Run(context.Background())
	assert.Error(t, err, "nothing stands for the image")
	_, err = (&fuzz.Runner{Command: []string{"/nowhere/at-all", "{}"}, Runs: 1}).Run(context.Background())
	assert.Error(t, err)
	_, err = (&fuzz.Runner{Command: []string{"x", "{}"}, Images: &fuzz.Images{Folder: t.TempDir()}, Runs: 1}).Run(context.Background())
	assert.Error(t, err, "an empty folder")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	sum, err := (&fuzz.Runner{Command: []string{"true", "{}"}, Out: file, Runs: 1}).Run(context.Background())
	assert.Error(t, err, "failures could not be kept")
	assert.Nil(t, sum)
}

// Images of a folder are mutated as well.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	_, img, err := images.Build("healthy/empty")
	require.NoError(t, err)
	require.NoError(t, img.WriteFiles(dir, "mine.qcow2"))
	own := &fuzz.Images{Folder: dir}
	names, err := own.Names()
	require.NoError(t, err)
	require.Equal(t, []string{"mine.qcow2"}, names)
	codes := make(map[problem.Code]bool)
	for seed := range uint64(60) {
		m, img, err := fuzz.NewMutant(own, names, seed)
		require.NoError(t, err)
		c, _, err := own.Build(m.Case)
		require.NoError(t, err)
		if res := verify(t, c, img, m.String()); res != nil {
			for i := range res.Findings {
				codes[res.Findings[i].Code] = true
			}
		}
	}
	assert.Greater(t, len(codes), 10)
}

// What an image of a folder needs beside it comes along.
func TestFolderWithSiblings(t *testing.T) {
	for _, name := range []string{"healthy/backing-raw", "healthy/data-file"} {
		dir := t.TempDir()
		_, img, err := images.Build(name)
		require.NoError(t, err)
		require.NotEmpty(t, img.Siblings)
		require.NoError(t, img.WriteFiles(dir, "mine.qcow2"))
		_, got, err := (&fuzz.Images{Folder: dir}).Build("mine.qcow2")
		require.NoError(t, err)
		assert.Equal(t, img.Sum(), got.Sum())
		require.Len(t, got.Siblings, len(img.Siblings))
		for sibling, s := range img.Siblings {
			require.Contains(t, got.Siblings, sibling)
			assert.Equal(t, s.Sum(), got.Siblings[sibling].Sum())
		}
	}
}
