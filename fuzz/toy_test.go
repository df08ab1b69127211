package fuzz_test

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
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

// raceDetector tells that the race detector is on.
var raceDetector bool

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
	case how == "slow" && snapshots > 1000:
		time.Sleep(time.Minute)
	case l1Size > 1<<20:
		_ = make([]byte, 16)[l1Size]
	}
	return 0
}

func toyRunner(t *testing.T, how string) *fuzz.Runner {
	t.Helper()
	if raceDetector {
		t.Skip("this test program, which is what would run, starts slowly")
	}
	t.Setenv(toyVariable, how)
	self, err := os.Executable()
	require.NoError(t, err)
	return &fuzz.Runner{Command: []string{self, fuzz.Placeholder}, Images: &images, Jobs: 2, Out: t.TempDir(), Timeout: 3 * time.Second}
}

// A parser that is broken on purpose is caught, and what it takes is one mutation.
func TestToyIsCaught(t *testing.T) {
	r := toyRunner(t, "fragile")
	r.Seed, r.Runs = 1, 200
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
	assert.Len(t, kinds, 1)
}

// A run that does not end is ended, and one that takes too much memory is told.
func TestToyHangs(t *testing.T) {
	m := &fuzz.Mutant{Case: "healthy/empty", Mutations: []fuzz.Mutation{{Op: fuzz.OpWrite, At: 60, Bytes: []byte{0xff}, Text: "nb_snapshots"}}}
	r := toyRunner(t, "slow")
	fs, err := r.Replay(context.Background(), m)
	require.NoError(t, err)
	require.Len(t, fs, 1)
	assert.Equal(t, "hang", fs[0].Kind)

	r = toyRunner(t, "fragile")
	r.Memory = 1 << 10
	fs, err = r.Replay(context.Background(), m)
	require.NoError(t, err)
	if len(fs) > 0 { // where the system tells
		assert.Equal(t, "memory", fs[0].Kind)
	}
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
	assert.NotEmpty(t, sum.Codes)
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
