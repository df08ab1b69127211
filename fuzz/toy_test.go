package fuzz_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/fuzz"
)

// toyVariable makes the test program a toy parser, which is what the fuzzer runs in
// the tests.
const toyVariable = "QCHECK_FUZZ_TOY"

func TestMain(m *testing.M) {
	if how := os.Getenv(toyVariable); how != "" {
		os.Exit(toy(how, os.Args[1]))
	}
	os.Exit(m.Run())
}

// toy reads a header and believes it.
func toy(how, path string) int {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 72 {
		return 1
	}
	clusterBits, l1Size := binary.BigEndian.Uint32(b[20:]), binary.BigEndian.Uint32(b[36:])
	snapshots := binary.BigEndian.Uint32(b[60:])
	if clusterBits > 21 || clusterBits < 9 {
		return 1
	}
	switch {
	case how == "verdict" && l1Size > 1<<20:
		return 2
	case how == "verdict":
		return 0
	case snapshots > 1000:
		time.Sleep(time.Minute)
	case l1Size > 1<<20:
		_ = make([]byte, 16)[l1Size]
	}
	return 0
}

func toyRunner(t *testing.T, how string) *fuzz.Runner {
	t.Helper()
	t.Setenv(toyVariable, how)
	self, err := os.Executable()
	require.NoError(t, err)
	return &fuzz.Runner{Command: []string{self, fuzz.Placeholder}, Images: &images, Jobs: 2, Out: t.TempDir(), Timeout: 2 * time.Second}
}

// A parser that is broken on purpose is caught, and what it takes is one mutation.
func TestToyIsCaught(t *testing.T) {
	r := toyRunner(t, "fragile")
	r.Seed, r.Runs = 1, 300
	if testing.Short() {
		r.Runs = 100
	}
	sum, err := r.Run(context.Background())
	require.NoError(t, err)
	assert.Equal(t, r.Runs, sum.Runs)
	assert.Greater(t, len(sum.Codes), 20)
	kinds := make(map[string]int)
	for _, f := range sum.Failures {
		kinds[f.Kind]++
		assert.LessOrEqual(t, len(f.Mutant.Mutations), 1, "%s: %s", f.Detail, f.Mutant)
		m, err := fuzz.LoadMutant(filepath.Join(f.Dir, "mutant.json"))
		require.NoError(t, err)
		again, err := r.Replay(context.Background(), m)
		require.NoError(t, err)
		require.Len(t, again, 1)
		assert.Equal(t, f.Kind, again[0].Kind)
		assert.Equal(t, f.Detail, again[0].Detail)
		assert.FileExists(t, filepath.Join(f.Dir, "image.qcow2"))
		assert.FileExists(t, filepath.Join(f.Dir, "what.txt"))
	}
	assert.Equal(t, 1, kinds["crash"], "%v", kinds)
	assert.LessOrEqual(t, kinds["hang"], 1)
}

// A parser that finds everything sound is told what it misses.
func TestToyIsCompared(t *testing.T) {
	r := toyRunner(t, "verdict")
	r.Seed, r.Runs, r.Oracle = 1, 60, true
	sum, err := r.Run(context.Background())
	require.NoError(t, err)
	require.NotEmpty(t, sum.Failures)
	for _, f := range sum.Failures {
		assert.Equal(t, "difference", f.Kind)
		assert.LessOrEqual(t, len(f.Mutant.Mutations), 6)
	}
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
	codes := make(map[check.Code]bool)
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
