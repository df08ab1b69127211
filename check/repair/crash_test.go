package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// scene is a repair of an image at random.
type scene struct {
	name          string
	before, after []byte
	plan          *Plan
	marks         bool // the image is marked corrupt meanwhile
}

// scenes gives some repairs, always the same.
func scenes(n int) []scene {
	var list []scene
	for seed := uint64(0); len(list) < n; seed++ {
		r := rand.New(rand.NewPCG(seed, 7))
		version := uint32(2 + min(1, r.IntN(3)))
		size := 600 + r.IntN(9000)
		if r.IntN(8) == 0 {
			size = 1 + r.IntN(600)
		}
		s := scene{name: fmt.Sprintf("seed %d", seed), before: syntheticImage(r, version, size)}
		s.plan, s.after = syntheticPlan(r, s.before)
		s.marks = canMark(s.before)
		if !s.plan.Empty() {
			list = append(list, s)
		}
	}
	return list
}

// verify compares an image with what it should be.
func (s *scene) verify(_ context.Context, image io.ReaderAt, size int64) error {
	b := make([]byte, size+1)
	n, err := image.ReadAt(b, 0)
	if err != io.EOF || !bytes.Equal(b[:n], s.after) {
		return errors.New("not what it should be")
	}
	return nil
}

func (s *scene) apply(w *world) (*Applied, error) {
	return Apply(context.Background(), file{w}, s.plan, place{w}, ApplyOptions{Verify: s.verify})
}

// applied is the world after the repair.
func (s *scene) applied(t *testing.T) *world {
	t.Helper()
	w := worldOf(s.before)
	done, err := s.apply(w)
	require.NoError(t, err, s.name)
	require.NoError(t, done.Unclosed, s.name)
	require.Equal(t, s.after, w.image, s.name)
	return w
}

// half tells whether an image is neither as before nor as after.
func (s *scene) half(image []byte) bool {
	return !bytes.Equal(image, s.before) && !bytes.Equal(image, s.after)
}

// marked tells whether QEMU leaves an image alone.
func marked(image []byte) bool { return image[corruptAt]&corruptBit != 0 }

// durableMark tells whether a mark of the journal was flushed when n operations
// were done, and begunMark whether somebody had begun to write it.
func (w *world) durableMark(n int, m mark) bool {
	begun := false
	for _, o := range w.log[:n] {
		switch {
		case isMark(o, m):
			begun = true
		case o.on == onJournal && o.do == opSync && o.err == nil && begun:
			return true
		}
	}
	return false
}

func (w *world) begunMark(n int, m mark) bool {
	for _, o := range w.log[:n] {
		if isMark(o, m) {
			return true
		}
	}
	return false
}

func isMark(o op, m mark) bool {
	return o.on == onJournal && o.do == opWrite && o.off == m.offset() && len(o.data) == markSize
}

// After a power cut at any time the next run makes the image what it was, or what it
// was to be; the latter exactly if the journal says that it is verified. Nor can
// anybody have written to it meanwhile, if there is a mark that keeps them off.
func TestEveryCrash(t *testing.T) {
	n := 50
	if testing.Short() {
		n = 15
	}
	states := 0
	for _, s := range scenes(n) {
		w := s.applied(t)
		r := rand.New(rand.NewPCG(uint64(len(w.log)), 11))
		w.everyCrash(r, func(n int, c *world) {
			states++
			at := fmt.Sprintf("%s, after operation %d of %d", s.name, n, len(w.log))
			if s.marks && s.half(c.image) {
				require.True(t, marked(c.image), at)
			}
			pending, err := StateOf(place{c})
			require.NoError(t, err, at)
			if s.half(c.image) {
				require.True(t, pending.Pending(), at)
			}
			_, err = Recover(file{c}, place{c})
			require.NoError(t, err, at)
			s.settled(t, c, at)
			switch {
			case w.durableMark(n, markVerified):
				require.Equal(t, s.after, c.image, at)
			case !w.begunMark(n, markVerified):
				require.Equal(t, s.before, c.image, at)
			}
			if r.IntN(40) == 0 {
				s.crashAgain(t, c, r, at)
			}
		})
	}
	t.Logf("%d states of the disk", states)
}

