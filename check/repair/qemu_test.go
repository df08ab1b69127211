package repair

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

// hashOf is the SHA-256 of what a disk reads as, by qemu-img.
func hashOf(t *testing.T, path, snapshot string) [sha256.Size]byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	args := []string{"convert", "-f", "qcow2", "-O", "raw"}
	if snapshot != "" {
		args = append(args, "-l", "snapshot.id="+snapshot)
	}
	qemutest.Img(t, append(args, path, raw)...)
	f, err := os.Open(raw)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return [sha256.Size]byte(h.Sum(nil))
}

// What a repair makes sound QEMU finds sound: its check finds nothing, it opens the
// image for writing, every snapshot is there that was not given up, and what it could
// read before reads the same.
func TestRepairedImagesSatisfyQEMU(t *testing.T) {
	qemutest.Require(t)
	every := stride(12, 45)
	for i, c := range repairCases() {
		if c.Spec.Size > 64<<30 || c.Spec.Backing != nil || c.Spec.DataFile != nil || c.Spec.Crypt != 0 {
			continue
		}
		for k, way := range ways {
			if (i+k)%every != 0 {
				continue
			}
			t.Run(c.Name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				img, err := c.Build()
				require.NoError(t, err)
				testWithQEMU(t, img, way.opts, c.Spec.Size <= 64<<20)
			})
		}
	}
	for i := range 120 / stride(8, 60) {
		r := rand.New(rand.NewPCG(uint64(i), 37))
		way := ways[i%len(ways)]
		t.Run(fmt.Sprintf("together/%d/%s", i, way.name), func(t *testing.T) {
			t.Parallel()
			testWithQEMU(t, damaged(t, r, 2+r.IntN(3)), way.opts, true)
		})
	}
}

// testWithQEMU repairs an image and lets QEMU judge it, and read it where it is small.
func testWithQEMU(t *testing.T, img *corpus.Image, opts Options, small bool) {
	t.Helper()
	plan, err := work(t.Context(), img, img.Size(), opts)
	require.NoError(t, err)
	if plan.Empty() || plan.After.ExitCode() != check.ExitSound {
		return
	}
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, img.WriteFile(path))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	readable := qemutest.Run(t, qemutest.QemuImg, "info", path).RC == 0
	sameData := small && readable && len(plan.Lost) == 0 && !opts.Reattach && !plan.Before.Has(problem.L1TooSmall) && !misread(plan.Before)
	was := map[string][sha256.Size]byte{}
	if sameData {
		was[""] = hashOf(t, path, "")
		for _, s := range plan.Before.Snapshots {
			was[s.ID] = hashOf(t, path, s.ID)
		}
	}
	require.NoError(t, f.Truncate(plan.NewSize))
	for e := range plan.Edits.All() {
		_, err := f.WriteAt(e.New, int64(e.Offset))
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())

	res := qemutest.Check(t, path)
	assert.Zero(t, res.RC, "%s", res.Stderr)
	for snapshot, sum := range was {
		assert.Equal(t, sum, hashOf(t, path, snapshot), "snapshot %q", snapshot)
	}
	var ids, want []string
	for _, s := range qemutest.Info(t, path).Snapshots {
		ids = append(ids, s.ID)
	}
	for _, s := range plan.After.Snapshots {
		want = append(want, s.ID)
	}
	assert.Equal(t, want, ids)
	if len(plan.Lost) == 0 && !opts.Reattach {
		assert.Len(t, ids, len(plan.Before.Snapshots), "every snapshot is still there")
	}
	qemutest.IO(t, path, "write -z 0 512")
	res = qemutest.Check(t, path)
	assert.Zero(t, res.RC, "%s", res.Stderr)
}

// misread tells of a disk that QEMU refuses to read, or that shows it metadata as
// data, before the repair.
func misread(r *check.Result) bool {
	return slices.ContainsFunc(r.Findings, func(f problem.Finding) bool {
		return f.Code == problem.L2ReservedBits || f.Code == problem.L2Unaligned || f.Code == problem.SubclusterConflict || f.Code == problem.SubclusterUnplaced || f.Code == problem.L1ReservedBits ||
			f.Structure == problem.StructL2Table && f.Code.Is(problem.Overlap)
	})
}
