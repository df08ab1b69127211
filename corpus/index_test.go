package corpus_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
)

// The index tells of every file that is written, and where what must be found is.
func TestIndex(t *testing.T) {
	dir := t.TempDir()
	cases, err := corpus.Export(dir, "*bitmap*")
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, corpus.IndexName))
	require.NoError(t, err)
	var index corpus.Index
	require.NoError(t, json.Unmarshal(text, &index))
	assert.Equal(t, 1, index.Format)
	require.Len(t, index.Images, len(cases))
	assert.Equal(t, corpus.Secret, index.Secret)
	offsets, digests, samples := 0, 0, 0
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
		require.NotNil(t, e.Made.VirtualSize)
		assert.NotNil(t, e.Made.Features, "a list, if an empty one")
		if e.Made.GuestSHA256 != "" {
			digests++
			assert.True(t, c.Healthy(), e.Name)
			img, err := c.Build()
			require.NoError(t, err)
			assert.EqualValues(t, img.Guest().Size(), *e.Made.VirtualSize)
			guest := make([]byte, img.Guest().Size())
			_, err = img.Guest().ReadAt(guest, 0)
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(guest)), e.Made.GuestSHA256)
		}
		if c.Healthy() {
			assert.NotEqual(t, e.Made.GuestSHA256 == "", len(e.Made.GuestSamples) == 0, e.Name)
		}
		for _, s := range e.Made.GuestSamples {
			samples++
			img, err := c.Build()
			require.NoError(t, err)
			part := make([]byte, s.Length)
			_, err = img.Guest().ReadAt(part, int64(s.Offset))
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(part)), s.SHA256)
		}
		if c.QEMU.ReadOnly == check.OpenOK {
			require.NotNil(t, e.QEMU.Read, e.Name)
			assert.Positive(t, e.QEMU.Read.Size, e.Name)
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
	assert.Positive(t, digests)
	assert.Positive(t, samples)
}

// docs/corpus.md tells of every key.
func TestIndexIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/corpus.md")
	require.NoError(t, err)
	seen := 0
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			assert.Contains(t, string(text), "`"+key+"`")
			seen++
			walk(typ.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[corpus.Index]())
	assert.Greater(t, seen, 30)
}

// What an entry says of how the image was made, and of what its findings take.
func TestEntry(t *testing.T) {
	t.Parallel()
	entry := func(name string) corpus.Entry {
		c, ok := corpus.Lookup(name)
		require.True(t, ok, name)
		_, e, err := c.BuildEntry()
		require.NoError(t, err)
		return e
	}
	e := entry("healthy/v3-2097152-16-extended-l2-lazy-data-file-backing-bitmaps-luks")
	assert.EqualValues(t, 3, e.Made.Version)
	assert.EqualValues(t, 2<<20, e.Made.ClusterSize)
	assert.Equal(t, []string{"extended-l2", "lazy-refcounts", "data-file", "backing-file", "bitmaps", "luks"}, e.Made.Features)
	assert.Equal(t, []string{e.Made.DataFile, e.Made.BackingFile}, e.Files)
	assert.Equal(t, "raw", e.Made.BackingFormat)
	assert.Nil(t, e.Provided)
	assert.Equal(t, []string{"zlib", "snapshots"}, entry("healthy/snapshots-compressed").Made.Features)
	assert.NotNil(t, entry("healthy/snapshots-resized").Made.VirtualSize)
	assert.EqualValues(t, 1<<30+512, *entry("healthy/snapshots-resized").Made.VirtualSize)

	e = entry("trouble/unreadable-block")
	require.NotNil(t, e.Provided)
	require.Len(t, e.Provided.Unreadable, 1)
	assert.EqualValues(t, 64<<10, *e.Provided.Unreadable[0].Length)
	assert.EqualValues(t, 1, entry("trouble/memory").Provided.MemoryLimit)
	assert.True(t, entry("bitmap-data/zeros").Provided.BitmapData)
}
