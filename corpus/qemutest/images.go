package qemutest

import (
	"encoding/json"
	"testing"
)

// CheckResult is what `qemu-img check` says of an image. Where it could not check, RC is 1 (or 134 for a
// crash), Ran is false and the counts mean nothing.
type CheckResult struct {
	// RC is the exit code: 0 sound, 1 not checked, 2 corruption, 3 leaks only, 63 no check for this format.
	RC int `json:"-"`
	// Ran tells that there was JSON to read.
	Ran    bool   `json:"-"`
	Stderr string `json:"-"`

	Filename    string `json:"filename"`
	Format      string `json:"format"`
	CheckErrors int64  `json:"check-errors"`
	// Corruptions, Leaks and what was fixed of each are left out of the JSON where they are 0.
	Corruptions      int64 `json:"corruptions"`
	Leaks            int64 `json:"leaks"`
	CorruptionsFixed int64 `json:"corruptions-fixed"`
	LeaksFixed       int64 `json:"leaks-fixed"`
	// ImageEndOffset is where the last used cluster ends, in bytes.
	ImageEndOffset int64 `json:"image-end-offset"`
	// The counts of guest clusters are left out of the JSON where they are 0.
	TotalClusters      int64 `json:"total-clusters"`
	AllocatedClusters  int64 `json:"allocated-clusters"`
	FragmentedClusters int64 `json:"fragmented-clusters"`
	CompressedClusters int64 `json:"compressed-clusters"`
}

// Check runs `qemu-img check --output=json` on the qcow2 image at path, read-only; args go before the path.
// To check an image that needs more than its path (a secret), give an empty path and `--image-opts …` in args.
func Check(t testing.TB, path string, args ...string) CheckResult {
	t.Helper()
	line := []string{"check", "--output=json"}
	if path != "" {
		line = append(line, "-f", "qcow2")
	}
	line = append(line, args...)
	if path != "" {
		line = append(line, path)
	}
	run := Run(t, QemuImg, line...)
	res := CheckResult{RC: run.RC, Stderr: run.Stderr}
	if run.Stdout == "" {
		return res
	}
	if err := json.Unmarshal([]byte(run.Stdout), &res); err != nil {
		t.Fatalf("qemu-img check printed what is not JSON: %v\n%v", err, run)
	}
	res.Ran = true
	return res
}

// InfoResult is what `qemu-img info` says of an image, as far as tests ask for it.
type InfoResult struct {
	// Sizes in bytes; ActualSize is what the file takes on disk.
	VirtualSize     int64          `json:"virtual-size"`
	ActualSize      int64          `json:"actual-size"`
	ClusterSize     int64          `json:"cluster-size"`
	Format          string         `json:"format"`
	DirtyFlag       bool           `json:"dirty-flag"`
	BackingFilename string         `json:"backing-filename"`
	BackingFormat   string         `json:"backing-filename-format"`
	Encrypted       bool           `json:"encrypted"`
	Snapshots       []InfoSnapshot `json:"snapshots"`
	FormatSpecific  struct {
		Data struct {
			Compat          string       `json:"compat"`
			CompressionType string       `json:"compression-type"`
			LazyRefcounts   bool         `json:"lazy-refcounts"`
			RefcountBits    int          `json:"refcount-bits"`
			Corrupt         bool         `json:"corrupt"`
			ExtendedL2      bool         `json:"extended-l2"`
			DataFile        string       `json:"data-file"`
			DataFileRaw     bool         `json:"data-file-raw"`
			Bitmaps         []InfoBitmap `json:"bitmaps"`
		} `json:"data"`
	} `json:"format-specific"`
}

// InfoSnapshot is one internal snapshot as `qemu-img info` lists it.
type InfoSnapshot struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	VMStateSize int64  `json:"vm-state-size"`
}

// InfoBitmap is one persistent dirty bitmap as `qemu-img info` lists it.
type InfoBitmap struct {
	Name string `json:"name"`
	// Granularity is in bytes.
	Granularity int64 `json:"granularity"`
	// Flags are "in-use" and "auto".
	Flags []string `json:"flags"`
}

// Info runs `qemu-img info` on the qcow2 image at path; the test fails if QEMU refuses it.
func Info(t testing.TB, path string) InfoResult {
	t.Helper()
	var res InfoResult
	decode(t, Img(t, "info", "--output=json", "-f", "qcow2", path), &res)
	return res
}

// Extent is one range of the guest's disk as `qemu-img map` tells it, in bytes.
type Extent struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
	// Depth is how far down the backing chain the range is found; 0 is the image itself.
	Depth   int  `json:"depth"`
	Present bool `json:"present"`
	Zero    bool `json:"zero"`
	Data    bool `json:"data"`
	// Offset is where the range stands in Filename; nil where there is no such place (zeros, compressed).
	Offset   *int64 `json:"offset"`
	Filename string `json:"filename"`
}

// Map runs `qemu-img map` on the qcow2 image at path.
func Map(t testing.TB, path string) []Extent {
	t.Helper()
	var res []Extent
	decode(t, Img(t, "map", "--output=json", "-f", "qcow2", path), &res)
	return res
}

func decode(t testing.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not the JSON expected: %v\n%s", err, text)
	}
}
