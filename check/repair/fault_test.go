package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A write, flush or change of a folder fails, of the image or of the journal, once
// or from then on. Nothing is lost: as long as the image can still be written to, it
// is as it was before.
func TestEveryFault(t *testing.T) {
	n := 20
	if testing.Short() {
		n = 10
	}
	for _, s := range scenes(n) {
		ops := len(s.applied(t).log)
		r := rand.New(rand.NewPCG(uint64(ops), 19))
		for k := range ops {
			for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
				w := worldOf(s.before)
				w.fail = failOnce(k, r.IntN(600), errno)
				at := fmt.Sprintf("%s, %v once at operation %d of %d", s.name, errno, k, ops)
				done, err := s.apply(w)
				s.failed(t, w, done, err, errno, at)
				if f, ok := errors.AsType[*RollbackFailedError](err); ok {
					require.Fail(t, at, f)
				}
				if r.IntN(5) == 0 {
					w.fail = nil
					s.crashAgain(t, w, r, at)
				}
			}
			// The file that it happened to stays as it is; the other still works.
			w := worldOf(s.before)
			w.fail = failFrom(k, syscall.EIO)
			at := fmt.Sprintf("%s, failing from operation %d of %d", s.name, k, ops)
			done, err := s.apply(w)
			s.failed(t, w, done, err, syscall.EIO, at)
			if r.IntN(5) == 0 {
				w.fail = nil
				s.crashAgain(t, w, r, at)
			}
		}
	}
}

func failOnce(k, part int, err error) func(int, op) (int, error) {
	return func(n int, _ op) (int, error) {
		if n == k {
			return part, err
		}
		return 0, nil
	}
}

// failFrom makes a file fail from an operation on.
func failFrom(k int, err error) func(int, op) (int, error) {
	var broken *target
	return func(n int, o op) (int, error) {
		if n == k {
			broken = &o.on
		}
		if broken != nil && *broken == o.on {
			return 0, err
		}
		return 0, nil
	}
}

// failed holds what a repair guarantees that has met with an error.
func (s *scene) failed(t *testing.T, w *world, done *Applied, err, cause error, at string) {
	t.Helper()
	if err == nil {
		// Only the very last step can fail without taking everything back.
		require.Error(t, done.Unclosed, at)
		require.Equal(t, s.after, w.image, at)
		s.recovers(t, w, at)
		return
	}
	require.ErrorIs(t, err, cause, at)
	var (
		notBegun *NotBegunError
		rolled   *RolledBackError
		stuck    *RollbackFailedError
	)
	switch {
	case errors.As(err, &notBegun):
		require.Equal(t, s.before, w.image, at)
		for _, o := range w.log {
			require.NotEqual(t, onImage, o.on, at)
		}
		require.Equal(t, notBegun.Left == nil, !w.exists && !w.fresh, at)
	case errors.As(err, &rolled):
		require.Equal(t, s.before, w.image, at)
		require.Equal(t, rolled.Left == nil, !w.exists, at)
	case errors.As(err, &stuck):
		require.True(t, stuck.Journal, at)
		require.True(t, w.exists, at)
		if s.marks && s.half(w.image) {
			require.True(t, marked(w.image), at)
		}
	default:
		require.Fail(t, "an error of no known kind", "%s: %v", at, err)
	}
	s.recovers(t, w, at)
}

// recovers holds that the next run, with nothing in its way, brings the image in
// order.
func (s *scene) recovers(t *testing.T, w *world, at string) {
	t.Helper()
	c := w.killed(len(w.log))
	require.Equal(t, w.image, c.image, at)
	_, err := Recover(file{c}, place{c})
	require.NoError(t, err, at)
	s.settled(t, c, at)
}

