package landmarks

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkLook measures how fast data without landmarks is looked through.
func BenchmarkLook(b *testing.B) {
	const cluster = 64 << 10
	rng := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 64*cluster)
	for i := 0; i < len(data); i += 8 {
		le.PutUint64(data[i:], rng.Uint64())
	}
	s := New(cluster * cluster / 8)
	b.SetBytes(cluster)
	for i := 0; b.Loop(); i++ {
		s.Look(uint64(i/8192), uint64(i%8192)*cluster, data[i%64*cluster:][:cluster])
	}
}
