package readers

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"github.com/qcheck/qcheck/corpus"
)

// comparison takes what a reader writes, and compares it with digests while it comes.
type comparison struct {
	want    corpus.DiskRead
	samples []corpus.Sample
	sums    []hash.Hash // of the samples
	got     uint64      // bytes
	most    uint64      // bytes that are taken at all
	over    bool        // there were more
}

func newComparison(want corpus.DiskRead) *comparison {
	c := &comparison{want: want, samples: want.Samples}
	if want.SHA256 != "" {
		c.samples = []corpus.Sample{{ByteRange: corpus.ByteRange{Length: want.Size}, SHA256: want.SHA256}}
	}
	for range c.samples {
		c.sums = append(c.sums, sha256.New())
	}
	return c
}

var errTooMuch = errors.New("more than the disk has")

// Write takes the next bytes.
func (c *comparison) Write(p []byte) (int, error) {
	if c.got+uint64(len(p)) > c.most {
		c.over = true
		return 0, errTooMuch
	}
	from, to := c.got, c.got+uint64(len(p))
	for i := range c.samples {
		s := &c.samples[i]
		lo, hi := max(from, s.Offset), min(to, s.Offset+s.Length)
		if lo < hi {
			c.sums[i].Write(p[lo-from : hi-from])
		}
	}
	c.got = to
	return len(p), nil
}

// outcome tells what the bytes are worth, of a reader that said that all is well.
func (c *comparison) outcome() (Outcome, string) {
	switch {
	case c.over:
		return Wrong, fmt.Sprintf("writes more than %d bytes, and the disk has %d", c.most, c.want.Size)
	case c.got != c.want.Size:
		return Wrong, fmt.Sprintf("writes %d bytes, and the disk has %d", c.got, c.want.Size)
	}
	for i, s := range c.samples {
		if fmt.Sprintf("%x", c.sums[i].Sum(nil)) != s.SHA256 {
			return Wrong, fmt.Sprintf("other data than QEMU within %d bytes at %#x", s.Length, s.Offset)
		}
	}
	if len(c.want.Unreadable) > 0 {
		return Wrong, madeUp(c.want.Unreadable[0])
	}
	return Right, ""
}
