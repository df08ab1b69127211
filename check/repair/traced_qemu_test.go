package repair

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// traced is something that a QEMU did to a file, so that it can be done again.
type traced struct {
	path   string
	call   string
	offset int64 // of what changes; the new length for ftruncate
	data   []byte
	length int64 // of what fallocate makes zeros
	grows  bool  // fallocate may make the file longer
}

func (c *traced) do(f *os.File) error {
	switch c.call {
	case "ftruncate":
		return f.Truncate(c.offset)
	case "fallocate":
		st, err := f.Stat()
		if err != nil {
			return err
		}
		end := c.offset + c.length
		if !c.grows {
			end = min(end, st.Size())
		}
		if c.offset >= end {
			return nil
		}
		_, err = f.WriteAt(make([]byte, end-c.offset), c.offset)
		return err
	}
	_, err := f.WriteAt(c.data, c.offset)
	return err
}

// torn gives parts of a change: a kernel that kills a process ends its write between two
// pages.
func (c *traced) torn() []traced {
	const page = 4096
	var parts []traced
	if n := len(c.data); n > page {
		for _, part := range []int{page, (n / 2) &^ (page - 1), (n - 1) &^ (page - 1)} {
			if part > 0 && part < n {
				one := *c
				one.data = c.data[:part]
				parts = append(parts, one)
			}
		}
	}
	return parts
}

// maxChanges is about how many changes of an operation are looked at, evenly spread.
const maxChanges = 250

// A QEMU that is killed leaves behind what it has written until then, whenever that is:
// every state that the files go through while an operation is traced is judged like that
// of TestKilledQEMU, and so is a part of each long write.
func TestKilledQEMUAnywhere(t *testing.T) {
	if !thorough {
		t.Skip("takes minutes: see make kills")
	}
	qemutest.Require(t, qemutest.QemuDaemon)
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: strace is missing: %v", err)
	}
	for _, op := range killedOperations() {
		t.Run(op.name, func(t *testing.T) {
			dir := t.TempDir()
			op.prepare(t, dir)
			changes := op.trace(t, dir)
			require.NotEmpty(t, changes)
			states := 0
			seen := make(map[uint64]bool)
			state := filepath.Join(dir, "state")
			op.copyTo(t, dir, state)
			seed := maphash.MakeSeed()
			look := func(what string) {
				if h := op.hash(t, seed, state); seen[h] {
					return
				} else {
					seen[h] = true
				}
				states++
				work := filepath.Join(dir, "work")
				op.copyTo(t, state, work)
				t.Run(what, func(t *testing.T) { op.judge(t, work) })
				if t.Failed() && os.Getenv("QCHECK_KEEP") != "" {
					kept := filepath.Join(os.Getenv("QCHECK_KEEP"), op.name+"-"+what)
					_ = os.RemoveAll(kept)
					op.copyTo(t, state, kept)
				}
				require.NoError(t, os.RemoveAll(work))
			}
			every := max(1, len(changes)/maxChanges)
			for i, c := range changes {
				if i%every != 0 && i < len(changes)-8 {
					apply(t, state, &c)
					continue
				}
				name := fmt.Sprintf("%d-%s-%x+%x", i, c.call, c.offset, int64(len(c.data))+c.length)
				for k, part := range c.torn() {
					before := filepath.Join(dir, "before")
					require.NoError(t, os.Rename(state, before))
					op.copyTo(t, before, state)
					apply(t, state, &part)
					look(fmt.Sprintf("%s-torn%d", name, k))
					require.NoError(t, os.RemoveAll(state))
					require.NoError(t, os.Rename(before, state))
				}
				apply(t, state, &c)
				look(name)
			}
			t.Logf("%d changes, %d states", len(changes), states)
		})
	}
}

func apply(t *testing.T, dir string, c *traced) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, c.path), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, c.do(f))
}

// hash tells states apart.
func (op *killedOperation) hash(t *testing.T, seed maphash.Seed, dir string) uint64 {
	t.Helper()
	var h maphash.Hash
	h.SetSeed(seed)
	for _, path := range op.images(dir) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		fmt.Fprintf(&h, "%d ", len(b))
		_, _ = h.Write(b) // it never fails
	}
	return h.Sum64()
}

