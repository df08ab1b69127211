package repair

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// An image over which a real QEMU was killed is never called corrupt where qemu-img check
// finds leaks at most, and never sound where that finds something. What a repair calls sound
// is sound for qemu-img check, too.
func TestKilledQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("kills QEMU a hundred times")
	}
	qemutest.Require(t, qemutest.QemuDaemon)
	kills := killsEach()
	for _, op := range killedOperations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			op.prepare(t, dir)
			// A kill that found something can be had again only by chance, so each run is another.
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 7))
			whole := time.Duration(0)
			for i := range kills {
				work := filepath.Join(dir, strconv.Itoa(i))
				op.copyTo(t, dir, work)
				if i == 0 {
					whole = op.carryOut(t, work, 0) // and what it leaves when it is let
				} else {
					op.carryOut(t, work, 1+time.Duration(r.Float64()*float64(whole)))
				}
				op.judge(t, work)
				require.NoError(t, os.RemoveAll(work))
			}
		})
	}
}

// killsEach is how many times an operation is run, and all but the first time killed.
func killsEach() int {
	if n, err := strconv.Atoi(os.Getenv("QCHECK_KILLS")); err == nil {
		return n
	}
	return 40 / stride(8, 10)
}

const killedImage = "disk.qcow2"

// prepare makes the images in a folder.
func (op *killedOperation) prepare(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, killedImage)
	qemutest.Img(t, append(append([]string{"create", "-q", "-f", "qcow2"}, op.create...), path, killedSize)...)
	if op.before != nil {
		op.before(t, path)
	}
}

// copyTo copies the images to a new folder.
func (op *killedOperation) copyTo(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Mkdir(to, 0o777))
	all, err := filepath.Glob(filepath.Join(from, killedImage+"*"))
	require.NoError(t, err)
	for _, path := range all {
		copyFile(t, path, filepath.Join(to, filepath.Base(path)))
	}
}

// images are those that the operation writes to.
func (op *killedOperation) images(dir string) []string {
	all := []string{filepath.Join(dir, killedImage)}
	for _, suffix := range op.others {
		all = append(all, all[0]+suffix)
	}
	return all
}

func (op *killedOperation) judge(t *testing.T, dir string) {
	t.Helper()
	all := op.images(dir)
	for i := len(all) - 1; i >= 0; i-- { // what an image lies on is repaired before it
		judgeKilled(t, all[i], op.shrinks)
	}
}

// carryOut lets the operation happen, and kills QEMU after so long a time, unless that is
// 0. It gives how long it took.
func (op *killedOperation) carryOut(t *testing.T, dir string, after time.Duration) time.Duration {
	t.Helper()
	path := filepath.Join(dir, killedImage)
	killing := func(p *os.Process) (stop func() bool) {
		if after == 0 {
			return func() bool { return true }
		}
		return time.AfterFunc(after, func() { _ = p.Kill() }).Stop
	}
	if op.job == nil {
		args := op.run(path)
		program, ok := qemutest.Find(args[0])
		require.True(t, ok)
		cmd := exec.Command(program, args[1:]...)
		start := time.Now()
		require.NoError(t, cmd.Start())
		defer killing(cmd.Process)()
		if err := cmd.Wait(); after == 0 {
			require.NoError(t, err)
		}
		return time.Since(start)
	}
	d := qemutest.Serve(t, path)
	commands := op.job(d, path)
	process, err := os.FindProcess(d.Pid())
	require.NoError(t, err)
	start := time.Now()
	defer killing(process)()
	if err := operate(d, commands); after == 0 {
		require.NoError(t, err)
	}
	<-d.Done()
	return time.Since(start)
}

// operate gives a daemon commands, waits for the job that they begin, and ends the daemon.
func operate(d *qemutest.Daemon, commands []qmpCommand) error {
	for _, c := range commands {
		if _, err := d.Attempt(c.execute, c.arguments); err != nil {
			return err
		}
	}
	for ended, completed := false, false; !ended; {
		raw, err := d.Attempt("query-jobs", nil)
		if err != nil {
			return err
		}
		var jobs []struct{ Status, Error string }
		if err := json.Unmarshal(raw, &jobs); err != nil {
			return err
		}
		ended = true
		for _, j := range jobs {
			switch {
			case j.Error != "":
				return errors.New(j.Error)
			case j.Status == "ready" && !completed: // a mirror goes on for ever
				if _, err := d.Attempt("job-complete", map[string]any{"id": killedJob}); err != nil {
					return err
				}
				completed = true
			}
			ended = ended && j.Status == "concluded"
		}
		time.Sleep(time.Millisecond)
	}
	_, err := d.Attempt("quit", nil)
	return err
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
		t.Logf("stays in doubt: %v", plan.After.Findings)
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