// Taking a repair back, and bringing an image in order, can fail anywhere and be
// tried again.
func TestEveryFaultOfUndo(t *testing.T) {
	n := 20
	if testing.Short() {
		n = 8
	}
	for _, s := range scenes(n) {
		w := s.applied(t)
		w.settle()
		ops := len(w.takenBack(t).log)
		for k := range ops {
			at := fmt.Sprintf("%s, at operation %d of %d", s.name, k, ops)
			c := w.killed(0)
			c.fail = failOnce(k, k*7%600, syscall.EIO)
			_, err := TakeBack(file{c}, place{c})
			if err == nil {
				// It could not be removed, or failed where nothing had to change.
				require.Equal(t, s.before, c.image, at)
			} else {
				interrupted, ok := errors.AsType[*InterruptedError](err)
				require.True(t, ok, at)
				require.False(t, interrupted.Completing, at)
				require.ErrorIs(t, err, syscall.EIO, at)
			}
			if s.marks && s.half(c.image) {
				require.True(t, marked(c.image), at)
			}
			c.fail = nil
			if c.exists {
				_, err = TakeBack(file{c}, place{c})
				require.NoError(t, err, at)
			}
			require.Equal(t, s.before, c.image, at)
			require.False(t, c.exists, at)
		}
	}
}

// takenBack gives the world after the repair was taken back.
func (w *world) takenBack(t *testing.T) *world {
	t.Helper()
	c := w.killed(0)
	_, err := TakeBack(file{c}, place{c})
	require.NoError(t, err)
	return c
}

// A disk that is full refuses to fill holes. What was written before is taken back
// all the same.
func TestFullDiskWithHoles(t *testing.T) {
	for _, s := range scenes(30) {
		w := worldOf(s.before)
		var full []op
		w.fail = func(_ int, o op) (int, error) {
			if o.on == onImage && o.do == opWrite && o.off > 0 && len(full) == 0 {
				full = append(full, o)
			}
			if len(full) > 0 && o.on == onImage && o.do == opWrite && o.off == full[0].off {
				return 0, syscall.ENOSPC // and again when it is taken back
			}
			return 0, nil
		}
		_, err := s.apply(w)
		if len(full) == 0 {
			continue
		}
		_, ok := errors.AsType[*RolledBackError](err)
		require.True(t, ok, "%s: %v", s.name, err)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.Equal(t, s.before, w.image, s.name)
	}
}

// Whoever asks for the repair to end gets the image as it was.
func TestCancelled(t *testing.T) {
	for _, s := range scenes(12) {
		ops := len(s.applied(t).log)
		for k := range ops {
			w := worldOf(s.before)
			ctx, cancel := context.WithCancel(context.Background())
			verified := false
			w.fail = func(n int, o op) (int, error) {
				verified = verified || isMark(o, markVerified)
				if n == k && !verified {
					cancel()
				}
				return 0, nil
			}
			_, err := Apply(ctx, file{w}, s.plan, place{w}, ApplyOptions{})
			if ctx.Err() != nil {
				require.ErrorIs(t, err, context.Canceled, s.name)
				require.Equal(t, s.before, w.image, s.name)
				require.False(t, w.exists, s.name)
			} else {
				require.NoError(t, err, s.name)
				require.Equal(t, s.after, w.image, s.name)
			}
			cancel()
		}
	}
	s := scenes(1)[0]
	w := worldOf(s.before)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Apply(ctx, file{w}, s.plan, place{w}, ApplyOptions{})
	_, ok := errors.AsType[*NotBegunError](err)
	require.True(t, ok)
	require.Empty(t, w.log)
}

// What is proved wrong is taken back, also where no journal is kept.
func TestVerifyFails(t *testing.T) {
	wrong := errors.New("wrong")
	for _, s := range scenes(12) {
		for _, kept := range []bool{true, false} {
			w := worldOf(s.before)
			var js Journals
			if kept {
				js = place{w}
			}
			_, err := Apply(context.Background(), file{w}, s.plan, js, ApplyOptions{
				Verify: func(_ context.Context, image io.ReaderAt, size int64) error {
					require.NoError(t, s.verify(context.Background(), image, size), s.name)
					if s.marks {
						require.True(t, marked(w.image), s.name)
					}
					return wrong
				},
			})
			rolled, ok := errors.AsType[*RolledBackError](err)
			require.True(t, ok, s.name)
			require.NoError(t, rolled.Left, s.name)
			_, ok = errors.AsType[*VerifyError](err)
			require.True(t, ok, s.name)
			require.ErrorIs(t, err, wrong)
			require.Equal(t, s.before, w.image, s.name)
			require.False(t, w.exists, s.name)
		}
	}
}
