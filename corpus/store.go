package corpus

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
)

// chunkSize is the unit in which a Store keeps bytes: a page, so that what is a
// hole here is a hole in the file that is written too.
const chunkSize = 4096

type chunk struct {
	data   [chunkSize]byte
	shared bool // with another Store: to be copied before it is written to
}

// Store is a sparse file in memory. It takes memory for what was written, not
// for its size. It may be read from several goroutines, but not while it is
// being written to.
type Store struct {
	chunks map[int64]*chunk
	size   int64

	mu   sync.Mutex
	runs []chunkRun // the stored chunks; nil where they must be listed anew
}

// chunkRun is a run of neighbouring chunks, by number; end is not part of it.
type chunkRun struct{ start, end int64 }

// NewStore makes a file of size bytes that is one hole.
func NewStore(size int64) *Store {
	return &Store{chunks: make(map[int64]*chunk), size: size}
}

// Size is the size of the file in bytes.
func (s *Store) Size() int64 { return s.size }

// ReadAt reads like a file: short, with [io.EOF], at its end.
func (s *Store) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, os.ErrInvalid
	}
	if off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	s.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read fills p, with zeros where nothing was written, whatever the file's size.
func (s *Store) read(p []byte, off int64) {
	for len(p) > 0 {
		in := int(off % chunkSize)
		n := min(len(p), chunkSize-in)
		if c := s.chunks[off/chunkSize]; c != nil {
			copy(p[:n], c.data[in:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+int64(n)
	}
}

// WriteAt writes p at off and makes the file longer where needed. It never
// fails.
func (s *Store) WriteAt(p []byte, off int64) (int, error) {
	s.size = max(s.size, off+int64(len(p)))
	for rest := p; len(rest) > 0; {
		in := int(off % chunkSize)
		n := min(len(rest), chunkSize-in)
		if !allZero(rest[:n]) || s.chunks[off/chunkSize] != nil {
			copy(s.own(off / chunkSize).data[in:], rest[:n])
		}
		rest, off = rest[n:], off+int64(n)
	}
	return len(p), nil
}

// own gives a chunk that may be written to.
func (s *Store) own(i int64) *chunk {
	c := s.chunks[i]
	switch {
	case c == nil:
		c = new(chunk)
		s.runs = nil
	case c.shared:
		c = &chunk{data: c.data}
	default:
		return c
	}
	s.chunks[i] = c
	return c
}

// fill writes n equal bytes.
func (s *Store) fill(off, n int64, b byte) {
	var page [chunkSize]byte
	for i := range page {
		page[i] = b
	}
	for end := off + n; off < end; {
		k := min(end-off, chunkSize-off%chunkSize)
		if b == 0 && k == chunkSize {
			s.drop(off / chunkSize)
		} else {
			s.WriteAt(page[:k], off)
		}
		off += k
	}
	s.size = max(s.size, off)
}

func (s *Store) drop(i int64) {
	if s.chunks[i] != nil {
		delete(s.chunks, i)
		s.runs = nil
	}
}

// Truncate sets the file's size; what lies beyond it is gone.
func (s *Store) Truncate(size int64) {
	if size < s.size {
		for i := range s.chunks {
			if i*chunkSize >= size {
				s.drop(i)
			}
		}
		if in := size % chunkSize; in != 0 && s.chunks[size/chunkSize] != nil {
			clear(s.own(size / chunkSize).data[in:])
		}
	}
	s.size = size
}

// Memory is what the file's bytes take in memory, in bytes, as far as they are its own or
// shared with copies.
func (s *Store) Memory() int64 { return int64(len(s.chunks)) * chunkSize }

// clone gives a copy that shares the memory of what neither changes.
func (s *Store) clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := NewStore(s.size)
	for i, ch := range s.chunks {
		if !ch.shared { // others may look at it meanwhile
			ch.shared = true
		}
		c.chunks[i] = ch
	}
	return c
}

// stored gives the runs of stored chunks in order.
func (s *Store) stored() []chunkRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs == nil {
		s.runs = []chunkRun{}
		for _, i := range slices.Sorted(maps.Keys(s.chunks)) {
			if n := len(s.runs); n > 0 && s.runs[n-1].end == i {
				s.runs[n-1].end++
			} else {
				s.runs = append(s.runs, chunkRun{i, i + 1})
			}
		}
	}
	return s.runs
}

// NextData gives the extent of stored bytes that holds off, or the next one;
// it starts at the file's size where there is none. It makes a Store a
// [qcow2.DataFinder].
func (s *Store) NextData(off int64) (start, end int64, err error) {
	runs := s.stored()
	i, _ := slices.BinarySearchFunc(runs, off/chunkSize, func(r chunkRun, chunk int64) int {
		return cmp.Compare(r.end, chunk+1) // the first run that ends after the chunk
	})
	if i == len(runs) || runs[i].start*chunkSize >= s.size {
		return s.size, s.size, nil
	}
	if end = s.size; runs[i].end <= s.size/chunkSize {
		end = runs[i].end * chunkSize
	}
	return max(off, runs[i].start*chunkSize), end, nil
}

// Sum is a digest of the file's size and bytes. Holes and zeros count as the
// same.
func (s *Store) Sum() [sha256.Size]byte {
	h := sha256.New()
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(s.size))
	h.Write(head[:])
	for _, r := range s.stored() {
		for i := r.start; i < r.end; i++ {
			c := s.chunks[i]
			if allZero(c.data[:]) {
				continue
			}
			binary.BigEndian.PutUint64(head[:], uint64(i))
			h.Write(head[:])
			h.Write(c.data[:])
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// WriteFile writes the file to path, with holes where nothing is stored. A file
// that is there is replaced.
func (s *Store) WriteFile(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := f.Truncate(s.size); err != nil {
		return err
	}
	const most = 1 << 20 // bytes written at once
	buf := make([]byte, 0, most)
	for off := int64(0); ; {
		start, end, err := s.NextData(off)
		if err != nil || start >= s.size {
			return err
		}
		end = min(end, start+most)
		buf = buf[:end-start]
		s.read(buf, start)
		if _, err := f.WriteAt(buf, start); err != nil {
			return err
		}
		off = end
	}
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
