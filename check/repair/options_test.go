package repair

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
)

// No option together with another one loses what neither loses alone, and without the option
// that lets data be lost nothing is.
func TestOptionsTogetherLoseNoMore(t *testing.T) {
	loss := func(o *Options) { o.AllowDataLoss = true }
	reattach := func(o *Options) { o.Reattach = true }
	dirty := func(o *Options) { o.BitmapPolicy = PolicyAllDirty }
	remove := func(o *Options) { o.BitmapPolicy = PolicyRemove }
	pairs := []struct {
		name string
		a, b func(*Options)
	}{
		{"loss and reattach", loss, reattach}, {"loss and all-dirty", loss, dirty}, {"loss and remove", loss, remove},
		{"reattach and all-dirty", reattach, dirty}, {"reattach and remove", reattach, remove},
	}
	every := stride(6, 72)
	for i, c := range corpus.Cases() {
		if i%every != 0 || c.Huge || c.Long || c.QEMUSlow || c.NotQcow2() || c.Healthy() || len(c.Unreadable) > 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := c.Build()
			require.NoError(t, err)
			plan := func(change ...func(*Options)) *Plan {
				opts := Options{OpenSibling: c.Options(img).OpenSibling}
				for _, f := range change {
					f(&opts)
				}
				p, err := work(t.Context(), img, img.Size(), opts)
				if errors.Is(err, ErrNoProgress) || errors.Is(err, errGrown) {
					return &Plan{}
				}
				require.NoError(t, err)
				if !opts.AllowDataLoss {
					assert.Empty(t, p.LostGuest)
				}
				return p
			}
			for _, pair := range pairs {
				a, b, both := plan(pair.a), plan(pair.b), plan(pair.a, pair.b)
				for _, lost := range both.LostGuest {
					assert.True(t, covered(lost, slices.Concat(a.LostGuest, b.LostGuest)), "%s: %+v, alone %+v and %+v", pair.name, lost, a.LostGuest, b.LostGuest)
				}
				if both.After != nil && a.After != nil && b.After != nil {
					assert.GreaterOrEqual(t, len(both.After.Snapshots), min(len(a.After.Snapshots), len(b.After.Snapshots)), fmt.Sprintf("%s: snapshots", pair.name))
				}
			}
		})
	}
}

// covered tells whether every byte of a range is in one of others.
func covered(r GuestRange, by []GuestRange) bool {
	by = slices.DeleteFunc(slices.Clone(by), func(o GuestRange) bool { return o.Of != r.Of })
	slices.SortFunc(by, func(a, b GuestRange) int { return int(min(max(int64(a.Offset)-int64(b.Offset), -1), 1)) })
	at := r.Offset
	for _, o := range by {
		if o.Offset <= at && o.Offset+o.Length > at {
			at = o.Offset + o.Length
		}
	}
	return at >= r.Offset+r.Length
}
