package main

import (
	"fmt"
	"hash/fnv"
	"iter"
	"strconv"
	"strings"
)

// shard is one of N parts of a list of images. The zero value is all of them.
type shard struct{ index, of uint32 }

// UnmarshalText parses I/N, I from 0 to N-1: engines count their workers from 0.
func (s *shard) UnmarshalText(text []byte) error {
	i, n, ok := strings.Cut(string(text), "/")
	index, ierr := strconv.ParseUint(i, 10, 31)
	of, nerr := strconv.ParseUint(n, 10, 31)
	if !ok || ierr != nil || nerr != nil || of == 0 || index >= of {
		return fmt.Errorf("%q is no part of a list: it is I/N, I from 0 to N-1, as in 0/4, 1/4, 2/4, 3/4", text)
	}
	*s = shard{uint32(index), uint32(of)}
	return nil
}

// has tells whether an image is in the part. Its name decides, byte for byte, and nothing
// else, so that each worker comes to the same answer whatever it is given. It must stay as
// it is: results of different versions are put together.
func (s shard) has(name string) bool {
	if s.of <= 1 {
		return true
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	sum := h.Sum64()
	sum ^= sum >> 32 // the low bits of FNV alone depend on the low bits of the name
	return uint32(sum)%s.of == s.index
}

// filter leaves the images of the part.
func (s shard) filter(paths iter.Seq2[string, error]) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for path, err := range paths {
			if (err != nil || s.has(path)) && !yield(path, err) {
				return
			}
		}
	}
}
