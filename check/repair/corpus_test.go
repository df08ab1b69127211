//go:build repair

package repair

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// after gives the image as it is when the plan has been carried out.
func after(t *testing.T, img io.ReaderAt, p *Plan) *overlay {
	t.Helper()
	o := newOverlay(img, p.OldSize, false)
	o.size = p.NewSize
	for _, e := range p.Edits {
		was := make([]byte, len(e.Old))
		require.NoError(t, o.read(was, int64(e.Offset)))
		require.Equal(t, e.Old, was, "the edit at %v goes by what stands there: %s", e.Offset, e.Reason)
		require.NotEmpty(t, e.Reason)
		require.NotEmpty(t, e.Codes, "an edit settles findings: %s", e.Reason)
		require.NoError(t, o.write(e.Offset, e.New, intent{}))
	}
	require.Equal(t, p.NewSize, o.size)
	return o
}

// disks gives the active disk and those of all snapshots that can be read.
func disks(t *testing.T, r io.ReaderAt, size int64) map[string]*qcow2.Disk {
	t.Helper()
	img, err := qcow2.Open(r, size)
	require.NoError(t, err)
	all := make(map[string]*qcow2.Disk)
	if d, err := img.ActiveDisk(qcow2.DiskOptions{}); err == nil {
		all["active"] = d
	}
	for i, s := range qcow2.ReadSnapshotTable(img).Snapshots {
		if d, err := img.SnapshotDisk(&s, qcow2.DiskOptions{}); err == nil {
			all[fmt.Sprintf("snapshot %d", i)] = d
		}
	}
	return all
}

// assertSameGuest asserts that whatever could be read of the one disk reads the
// same in the other.
func assertSameGuest(t *testing.T, name string, was, is *qcow2.Disk) {
	t.Helper()
	compare := func(from, to *qcow2.Disk, what string) {
		for x, err := range from.Map(0, qcow2.GuestOffset(from.Size())) {
			if err != nil || x.Kind == qcow2.GuestUnallocated || x.Kind == qcow2.GuestZero {
				continue
			}
			for done := uint64(0); done < x.Length; {
				n := min(x.Length-done, 1<<20)
				a, b := make([]byte, n), make([]byte, n)
				off := int64(uint64(x.Start) + done)
				done += n
				if _, err := was.ReadAt(a, off); err != nil && err != io.EOF {
					continue
				}
				_, err := is.ReadAt(b, off)
				if err != nil && err != io.EOF || !bytes.Equal(a, b) {
					t.Errorf("%s: guest data at 0x%x %s: %v", name, off, what, err)
					return
				}
			}
		}
	}
	compare(was, is, "is lost")
	compare(is, was, "came up")
}

// sumsOf gives the digest of every bitmap that can be used.
func sumsOf(t *testing.T, r io.ReaderAt, size int64) map[string][sha256.Size]byte {
	t.Helper()
	img, err := qcow2.Open(r, size)
	require.NoError(t, err)
	res, err := check.Run(t.Context(), img, check.Options{})
	require.NoError(t, err)
	all := make(map[string][sha256.Size]byte)
	for _, b := range res.Bitmaps {
		if b.State != check.BitmapEnabled && b.State != check.BitmapDisabled {
			continue
		}
		e := b.Entry()
		if m, err := img.Bitmap(&e); err == nil {
			if d, err := m.Digest(); err == nil {
				all[b.Name] = d
			}
		}
	}
	return all
}

func listed(fs []check.Finding, want func(*check.Finding) bool) (codes []string) {
	for i := range fs {
		if want(&fs[i]) {
			codes = append(codes, string(fs[i].Code))
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// Every damaged image of the corpus: what is safe to repair is repaired, nothing
// that could be read reads otherwise, no sound bitmap changes, and a second repair
// finds nothing to do.
func TestRepairCorpus(t *testing.T) {
	for _, c := range corpus.Cases() {
		if c.Healthy() || c.Huge || c.Unreadable != nil || strings.HasPrefix(c.Name, "hostile/") || c.Name == "header/magic" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := c.Build()
			require.NoError(t, err)
			plan, err := Make(t.Context(), img, img.Size(), Options{})
			require.NoError(t, err)
			again, err := Make(t.Context(), img, img.Size(), Options{Jobs: 1})
			require.NoError(t, err)
			require.Equal(t, plan.Edits, again.Edits, "the plan for an image is always the same")

			o := after(t, img, plan)
			safe := func(f *check.Finding) bool {
				return f.Repair == check.RepairSafe && f.Severity != check.Note && !strings.HasPrefix(string(f.Code), "BM")
			}
			left := listed(plan.After.Findings, safe)
			assert.Empty(t, left, "what is safe to repair is repaired")

			second, err := Make(t.Context(), o, o.size, Options{})
			require.NoError(t, err)
			assert.Empty(t, second.Edits, "a second repair finds nothing to do")
			assert.Equal(t, o.size, second.NewSize)

			before := disks(t, img, img.Size())
			for name, d := range disks(t, o, o.size) {
				if was := before[name]; was != nil {
					assertSameGuest(t, name, was, d)
				}
			}
			is := sumsOf(t, o, o.size)
			for name, d := range sumsOf(t, img, img.Size()) {
				if plan.Before.Has(check.BMX001) {
					continue // the digest covers bits that mean nothing, and that are cleared
				}
				assert.Equal(t, d, is[name], "bitmap %s", name)
			}
		})
	}
}
