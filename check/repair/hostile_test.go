package repair

import (
	"context"
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
	if testing.Short() {
		t.Skip("takes a while, a minute with the race detector")
	}
	for i, c := range corpus.Cases() {
		if !strings.HasPrefix(c.Name, "hostile/") || c.Huge || !thorough && (strings.HasPrefix(c.Name, "hostile/65535") || c.QEMUSlow && testing.Short()) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			img, err := c.Build()
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the machine may be busy
			defer cancel()
			began := time.Now()
			plan, err := Make(ctx, img, img.Size(), Options{AllowDataLoss: true, Reattach: i%2 == 0})
			t.Log(time.Since(began))
			require.NoError(t, err)
			assert.Less(t, plan.NewSize-plan.OldSize, int64(64<<20))
		})
	}
}
