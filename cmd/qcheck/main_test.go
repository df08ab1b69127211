package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

var update = flag.Bool("update", false, "rewrite the texts that scripts compare with")

// raceDetector tells that the race detector is on. It makes every start of the
// program slow, and most scripts have nothing to show it.
var raceDetector bool

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"qcheck": main})
}

// TestScripts runs the files of testdata/script, one behaviour each: what a user
// types, what is seen, which exit code. Each begins in a folder that holds the
// images of `qcheck corpus samples`, which it must not change. Beside testscript's
// own commands there are
//
//	code N PROGRAM ARGS…   run it; it must end with exit code N. For qcheck also:
//	                       standard error is in the command's voice, and no file
//	                       in the folder has changed (but for `qcheck corpus` and `fuzz`; of
//	                       a repair and its undoing those named, and journals)
//	errors N               qcheck has told of N errors, on as many lines
//	json PATH VALUE        the JSON on standard output has this value there, as in
//	                       findings.0.code; "len" gives a list's length
//	jsonl N PATH VALUE     the same for line N of several, from 1 on
//	poke FILE OFFSET HEX   overwrite bytes of a file
//	zeros SIZE FILE        make a file of zeros
//	truncate SIZE FILE     change a file's length
//	interrupt IMAGE JOURNAL  make a finished repair look like one that was killed before
//	                       it was proved
func TestScripts(t *testing.T) {
	t.Parallel()
	samples := t.TempDir()
	for _, c := range corpus.Samples() {
		require.NoError(t, c.WriteFiles(samples))
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	require.NoError(t, err)
	if raceDetector {
		scripts = []string{"testdata/script/jobs.txtar", "testdata/script/exit-several.txtar", "testdata/script/bitmap-one.txtar"}
	}
	testscript.Run(t, testscript.Params{
		Files:               scripts,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Condition: func(cond string) (bool, error) {
			if cond != "qemu" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			_, ok := qemutest.Find(qemutest.QemuImg)
			if !ok && os.Getenv("CI") == "true" {
				return false, errors.New("there is no qemu-img, and CI=true")
			}
			return ok, nil
		},
		Setup: func(env *testscript.Env) error {
			if dir := os.Getenv(qemutest.DirEnv); dir != "" {
				env.Setenv("PATH", dir+string(filepath.ListSeparator)+env.Getenv("PATH"))
			}
			return linkAll(samples, env.WorkDir)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code": scriptCode, "errors": scriptErrors, "json": scriptJSON, "jsonl": scriptJSONLine,
			"poke": scriptPoke, "zeros": scriptZeros, "truncate": scriptTruncate, "interrupt": scriptInterrupt,
		},
	})
}

// linkAll puts links to a folder's files into another one.
func linkAll(from, to string) error {
	files, err := os.ReadDir(from)
	for _, f := range files {
		err = errors.Join(err, os.Link(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())))
	}
	return err
}

// voice is a line of standard error.
var voice = regexp.MustCompile(`^qcheck: (error|warning|hint): \S.*[^.]$`)

func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	args = args[1:]
	checks := args[0] == "qcheck" && (len(args) < 2 || args[1] != "corpus" && args[1] != "fuzz")
	writes := len(args) > 1 && args[1] == "undo" && !slices.Contains(args, "--list") || slices.Contains(args, "--restore") || slices.ContainsFunc(args, func(a string) bool {
		return a == "-r" || a == "--in-place" || strings.HasPrefix(a, "-r=") || strings.HasPrefix(a, "--repair")
	}) && !slices.Contains(args, "-n")
	var before map[string]fileState
	if checks {
		before = stateOf(ts)
	}
	got := 0
	if err := ts.Exec(args[0], args[1:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, not %d", got, want)
	}
	if args[0] == "qcheck" {
		for line := range strings.Lines(ts.ReadFile("stderr")) {
			if !voice.MatchString(strings.TrimSuffix(line, "\n")) {
				ts.Fatalf("not in the command's voice: %q", line)
			}
		}
	}
	if checks {
		after := stateOf(ts)
		for name, was := range before {
			if writes && (slices.Contains(args, name) || slices.Contains(args, "./"+name) || was.mode.IsDir() || strings.Contains(name, undofile.Suffix) ||
				slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(name, a+".") })) {
				continue
			}
			if is := after[name]; is != was {
				ts.Fatalf("%s has changed: %+v, before %+v", name, is, was)
			}
		}
	}
}

