package repair

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// repairedFile writes a case's image, repaired, to a file.
func repairedFile(t *testing.T, c *corpus.Case, opts Options) (string, *Plan) {
	t.Helper()
	img, err := c.Build()
	require.NoError(t, err)
	plan, err := Make(t.Context(), img, img.Size(), opts)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, img.WriteFile(path))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(plan.NewSize))
	for e := range plan.Edits.All() {
		_, err := f.WriteAt(e.New, int64(e.Offset))
		require.NoError(t, err)
	}
	return path, plan
}

// checkFile checks an image file.
func checkFile(t *testing.T, path string) *check.Result {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	img, err := qcow2.Open(f, st.Size())
	require.NoError(t, err)
	res, err := check.Run(t.Context(), img, check.Options{})
	require.NoError(t, err)
	return res
}

func bitmapsOfInfo(t *testing.T, path string) []qemutest.InfoBitmap {
	t.Helper()
	return qemutest.Info(t, path).FormatSpecific.Data.Bitmaps
}

// QEMU finds nothing in images whose bitmaps were repaired, whatever the policy. It
// opens them for writing and keeps every bitmap; those that were made dirty it
// loads, with every bit set, and in the state that they were in.
func TestRepairedBitmapsInQEMU(t *testing.T) {
	qemutest.Require(t, qemutest.QemuDaemon)
	every := stride(6, 16)
	for i, c := range bitmapCases() {
		if c.Unreadable != nil || c.Spec.Crypt != 0 || c.Spec.DataFile != nil || len(c.Name) > 8 && c.Name[:8] == "hostile/" {
			continue
		}
		for k, policy := range policies {
			if (i+k)%every != 0 || !thorough && strings.HasPrefix(c.Name, "header/crash") { // QEMU takes a while to load 2^41 bits
				continue
			}
			t.Run(c.Name+"/"+string(policy), func(t *testing.T) {
				t.Parallel()
				path, plan := repairedFile(t, &c, Options{BitmapPolicy: policy})
				if (strings.HasPrefix(c.Name, "overlap/") || takesMore(plan.Before)) && plan.After.Verdict != check.VerdictClean {
					return // something else than the bitmaps was led astray
				}
				if plan.After.QEMUOpen.ReadWrite != check.OpenOK {
					require.True(t, plan.After.Has(check.BMD010) || plan.After.Has(check.BMD014), "%v", plan.After.QEMUOpen)
					return
				}
				res := qemutest.Check(t, path)
				assert.Zero(t, res.RC, "%s", res.Stderr)
				list := bitmapsOfInfo(t, path)

				d := qemutest.Serve(t, path)
				loaded := d.Bitmaps("")
				assert.Len(t, loaded, len(plan.After.Bitmaps))
				for _, b := range loaded {
					i := slices.IndexFunc(plan.After.Bitmaps, func(x check.BitmapInfo) bool { return x.Name == b.Name })
					if c.Name == "bitmap/name-not-utf8" && i < 0 {
						continue // QMP cannot say its name
					}
					require.GreaterOrEqual(t, i, 0, "%q", b.Name)
					info := plan.After.Bitmaps[i]
					assert.Equal(t, info.State == check.BitmapInconsistent, b.Inconsistent)
					assert.Equal(t, info.State == check.BitmapEnabled, b.Recording)
					assert.EqualValues(t, 1<<info.GranularityBits, b.Granularity)
					if k := slices.IndexFunc(plan.Before.Bitmaps, func(x check.BitmapInfo) bool { return x.Name == b.Name }); k >= 0 {
						was := plan.Before.Bitmaps[k]
						assert.Equal(t, was.Flags.Has(qcow2.BitmapAuto), info.Flags.Has(qcow2.BitmapAuto))
						if policy == PolicyAllDirty && was.State != check.BitmapEnabled && was.State != check.BitmapDisabled && !plan.Before.Has(check.BMD009) &&
							!plan.Before.Has(check.BMD005) && !plan.Before.Has(check.BMT001) && !plan.Before.Has(check.BMT002) {
							assert.GreaterOrEqual(t, b.Count, int64(c.Spec.Size), "every bit is set")
						}
					}
				}
				d.Quit()
				qemutest.IO(t, path, "write -z 0 512")
				assert.Equal(t, list, bitmapsOfInfo(t, path), "no bitmap is lost by writing")
				res = qemutest.Check(t, path)
				assert.Zero(t, res.RC, "%s", res.Stderr)
				left := checkFile(t, path)
				assert.Empty(t, repairable(left, policy), "%v", left.Findings)
			})
		}
	}
}

// The chain of incremental backups goes on with a bitmap that was made dirty: the
// next one copies everything.
func TestIncrementalBackupAfterRepair(t *testing.T) {
	qemutest.Require(t, qemutest.QemuDaemon)
	c, ok := corpus.Lookup("bitmaps/stale")
	require.True(t, ok)
	path, plan := repairedFile(t, &c, Options{BitmapPolicy: PolicyAllDirty})
	require.Equal(t, check.BitmapEnabled, plan.After.Bitmaps[0].State)
	target := filepath.Join(t.TempDir(), "backup.qcow2")
	qemutest.Img(t, "create", "-f", "qcow2", target, "67109376")
	qemutest.IO(t, target, "write -P 0xaa 0 67109376") // so that what is not copied is seen
	d := qemutest.Serve(t, path)
	d.Open("target", target, nil)
	d.Backup(qemutest.Disk, "target", plan.After.Bitmaps[0].Name)
	for _, b := range d.Bitmaps("") {
		if b.Name == plan.After.Bitmaps[0].Name {
			assert.Zero(t, b.Count, "a backup clears what it has copied")
			assert.True(t, b.Recording)
		}
	}
	d.Quit()
	out := qemutest.Run(t, qemutest.QemuImg, "compare", path, target)
	assert.Zero(t, out.RC, "%v", out)
}
