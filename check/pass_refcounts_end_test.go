package check_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
)

// A refcount of what lies past the end of the file is too high, and makes the image
// no longer, as it is with `qemu-img check`.
func TestImageEndWithinTheFile(t *testing.T) {
	sound, err := corpus.Build(corpus.Spec{Size: 8 * mib, Ops: []corpus.Op{corpus.Write{Length: mib, Pattern: 1}}})
	require.NoError(t, err)
	end := checkCorpus(t, sound).ImageEndOffset
	require.EqualValues(t, sound.Size(), end)
	entry := corpus.RefcountBlock(0).At(2000, 2)
	res := damagedCopy(t, sound, corpus.Set(entry, 1))
	assert.True(t, res.Has(problem.RefcountTooHigh))
	assert.Equal(t, end, res.ImageEndOffset)
}
