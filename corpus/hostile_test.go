package corpus_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
)

// TestHostileImagesCostLittle bounds what a check of an image that is there to
// break its reader takes: time in all, memory allocated in all, and memory for
// the reference counts. It runs alone, so that it measures nothing else.
func TestHostileImagesCostLittle(t *testing.T) {
	const (
		// Far above what it takes (about a second), far below a hang.
		mostTime   = time.Minute
		mostAlloc  = 2 << 30  // bytes, in all
		mostCounts = 32 << 20 // bytes
	)
	for _, c := range corpus.Cases() {
		if !strings.HasPrefix(c.Name, "hostile/") {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		opened, err := img.Open()
		require.NoError(t, err)
		img.NextData(0) // makes the list of what is stored

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), mostTime)
		res, err := check.Run(ctx, opened, c.Options(img))
		cancel()
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		alloc := after.TotalAlloc - before.TotalAlloc
		t.Logf("%-40s %8v, %6d KiB allocated, %6d KiB for counts, %d findings", c.Name, took.Round(time.Millisecond),
			alloc>>10, res.MemoryPeak>>10, len(res.Findings))
		assert.NoError(t, err, c.Name)
		assert.Less(t, took, mostTime, c.Name)
		assert.Less(t, alloc, uint64(mostAlloc), c.Name)
		assert.Less(t, res.MemoryPeak, int64(mostCounts), c.Name)
	}
}
