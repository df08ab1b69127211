package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qcheck/qcheck/qcow2"
)

// Repairing and taking that back gives the file as it was. Repairing twice changes
// nothing more; nor does taking it back twice.
func TestApplyUndo(t *testing.T) {
	for _, s := range scenes(200) {
		w := s.applied(t)
		is, err := StateOf(place{w})
		require.NoError(t, err, s.name)
		require.Equal(t, PhaseFinished, is.Phase, s.name)
		require.True(t, is.Undoable() && !is.Pending(), s.name)
		require.Equal(t, s.plan.OldSize, is.OldSize, s.name)
		require.Equal(t, s.plan.NewSize, is.NewSize, s.name)

		w.settle()
		_, err = Apply(context.Background(), file{w}, s.plan, place{w}, ApplyOptions{})
		if !bytes.Equal(s.before, s.after) {
			_, ok := errors.AsType[*StaleError](err)
			require.True(t, ok, "%s: %v", s.name, err)
		} else {
			require.ErrorIs(t, err, fs.ErrExist, s.name)
		}
		r, err := Recover(file{w}, place{w})
		require.NoError(t, err, s.name)
		require.Equal(t, RecoveredNothing, r.Action, s.name)
		require.Empty(t, w.log, s.name)

		require.NoError(t, Undo(file{w}, journalFile{w}), s.name)
		require.Equal(t, s.before, w.image, s.name)
		w.settle()
		require.NoError(t, Undo(file{w}, journalFile{w}), s.name)
		require.Empty(t, w.log, s.name)
		r, err = TakeBack(file{w}, place{w})
		require.NoError(t, err, s.name)
		require.Equal(t, Recovery{Found: r.Found, Action: RecoveredDropped}, r, s.name)
		require.Equal(t, PhaseUndone, r.Found.Phase, s.name)
		require.False(t, w.exists, s.name)
		_, err = TakeBack(file{w}, place{w})
		require.ErrorIs(t, err, fs.ErrNotExist, s.name)
	}
}

// Between two stages everything is flushed, the first sector is written whole, and
// nothing of the image changes before the journal is on the disk.
func TestOrder(t *testing.T) {
	for _, s := range scenes(40) {
		w := s.applied(t)
		sealed, stage := false, Stage(0)
		var since []op // of the image, since the last flush
		for i, o := range w.log {
			if o.on != onImage {
				sealed = sealed || w.durableMark(i+1, markSealed)
				continue
			}
			require.True(t, sealed, s.name)
			if o.do == opSync {
				since = nil
				continue
			}
			since = append(since, o)
			if o.do == opTruncate {
				require.Len(t, since, 1, s.name)
				continue
			}
			if o.off < int64(min(qcow2.SectorSize, len(s.before))) {
				require.Zero(t, o.off, s.name)
				require.Len(t, o.data, min(qcow2.SectorSize, len(s.before)), s.name)
				continue
			}
			// It belongs to one stage, which is not before that of the last.
			at := stageOf(s.plan, stage, o)
			require.GreaterOrEqual(t, at, stage, s.name)
			if at > stage {
				require.Len(t, since, 1, s.name)
			}
			stage = at
		}
	}
}

// stageOf finds the first stage from one on that can have written something.
func stageOf(p *Plan, from Stage, o op) Stage {
	for e := range p.Edits.All() {
		at := o.off - int64(e.Offset)
		if e.Stage >= from && at >= 0 && at < int64(len(e.New)) {
			if n := min(len(o.data), len(e.New)-int(at)); bytes.Equal(e.New[at:][:n], o.data[:n]) {
				return e.Stage
			}
		}
	}
	return 0
}

// Somebody has used the image since it was repaired: it is left alone.
func TestUndoRefusesChanged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	for _, s := range scenes(60) {
		w := s.applied(t)
		w.settle()
		for e := range s.plan.Edits.All() {
			c := w.killed(0)
			at := int(e.Offset) + r.IntN(len(e.New))
			c.image[at] ^= 1 << r.IntN(8)
			changed, ok := errors.AsType[*ChangedError](undoes(t, c))
			require.True(t, ok, s.name)
			require.EqualValues(t, at, changed.Offset, s.name)
			require.Equal(t, PhaseFinished, changed.Phase, s.name)
			require.False(t, changed.Untouched, s.name)
		}
		for _, by := range []int{-1, 1, 4096} {
			c := w.killed(0)
			c.image = append(c.image, make([]byte, 4096)...)[:len(c.image)+by]
			changed, ok := errors.AsType[*ChangedError](undoes(t, c))
			require.True(t, ok, s.name)
			require.EqualValues(t, -1, changed.Offset, s.name)
		}
		if s.marks && !marked(s.after) {
			// QEMU has found it to be corrupt.
			c := w.killed(0)
			c.image[corruptAt] |= corruptBit
			changed, ok := errors.AsType[*ChangedError](undoes(t, c))
			require.True(t, ok, s.name)
			require.EqualValues(t, corruptAt, changed.Offset, s.name)
		}
	}
}

