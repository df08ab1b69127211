package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/fuzz"
	"github.com/qcheck/qcheck/qcow2"
)

// Whatever it is given, what comes out fits, and is an image as long as there is room.
func TestMutateBytes(t *testing.T) {
	t.Parallel()
	file := []byte("no image at all")
	changed := 0
	for seed := range uint64(300) {
		next := fuzz.MutateBytes(file, 64<<10, seed)
		assert.LessOrEqual(t, len(next), 64<<10)
		if string(next) != string(file) {
			changed++
		}
		if _, err := qcow2.DecodeHeader(next); err != nil {
			assert.ErrorIs(t, err, qcow2.ErrNotQcow2)
		}
		file = next
	}
	assert.Greater(t, changed, 250)
	assert.LessOrEqual(t, len(fuzz.MutateBytes(nil, 10, 1)), 10)
}

// libFuzzer finds the fault of a small reader with the mutator, in a few seconds.
func TestLibFuzzer(t *testing.T) {
	clang, err := exec.LookPath("clang")
	if err != nil || os.Getenv("QCHECK_LIBFUZZER") == "" {
		t.Skip("builds everything once more, as a shared library: make libfuzzer")
	}
	dir := t.TempDir()
	run := func(name string, args ...string) ([]byte, error) {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "LD_LIBRARY_PATH="+dir)
		return cmd.CombinedOutput()
	}
	out, err := run("go", "build", "-buildmode=c-shared", "-o", filepath.Join(dir, "libqcheckmutator.so"), ".")
	require.NoError(t, err, "%s", out)
	target := filepath.Join(dir, "target")
	if out, err = run(clang, "-g", "-fsanitize=fuzzer,address", "testdata/reader.c", "-o", target, "-Wl,--no-as-needed", "-L"+dir, "-lqcheckmutator"); err != nil {
		t.Skipf("clang has no libFuzzer here: %s", out)
	}
	out, err = run(target, "-seed=1", "-max_total_time=60", "-max_len=65536", "-artifact_prefix="+dir+"/")
	require.Error(t, err, "%s", out)
	assert.Contains(t, string(out), "found LLVMFuzzerCustomMutator")
	assert.Contains(t, string(out), "first_byte")
	kept, err := filepath.Glob(filepath.Join(dir, "crash-*"))
	require.NoError(t, err)
	require.NotEmpty(t, kept)
	file, err := os.ReadFile(kept[0])
	require.NoError(t, err)
	_, err = qcow2.DecodeHeader(file)
	assert.NoError(t, err, "the image that shows it is one")
}
