package qcow2

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRefcountBlockRoundTrip(t *testing.T) {
	for order := range uint(MaxRefcountOrder + 1) {
		rng := rand.New(rand.NewPCG(1, uint64(order)))
		b := RefcountBlock{Raw: make([]byte, 512), Order: order}
		require.Equal(t, 512*8>>order, b.Len())
		for i := range b.Raw {
			b.Raw[i] = byte(rng.Uint32()) // what was there must not shine through
		}
		want := make([]uint64, b.Len())
		for _, i := range rng.Perm(b.Len()) {
			want[i] = rng.Uint64() & b.Max()
			b.Set(i, want[i])
		}
		for i, w := range want {
			require.Equal(t, w, b.Get(i), "order %d, entry %d", order, i)
		}
	}
}

func TestRefcountBlockSetTouchesOneEntry(t *testing.T) {
	for order := range uint(MaxRefcountOrder + 1) {
		b := RefcountBlock{Raw: make([]byte, 64), Order: order}
		for i := range b.Len() {
			b.Set(i, b.Max())
			for j := range b.Len() {
				if j == i {
					require.Equal(t, b.Max(), b.Get(j))
				} else {
					require.Zero(t, b.Get(j), "order %d: setting %d changed %d", order, i, j)
				}
			}
			b.Set(i, 0)
		}
	}
}

// The layout, byte by byte, as QEMU's get_refcount_ro0 to get_refcount_ro6 see
// it.
func TestRefcountBlockLayout(t *testing.T) {
	raw := []byte{0xb1, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08}
	for _, tc := range []struct {
		order uint
		i     int
		want  uint64
	}{
		{0, 0, 1}, {0, 1, 0}, {0, 4, 1}, {0, 6, 0}, {0, 7, 1}, {0, 8, 0}, {0, 9, 1},
		{1, 0, 1}, {1, 1, 0}, {1, 2, 3}, {1, 3, 2}, {1, 4, 2},
		{2, 0, 1}, {2, 1, 0xb}, {2, 2, 2}, {2, 3, 0},
		{3, 0, 0xb1}, {3, 7, 8},
		{4, 0, 0xb102}, {4, 3, 0x0708},
		{5, 0, 0xb1020304}, {5, 1, 0x05060708},
		{6, 0, 0xb102030405060708},
	} {
		g := Geometry{ClusterBits: 9, RefcountOrder: tc.order}
		assert.Equal(t, tc.want, g.RefcountBlock(raw).Get(tc.i), "order %d, entry %d", tc.order, tc.i)
	}
}

func TestMaxRefcount(t *testing.T) {
	want := []uint64{1, 3, 15, 255, 65535, 1<<32 - 1, 1<<64 - 1}
	for order, w := range want {
		assert.Equal(t, w, MaxRefcount(uint(order)))
	}
}
