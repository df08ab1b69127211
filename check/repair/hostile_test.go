//go:build repair

package repair

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

// Images made by an enemy: a plan is made in bounded time, or not at all, and the
// file grows by no more than a little.
func TestRepairHostile(t *testing.T) {
	for _, c := range corpus.Cases() {
		if !strings.HasPrefix(c.Name, "hostile/") {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			img, err := c.Build()
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			began := time.Now()
			plan, err := Make(ctx, img, img.Size(), Options{})
			t.Logf("%v %v", time.Since(began), err)
			if err != nil {
				// Refused, with nothing written, is an end as well.
				assert.True(t, errors.Is(err, ErrNoProgress) || errors.Is(err, context.DeadlineExceeded), "%v", err)
				return
			}
			assert.Less(t, plan.NewSize-plan.OldSize, int64(64<<20))
		})
	}
}
