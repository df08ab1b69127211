package repair

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What was packed comes out again, from any part of the page.
func TestPacked(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 1))
	whole := 0
	for range 1000 {
		was := make([]byte, pageSize)
		for i := range was {
			was[i] = byte(r.Uint32() >> 30)
		}
		will := bytes.Clone(was)
		for range r.IntN(1 << r.IntN(12)) {
			at := r.IntN(pageSize)
			n := 1 + r.IntN(1<<r.IntN(8))
			for i := at; i < min(at+n, pageSize); i++ {
				will[i] = byte(r.Uint32() >> 30)
			}
		}
		pg := packed(was, will)
		if len(pg) == pageSize {
			whole++
		} else {
			require.LessOrEqual(t, len(pg), mostPacked)
		}
		require.Equal(t, bytes.Equal(was, will), len(pg) == 0)
		from := r.IntN(pageSize)
		to := from + r.IntN(pageSize-from+1)
		got := bytes.Clone(was[from:to])
		pg.over(got, from)
		require.Equal(t, will[from:to], got)
	}
	assert.Greater(t, whole, 50)
	assert.Less(t, whole, 700)
	one := bytes.Clone(make([]byte, pageSize))
	one[9] = 1
	assert.Len(t, packed(make([]byte, pageSize), one), pieceHead+1)
}
