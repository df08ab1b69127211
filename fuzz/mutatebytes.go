package fuzz

import (
	"math/rand/v2"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// MutateBytes changes an image, given as the bytes of its file, by its structure: one to
// three changes that the number chooses. What is no qcow2 image becomes a small one of
// the corpus first. The result has at most most bytes. It is what a fuzzer written in C
// calls, see fuzz/cmutator.
func MutateBytes(file []byte, most int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 0x6d757461746f72))
	if _, err := qcow2.DecodeHeader(file); err != nil || len(file) < qcow2.HeaderLengthV2 {
		file = smallImage(rnd, most)
	}
	s := corpus.NewStore(0)
	s.WriteAt(file, 0)
	want := 1 + rnd.IntN(3)
	for done, tries := 0, 0; done < want && tries < 8*want; tries++ {
		mu, ok := mutate(rnd, s)
		if !ok || mu.Op == OpSize && mu.At > uint64(most) {
			continue
		}
		mu.apply(s)
		done++
	}
	out := make([]byte, min(s.Size(), int64(most)))
	s.ReadAt(out, 0) // a Store's reads do not fail within its size
	return out
}

// smallImage gives the bytes of an image of the corpus that has at most most bytes; a
// header alone where there is none.
func smallImage(rnd *rand.Rand, most int) []byte {
	names := Cases()
	for range 64 {
		c, ok := corpus.Lookup(names[rnd.IntN(len(names))])
		if !ok || c.Spec.ClusterBits == 0 || c.Spec.ClusterBits > 12 || len(c.Missing) > 0 {
			continue
		}
		img, err := c.Build()
		if err != nil || img.Size() > int64(most) {
			continue
		}
		out := make([]byte, img.Size())
		img.ReadAt(out, 0)
		return out
	}
	h := qcow2.Header{Version: 3, ClusterBits: 9, RefcountOrder: 4, HeaderLength: qcow2.HeaderLengthV3}
	return h.Encode()[:min(most, qcow2.HeaderLengthV3)]
}
