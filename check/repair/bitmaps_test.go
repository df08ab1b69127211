package repair

import (
	"crypto/sha256"
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

// contents gives what each bitmap that can be used says: its dirty ranges, and
// its digest where that is not to change by bits that mean nothing.
func contents(t testing.TB, img *qcow2.Image, res *check.Result, digest bool) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, info := range res.Bitmaps {
		if info.State != check.BitmapEnabled && info.State != check.BitmapDisabled {
			continue
		}
		e := info.Entry()
		b, err := img.Bitmap(&e)
		require.NoError(t, err)
		h := sha256.New()
		for x, err := range b.Dirty() {
			require.NoError(t, err)
			fmt.Fprintln(h, x)
		}
		if digest {
			d, err := b.Digest()
			require.NoError(t, err)
			h.Write(d[:])
		}
		m[info.Name] = fmt.Sprintf("%x %v %d", h.Sum(nil), e.Flags, e.GranularityBits)
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

func testBitmapRepair(t *testing.T, r source, img *corpus.Image, opts Options) *overlay {
	p, err := Make(t.Context(), r, r.Size(), opts)
	require.NoError(t, err)
	all := func(*check.Finding) bool { return true }
	t.Logf("%s → %s (%d edits, +%d) %q", listed(p.Before.Findings, all), listed(p.After.Findings, all), len(p.Edits), p.NewSize-p.OldSize, p.Lost)
	for _, e := range p.Edits {
		t.Logf("%v %v+%d %s %v", e.Stage, e.Offset, len(e.New), e.Reason, e.Codes)
	}
	after := after(t, r, p)
	opened, err := qcow2.Open(after, after.size)
	require.NoError(t, err)
	inspect := check.Options{BitmapData: opts.CompactBitmaps, OpenSibling: opts.OpenSibling}
	res, err := check.Run(t.Context(), opened, inspect)
	require.NoError(t, err)
	assert.Empty(t, repairable(res, opts.BitmapPolicy))
	assert.Zero(t, res.Totals.Corruptions+res.Totals.Leaks, "%v", res.Findings)

	again, err := Make(t.Context(), after, after.size, opts)
	require.NoError(t, err)
	assert.True(t, again.Empty(), "%v", again.Edits)

	// Sound bitmaps are what they were.
	before, err := qcow2.Open(r, r.Size())
	require.NoError(t, err)
	was, err := check.Run(t.Context(), before, inspect)
	require.NoError(t, err)
	digest := !was.Has(check.BMX001) && !was.Has(check.BMX002)
	now := contents(t, opened, res, digest)
	for name, content := range contents(t, before, was, digest) {
		assert.Equal(t, content, now[name], "bitmap %q", name)
	}
	return after
}
