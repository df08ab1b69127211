package corpus_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

// A seed of Go's fuzzer is a []byte literal in a file of two lines that holds the image.
func TestExportSeeds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n, err := corpus.ExportSeeds(dir, "healthy/v2-clusters-512", corpus.SeedsGo, corpus.DefaultSeedSize)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	text, err := os.ReadFile(filepath.Join(dir, "healthy_v2-clusters-512"))
	require.NoError(t, err)
	head, value, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n")
	assert.Equal(t, "go test fuzz v1", head)
	literal, ok := strings.CutPrefix(value, "[]byte(")
	require.True(t, ok)
	got, err := strconv.Unquote(strings.TrimSuffix(literal, ")"))
	require.NoError(t, err)
	c, ok := corpus.Lookup("healthy/v2-clusters-512")
	require.True(t, ok)
	img, err := c.Build()
	require.NoError(t, err)
	want := make([]byte, img.Size())
	_, err = img.ReadAt(want, 0)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
	n, err = corpus.ExportSeeds(dir, "healthy/backing-*", corpus.SeedsAFL, corpus.DefaultSeedSize)
	require.NoError(t, err)
	assert.Zero(t, n, "they need other files")
	_, err = corpus.ExportSeeds(dir, "", "other", 1)
	assert.Error(t, err)
}
