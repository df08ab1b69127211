package fuzz_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
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
	known        *sync.Map // digest of an image -> the exit code
}

// newFlipQEMU puts the other files of an image in a folder.
func newFlipQEMU(t testing.TB, img *corpus.Image) *flipQEMU {
	t.Helper()
	qemutest.Require(t)
	program, _ := qemutest.Find(qemutest.QemuImg)
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "qcheck-flips-*"); err == nil {
		dir = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	require.NoError(t, img.WriteFiles(dir, "image.qcow2"))
	return &flipQEMU{program: program, dir: dir, known: new(sync.Map)}
}

// check gives the exit code of `qemu-img check`; of equal images one is asked for.
func (q *flipQEMU) check(s *corpus.Store, name string, crypt bool) int {
	sum := s.Sum()
	if rc, ok := q.known.Load(sum); ok {
		return rc.(int)
	}
	path := filepath.Join(q.dir, name)
	if s.WriteFile(path) != nil {
		return -1
	}
	rc := q.run(path, crypt)
	q.known.Store(sum, rc)
	return rc
}

// run runs `qemu-img check` on a file.
func (q *flipQEMU) run(path string, crypt bool, more ...string) int {
	args := append([]string{"check", "-q"}, more...)
	if crypt {
		args = append(args, "--object", "secret,id=s,data="+corpus.Secret, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+path)
	} else {
		args = append(args, "-f", "qcow2", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.program, args...)
	cmd.Dir, cmd.WaitDelay = q.dir, time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil || cmd.ProcessState == nil:
		return -1
	case err == nil:
		return 0
	case cmd.ProcessState.ExitCode() < 0:
		return 134 // a signal
	}
	return cmd.ProcessState.ExitCode()
}

// ask sees what QEMU says where qcheck says that all is well, and with repair what
// QEMU's own repair of a copy comes to.
func (q *flipQEMU) ask(b *flipBase, t *flipTrial, worker string, repair bool) {
	x := &t.x
	crypt := b.kind.spec.Crypt != qcow2.CryptNone
	silent := func(i int, s *corpus.Store, when string) {
		if x.exits[i] != 0 {
			return
		}
		x.asked = true
		x.said[i] = q.check(s, worker, crypt)
		if x.said[i] > 0 {
			x.faults = append(x.faults, flipSilent)
			x.why = append(x.why, "qemu-img check ends with "+string(rune('0'+x.said[i]%10))+when)
		}
	}
	silent(0, t.flipped, " before the repair")
	if t.mended != t.flipped {
		silent(1, t.mended, " after the repair")
	}
	if !repair || x.outcome == flipHarmless {
		return
	}
	path := filepath.Join(q.dir, worker+".theirs")
	defer os.Remove(path)
	if t.flipped.WriteFile(path) != nil {
		return
	}
	q.run(path, crypt, "-r", "all")
	rc := q.run(path, crypt)
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
