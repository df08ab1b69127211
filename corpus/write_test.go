package corpus_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

func TestExport(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "dir")
	cases, err := corpus.Export(dir, "healthy/backing-*")
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	for _, c := range cases {
		img, err := c.Build()
		require.NoError(t, err)
		st, err := os.Stat(filepath.Join(dir, c.Filename()))
		require.NoError(t, err)
		assert.Equal(t, img.Size(), st.Size(), c.Name)
		for name, s := range img.Siblings {
			b, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			want := make([]byte, s.Size())
			s.ReadAt(want, 0)
			assert.Equal(t, want, b, name)
		}
	}
}

// With a bound for the disk, no image is written that takes reading more.
func TestExportMaxDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cases, err := corpus.Selection{Pattern: "header", MaxDisk: 64 << 20}.Export(dir)
	require.NoError(t, err)
	all, err := corpus.Select("header")
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	assert.Less(t, len(cases), len(all))
	files, err := filepath.Glob(filepath.Join(dir, "*.qcow2"))
	require.NoError(t, err)
	assert.Len(t, files, len(cases))
	for i := range cases {
		img, err := cases[i].Build()
		require.NoError(t, err)
		q, err := img.Open()
		if err == nil {
			assert.LessOrEqual(t, q.Header.Size, uint64(64<<20), cases[i].Name)
		}
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]int{
		"": len(corpus.Cases()), "header/magic": 1, "header/magi?": 1, "heade": 0, "nothing/here": 0, "bitmap/name-[cn]*": 3,
		"magic": 2, "magi?": 2, "*-100": 2, "*/magic": 2, "h*/magic": 1, "hostile/8-eib*": 3,
	} {
		cases, err := corpus.Select(pattern)
		require.NoError(t, err)
		assert.Len(t, cases, want, pattern)
	}
	cases, err := corpus.Select("header")
	require.NoError(t, err)
	assert.Greater(t, len(cases), 20)
	for _, same := range []string{"header/", "header/*", "heade?"} {
		again, err := corpus.Select(same)
		require.NoError(t, err)
		assert.Len(t, again, len(cases), same)
	}
	_, err = corpus.Export(t.TempDir(), "hostile/8-eib*")
	assert.ErrorIs(t, err, corpus.ErrHuge)
	_, err = corpus.Select("[")
	assert.Error(t, err)
}

func TestEverythingCanBeWritten(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes every case")
	}
	dir := t.TempDir()
	cases, err := corpus.Export(dir, "")
	require.NoError(t, err)
	names := make(map[string]bool)
	for _, c := range cases {
		assert.False(t, names[c.Filename()], "two cases are written to %s", c.Filename())
		names[c.Filename()] = true
	}
	for _, c := range corpus.Samples() {
		require.NoError(t, c.WriteFiles(dir))
	}
}
