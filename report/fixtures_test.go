package report

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden compares text with testdata/NAME.golden.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run the tests with -update to write it")
	require.Equal(t, string(want), string(got))
}

// finding fills in what the catalogue says, as the collector does.
func finding(f problem.Finding) problem.Finding {
	r, ok := problem.Lookup(f.Code)
	if !ok {
		panic("no such code: " + f.Code)
	}
	if f.Severity == 0 {
		f.Severity = r.Severity
	}
	if f.Structure == "" {
		f.Structure = r.Structure
	}
	if f.Repair == 0 {
		f.Repair = r.Repair
	}
	f.Count = max(f.Count, 1)
	return f
}

// result makes a result with consistent totals from findings.
func result(verdict check.Verdict, fs ...problem.Finding) *check.Result {
	r := &check.Result{
		Verdict: verdict, ImageEndOffset: 0x150000, TotalClusters: 16384, AllocatedClusters: 32,
		FragmentedClusters: 1, CompressedClusters: 4,
		QEMUOpen: check.QEMUOpen{ReadOnly: check.OpenOK, ReadWrite: check.OpenOK},
	}
	for _, f := range fs {
		r.Findings = append(r.Findings, finding(f))
	}
	r.Totals = problem.Count(r.Findings)
	return r
}

func extent(offset, length uint64) qcow2.Extent {
	return qcow2.Extent{Offset: qcow2.HostOffset(offset), Length: length}
}

func ptr[T any](v T) *T { return &v }

func corrupt() *check.Result {
	r := result(check.VerdictCorrupt,
		problem.Finding{Code: problem.AutoclearUnknown, Message: problem.Say("unknown autoclear bits 0x100 are set"), Extent: extent(88, 8), Value: problem.Words("0x100"), Expected: problem.Words("0x0")},
		problem.Finding{Code: problem.L2PastEnd, Message: problem.Say("the data cluster lies past the end of the file"), Path: problem.ToL2Entry(3, 17),
			Extent: extent(0x40088, 8), GuestOffset: ptr(qcow2.GuestOffset(0x60110000)), Value: problem.Words("0x8000000100000000")},
		problem.Finding{Code: problem.L2Copied, Message: problem.Say("COPIED is set, but the refcount is 2"), Path: problem.ToL2Entry(0, 1), Snapshot: "",
			Extent: extent(0x50008, 16), Count: 2},
		problem.Finding{Code: problem.RefcountTooHigh, Message: problem.Say("clusters 18–19 have refcount 1, but nothing refers to them"),
			Extent: extent(0x20024, 4), Cluster: ptr(qcow2.HostCluster(18)), Value: problem.Words("1"), Expected: problem.Words("0"), Count: 2},
		problem.Finding{Code: problem.BitmapEntryContradiction, Message: problem.Say("bit 0 is set together with an offset"), Bitmap: "b0", Path: problem.ToBitmapTableEntry(5),
			Extent: extent(0x70028, 8), Value: problem.Words("0x80001")},
		problem.Finding{Code: problem.BitmapInUse, Message: problem.Say("bitmap backup-7 is in use: it was not closed cleanly"), Bitmap: "backup-7", Extent: extent(0x6002c, 4)},
		problem.Finding{Code: problem.ExtensionUnknown, Message: problem.Say("unknown extension 0x12345678"), Extent: extent(0x200, 16)},
	)
	r.QEMUOpen = check.QEMUOpen{ReadOnly: check.OpenRefused, ReadWrite: check.OpenRefused,
		Reasons: []string{"a bitmap table entry has bit 0 set together with an offset"}}
	r.Bitmaps = []check.BitmapInfo{
		{Name: "b0", GranularityBits: 16, Type: 1, Flags: qcow2.BitmapAuto, State: check.BitmapUnusable,
			Why: "its table has a bad entry", EntryOffset: 0x60000, TableOffset: 0x70000, TableSize: 6},
		{Name: "backup-7", GranularityBits: 16, Type: 1, Flags: qcow2.BitmapAuto | qcow2.BitmapInUse,
			State: check.BitmapInconsistent, EntryOffset: 0x60020, TableOffset: 0x80000, TableSize: 6},
	}
	r.Snapshots = []check.SnapshotInfo{{ID: "1", Name: "before", Offset: 0x90000, L1TableOffset: 0xa0000, L1Size: 2,
		DiskSize: 1 << 30, DateSec: 1700000000, VMClockNsec: 1500000000}}
	return r
}

// flood has more findings of one code than a person wants to read.
func flood() *check.Result {
	var fs []problem.Finding
	for i := range 30 {
		fs = append(fs, problem.Finding{Code: problem.L2PastEnd, Message: problem.Say("the data cluster lies past the end of the file"),
			Extent: extent(0x40000+uint64(i)*16, 8), Count: 1})
	}
	fs = append(fs,
		problem.Finding{Code: problem.L2PastEnd, Unlisted: true, Count: 970, Message: problem.Say("970 more of these are not listed")},
		problem.Finding{Code: problem.RefcountTooHigh, Unlisted: true, Count: 5, Message: problem.Say("5 more of these are not listed")})
	return result(check.VerdictCorrupt, fs...)
}

// hostile has strings that would take over a terminal.
func hostile() *check.Result {
	const evil = "\x1b[2J\x1b]0;owned\x07\u009b31m\u202egnp.exe\r\n\xff"
	r := result(check.VerdictCorrupt, problem.Finding{Code: problem.BitmapNameDangerous, Message: problem.Say("%s", "name "+evil), Bitmap: evil,
		Snapshot: evil, Value: problem.Words(evil), Expected: problem.Words(evil)})
	r.Bitmaps = []check.BitmapInfo{{Name: evil, GranularityBits: 200, State: check.BitmapUnusable, Why: evil, Flags: 0x80000008}}
	r.Snapshots = []check.SnapshotInfo{{ID: evil, Name: evil}}
	r.Unmet = []string{evil}
	r.QEMUOpen = check.QEMUOpen{ReadOnly: check.OpenOK, ReadWrite: check.OpenDropsBitmaps, Reasons: []string{evil, evil}}
	return r
}

// write runs a reporter over images.
func write(t *testing.T, format Format, opts Options, images ...Image) []byte {
	t.Helper()
	var b bytes.Buffer
	r, err := New(format, &b, opts)
	require.NoError(t, err)
	for _, i := range images {
		require.NoError(t, r.Image(i))
	}
	require.NoError(t, r.Close())
	return b.Bytes()
}
