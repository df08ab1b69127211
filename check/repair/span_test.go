package repair

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Writes that are near each other become one; what is between stays as it is.
func TestSpanWriter(t *testing.T) {
	big := bytes.Repeat([]byte{9}, 2*writeSize+5)
	for _, c := range []struct {
		name   string
		adds   map[int64][]byte
		order  []int64
		writes [][2]int64 // offset, length
		bad    int64      // what begins here cannot be read
	}{
		{"nothing", nil, nil, nil, -1},
		{"touching", map[int64][]byte{4: {1, 2}, 6: {3}}, []int64{4, 6}, [][2]int64{{4, 3}}, -1},
		{"near", map[int64][]byte{4: {1, 2}, 100: {3}, 300: {4, 5}}, []int64{4, 100, 300}, [][2]int64{{4, 298}}, -1},
		{"far", map[int64][]byte{4: {1, 2}, 6 + maxGap: {3}, 8 + 2*maxGap: {4}}, []int64{4, 6 + maxGap, 8 + 2*maxGap}, [][2]int64{{4, maxGap + 3}, {8 + 2*maxGap, 1}}, -1},
		{"large", map[int64][]byte{10: {1}, 20: big}, []int64{10, 20}, [][2]int64{{10, writeSize}, {10 + writeSize, writeSize}, {10 + 2*writeSize, 15}}, -1},
		{"near, but unreadable between", map[int64][]byte{4: {1, 2}, 100: {3}, 300: {4, 5}}, []int64{4, 100, 300}, [][2]int64{{4, 2}, {100, 1}, {300, 2}}, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := bytes.Repeat([]byte{7}, 3<<20)
			want := bytes.Clone(image)
			w := worldOf(image)
			f := badFile{file{w}, c.bad}
			var writes [][2]int64
			s := &spanWriter{f: f, write: func(p []byte, off int64) error {
				writes = append(writes, [2]int64{off, int64(len(p))})
				_, err := f.WriteAt(p, off)
				return err
			}}
			for _, off := range c.order {
				require.NoError(t, s.add(c.adds[off], off))
				copy(want[off:], c.adds[off])
			}
			require.NoError(t, s.flush())
			require.Equal(t, c.writes, writes)
			require.True(t, bytes.Equal(want, w.image))
		})
	}
}

// badFile has a byte that cannot be read.
type badFile struct {
	file
	bad int64
}

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.bad && f.bad < off+int64(len(p)) {
		return int(f.bad - off), syscall.EIO
	}
	return f.file.ReadAt(p, off)
}

// What cannot be read keeps a repair only from what it is about.
func TestWindowUnreadable(t *testing.T) {
	w := window{f: badFile{file{worldOf(bytes.Repeat([]byte{7}, 9000))}, 600}, size: 9000}
	b, err := w.bytes(500, 100)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{7}, 100), b)
	_, err = w.bytes(500, 101)
	require.True(t, errors.Is(err, syscall.EIO))
	b, err = w.bytes(8999, 3)
	require.NoError(t, err)
	require.Equal(t, []byte{7, 0, 0}, b)
}
