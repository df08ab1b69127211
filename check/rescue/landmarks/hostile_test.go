package landmarks

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// heal puts right the checksums of what begins at each sector, so that what hides behind
// them is reached.
func heal(b []byte) {
	for o := 0; o+sector <= len(b); o += sector {
		s := b[o:]
		first := be.Uint32(s)
		put := func(n, hole int) {
			if n <= len(s) {
				le.PutUint32(s[hole:], crcHole(s[:n], hole, 4))
			}
		}
		switch {
		case string(s[:4]) == "XFSB":
			put(512, 224)
		case string(s[:4]) == "XAGF":
			put(512, 216)
		case string(s[:2]) == "IN":
			put(512, 100)
		case string(s[:8]) == "EFI PART":
			le.PutUint32(s[16:], 0)
			le.PutUint32(s[16:], crc32.ChecksumIEEE(s[:gptHead]))
		case le.Uint16(s[0x38:]) == extMagic && len(s) >= extSuperSize:
			le.PutUint32(s[0x3fc:], crcRaw(^uint32(0), s[:0x3fc]))
		case be.Uint64(s[64:]) == btrfsMagic && len(s) >= btrfsSuperSize:
			le.PutUint32(s, crc(s[32:btrfsSuperSize]))
		case s[63] == 1 && s[56]&1 == 1 && len(s) >= block:
			le.PutUint32(s, crc(s[32:block]))
		default:
			if p, ok := xfsBlocks[first]; ok {
				put(block, p.crc)
			}
		}
	}
}

// FuzzLook shows the scanner whatever there may be in a cluster, and asks it for places.
func FuzzLook(f *testing.F) {
	files, err := filepath.Glob("testdata/blocks/*")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for i, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(b, uint16(i*sector), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16, healed bool) {
		b = b[:min(len(b), 1<<16)/sector*sector]
		if healed {
			heal(b)
		}
		one(t, b, at)
	})
}

// one shows the scanner a cluster in several places, and asks for all that it knows.
func one(t *testing.T, b []byte, at uint16) {
	s := New(1 << 21)
	s.Read = func(piece, at uint64, p []byte) error {
		clear(p)
		if at < uint64(len(b)) {
			copy(p, b[at:])
		}
		return nil
	}
	s.ReadStray = func(host uint64, p []byte) error { return s.Read(0, host%(1<<16), p) }
	s.Look(0, 0, b)
	s.Look(1, uint64(at)/sector*sector, b)
	s.Look(7, 1<<20, b)
	for o := 0; o+block <= len(b); o += block {
		s.Stray(uint64(o), b[o:o+block])
	}
	s.Known(7, 3)
	for _, p := range s.Resolve() {
		if p.Piece == 7 && p.Index != 3 {
			t.Fatalf("a piece whose place is known was given another: %+v", p)
		}
	}
	s.Strays()
	s.DiskSize()
	s.Volumes()
}
