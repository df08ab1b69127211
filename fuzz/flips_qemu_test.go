package fuzz_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// flipQEMU asks `qemu-img check` about images of one kind, in a folder of its own.
type flipQEMU struct {
	program, dir string
	crypt        bool      // they are encrypted
	known        *sync.Map // digest of an image -> the exit code
}

// newFlipQEMU puts the other files of an image in a folder.
func newFlipQEMU(t testing.TB, b *flipBase) *flipQEMU {
	t.Helper()
	qemutest.Require(t)
	program, _ := qemutest.Find(qemutest.QemuImg)
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "qcheck-flips-*"); err == nil {
		dir = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	// Each worker has files of its own: QEMU locks them.
	for w := range runtime.GOMAXPROCS(0) {
		require.NoError(t, b.img.WriteFiles(filepath.Join(dir, strconv.Itoa(w)), "image.qcow2"))
	}
	return &flipQEMU{program: program, dir: dir, crypt: b.kind.spec.Crypt != qcow2.CryptNone, known: new(sync.Map)}
}

// check gives the exit code of `qemu-img check`; of equal images one is asked for.
func (q *flipQEMU) check(s *corpus.Store, worker string) int {
	sum := s.Sum()
	if rc, ok := q.known.Load(sum); ok {
		return rc.(int)
	}
	path := filepath.Join(q.dir, worker, "image.qcow2")
	if s.WriteFile(path) != nil {
		return -1
	}
	rc := q.run(path)
	q.known.Store(sum, rc)
	return rc
}

// What QEMU may take for a repair: it makes a file as long as a wrong offset in it,
// and a refcount table for all of that.
const flipLimits = `ulimit -f 1048576; ulimit -v 1048576; ulimit -t 10; exec "$@"`

// run runs `qemu-img check` on a file.
func (q *flipQEMU) run(path string, more ...string) int {
	args := append([]string{"-c", flipLimits, "sh", q.program, "check", "-q"}, more...)
	if q.crypt {
		args = append(args, "--object", "secret,id=s,data="+corpus.Secret, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+path)
	} else {
		args = append(args, "-f", "qcow2", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Dir, cmd.WaitDelay = filepath.Dir(path), time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil || cmd.ProcessState == nil:
		return -1
	case err == nil:
		return 0
	case cmd.ProcessState.ExitCode() < 0:
		return 128 // a signal
	}
	return cmd.ProcessState.ExitCode()
}

// ask sees what QEMU says where qcheck says that all is well.
func (q *flipQEMU) ask(t *flipTrial, worker string) {
	x := &t.x
	silent := func(i int, s *corpus.Store, when string) {
		if x.exits[i] != 0 {
			return
		}
		x.said[i] = q.check(s, worker)
		if x.said[i] > 0 && !needsKey(x.what) {
			x.faults = append(x.faults, flipSilent)
			x.why = append(x.why, fmt.Sprintf("qemu-img check ends with %d%s", x.said[i], when))
		}
	}
	x.asked = true
	silent(0, t.flipped, " before the repair")
	if t.mended != t.flipped {
		silent(1, t.mended, " after the repair")
	}
}

// repair sees what QEMU's own repair of a copy comes to, of a flip that qcheck notices.
func (q *flipQEMU) repair(b *flipBase, t *flipTrial, worker string) {
	x := &t.x
	if x.outcome == flipHarmless || x.outcome == flipUnseen {
		return
	}
	path := filepath.Join(q.dir, worker, "theirs.qcow2")
	defer os.Remove(path)
	if t.flipped.WriteFile(path) != nil {
		return
	}
	q.run(path, "-r", "all")
	rc := q.run(path)
	const mostBytes = 1 << 30 // else a sparse file that is of no use
	info, err := os.Stat(path)
	if err != nil || info.Size() > mostBytes {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	s := corpus.NewStore(0)
	s.WriteAt(data, 0)
	res, err := b.check(s)
	if err != nil {
		res = nil
	}
	is := b.read(s, res)
	same := len(b.was.differs(is))+len(b.was.otherBitmaps(is)) == 0
	switch {
	case rc == 0 && same:
		x.repaired = flipHealed
	case rc == 0:
		x.repaired = flipLied
	default:
		x.repaired = flipKept
	}
	if rc != 0 && len(b.was.worse(b.read(t.flipped, t.before), is)) > 0 {
		x.repaired = flipWorse
	}
}

// needsKey tells of the bytes of a LUKS header that any value is as good for, until
// somebody tries the passphrase, as QEMU is made to here.
func needsKey(what string) bool {
	for _, field := range []string{"digest", "salt", "iterations", "key slot: salt", "key slot: iterations", "key material"} {
		if what == "LUKS header: "+field {
			return true
		}
	}
	return false
}
