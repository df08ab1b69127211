package repair

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// numbered is an image that knows which file it is.
type numbered struct {
	file
	id FileID
}

func (f numbered) FileID() FileID { return f.id }

// Wherever the power fails, whatever there is of a journal begins with a whole record of
// which image it is for: that was on the disk before anything else. And nothing is in the
// journal's place until all of it is.
func TestIdentityComesFirst(t *testing.T) {
	for _, s := range scenes(12) {
		w := s.applied(t)
		r := rand.New(rand.NewPCG(uint64(len(w.log)), 31))
		torn, only := 0, 0
		w.everyCrash(r, func(n int, c *world) {
			at := fmt.Sprintf("%s, after operation %d of %d", s.name, n, len(w.log))
			if len(c.journal) > identitySize {
				require.Nil(t, new(identity).decode(c.journal), at)
			}
			switch {
			case c.exists:
				require.GreaterOrEqual(t, len(c.journal), int(recordsAt), at)
				require.Nil(t, new(identity).decode(c.journal), at)
				return
			case !c.fresh:
				return
			}
			// Found under the name that it had meanwhile, it can be told and removed only
			// with its first record.
			c.exists = true
			c.settle()
			got, err := Recover(file{c}, place{c})
			if _, damaged := errors.AsType[*DamagedError](err); damaged {
				require.Empty(t, c.log, at)
				require.LessOrEqual(t, len(c.journal), identitySize, at)
				torn++
				return
			}
			require.NoError(t, err, at)
			require.Equal(t, RecoveredDropped, got.Action, at)
			require.False(t, c.exists, at)
			require.Equal(t, s.before, c.image, at)
			only++
		})
		require.NotZero(t, torn, s.name)
		require.NotZero(t, only, s.name)
	}
}

// A journal that is of no more use is removed only if it was made for this very file. One
// whose device has another number now has to look the same.
func TestOnlyOurJournalIsRemoved(t *testing.T) {
	ours, other, moved := FileID{Device: 1, Inode: 2}, FileID{Device: 1, Inode: 3}, FileID{Device: 7, Inode: 2}
	for _, s := range scenes(20) {
		w := worldOf(s.before)
		_, err := Apply(t.Context(), numbered{file{w}, ours}, s.plan, place{w}, ApplyOptions{Verify: s.verify})
		require.NoError(t, err)
		undone := w.killed(len(w.log))
		require.NoError(t, Undo(file{undone}, journalFile{undone}))
		incomplete := w.killed(len(w.log))
		clear(incomplete.journal[headAt:recordsAt])
		incomplete.image = bytes.Clone(s.before)
		for name, from := range map[string]*world{"undone": undone, "incomplete": incomplete, "finished": w} {
			from.settle()
			used := append(bytes.Clone(from.image), 1, 2, 3)
			for _, c := range []struct {
				what  string
				id    FileID
				image []byte
				ours  bool
			}{
				{"the same file", ours, from.image, true},
				{"the same file, used since", ours, used, true},
				{"a copy", other, from.image, false},
				{"the device has another number", moved, from.image, true},
				{"the device has another number, used since", moved, used, false},
				{"not known", FileID{}, from.image, true},
				{"another image", other, bytes.Repeat([]byte{7}, len(from.image)), false},
			} {
				at := fmt.Sprintf("%s, %s, %s", s.name, name, c.what)
				try := func(do func(File, Journals) error, removes bool) {
					k := from.killed(0)
					k.image = bytes.Clone(c.image)
					k.settle()
					err := do(numbered{file{k}, c.id}, place{k})
					require.Equal(t, removes, !k.exists, "%s: %v", at, err)
					require.True(t, bytes.Equal(c.image, k.image), at)
					if !removes {
						require.Empty(t, k.log, at)
					}
				}
				if name != "finished" {
					try(func(f File, js Journals) error { _, err := Recover(f, js); return err }, c.ours)
					try(func(f File, js Journals) error { _, err := TakeBack(f, js); return err }, c.ours)
				}
				try(Forget, c.ours)
			}
		}
	}
}

// The journal of a repair that was interrupted is never forgotten.
func TestForgetKeepsWhatIsNeeded(t *testing.T) {
	kept := map[Phase]int{}
	for _, s := range scenes(20) {
		w := s.applied(t)
		for k := range len(w.log) + 1 {
			c := w.killed(k)
			state, err := StateOf(place{c})
			require.NoError(t, err)
			c.settle()
			err = Forget(file{c}, place{c})
			if state.Pending() {
				_, unfinished := errors.AsType[*UnfinishedError](err)
				require.True(t, unfinished, "%s, %d operations: %v", s.name, k, err)
				require.Empty(t, c.log)
				kept[state.Phase]++
				continue
			}
			require.Equal(t, state.Phase == PhaseNone, err != nil, "%s, %d operations: %v", s.name, k, err)
			require.False(t, c.exists)
		}
	}
	require.NotZero(t, kept[PhaseOpen])
	require.NotZero(t, kept[PhaseVerified])
}
