package repair

import (
	"encoding/binary"
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
	"github.com/qcheck/qcheck/qcow2"
)

// killedOperation is something that qemu-img or qemu-io does to an image, and that is
// killed in the middle.
type killedOperation struct {
	name   string
	create []string // options of qemu-img create
	before func(t *testing.T, path string)
	run    func(path string) []string // the program and its arguments
	// shrinks is the size in bytes to which the disk is shrunk, 0 for none. What lies past it
	// can be gone from the file before anything in the image says so.
	shrinks uint64
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
		{"snapshot-create", nil, fill, img("snapshot", "-c", "two", "IMAGE"), 0},
		{"snapshot-create-narrow", []string{"-o", "refcount_bits=2"}, fill, img("snapshot", "-c", "two", "IMAGE"), 0},
		{"snapshot-delete", nil, snapshot, img("snapshot", "-d", "one", "IMAGE"), 0},
		{"snapshot-apply", nil, snapshot, img("snapshot", "-a", "one", "IMAGE"), 0},
		{"resize", nil, fill, img("resize", "-q", "IMAGE", "20G"), 0},
		{"shrink", nil, fill, img("resize", "-q", "--shrink", "IMAGE", "64M"), 64 << 20},
		{"amend", nil, fill, img("amend", "-o", "compat=0.10", "IMAGE"), 0},
		{"amend-refcounts", nil, fill, img("amend", "-o", "refcount_bits=64", "IMAGE"), 0},
		{"bitmap-add", nil, bitmaps, img("bitmap", "--add", "IMAGE", "c"), 0},
		{"bitmap-remove", nil, bitmaps, img("bitmap", "--remove", "IMAGE", "a"), 0},
		{"bitmap-merge", nil, bitmaps, img("bitmap", "--merge", "a", "IMAGE", "b"), 0},
		{"commit", nil, overlay, img("commit", "-q", "IMAGE"), 0},
		{"rebase", nil, overlay, img("rebase", "-q", "-b", "", "IMAGE"), 0},
		{"write", nil, fill, write("write -P 8 40M 20M", "discard 0 4M", "write -P 9 0 2M", "flush"), 0},
		{"write-lazy", []string{"-o", "lazy_refcounts=on"}, fill, write("write -P 8 40M 20M", "discard 0 4M", "write -P 9 0 2M", "flush"), 0},
		{"write-old", []string{"-o", "compat=0.10,cluster_size=2M"}, fill, write("write -P 8 40M 20M", "write -P 9 0 2M", "flush"), 0},
		{"write-small", []string{"-o", "cluster_size=512"}, nil, write("write -P 8 0 2M", "write -P 9 100M 1M", "flush"), 0},
		{"write-snapshot", nil, snapshot, write("write -P 8 0 8M", "write -P 9 200M 4M", "flush"), 0},
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
				judgeKilled(t, work, op.shrinks)
				require.NoError(t, os.Remove(work))
			}
		})
	}
}

// judgeKilled compares what is said of an image with what qemu-img check says, before and
// after a repair. The disk was being shrunk to so many bytes, unless that is 0.
func judgeKilled(t *testing.T, path string, shrinks uint64) {
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

	plan, after := repairFile(t, path, Options{})
	said = fmt.Sprintf("%s\nafter the repair: exit code %d (%s), qemu-img check %d\n%v", said, plan.After.ExitCode(), plan.After.Verdict, after, plan.After.Findings)
	if plan.After.Verdict == check.VerdictInDoubt {
		// What was lost and what was deleted look alike: nothing is freed then.
		assert.Equal(t, 3, after, said)
		return
	}
	if shrinks > 0 && theirs.RC == 2 && plan.After.ExitCode() == check.ExitCorrupt && diskSize(t, path) > shrinks {
		// QEMU has cut the file, and has said so nowhere yet: it looks like any file that
		// was cut. What is gone was to go.
		assert.Equal(t, 2, after, said)
		plan, after = repairFile(t, path, Options{AllowDataLoss: true})
		said = fmt.Sprintf("%s\nafter the lossy repair: exit code %d (%s), qemu-img check %d\n%v", said, plan.After.ExitCode(), plan.After.Verdict, after, plan.After.Findings)
		assert.NotEmpty(t, plan.LostGuest, said)
		assert.Len(t, plan.Lost, len(plan.LostGuest), said)
		for _, r := range plan.LostGuest {
			assert.GreaterOrEqual(t, r.Offset, shrinks, said)
		}
	}
	assert.Equal(t, check.ExitSound, plan.After.ExitCode(), said)
	assert.Zero(t, after, said)
}

func diskSize(t *testing.T, path string) uint64 {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return binary.BigEndian.Uint64(b[qcow2.FieldSize:])
}

// repairFile repairs an image in place, without a journal, and gives what qemu-img check
// says of it afterwards.
func repairFile(t *testing.T, path string, opts Options) (plan *Plan, after int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	plan, err = Make(t.Context(), f, st.Size(), opts)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(plan.NewSize))
	for e := range plan.Edits.All() {
		_, err := f.WriteAt(e.New, int64(e.Offset))
		require.NoError(t, err)
	}
	return plan, qemutest.Check(t, path).RC
}

// A QEMU that shrinks a disk cuts the file, then sets the size in the header, and writes the
// L2 table last. Between the first two steps nothing tells the image from one whose end was
// lost; behind the second it is plain that nobody reads what is gone.
func TestKilledShrink(t *testing.T) {
	qemutest.Require(t)
	const kept, shrunk = 8 << 20, 64 << 20
	// Half of each cluster can be compressed, so that all together need more than one.
	half := make([]byte, 64<<10)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(half[:len(half)/2]) // it never fails
	pattern := filepath.Join(t.TempDir(), "pattern")
	require.NoError(t, os.WriteFile(pattern, half, 0o600))
	for _, tc := range []struct {
		name   string
		create string
		write  string
	}{
		{"plain", "compat=1.1", "write -P 2 100M 4M"},
		{"old", "compat=0.10", "write -P 2 100M 4M"},
		{"subclusters", "extended_l2=on", "write -P 2 104859648 70000"},
		{"compressed", "compat=1.1", "write -c -s PATTERN 100M 4M"},
		{"across", "compat=1.1", "write -P 2 67043328 256K"},
	} {
		for _, step := range []string{"cut", "size"} {
			t.Run(tc.name+"/"+step, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "disk.qcow2")
				qemutest.Img(t, "create", "-q", "-f", "qcow2", "-o", tc.create, path, killedSize)
				qemutest.IO(t, path, fmt.Sprintf("write -P 1 0 %d", kept))
				st, err := os.Stat(path)
				require.NoError(t, err)
				end := st.Size()
				qemutest.IO(t, path, strings.ReplaceAll(tc.write, "PATTERN", pattern))
				if tc.name == "across" {
					end += 64 << 10 // the first of the new clusters belongs to what is left of the disk
				}
				require.NoError(t, os.Truncate(path, end))
				if step == "size" {
					f, err := os.OpenFile(path, os.O_RDWR, 0)
					require.NoError(t, err)
					_, err = f.WriteAt(binary.BigEndian.AppendUint64(nil, shrunk), int64(qcow2.FieldSize))
					require.NoError(t, err)
					require.NoError(t, f.Close())
				}
				res := checkFile(t, path)
				assert.Equal(t, check.ExitCorrupt, res.ExitCode(), "qemu-img check: %d", qemutest.Check(t, path).RC)
				judgeKilled(t, path, shrunk)
				if step == "size" {
					qemutest.IO(t, path, fmt.Sprintf("read -P 1 0 %d", kept))
				}
			})
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o666))
}
