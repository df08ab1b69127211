package main

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// byteSize is a number of bytes, given as 4096, 64k, 512M, 2G or 1T.
type byteSize uint64

// UnmarshalText parses a size.
func (b *byteSize) UnmarshalText(text []byte) error {
	s := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(string(text)), "b"), "i")
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("kmgtpe", s[n-1]); i >= 0 {
			shift = 10 * (i + 1)
			s = s[:n-1]
		}
	}
	v, err := strconv.ParseUint(s, 10, 63)
	if err != nil || v == 0 || bits.Len64(v)+shift > 63 {
		return fmt.Errorf("%q is no size in bytes, like 4096, 64k, 512M or 2G", text)
	}
	*b = byteSize(v << shift)
	return nil
}
