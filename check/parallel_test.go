package check

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInOrderMergesInOrder(t *testing.T) {
	for _, workers := range []int{0, 1, 2, 7, 64} {
		for _, n := range []int{0, 1, 5, 1000} {
			var got []int
			err := inOrder(t.Context(), workers, n, func(_, i int) int {
				if i%97 == 0 {
					time.Sleep(time.Millisecond) // let others overtake
				}
				return i * i
			}, func(i, r int) {
				assert.Equal(t, i*i, r)
				got = append(got, i)
			})
			require.NoError(t, err)
			require.Len(t, got, n)
			for i := range got {
				require.Equal(t, i, got[i])
			}
		}
	}
}

// What has been worked out but not merged is bounded, however slow the merging.
func TestInOrderBoundsWhatWaits(t *testing.T) {
	const workers = 3
	var worked, merged, most atomic.Int64
	err := inOrder(t.Context(), workers, 500, func(_, i int) int {
		most.Store(max(most.Load(), worked.Add(1)-merged.Load()))
		return i
	}, func(int, int) {
		time.Sleep(50 * time.Microsecond)
		merged.Add(1)
	})
	require.NoError(t, err)
	assert.LessOrEqual(t, most.Load(), int64(4*workers+workers+1))
}

func TestInOrderEndsWithContext(t *testing.T) {
	for _, workers := range []int{1, 4} {
		ctx, cancel := context.WithCancel(t.Context())
		merged := 0
		err := inOrder(ctx, workers, 1_000_000, func(_, i int) int { return i }, func(i, _ int) {
			if merged++; i == 10 {
				cancel()
			}
		})
		assert.ErrorIs(t, err, context.Canceled)
		assert.Less(t, merged, 1_000_000)
	}
}

func TestInOrderRaisesPanics(t *testing.T) {
	boom := errors.New("boom")
	for _, workers := range []int{1, 4} {
		assert.PanicsWithValue(t, boom, func() {
			_ = inOrder(t.Context(), workers, 100, func(_, i int) int {
				if i == 50 {
					panic(boom)
				}
				return i
			}, func(int, int) {})
		})
		assert.PanicsWithValue(t, boom, func() {
			_ = inOrder(t.Context(), workers, 100, func(_, i int) int { return i }, func(i, _ int) {
				if i == 50 {
					panic(boom)
				}
			})
		})
	}
}