// trace carries out the operation in a copy, and gives what it did to the images.
func (op *killedOperation) trace(t *testing.T, dir string) []traced {
	t.Helper()
	work, log := filepath.Join(dir, "traced"), filepath.Join(dir, "log")
	op.copyTo(t, dir, work)
	args := []string{"-f", "-qq", "-xx", "-y", "-s", strconv.Itoa(1 << 28), "-o", log,
		"-e", "trace=pwrite64,pwritev,pwritev2,write,writev,ftruncate,fallocate,copy_file_range"}
	for _, path := range op.images(work) {
		args = append(args, "-P", path)
	}
	if op.job == nil {
		command := op.run(filepath.Join(work, killedImage))
		program, ok := qemutest.Find(command[0])
		require.True(t, ok)
		command[0] = program
		out, err := exec.Command("strace", append(args, command...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	} else {
		path := filepath.Join(work, killedImage)
		d := qemutest.Serve(t, path)
		commands := op.job(d, path)
		// What the preparation has done is where the operation begins.
		state := filepath.Join(dir, "begin")
		op.copyTo(t, work, state)
		for _, path := range op.images(state) {
			copyFile(t, path, filepath.Join(dir, filepath.Base(path)))
		}
		// It says when it has begun, unless it is to be quiet.
		args[1] = "-v"
		tracer := exec.Command("strace", append(args, "-p", strconv.Itoa(d.Pid()))...)
		said, err := tracer.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, tracer.Start())
		line, err := bufio.NewReader(said).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, "attached")
		time.Sleep(100 * time.Millisecond) // to the other threads, too
		require.NoError(t, operate(d, commands))
		<-d.Done()
		_ = tracer.Wait() // it ends as what it has traced
	}
	raw, err := os.ReadFile(log)
	require.NoError(t, err)
	return parseTrace(t, raw)
}

var (
	traceLine    = regexp.MustCompile(`^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)`)
	traceTarget  = regexp.MustCompile(`^\w+\(\d+<([^>]*)>, `)
	traceStrings = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
	traceResult  = regexp.MustCompile(`\) += (-?\d+)`)
	traceNumbers = regexp.MustCompile(`, (\d+)(?:, (\d+))?\)? +=`)
)

// parseTrace reads what strace has written, in the order in which calls came back.
func parseTrace(t *testing.T, raw []byte) (all []traced) {
	t.Helper()
	begun := make(map[string]string) // by thread: the call that has not come back
	for line := range bytes.Lines(raw) {
		m := traceLine.FindSubmatch(line)
		if m == nil || bytes.Contains(line, []byte("+++ ")) {
			continue
		}
		thread := string(m[1])
		text := strings.TrimSpace(string(line[len(thread):]))
		if before, ok := strings.CutSuffix(text, "<unfinished ...>"); ok {
			begun[thread] = strings.TrimSpace(before)
			continue
		}
		if _, after, ok := strings.Cut(text, " resumed>"); ok && strings.HasPrefix(text, "<... ") {
			text = begun[thread] + after
		}
		if c, ok := parseCall(t, text); ok {
			all = append(all, c)
		}
	}
	return all
}

func parseCall(t *testing.T, text string) (c traced, ok bool) {
	t.Helper()
	short := text[:min(len(text), 200)]
	target := traceTarget.FindStringSubmatch(text)
	result := traceResult.FindStringSubmatch(text[max(0, len(text)-200):])
	require.NotNil(t, target, short)
	require.NotNil(t, result, short)
	c.path = filepath.Base(string(unescaped(t, target[1])))
	c.call, _, _ = strings.Cut(text, "(")
	n, err := strconv.Atoi(result[1])
	require.NoError(t, err)
	if n < 0 {
		return c, false // QEMU tries something else then
	}
	tail := text[max(0, len(text)-200):]
	numbers := traceNumbers.FindStringSubmatch(tail)
	require.NotNil(t, numbers, short)
	last := make([]int64, 2)
	for i := range last {
		if numbers[i+1] != "" {
			last[i], err = strconv.ParseInt(numbers[i+1], 10, 64)
			require.NoError(t, err)
		}
	}
	switch c.call {
	case "pwrite64", "pwritev":
		for _, s := range traceStrings.FindAllStringSubmatch(text, -1) {
			c.data = append(c.data, unescaped(t, `\x`+strings.TrimPrefix(s[1], `\x`))...)
		}
		require.Len(t, c.data, n, short)
		c.offset = last[1]
	case "ftruncate":
		c.offset = last[0]
	case "fallocate":
		c.offset, c.length, c.grows = last[0], last[1], !strings.Contains(text, "KEEP_SIZE")
	default:
		t.Fatalf("what does this do? %s", short)
	}
	return c, true
}

// unescaped reads \x.. for each byte, or what needs none.
func unescaped(t *testing.T, s string) []byte {
	t.Helper()
	if !strings.HasPrefix(s, `\x`) || s == `\x` {
		return []byte(strings.TrimPrefix(s, `\x`))
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	require.NoError(t, err)
	return b
}
