package qcow2

import (
	"bytes"
	"crypto/sha256"
)

// Digest identifies the content of the bitmap: the SHA-256 that QEMU's
// x-debug-block-dirty-bitmap-sha256 gives on a little-endian machine for the
// same bitmap. It covers the bits in whole 64-bit words, at least one; bits past
// the last one are taken as they are stored. Name, granularity and flags are not
// part of it. The error is the first part that cannot be read.
func (b *Bitmap) Digest() ([sha256.Size]byte, error) {
	const wordBits = 64
	left := max(1, (b.bits+wordBits-1)/wordBits) * 8 // bytes
	h := sha256.New()
	var fill [2][]byte // zeros and ones, made when needed
	for p, err := range b.pieces() {
		if err != nil {
			return [sha256.Size]byte{}, err
		}
		if p.data != nil {
			n := min(left, uint64(len(p.data)))
			h.Write(p.data[:n])
			left -= n
			continue
		}
		value := 0
		if p.ones {
			value = 1
		}
		if fill[value] == nil {
			fill[value] = bytes.Repeat([]byte{byte(-value)}, scanChunk)
		}
		// The last word counts as a whole.
		n := min(left, (p.to-p.from+wordBits-1)/wordBits*8)
		left -= n
		for ; n > 0; n -= min(n, scanChunk) {
			h.Write(fill[value][:min(n, scanChunk)])
		}
	}
	h.Write(make([]byte, left))
	return [sha256.Size]byte(h.Sum(nil)), nil
}
