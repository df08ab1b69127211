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
	"github.com/qcheck/qcheck/check/problem"
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
	every := stride(12, 48)
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
				if plan.After.Has(problem.BitmapsOrphaned) {
					require.Equal(t, PolicyMark, policy)
					assert.NotEqual(t, check.ExitSound, plan.After.ExitCode())
					return // the header has no room for the bitmaps that were found: they are kept, and not given up unasked
				}
				if plan.After.QEMUOpen.ReadWrite != check.OpenOK {
					require.True(t, plan.After.Has(problem.BitmapExtraData) || plan.After.Has(problem.BitmapNameDangerous), "%v", plan.After.QEMUOpen)
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
						if policy == PolicyAllDirty && was.State != check.BitmapEnabled && was.State != check.BitmapDisabled && !plan.Before.Has(problem.BitmapNameDuplicate) &&
							!strings.HasPrefix(c.Name, "lost-bitmaps/") && // which may be as good as before
							!plan.Before.Has(problem.BitmapFlagsReserved) && !plan.Before.Has(problem.BitmapLowReserved) && !plan.Before.Has(problem.BitmapHighReserved) {
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

// What a repair gives up of bitmaps it also gives back: whatever the policy, where
// nothing is found in the image any more QEMU finds nothing, no leaks either; and where
// the bitmaps are all that is wrong, and there is no snapshot whose tables those of
// bitmaps could be, none are left in doubt.
func TestPoliciesLeaveNoLeaks(t *testing.T) {
	qemutest.Require(t)
	every := stride(4, 36)
	for i, c := range bitmapCases() {
		if c.Unreadable != nil || c.Spec.Crypt != 0 || c.Spec.DataFile != nil || c.Long || strings.HasPrefix(c.Name, "hostile/") || strings.HasPrefix(c.Name, "header/crash") {
			continue
		}
		lost := strings.HasPrefix(c.Name, "lost-bitmaps/")
		for k, policy := range policies {
			if (i+k)%every != 0 && !(lost && !testing.Short()) {
				continue
			}
			t.Run(c.Name+"/"+string(policy), func(t *testing.T) {
				t.Parallel()
				path, plan := repairedFile(t, &c, Options{BitmapPolicy: policy})
				res := qemutest.Check(t, path)
				if v := plan.After.Verdict; (v == check.VerdictClean || v == check.VerdictWarnings) && plan.After.QEMUOpen.ReadWrite == check.OpenOK {
					assert.Zero(t, res.RC, "%s", res.Stderr)
				}
				// Where a part of a disk was in doubt, too, nothing that bitmaps do not own is freed.
				img, err := c.Build()
				require.NoError(t, err)
				assert.False(t, plan.After.Has(problem.RefcountTooHigh) && !doubted(t, img, ofDisk), "leaks are freed")
				if len(plan.After.Snapshots) > 0 || takesMore(plan.Before) || plan.After.Has(problem.BitmapsOrphaned) {
					return
				}
				assert.False(t, plan.After.Has(problem.OwnerUnknown), "nothing of the bitmaps is left in doubt: %v", plan.After.Findings)
				assert.False(t, plan.After.Has(problem.OrphanL2Table))
			})
		}
	}
}

// Bitmaps that are found again say what they said, where nothing speaks against that;
// else they are in use.
func TestLostBitmapsAreFoundAgain(t *testing.T) {
	sure := []string{"extension-wiped", "extension-type", "extension-cut", "extension-empty", "offset-0", "offset-past-end", "offset-misaligned",
		"offset-at-table", "offset-at-data", "table-0", "table-past-end", "table-free", "table-of-another", "granularity-137", "granularity-8", "granularity-13"}
	for _, c := range corpus.Cases() {
		name, lost := strings.CutPrefix(c.Name, "lost-bitmaps/")
		if !lost || name == "directory-wiped" || name == "no-room" {
			continue
		}
		name, _, _ = strings.Cut(name, "-clusters-")
		t.Run(c.Name, func(t *testing.T) {
			sound, err := corpus.Build(c.Spec)
			require.NoError(t, err)
			want := sumsOf(t, sound, sound.Size())
			img, err := c.Build()
			require.NoError(t, err)
			for _, policy := range policies {
				plan, err := Make(t.Context(), img, img.Size(), Options{BitmapPolicy: policy})
				require.NoError(t, err)
				if !plan.After.Has(problem.BitmapInUse) {
					assert.Equal(t, check.VerdictClean, plan.After.Verdict, "%v", plan.After.Findings)
				}
				o := after(t, img, plan)
				got := sumsOf(t, o, o.size)
				switch {
				case slices.Contains(sure, name):
					assert.Equal(t, want, got, policy)
					assert.Empty(t, plan.Lost)
				case policy == PolicyMark:
					assert.Len(t, plan.After.Bitmaps, 2)
					assert.True(t, plan.After.Has(problem.BitmapInUse))
					assert.Subset(t, want, got)
				case policy == PolicyAllDirty:
					assert.Len(t, got, 2)
				default:
					assert.NotEmpty(t, plan.Lost)
				}
			}
		})
	}
}
