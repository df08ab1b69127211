package corpus

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// SeedFormat is how a fuzzer wants its seeds.
type SeedFormat string

// The formats.
const (
	// SeedsGo: files of Go's native fuzzer, one []byte each, for testdata/fuzz/FuzzXxx.
	SeedsGo SeedFormat = "go-fuzz"
	// SeedsAFL and SeedsLibFuzzer: the images as they are, each once.
	SeedsAFL       SeedFormat = "afl"
	SeedsLibFuzzer SeedFormat = "libfuzzer"
)

// DefaultSeedSize is the longest image that fuzzers get, in bytes: they work on whole
// files, and on small ones a hundred times as fast.
const DefaultSeedSize = 256 << 10

// ExportSeeds writes the images that a pattern matches (see [Select]) and that have at
// most maxSize bytes into a directory, which is made where it is not there, as seeds for
// a fuzzer. Images that need other files are left out, since a fuzzer knows one. It gives
// the number of files written.
func ExportSeeds(dir, pattern string, format SeedFormat, maxSize int64) (int, error) {
	switch format {
	case SeedsGo, SeedsAFL, SeedsLibFuzzer:
	default:
		return 0, fmt.Errorf("no fuzzer is known whose seeds are called %q", format)
	}
	cases, err := Select(pattern)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return 0, err
	}
	n := 0
	for i := range cases {
		c := &cases[i]
		if c.Huge || c.Long {
			continue
		}
		img, err := c.Build()
		if err != nil {
			return n, err
		}
		if img.Size() > maxSize || len(img.Siblings) > 0 {
			continue
		}
		file := make([]byte, img.Size())
		img.ReadAt(file, 0) // a Store's reads do not fail within its size
		name := c.Filename()
		if format == SeedsGo {
			name = name[:len(name)-len(".qcow2")]
			file = []byte("go test fuzz v1\n[]byte(" + strconv.Quote(string(file)) + ")\n")
		}
		if err := os.WriteFile(filepath.Join(dir, name), file, 0o666); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
