package corpus_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// TestBitmapByName asserts for the bitmaps of all images that none is given by name that a
// check calls unusable, and that none is refused that QEMU uses.
func TestBitmapByName(t *testing.T) {
	t.Parallel()
	met := make(map[qcow2.BitmapProblem]int)
	given := 0
	for _, c := range corpus.Cases() {
		if c.Huge || c.Long || c.QEMUSlow {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		q, err := img.Open()
		if err != nil || len(c.Unreadable) > 0 {
			continue
		}
		res := runCheck(t, &c, img, 1)
		for i := range res.Bitmaps {
			info := &res.Bitmaps[i]
			b, err := q.BitmapByName(info.Name)
			usable := info.State == check.BitmapEnabled || info.State == check.BitmapDisabled
			if unusable, ok := errors.AsType[*qcow2.BitmapUnusable](err); ok {
				require.NotEmpty(t, unusable.Reasons)
				for _, r := range unusable.Reasons {
					if p, ok := errors.AsType[*qcow2.BitmapError](r); ok {
						met[p.Problem]++
					}
				}
			}
			what := fmt.Sprintf("%s, bitmap %q: %s (%s): %v", c.Name, info.Name, info.State, info.Why, err)
			if usable && res.QEMUOpen.ReadOnly == check.OpenOK {
				assert.NoError(t, err, what)
			}
			if err == nil {
				// That another structure lies on it, or that its own is elsewhere, takes a look at the whole image.
				assert.True(t, usable || strings.Contains(info.Why, "another") || c.Name == "lost-bitmaps/table-free", what)
				given++
				assert.Equal(t, info.EntryOffset, b.Entry().EntryOffset, c.Name)
			}
		}
		_, err = q.BitmapByName("there is none of this name")
		assert.Error(t, err, c.Name)
	}
	assert.Greater(t, given, 100)
	for p := qcow2.BitmapUnsaved; p < qcow2.BitmapUnreadable; p++ {
		if p != qcow2.BitmapTableShort && p != qcow2.BitmapTwoLists && p != qcow2.BitmapUnknownImage {
			assert.Positive(t, met[p], "no image where %q", p)
		}
	}
}

// TestBitmapByNameUnknownImage asserts that bitmaps of an image that needs what is not
// known are not given, nor those of an image with two lists of them.
func TestBitmapByNameUnknownImage(t *testing.T) {
	t.Parallel()
	c, ok := corpus.Lookup("healthy/bitmap-and-snapshots")
	require.True(t, ok)
	for problem, change := range map[qcow2.BitmapProblem]func(*corpus.Image, *qcow2.Image){
		qcow2.BitmapUnknownImage: func(img *corpus.Image, _ *qcow2.Image) {
			img.WriteAt([]byte{0x80}, qcow2.FieldIncompatibleFeatures)
		},
		qcow2.BitmapTwoLists: func(img *corpus.Image, q *qcow2.Image) {
			e := q.Extension(qcow2.ExtBitmaps)
			x := qcow2.DecodeBitmapsExtension(e.Data)
			x.NbBitmaps--
			last := q.Extensions[len(q.Extensions)-1].End()
			img.WriteAt(qcow2.EncodeExtension(qcow2.ExtBitmaps, x.Encode()), int64(last))
		},
	} {
		img, err := c.Build()
		require.NoError(t, err)
		q, err := img.Open()
		require.NoError(t, err)
		name := string(runCheck(t, &c, img, 1).Bitmaps[0].Name)
		_, err = q.BitmapByName(name)
		require.NoError(t, err)
		change(img, q)
		q, err = img.Open()
		require.NoError(t, err)
		_, err = q.BitmapByName(name)
		unusable, ok := errors.AsType[*qcow2.BitmapUnusable](err)
		require.True(t, ok, "%v: %v", problem, err)
		assert.True(t, slices.ContainsFunc(unusable.Reasons, func(err error) bool {
			e, ok := errors.AsType[*qcow2.BitmapError](err)
			return ok && e.Problem == problem
		}), "%v", err)
	}
}
