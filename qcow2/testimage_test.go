package qcow2_test

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// memFile is an image file in memory of which only a part is stored: the rest
// of its size is a hole. Reads that touch bad fail.
type memFile struct {
	parts map[int64][]byte // must not overlap
	size  int64
	bad   []qcow2.Extent
	read  atomic.Int64 // bytes read so far
}

var errBadSector = errors.New("bad sector")

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	for _, b := range m.bad {
		if off < int64(b.Offset)+int64(b.Length) && int64(b.Offset) < off+int64(len(p)) {
			return 0, errBadSector
		}
	}
	n := len(p)
	if off >= m.size {
		return 0, io.EOF
	}
	n = int(min(int64(n), m.size-off))
	m.read.Add(int64(n))
	clear(p[:n])
	for at, part := range m.parts {
		from, to := max(at, off), min(at+int64(len(part)), off+int64(n))
		if from < to {
			copy(p[from-off:to-off], part[from-at:to-at])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData makes memFile a [qcow2.DataFinder].
func (m *memFile) NextData(off int64) (start, end int64, err error) {
	start, end = m.size, m.size
	for at, part := range m.parts {
		stop := at + int64(len(part))
		if stop > off && max(at, off) < start {
			start, end = max(at, off), stop
		}
	}
	return start, end, nil
}

// open opens the file as an image.
func (m *memFile) open(t testing.TB) *qcow2.Image {
	t.Helper()
	img, err := qcow2.Open(m, m.size)
	require.NoError(t, err)
	return img
}

// newFile makes a file of size bytes that starts with the header.
func newFile(h qcow2.Header, size int64) *memFile {
	if h.Version == 0 {
		h.Version = 3
	}
	if h.ClusterBits == 0 {
		h.ClusterBits = 16
	}
	if h.HeaderLength == 0 {
		h.HeaderLength = qcow2.HeaderLengthCompression
	}
	if h.RefcountOrder == 0 {
		h.RefcountOrder = 4
	}
	return &memFile{parts: map[int64][]byte{0: h.Encode()}, size: size}
}

// words gives 64-bit big-endian words.
func words(ws ...uint64) []byte {
	var b []byte
	for _, w := range ws {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

func writeFile(path string, b []byte) error { return os.WriteFile(path, b, 0o600) }

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}
