package repair

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

// killedOperation is something that qemu-img or qemu-io does to an image, and that is
// killed in the middle.
type killedOperation struct {
	name   string
	create []string // options of qemu-img create
	before func(t *testing.T, path string)
	run    func(path string) []string // the program and its arguments
}

const killedSize = "256M"

func killedOperations() []killedOperation {
	fill := func(t *testing.T, path string) {
		qemutest.IO(t, path, "write -P 1 0 8M", "write -P 2 100M 4M", "write -z 20M 4M")
	}
	snapshot := func(t *testing.T, path string) {
		fill(t, path)
		qemutest.Img(t, "snapshot", "-c", "one", path)
		qemutest.IO(t, path, "write -P 3 1M 4M", "write -P 4 200M 2M")
	}
	bitmaps := func(t *testing.T, path string) {
		fill(t, path)
		for _, name := range []string{"a", "b"} {
			qemutest.Img(t, "bitmap", "--add", path, name)
		}
		qemutest.IO(t, path, "write -P 5 30M 3M")
	}
	overlay := func(t *testing.T, path string) {
		base := path + ".base"
		qemutest.Img(t, "create", "-q", "-f", "qcow2", base, killedSize)
		fill(t, base)
		qemutest.Img(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
		qemutest.IO(t, path, "write -P 6 2M 6M", "write -P 7 150M 2M")
	}
	img := func(args ...string) func(string) []string {
		return func(path string) []string {
			out := []string{qemutest.QemuImg}
			for _, a := range args {
				out = append(out, strings.ReplaceAll(a, "IMAGE", path))
			}
			return out
		}
	}
	write := func(commands ...string) func(string) []string {
		return func(path string) []string {
			out := []string{qemutest.QemuIO}
			for _, c := range commands {
				out = append(out, "-c", c)
			}
			return append(out, path)
		}
	}
	return []killedOperation{
		{"snapshot-create", nil, fill, img("snapshot", "-c", "two", "IMAGE")},
		{"snapshot-create-narrow", []string{"-o", "refcount_bits=2"}, fill, img("snapshot", "-c", "two", "IMAGE")},
		{"snapshot-delete", nil, snapshot, img("snapshot", "-d", "one", "IMAGE")},
		{"snapshot-apply", nil, snapshot, img("snapshot", "-a", "one", "IMAGE")},
		{"resize", nil, fill, img("resize", "-q", "IMAGE", "20G")},
		{"shrink", nil, fill, img("resize", "-q", "--shrink", "IMAGE", "64M")},
		{"amend", nil, fill, img("amend", "-o", "compat=0.10", "IMAGE")},
		{"amend-refcounts", nil, fill, img("amend", "-o", "refcount_bits=64", "IMAGE")},
		{"bitmap-add", nil, bitmaps, img("bitmap", "--add", "IMAGE", "c")},
		{"bitmap-remove", nil, bitmaps, img("bitmap", "--remove", "IMAGE", "a")},
		{"bitmap-merge", nil, bitmaps, img("bitmap", "--merge", "a", "IMAGE", "b")},
		{"commit", nil, overlay, img("commit", "-q", "IMAGE")},
		{"rebase", nil, overlay, img("rebase", "-q", "-b", "", "IMAGE")},
		{"write", nil, fill, write("write -P 8 40M 20M", "discard 0 4M", "write -P 9 0 2M", "flush")},
		{"write-lazy", []string{"-o", "lazy_refcounts=on"}, fill, write("write -P 8 40M 20M", "discard 0 4M", "write -P 9 0 2M", "flush")},
		{"write-old", []string{"-o", "compat=0.10,cluster_size=2M"}, fill, write("write -P 8 40M 20M", "write -P 9 0 2M", "flush")},
		{"write-small", []string{"-o", "cluster_size=512"}, nil, write("write -P 8 0 2M", "write -P 9 100M 1M", "flush")},
		{"write-snapshot", nil, snapshot, write("write -P 8 0 8M", "write -P 9 200M 4M", "flush")},
	}
}

// An image over which a real QEMU was killed is never called corrupt where qemu-img check
// finds leaks at most, and never sound where that finds something. What a repair calls sound
// is sound for qemu-img check, too.
func TestKilledQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("kills QEMU a hundred times")
	}
	qemutest.Require(t)
	kills := 40 / stride(6, 10)
	for _, op := range killedOperations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "disk.qcow2")
			qemutest.Img(t, append(append([]string{"create", "-q", "-f", "qcow2"}, op.create...), path, killedSize)...)
			if op.before != nil {
				op.before(t, path)
			}
			r := rand.New(rand.NewPCG(uint64(len(op.name)), 7))
			whole := time.Duration(0)
			for i := range kills {
				work := filepath.Join(dir, fmt.Sprintf("%d.qcow2", i))
				copyFile(t, path, work)
				args := op.run(work)
				program, ok := qemutest.Find(args[0])
				require.True(t, ok)
				cmd := exec.Command(program, args[1:]...)
				start := time.Now()
				require.NoError(t, cmd.Start())
				if i == 0 {
					_ = cmd.Wait() // how long it takes, and what it leaves when it is let
					whole = time.Since(start)
				} else {
					time.Sleep(time.Duration(r.Float64() * float64(whole)))
					_ = cmd.Process.Kill()
					_ = cmd.Wait() // it was killed
				}
				judgeKilled(t, work)
				require.NoError(t, os.Remove(work))
			}
		})
	}
}

// judgeKilled compares what is said of an image with what qemu-img check says, before and
// after a repair.
func judgeKilled(t *testing.T, path string) {
	t.Helper()
	// As it is: opening it for writing would have QEMU repair a dirty one.
	theirs := qemutest.Check(t, path)
	res := checkFile(t, path)
	code := res.ExitCode()
	said := fmt.Sprintf("exit code %d (%s), qemu-img check %d\n%v\n%s", code, res.Verdict, theirs.RC, res.Findings, theirs.Stderr)
	switch theirs.RC {
	case 0:
		assert.Contains(t, []int{check.ExitSound, check.ExitLeaks}, code, said)
	case 3:
		assert.Equal(t, check.ExitLeaks, code, said)
	default:
		assert.NotEqual(t, check.ExitSound, code, said)
	}

	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	plan, err := Make(t.Context(), f, st.Size(), Options{})
	require.NoError(t, err)
	require.NoError(t, f.Truncate(plan.NewSize))
	for e := range plan.Edits.All() {
		_, err := f.WriteAt(e.New, int64(e.Offset))
		require.NoError(t, err)
	}
	after := qemutest.Check(t, path)
	said = fmt.Sprintf("%s\nafter the repair: exit code %d (%s), qemu-img check %d\n%v", said, plan.After.ExitCode(), plan.After.Verdict, after.RC, plan.After.Findings)
	if plan.After.Verdict == check.VerdictInDoubt {
		// What was lost and what was deleted look alike: nothing is freed then.
		assert.Equal(t, 3, after.RC, said)
		return
	}
	assert.Equal(t, check.ExitSound, plan.After.ExitCode(), said)
	assert.Zero(t, after.RC, said)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o666))
}