// undoes holds that undoing fails without writing anything.
func undoes(t *testing.T, c *world) error {
	t.Helper()
	c.settle()
	was := c.copy()
	err := Undo(file{c}, journalFile{c})
	require.Error(t, err)
	require.Empty(t, c.log)
	require.Equal(t, was.image, c.image)
	require.Equal(t, was.journal, c.journal)
	return err
}

// A repair was interrupted, and then somebody used the image all the same.
func TestRollBackRefusesChanged(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	untouched, half := 0, 0
	for _, s := range scenes(150) {
		w := s.applied(t)
		for k := range w.log {
			if !w.durableMark(k, markSealed) || w.begunMark(k, markVerified) || s.plan.Edits.Len() == 0 {
				continue
			}
			c := w.killed(k)
			e := editsOf(s.plan)[r.IntN(s.plan.Edits.Len())]
			at := int(e.Offset) + r.IntN(len(e.New))
			if at >= len(c.image) || at == corruptAt {
				continue
			}
			c.image[at] = foreignByte(s.plan, s.before, at)
			changed, ok := errors.AsType[*ChangedError](undoes(t, c))
			require.True(t, ok, s.name)
			require.EqualValues(t, at, changed.Offset, s.name)
			require.Equal(t, PhaseOpen, changed.Phase, s.name)
			require.Equal(t, s.marks && !marked(c.image), changed.Untouched, s.name)
			if changed.Untouched {
				untouched++
			} else {
				half++
			}
		}
	}
	require.Positive(t, untouched)
	require.Positive(t, half)
}

// foreignByte is a byte that the repair never writes at an offset, nor was there.
func foreignByte(p *Plan, before []byte, at int) byte {
	seen := map[byte]bool{}
	if at < len(before) {
		seen[before[at]] = true
	} else {
		seen[0] = true
	}
	for e := range p.Edits.All() {
		if i := at - int(e.Offset); i >= 0 && i < len(e.New) {
			seen[e.New[i]] = true
		}
	}
	for b := byte(0); ; b++ {
		if !seen[b] {
			return b
		}
	}
}

// In real files, with a journal that is only there when it should be.
func TestFiles(t *testing.T) {
	s := scenes(1)[0]
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	require.NoError(t, os.WriteFile(image, s.before, 0o600))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	js := folder(filepath.Join(dir, "image.undo"))
	is, err := StateOf(js)
	require.NoError(t, err)
	require.Equal(t, PhaseNone, is.Phase)
	done, err := Apply(context.Background(), osFile{f}, s.plan, js, ApplyOptions{Verify: s.verify})
	require.NoError(t, err)
	require.NoError(t, done.Unclosed)
	require.Equal(t, s.plan.Edits.Len(), done.Edits)
	b, err := os.ReadFile(image)
	require.NoError(t, err)
	require.Equal(t, s.after, b)
	is, err = StateOf(js)
	require.NoError(t, err)
	require.Equal(t, PhaseFinished, is.Phase)
	require.Equal(t, done.Records, is.Records)
	require.Equal(t, done.Length, is.Length)
	r, err := TakeBack(osFile{f}, js)
	require.NoError(t, err)
	require.NoError(t, r.Left)
	require.Equal(t, RecoveredRolledBack, r.Action)
	b, err = os.ReadFile(image)
	require.NoError(t, err)
	require.Equal(t, s.before, b)
	_, err = os.Stat(string(js))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

type osFile struct{ *os.File }

func (f osFile) CurrentSize() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// folder is a path as [Journals].
type folder string

func (p folder) Create() (JournalFile, error) {
	return os.OpenFile(string(p), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}
func (p folder) Open() (JournalFile, error) { return os.OpenFile(string(p), os.O_RDWR, 0) }
func (p folder) Publish() error             { return p.SyncDir() }
func (p folder) Remove() error              { return os.Remove(string(p)) }
func (p folder) SyncDir() error {
	d, err := os.Open(filepath.Dir(string(p)))
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Fsync(int(d.Fd()))
}

// Larger than any buffer: records are cut, writes too.
func TestLargeEdits(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for _, version := range []uint32{2, 3} {
		before := syntheticImage(r, version, 3<<20+100)
		p := &Plan{OldSize: int64(len(before)), NewSize: 7 << 20}
		now := make([]byte, p.NewSize)
		copy(now, before)
		for _, e := range []struct {
			s     Stage
			at, n int64
		}{
			{StageNew, 3 << 20, 3 << 20}, {StageRaise, 100_000, 900_000}, {StageInPlace, 2_000_000, 8}, {StageInPlace, 2_000_008, 70_000},
			{StageHeader, 400, 300}, {StageRelease, 600_000, 2_000_000},
		} {
			addEdits(p, editOf(r, e.s, now, e.at, e.n))
		}
		s := scene{name: fmt.Sprintf("version %d", version), before: before, after: now, plan: p, marks: version == 3}
		w := s.applied(t)
		for _, k := range []int{len(w.log) / 2, len(w.log) - 5, len(w.log)} {
			c := w.killed(k)
			_, err := TakeBack(file{c}, place{c})
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, c.image))
		}
	}
}
