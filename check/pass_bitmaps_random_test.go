package check

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Whatever stands in the bitmaps' and the snapshots' structures, a check comes
// to its end, says something unless nothing is wrong, and never says that a
// cluster is a leak that the damage may have taken from its owner.
func TestRandomDamage(t *testing.T) {
	t.Parallel()
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	m := newBitmapImage(t, nil, func(m *bitmapImage) { addSnapshots(m.testImage, 3, nil) },
		newBitmap("a", auto), newBitmap("bb", 0), newBitmap("c", inUse), newBitmap("a longer name than the others", 0))
	extents := []qcow2.Extent{
		at(m.extAt, qcow2.BitmapsExtensionSize), at(m.ext.DirectoryOffset, len(m.directory)), at(m.h.SnapshotsOffset, 3*64+32),
		at(qcow2.FieldNbSnapshots, 12), at(m.bitmaps[1].TableOffset, 24), at(m.bitmaps[2].TableOffset, 24),
	}
	interesting := []byte{0, 1, 2, 0x7f, 0x80, 0xff}
	for range rounds {
		type old struct {
			at qcow2.HostOffset
			b  []byte
		}
		var undo []old
		for range 1 + rnd.IntN(4) {
			x := extents[rnd.IntN(len(extents))]
			o := old{x.Offset + qcow2.HostOffset(rnd.Uint64N(x.Length)), make([]byte, 1+rnd.IntN(8))}
			m.copyOut(o.b, int64(o.at))
			undo = append(undo, o)
			damage := make([]byte, len(o.b))
			for i := range damage {
				damage[i] = interesting[rnd.IntN(len(interesting))]
				if rnd.IntN(3) == 0 {
					damage[i] = byte(rnd.Uint32())
				}
			}
			m.write(o.at, damage)
		}
		res := m.inspect(t, Options{BitmapData: true}).res // fails on a panic or an error
		for _, f := range res.Findings {
			if f.Code == problem.RefcountTooHigh {
				b := make([]byte, f.Count*m.g.ClusterSize())
				m.copyOut(b, int64(m.g.HostOffset(*f.Cluster)))
				require.True(t, sniff.Zero(b), "%v", res.Findings)
			}
		}
		for i := len(undo) - 1; i >= 0; i-- {
			m.write(undo[i].at, undo[i].b)
		}
	}
}