// settled holds that an image is as before, or as after with a journal to take it
// back, and does that.
func (s *scene) settled(t *testing.T, c *world, at string) {
	t.Helper()
	require.False(t, s.half(c.image), at)
	is, err := StateOf(place{c})
	require.NoError(t, err, at)
	if is.Phase == PhaseNone {
		require.Equal(t, s.before, c.image, at)
		return
	}
	require.Equal(t, PhaseFinished, is.Phase, at)
	require.Equal(t, s.after, c.image, at)
	back := worldOf(c.image)
	back.journal, back.exists = c.journal, true
	_, err = TakeBack(file{back}, place{back})
	require.NoError(t, err, at)
	require.Equal(t, s.before, back.image, at)
	require.False(t, back.exists, at)
}

// crashAgain cuts the power while a run brings the image in order; c has the log of
// that run.
func (s *scene) crashAgain(t *testing.T, c *world, r *rand.Rand, at string) {
	t.Helper()
	c.everyCrash(r, func(n int, again *world) {
		at := fmt.Sprintf("%s, again after operation %d of %d", at, n, len(c.log))
		if s.marks && s.half(again.image) {
			require.True(t, marked(again.image), at)
		}
		_, err := Recover(file{again}, place{again})
		require.NoError(t, err, at)
		s.settled(t, again, at)
	})
}

// The program is killed, the next run sees what it did without it being on the disk,
// and then the power fails.
func TestKilledThenCrash(t *testing.T) {
	n := 16
	if testing.Short() {
		n = 8
	}
	for _, s := range scenes(n) {
		w := s.applied(t)
		r := rand.New(rand.NewPCG(uint64(len(w.log)), 13))
		for k := range len(w.log) + 1 {
			at := fmt.Sprintf("%s, killed after operation %d of %d", s.name, k, len(w.log))
			c := w.killed(k)
			_, err := Recover(file{c}, place{c})
			require.NoError(t, err, at)
			s.settled(t, c, at)
			if r.IntN(4) == 0 || k >= len(w.log)-6 {
				s.crashAgain(t, c, r, at)
			}
		}
	}
}

// Taking a repair back can be interrupted like the repair itself.
func TestEveryCrashOfUndo(t *testing.T) {
	n := 24
	if testing.Short() {
		n = 8
	}
	for _, s := range scenes(n) {
		w := s.applied(t)
		w.settle()
		_, err := TakeBack(file{w}, place{w})
		require.NoError(t, err, s.name)
		require.Equal(t, s.before, w.image, s.name)
		require.False(t, w.exists, s.name)
		r := rand.New(rand.NewPCG(uint64(len(w.log)), 17))
		check := func(c *world, n int, at string) {
			if s.marks && s.half(c.image) {
				require.True(t, marked(c.image), at)
			}
			_, err := Recover(file{c}, place{c})
			require.NoError(t, err, at)
			s.settled(t, c, at)
			if w.durableMark(n, markUndoing) {
				require.Equal(t, s.before, c.image, at)
			}
		}
		w.everyCrash(r, func(n int, c *world) {
			at := fmt.Sprintf("%s, after operation %d of %d", s.name, n, len(w.log))
			check(c, n, at)
			if r.IntN(40) == 0 {
				s.crashAgain(t, c, r, at)
			}
		})
		for k := range len(w.log) + 1 {
			at := fmt.Sprintf("%s, killed after operation %d of %d", s.name, k, len(w.log))
			c := w.killed(k)
			check(c, k, at)
			if k < 6 || r.IntN(8) == 0 {
				s.crashAgain(t, c, r, at)
			}
		}
	}
}