// fileState is what a check must leave as it is.
type fileState struct {
	size   int64
	mode   fs.FileMode
	time   time.Time
	digest string
}

// stateOf gives the state of the files in the script's folder. Large ones go by
// their size and time alone; TestCorpus compares every byte.
func stateOf(ts *testscript.TestScript) map[string]fileState {
	files := make(map[string]fileState)
	entries, err := os.ReadDir(ts.MkAbs("."))
	ts.Check(err)
	for _, e := range entries {
		info, err := e.Info()
		ts.Check(err)
		st := fileState{size: info.Size(), mode: info.Mode(), time: info.ModTime()}
		if info.Mode().IsRegular() && info.Size() < 1<<20 {
			text, err := os.ReadFile(ts.MkAbs(e.Name()))
			ts.Check(err)
			st.digest = fmt.Sprintf("%x", sha256.Sum256(text))
		}
		files[e.Name()] = st
	}
	return files
}

func scriptErrors(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: errors N")
	}
	if n := strings.Count(ts.ReadFile("stderr"), "qcheck: error: "); strconv.Itoa(n) != args[0] {
		ts.Fatalf("%d errors, not %s", n, args[0])
	}
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json PATH VALUE")
	}
	wantJSON(ts, ts.ReadFile("stdout"), args[0], args[1])
}

func scriptJSONLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: jsonl N PATH VALUE")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	if n < 1 || n > len(lines) {
		ts.Fatalf("there are %d lines", len(lines))
	}
	wantJSON(ts, lines[n-1], args[1], args[2])
}

func wantJSON(ts *testscript.TestScript, text, path, want string) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		ts.Fatalf("not JSON: %v", err)
	}
	if dec.More() {
		ts.Fatalf("more than one JSON value")
	}
	for key := range strings.SplitSeq(path, ".") {
		switch w := v.(type) {
		case map[string]any:
			inner, ok := w[key]
			if !ok {
				ts.Fatalf("%s: there is no key %q", path, key)
			}
			v = inner
		case []any:
			if key == "len" {
				v = len(w)
				break
			}
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(w) {
				ts.Fatalf("%s: %q is no index of %d values", path, key, len(w))
			}
			v = w[i]
		default:
			ts.Fatalf("%s: nothing can be looked up in %v", path, v)
		}
	}
	if got := fmt.Sprint(v); got != want {
		ts.Fatalf("%s is %q, not %q", path, got, want)
	}
}

func scriptPoke(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: poke FILE OFFSET HEX")
	}
	off, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
	b, err := hex.DecodeString(args[2])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	_, err = f.WriteAt(b, off)
	ts.Check(errors.Join(err, f.Close()))
}

// run carries out a command line and gives the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	code, _ := execute(args, stdin, stdout, stderr)
	return code
}

func scriptZeros(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: zeros SIZE FILE")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), make([]byte, n), 0o600))
}

func scriptTruncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncate SIZE FILE")
	}
	n, err := strconv.ParseInt(args[0], 0, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[1]), n))
}

func scriptInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: interrupt IMAGE JOURNAL")
	}
	ts.Check(interrupt(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

// interrupt takes the marks off a journal that say that its repair is done, and marks
// the image corrupt as it is meanwhile.
func interrupt(image, journal string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	j, err := os.OpenFile(journal, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer j.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], 79)
	b[0] |= 2
	_, err2 := f.WriteAt(b[:], 79)
	_, err3 := j.WriteAt(make([]byte, 8192), 12288)
	return errors.Join(err, err2, err3)
}

// runIn carries out a command line in the test's process; paths must be absolute.
func runIn(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}
