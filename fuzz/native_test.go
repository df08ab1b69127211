package fuzz_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz"
)

// patched gives a mutant with bytes of the fuzzer's choice on top: it finds out by
// itself which of them lead anywhere.
func patched(t *testing.T, seed uint64, at uint32, patch []byte) (*corpus.Case, *corpus.Image, string) {
	t.Helper()
	m, img, err := fuzz.NewMutant(&images, fuzz.Cases(), seed)
	require.NoError(t, err)
	c, _, err := images.Build(m.Case)
	require.NoError(t, err)
	size := img.Size()
	img.WriteAt(patch[:min(len(patch), 4096)], int64(at))
	img.Truncate(size)
	return c, img, fmt.Sprintf("%s; %x at %#x", m, patch, at)
}

// seeds are what the native fuzzer starts from: mutants of all kinds, and the parts
// of an image where most of its metadata stands.
func seeds(f *testing.F) {
	for i, at := range []uint32{0, 20, 36, 72, 104, 112, 512, 0x10000, 0x20000, 0x30000, 0x40000, 0x50000} {
		f.Add(uint64(i), at, []byte{0, 0, 0, 0, 0, 0, 0x10, 0xff})
		f.Add(uint64(1000+i), at, []byte{})
	}
}

// FuzzCheck: no image makes a check panic, hang or contradict itself, and none is
// changed by it.
func FuzzCheck(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, seed uint64, at uint32, patch []byte) {
		c, img, said := patched(t, seed, at, patch)
		verify(t, c, img, said)
	})
}

// FuzzRepair: repairs end and converge, and lose nothing that they may not lose.
func FuzzRepair(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, seed uint64, at uint32, patch []byte) {
		c, img, said := patched(t, seed, at, patch)
		if img.Size() > 64<<20 {
			t.Skip("a repair of it takes seconds")
		}
		k := int(seed % uint64(len(repairWays)))
		verifyRepair(t, c, img, repairWays[k], fmt.Sprintf("way %d: %s", k, said))
	})
}
