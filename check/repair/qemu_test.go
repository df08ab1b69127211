package repair

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
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
// image for writing, every snapshot is there, and what it could read before reads
// the same.
func TestRepairedImagesSatisfyQEMU(t *testing.T) {
	qemutest.Require(t)
	for _, c := range corpus.Cases() {
		if c.Healthy() || c.Huge || c.Unreadable != nil || strings.HasPrefix(c.Name, "hostile/") || c.Spec.Size > 64<<30 ||
			c.Spec.Backing != nil || c.Spec.DataFile != nil || c.Spec.Crypt != 0 || c.Name == "header/magic" {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		plan, err := Make(t.Context(), img, img.Size(), Options{})
		require.NoError(t, err)
		if plan.Empty() || plan.After.Verdict != check.VerdictClean {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			require.NoError(t, img.WriteFile(path))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			readable := qemutest.Run(t, qemutest.QemuImg, "info", path).RC == 0
			was := map[string][sha256.Size]byte{}
			if readable && c.Spec.Size <= 64<<20 {
				was[""] = hashOf(t, path, "")
			}
			require.NoError(t, f.Truncate(plan.NewSize))
			for _, e := range plan.Edits {
				_, err := f.WriteAt(e.New, int64(e.Offset))
				require.NoError(t, err)
			}
			require.NoError(t, f.Close())

			res := qemutest.Check(t, path)
			assert.Zero(t, res.RC, "%s", res.Stderr)
			for snapshot, sum := range was {
				assert.Equal(t, sum, hashOf(t, path, snapshot))
			}
			var ids, want []string
			for _, s := range qemutest.Info(t, path).Snapshots {
				ids = append(ids, s.ID)
			}
			for _, s := range plan.Before.Snapshots {
				want = append(want, s.ID)
			}
			assert.Equal(t, want, ids, "every snapshot is still there")
			qemutest.IO(t, path, "write -z 0 512")
			res = qemutest.Check(t, path)
			assert.Zero(t, res.RC, "%s", res.Stderr)
		})
	}
}
