package repair

import (
	"bytes"
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

var policies = []BitmapPolicy{PolicyMark, PolicyAllDirty, PolicyRemove}

// applied makes the edits of a plan in a copy of the image.
func applied(t testing.TB, r interface {
	ReadAt(p []byte, off int64) (int, error)
}, p *Plan) *corpus.Store {
	t.Helper()
	s := corpus.NewStore(p.NewSize)
	buf := make([]byte, 1<<16)
	for off := int64(0); off < p.OldSize; off += int64(len(buf)) {
		n, _ := r.ReadAt(buf[:min(int64(len(buf)), p.OldSize-off)], off)
		if !bytes.Equal(buf[:n], make([]byte, n)) {
			s.WriteAt(buf[:n], off)
		}
	}
	for _, e := range p.Edits {
		was := make([]byte, len(e.Old))
		s.ReadAt(was, int64(e.Offset))
		require.Equal(t, e.Old, was, "%v at %v: %s", e.Stage, e.Offset, e.Reason)
		s.WriteAt(e.New, int64(e.Offset))
	}
	return s
}

// repairable gives the codes that a repair of the bitmaps should have settled.
func repairable(res *check.Result, policy BitmapPolicy) (codes []check.Code) {
	for _, f := range res.Findings {
		ours := isBitmapCode(f.Code) || f.Code == check.HDR021 || f.Code == check.EXT003
		if !ours || f.Repair == check.RepairNone || f.Code == check.BMX002 {
			continue
		}
		if policy == PolicyMark && f.Severity == check.Note {
			continue // in use it was and is
		}
		codes = append(codes, f.Code)
	}
	return codes
}

func bitmapCases() (cases []corpus.Case) {
	for _, c := range corpus.Cases() {
		if c.Huge || c.Name == "hostile/1tib-bitmap-table" {
			continue
		}
		if slices.ContainsFunc(c.Want, func(w corpus.Want) bool {
			return isBitmapCode(w.Code) || w.Code == check.HDR021 || w.Code == check.EXT003 && strings.Contains(c.Name, "bitmap")
		}) {
			cases = append(cases, c)
		}
	}
	return cases
}

// state is what is known of a bitmap.
func digests(t testing.TB, img *qcow2.Image, res *check.Result, ev *check.Evidence) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for i, e := range ev.Bitmaps {
		if s := res.Bitmaps[i].State; s != check.BitmapEnabled && s != check.BitmapDisabled {
			continue
		}
		b, err := img.Bitmap(&e)
		require.NoError(t, err)
		d, err := b.Digest()
		if err != nil {
			continue
		}
		m[string(e.Name)] = fmt.Sprintf("%x %v %d", d, e.Flags, e.GranularityBits)
	}
	return m
}

func TestBitmapCases(t *testing.T) {
	for _, c := range bitmapCases() {
		for _, policy := range policies {
			t.Run(c.Name+"/"+string(policy), func(t *testing.T) {
				img, err := c.Build()
				require.NoError(t, err)
				r, err := c.Reader(img)
				require.NoError(t, err)
				testBitmapRepair(t, r, img, Options{BitmapPolicy: policy, CompactBitmaps: c.BitmapData, OpenSibling: c.Options(img).OpenSibling})
			})
		}
	}
}

type source interface {
	ReadAt(p []byte, off int64) (int, error)
	Size() int64
}

func testBitmapRepair(t *testing.T, r source, img *corpus.Image, opts Options) *corpus.Store {
	p, err := Make(t.Context(), r, r.Size(), opts)
	require.NoError(t, err)
	t.Logf("%s →%s (%d edits, +%d) %q", codes(p.Before), codes(p.After), len(p.Edits), p.NewSize-p.OldSize, p.Lost)
	for _, e := range p.Edits {
		t.Logf("%v %v+%d %s %v", e.Stage, e.Offset, len(e.New), e.Reason, e.Codes)
	}
	after := applied(t, r, p)
	opened, err := qcow2.Open(after, after.Size())
	require.NoError(t, err)
	inspect := check.Options{BitmapData: opts.CompactBitmaps, OpenSibling: opts.OpenSibling}
	res, ev, err := check.Inspect(t.Context(), opened, inspect)
	require.NoError(t, err)
	assert.Empty(t, repairable(res, opts.BitmapPolicy))
	assert.Zero(t, res.Totals.Corruptions+res.Totals.Leaks, "%v", res.Findings)

	again, err := Make(t.Context(), after, after.Size(), opts)
	require.NoError(t, err)
	assert.True(t, again.Empty(), "%v", again.Edits)

	// Sound bitmaps are what they were.
	before, err := qcow2.Open(r, r.Size())
	require.NoError(t, err)
	wasRes, wasEv, err := check.Inspect(t.Context(), before, inspect)
	require.NoError(t, err)
	now := digests(t, opened, res, ev)
	for name, digest := range digests(t, before, wasRes, wasEv) {
		assert.Equal(t, digest, now[name], "bitmap %q", name)
	}
	return after
}
