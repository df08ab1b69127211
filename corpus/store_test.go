package corpus

import (
	"bytes"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestStoreAgainstSlice does the same to a Store and to a slice.
func TestStoreAgainstSlice(t *testing.T) {
	t.Parallel()
	const size = 10*chunkSize + 100
	r := rand.New(rand.NewPCG(1, 2))
	s, want := NewStore(size), make([]byte, size)
	for range 500 {
		off := r.IntN(size)
		n := r.IntN(min(size-off, 3*chunkSize) + 1)
		b := byte(r.IntN(3))
		switch r.IntN(4) {
		case 0, 1:
			s.WriteAt(bytes.Repeat([]byte{b}, n), int64(off))
		case 2:
			s.fill(int64(off), int64(n), b)
		case 3:
			other := s.clone()
			other.fill(0, size, 7)
			s.fill(int64(off), int64(n), b)
			require.NotEqual(t, other.Sum(), s.Sum())
		}
		copy(want[off:], bytes.Repeat([]byte{b}, n))
		got := make([]byte, size+1)
		k, err := s.ReadAt(got, 0)
		require.Equal(t, size, k)
		require.ErrorIs(t, err, io.EOF)
		require.True(t, bytes.Equal(want, got[:k]))
	}

	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, s.WriteFile(path))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got))

	s.Truncate(5000)
	s.Truncate(size)
	clear(want[5000:])
	_, err = s.ReadAt(got[:size], 0)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got[:size]))
}

func TestStoreHoles(t *testing.T) {
	t.Parallel()
	s := NewStore(math.MaxInt64)
	data := func(off, start, end int64) {
		t.Helper()
		a, b, err := s.NextData(off)
		require.NoError(t, err)
		assert.Equal(t, []int64{start, end}, []int64{a, b})
	}
	data(0, math.MaxInt64, math.MaxInt64)
	s.WriteAt([]byte{1}, 3*chunkSize+5)
	s.WriteAt([]byte{1}, 4*chunkSize)
	s.WriteAt([]byte{1}, math.MaxInt64-1)
	last := int64(math.MaxInt64) / chunkSize * chunkSize
	data(0, 3*chunkSize, 5*chunkSize)
	data(3*chunkSize+7, 3*chunkSize+7, 5*chunkSize)
	data(5*chunkSize, last, math.MaxInt64)
	data(math.MaxInt64-1, math.MaxInt64-1, math.MaxInt64)
	s.fill(4*chunkSize, chunkSize, 0)
	data(4*chunkSize, last, math.MaxInt64)
}
