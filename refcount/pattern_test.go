package refcount

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func TestSameUntilAndLastNonZero(t *testing.T) {
	for order := range uint(qcow2.MaxRefcountOrder + 1) {
		rng := rand.New(rand.NewPCG(1, uint64(order)))
		b := qcow2.RefcountBlock{Raw: make([]byte, 16384), Order: order}
		for range 120 {
			v := rng.Uint64N(3) & b.Max()
			for i := range b.Len() {
				b.Set(i, v)
			}
			odd := rng.IntN(b.Len())
			b.Set(odd, (v+1)&b.Max())
			lo := rng.IntN(b.Len())
			hi := lo + rng.IntN(b.Len()-lo+1)
			if rng.IntN(4) == 0 {
				lo, hi = 0, b.Len()
			}
			want := hi
			if odd >= lo && odd < hi {
				want = odd
			}
			require.Equal(t, want, sameUntil(b, lo, hi, v), "order %d, %d to %d, odd %d", order, lo, hi, odd)
			if b.Max() < 1<<63 {
				require.Equal(t, lo, sameUntil(b, lo, hi, b.Max()+1))
			}

			last := -1
			for i := lo; i < hi; i++ {
				if b.Get(i) != 0 {
					last = i
				}
			}
			require.Equal(t, last, lastNonZero(b, lo, hi))
		}
	}
}

func TestSpread(t *testing.T) {
	for order := range uint(qcow2.MaxRefcountOrder + 1) {
		rng := rand.New(rand.NewPCG(2, uint64(order)))
		for range 100 {
			set := rng.Uint64()
			b := qcow2.RefcountBlock{Raw: make([]byte, 8), Order: order}
			for i := range b.Len() {
				b.Set(i, set>>i&1)
			}
			require.Equal(t, binary.LittleEndian.Uint64(b.Raw), spread(order, set), "order %d, set %x", order, set)
		}
	}
}
