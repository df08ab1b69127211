package check_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

const tib = 1 << 40

// Checks of whole images from memory: what is left when reading costs nothing. The
// bytes are those of the metadata.
func BenchmarkRun(b *testing.B) {
	full := func(spec corpus.Spec, length, shuffle uint64) corpus.Spec {
		spec.Size = length
		spec.Ops = []corpus.Op{corpus.Map{Length: length, Shuffle: shuffle}}
		return spec
	}
	snapshots := full(corpus.Spec{}, tib/16, 0)
	for i := range 100 {
		id := string(rune('0'+i/10)) + string(rune('0'+i%10))
		snapshots.Ops = append(snapshots.Ops, corpus.Snapshot{ID: id, Name: id}, corpus.Write{Offset: uint64(i) << 29, Length: 1 << 16, Pattern: byte(i)})
	}
	for _, x := range []struct {
		name string
		spec corpus.Spec
	}{
		{"contiguous", full(corpus.Spec{}, tib/4, 0)},
		{"shuffled", full(corpus.Spec{}, tib/4, 1)},
		{"4K-clusters", full(corpus.Spec{ClusterBits: 12}, tib/64, 0)},
		{"extended", full(corpus.Spec{ExtendedL2: true}, tib/8, 0)},
		{"refcounts-of-1-bit", full(corpus.Spec{RefcountBits: 1}, tib/4, 0)},
		{"100-snapshots", snapshots},
	} {
		b.Run(x.name, func(b *testing.B) {
			built, err := corpus.Build(x.spec)
			require.NoError(b, err)
			img, err := qcow2.Open(built, built.Size())
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				res, err := check.Run(b.Context(), img, check.Options{})
				if err != nil || res.Verdict != check.VerdictClean {
					b.Fatal(err, res.Verdict)
				}
			}
		})
	}
}
