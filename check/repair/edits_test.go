package repair

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// editsOf gives the edits of a plan as a list.
func editsOf(p *Plan) []Edit { return slices.Collect(p.Edits.All()) }

// addEdits adds edits that can be written to a plan.
func addEdits(p *Plan, edits ...Edit) {
	for _, e := range edits {
		if err := p.Edits.Add(e); err != nil {
			panic(err)
		}
	}
}

// What is added is what comes out, by stage, whatever its order, length and place.
func TestEdits(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	var l Edits
	var want [stagesCount][]Edit
	codes := [][]problem.Code{{problem.RefcountTooLow}, {problem.RefcountTooHigh}, {problem.RefcountTooLow, problem.RefcountTooHigh}, nil}
	total := uint64(0)
	for i := range 1500 {
		n := 1 + r.IntN(20)
		switch r.IntN(300) {
		case 0:
			n = 1 + r.IntN(3*mostChunk)
		case 1, 2:
			n = 1 + r.IntN(70_000)
		}
		e := Edit{
			Stage: Stage(r.IntN(stagesCount)), Offset: qcow2.HostOffset(r.Uint64() >> r.IntN(64)), Old: bytes(n), New: bytes(n),
			Reason: []string{"one", "two", ""}[r.IntN(3)], Codes: codes[r.IntN(len(codes))],
		}
		old, will := slices.Clone(e.Old), slices.Clone(e.New)
		require.NoError(t, l.Add(e))
		clear(e.Old) // the caller may use them again
		clear(e.New)
		e.Old, e.New = old, will
		want[e.Stage] = append(want[e.Stage], e)
		total += uint64(n)
		require.Equal(t, i+1, l.Len())
	}
	assert.Equal(t, total, l.Bytes())
	assert.LessOrEqual(t, len(l.causes), 3*len(codes))
	all := slices.Concat(want[:]...)
	i := 0
	for e := range l.All() {
		if len(all[i].Codes) == 0 {
			require.Empty(t, e.Codes)
			e.Codes = all[i].Codes
		}
		require.Equal(t, all[i], e)
		i++
	}
	require.Equal(t, len(all), i)
}

// Edits that cannot be written are not taken.
func TestEditsRefuse(t *testing.T) {
	var l Edits
	for _, e := range []Edit{
		{Stage: Stage(stagesCount), Old: make([]byte, 8), New: make([]byte, 8)},
		{Stage: StageNew},
		{Stage: StageNew, Old: make([]byte, 7), New: make([]byte, 8)},
	} {
		_, ok := errors.AsType[*PlanError](l.Add(e))
		assert.True(t, ok)
	}
	assert.Zero(t, l.Len())
	assert.True(t, (&Plan{Edits: l}).Empty())
}
