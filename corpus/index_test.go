package corpus_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

// The index tells of every file that is written, and where what must be found is.
func TestIndex(t *testing.T) {
	dir := t.TempDir()
	cases, err := corpus.Export(dir, "bitmap")
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, corpus.IndexName))
	require.NoError(t, err)
	var index corpus.Index
	require.NoError(t, json.Unmarshal(text, &index))
	assert.Equal(t, 1, index.Format)
	require.Len(t, index.Images, len(cases))
	offsets := 0
	for i, e := range index.Images {
		c := &cases[i]
		assert.Equal(t, c.Name, e.Name)
		assert.Equal(t, c.Story, e.Story)
		info, err := os.Stat(filepath.Join(dir, e.File))
		require.NoError(t, err)
		require.NotNil(t, e.Size, e.Name)
		assert.Equal(t, info.Size(), *e.Size)
		for _, other := range e.Files {
			assert.FileExists(t, filepath.Join(dir, other))
		}
		require.Len(t, e.Damage, len(c.Damage))
		for _, d := range e.Damage {
			assert.NotEmpty(t, d.What)
			assert.NotNil(t, d.Offset, "%s: %s", e.Name, d.What)
		}
		require.Len(t, e.Findings, len(c.Want))
		for k, w := range e.Findings {
			assert.Equal(t, c.Want[k].Code, w.Code)
			assert.Equal(t, w.Where != "", w.Offset != nil, "%s: %s", e.Name, w.Code)
			if w.Offset != nil {
				offsets++
			}
		}
	}
	assert.Positive(t, offsets)
}
