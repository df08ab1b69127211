package repair

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// Plans that cannot be right are not applied, and neither is one for another image.
func TestLayOutRefuses(t *testing.T) {
	image := syntheticImage(rand.New(rand.NewPCG(1, 1)), 3, 4096)
	edit := func(s Stage, at qcow2.HostOffset, n int) Edit {
		e := Edit{Stage: s, Offset: at, New: make([]byte, n), Old: make([]byte, n)}
		if uint64(at) < uint64(len(image)) {
			copy(e.Old, image[at:])
		}
		return e
	}
	stale := func(s Stage, at qcow2.HostOffset, n, wrong int) Edit {
		e := edit(s, at, n)
		e.Old[wrong]++
		return e
	}
	notChained := edit(StageRelease, 702, 8)
	notChained.Old[0] = 1 // the stage before leaves a zero
	for _, c := range []struct {
		name  string
		plan  Plan
		edits []Edit
		stale int64 // where, or -1 when the plan itself is wrong
	}{
		{"shorter", Plan{OldSize: 4096, NewSize: 4095}, nil, -1},
		{"negative", Plan{OldSize: -1, NewSize: 5}, nil, -1},
		{"past the end", Plan{OldSize: 4096, NewSize: 4096}, []Edit{edit(StageNew, 4089, 8)}, -1},
		{"wraps", Plan{OldSize: 4096, NewSize: 4096}, []Edit{edit(StageNew, 1<<64-4, 8)}, -1},
		{"offsets out of order", Plan{OldSize: 4096, NewSize: 4096}, []Edit{edit(StageRaise, 700, 8), edit(StageRaise, 600, 8)}, -1},
		{"overlap", Plan{OldSize: 4096, NewSize: 4096}, []Edit{edit(StageRaise, 700, 8), edit(StageRaise, 707, 8)}, -1},
		{"another length", Plan{OldSize: 4090, NewSize: 4096}, []Edit{edit(StageRaise, 700, 8)}, 4090},
		{"stale", Plan{OldSize: 4096, NewSize: 4096}, []Edit{stale(StageRaise, 700, 8, 3)}, 703},
		{"stale header", Plan{OldSize: 4096, NewSize: 4096}, []Edit{stale(StageHeader, 24, 8, 1)}, 25},
		{"stale at the edge of the first sector", Plan{OldSize: 4096, NewSize: 4096}, []Edit{stale(StageHeader, 508, 8, 5)}, 513},
		{"stale past the end", Plan{OldSize: 4096, NewSize: 9000}, []Edit{stale(StageNew, 5000, 8, 2)}, 5002},
		{"a later stage does not go by the one before", Plan{OldSize: 4096, NewSize: 4096}, []Edit{edit(StageRaise, 700, 8), notChained}, 702},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := worldOf(image)
			addEdits(&c.plan, c.edits...)
			_, err := Apply(context.Background(), file{w}, &c.plan, place{w}, ApplyOptions{})
			if c.stale < 0 {
				_, ok := errors.AsType[*PlanError](err)
				require.True(t, ok, "%v", err)
			} else {
				e, ok := errors.AsType[*StaleError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, c.stale, e.Offset)
			}
			require.Empty(t, w.log)
			require.False(t, w.exists)
		})
	}
	t.Run("nothing to do", func(t *testing.T) {
		w := worldOf(image)
		_, err := Apply(context.Background(), file{w}, &Plan{OldSize: 4096, NewSize: 4096}, place{w}, ApplyOptions{})
		require.NoError(t, err)
		require.Empty(t, w.log)
	})
	t.Run("a journal is there", func(t *testing.T) {
		w := worldOf(image)
		w.exists = true
		_, err := Apply(context.Background(), file{w}, &Plan{OldSize: 4096, NewSize: 4097}, place{w}, ApplyOptions{})
		require.ErrorIs(t, err, fs.ErrExist)
		require.Empty(t, w.log)
		require.True(t, w.exists)
	})
}

// Who verifies reads the first sector as it will be, and knows the holes where the
// file does.
func TestView(t *testing.T) {
	image := []byte("0123456789")
	w := worldOf(image)
	v := newView(file{w}, []byte("ABCD"))
	_, finds := v.(qcow2.DataFinder)
	assert.False(t, finds)
	for _, c := range []struct {
		off  int64
		n    int
		want string
		err  error
	}{
		{0, 10, "ABCD456789", nil},
		{0, 2, "AB", nil},
		{3, 3, "D45", nil},
		{4, 3, "456", nil},
		{2, 20, "CD456789", io.EOF},
		{10, 1, "", io.EOF},
	} {
		b := make([]byte, c.n)
		n, err := v.ReadAt(b, c.off)
		assert.Equal(t, c.want, string(b[:n]))
		assert.Equal(t, c.err, err)
	}
	d, finds := newView(findingFile{file{w}}, nil).(qcow2.DataFinder)
	require.True(t, finds)
	start, end, err := d.NextData(3)
	require.NoError(t, err)
	assert.EqualValues(t, 4, start)
	assert.EqualValues(t, 5, end)
}

type findingFile struct{ file }

func (findingFile) NextData(off int64) (int64, int64, error) { return off + 1, off + 2, nil }
