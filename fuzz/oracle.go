package fuzz

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz/internal/process"
	"github.com/qcheck/qcheck/qcow2"
)

// Said is what `qemu-img check` says of an image, and what becomes of opening it.
type Said struct {
	// RC is the exit code: 0 sound, 1 not checked, 2 corruption, 3 leaks only, 128
	// and more a crash; -1 where it did not end in time.
	RC     int
	Stderr string
	// Figures are those of its JSON, by key; nil where there is none.
	Figures map[string]uint64
	// ReadOnly and ReadWrite tell what becomes of an attempt to open the image.
	// Empty: it was not tried, or did not end in time.
	ReadOnly, ReadWrite check.OpenOutcome
}

// QEMU asks the tools of an installed QEMU about images.
type QEMU struct {
	Img, IO string        // the programs' paths
	Dir     string        // a folder for images, emptied each time
	Timeout time.Duration // for each program
	Memory  int64         // what each may take, in bytes. The default is as much as it likes.
}

// ErrNotAsked tells that an image is none that QEMU should be asked about: it needs
// a key, or an option that names its data file, or QEMU would take memory for every
// cluster of a very long file.
var ErrNotAsked = errors.New("QEMU is not asked about this image")

// maxAsked is how many clusters a file may have for QEMU to be asked: it takes two
// bytes for each.
const maxAsked = 64 << 20

// Ask has QEMU look at an image.
func (q *QEMU) Ask(ctx context.Context, c *corpus.Case, img *corpus.Image) (*Said, error) {
	opened, err := qcow2.Open(img, img.Size())
	if err != nil || !opened.GeometryOK || uint64(img.Size())>>opened.Geometry.ClusterBits > maxAsked ||
		opened.Header.CryptMethod != qcow2.CryptNone || c.Spec.Crypt != qcow2.CryptNone || !namesDataFile(opened) {
		return nil, ErrNotAsked
	}
	path := filepath.Join(q.Dir, "image.qcow2")
	fresh := func() error {
		if err := os.RemoveAll(q.Dir); err != nil {
			return err
		}
		return img.WriteFiles(q.Dir, "image.qcow2")
	}
	if err := fresh(); err != nil {
		return nil, err
	}
	var s Said
	rc, stdout, stderr, err := q.run(ctx, q.Img, "check", "--output=json", "-f", "qcow2", path)
	if err != nil {
		return nil, err
	}
	s.RC, s.Stderr = rc, stderr
	var all map[string]any
	if json.Unmarshal(stdout, &all) == nil {
		s.Figures = make(map[string]uint64)
		for k, v := range all {
			if n, ok := v.(float64); ok {
				s.Figures[k] = uint64(n)
			}
		}
	}
	if s.ReadOnly, err = q.open(ctx, path, "-r"); err != nil {
		return nil, err
	}
	before := bitmapsOf(path)
	if s.ReadWrite, err = q.open(ctx, path); err != nil {
		return nil, err
	}
	if before != bitmapsNone && bitmapsOf(path) != before {
		s.ReadWrite = check.OpenDropsBitmaps
	}
	return &s, os.RemoveAll(q.Dir)
}

// namesDataFile tells that QEMU finds the name of the data file, if it needs one.
func namesDataFile(img *qcow2.Image) bool {
	if !img.Header.HasDataFile() {
		return true
	}
	e := img.Extension(qcow2.ExtDataFile)
	return e != nil && len(e.Data) > 0 && e.Data[0] != 0 && img.Header.HeaderLengthOK(img.Geometry)
}

// open opens an image with qemu-io, which does nothing then.
func (q *QEMU) open(ctx context.Context, path string, args ...string) (check.OpenOutcome, error) {
	rc, _, _, err := q.run(ctx, q.IO, append(args, "-f", "qcow2", "-c", "length", path)...)
	switch {
	case err != nil:
		return "", err
	case rc < 0:
		return "", nil
	case rc >= 128:
		return check.OpenCrash, nil
	case rc != 0:
		return check.OpenRefused, nil
	}
	return check.OpenOK, nil
}

// run runs a program; rc is 128 plus the signal that ended it, or -1 where it was
// ended for taking too much time or memory.
func (q *QEMU) run(ctx context.Context, program string, args ...string) (rc int, stdout []byte, stderr string, err error) {
	var out, said bytes.Buffer
	// QEMU looks for a data file where it is started.
	p := process.Process{Args: append([]string{program}, args...), Dir: q.Dir, Stdout: &out, Stderr: &said, Timeout: q.Timeout, Memory: q.Memory}
	e, err := p.Run(ctx)
	if e.Overtime || e.Memory > 0 {
		e.RC = -1
	}
	return e.RC, out.Bytes(), said.String(), err
}

// bitmaps tells what an image file has of bitmaps.
type bitmaps uint8

const (
	bitmapsNone bitmaps = iota
	bitmapsStale
	bitmapsValid // the autoclear bit vouches for them
)

func bitmapsOf(path string) bitmaps {
	f, err := os.Open(path)
	if err != nil {
		return bitmapsNone
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return bitmapsNone
	}
	img, err := qcow2.Open(f, st.Size())
	switch {
	case err != nil || img.Extension(qcow2.ExtBitmaps) == nil:
		return bitmapsNone
	case img.Header.AutoclearFeatures.Has(qcow2.AutoclearBitmaps):
		return bitmapsValid
	}
	return bitmapsStale
}

//go:embed differences.md
var differencesText string

// Known gives the differences that are intended, by key, with the reason: what
// differences.md says.
var Known = sync.OnceValue(func() map[string]string {
	known := make(map[string]string)
	for line := range strings.Lines(differencesText) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 4 {
			if key := strings.TrimSpace(cells[1]); strings.HasPrefix(key, "`") {
				known[strings.Trim(key, "`")] = strings.TrimSpace(cells[2])
			}
		}
	}
	return known
})

// Difference is a disagreement of a check with QEMU. Key names its kind: that of two
// images is the same where one explanation will do.
type Difference struct{ Key, Text string }

// manyL2Bytes is how much of L2 tables QEMU may not have read, on a busy machine, in
// the time that is usual for a run, even where all of it is past the end of the file.
const manyL2Bytes = 2 << 30

// l2Bytes is how much QEMU reads of L2 tables when it checks an image: one for each
// L1 entry that is not zero, of the disk and of every snapshot, however often it is
// the same and wherever it lies (block/qcow2-refcount.c, check_refcounts_l1). Once
// beyond manyL2Bytes it does not look any further.
func l2Bytes(img *qcow2.Image) uint64 {
	n := uint64(0)
	count := func(at qcow2.HostOffset, entries uint32) {
		for range qcow2.ReadL1(img, at, uint64(entries)).All() {
			if n += img.Geometry.ClusterSize(); n >= manyL2Bytes {
				return
			}
		}
	}
	count(img.Header.L1TableOffset, img.Header.L1Size)
	if n < manyL2Bytes && img.Header.NbSnapshots > 0 {
		for _, s := range qcow2.ReadSnapshotTable(img).Snapshots {
			if count(s.L1TableOffset, s.L1Size); n >= manyL2Bytes {
				break
			}
		}
	}
	return n
}

// figures are those that a check shares with `qemu-img check`.
func figures(res *check.Result) map[string]uint64 {
	return map[string]uint64{"image-end-offset": res.ImageEndOffset, "total-clusters": res.TotalClusters,
		"allocated-clusters": res.AllocatedClusters, "fragmented-clusters": res.FragmentedClusters, "compressed-clusters": res.CompressedClusters}
}

// onlyCopied tells whether all errors that `qemu-img check` tells of are COPIED flags
// that do not go with a refcount.
func onlyCopied(stderr string) bool {
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "ERROR") && !strings.HasPrefix(line, "ERROR OFLAG_COPIED") {
			return false
		}
	}
	return true
}

// Compare gives the disagreements of a check with QEMU about an image, sorted by key,
// each once.
func Compare(img *qcow2.Image, res *check.Result, said *Said) []Difference {
	fileClusters := img.Geometry.Clusters(uint64(img.Size()))
	tooHigh := res.Has(problem.RefcountTooHigh) || res.Has(problem.OwnerUnknown)
	var out []Difference
	add := func(key, format string, args ...any) {
		if !slices.ContainsFunc(out, func(d Difference) bool { return d.Key == key }) {
			out = append(out, Difference{key, fmt.Sprintf(format, args...)})
		}
	}
	otherExtensions := !img.Header.HeaderLengthOK(img.Geometry)
	missed := func(severity problem.Severity) {
		for i := range res.Findings {
			switch f := &res.Findings[i]; {
			case f.Severity != severity:
			case f.Code == problem.RefcountTooHigh && f.Cluster != nil && uint64(*f.Cluster) >= fileClusters:
				add("qemu-img check looks at no refcounts past the end of the file", "%s", f.Text())
			case tooHigh && (f.Code == problem.L1Copied || f.Code == problem.L2Copied):
				add("qemu-img check measures COPIED by the refcounts", "%s", f.Text())
			case otherExtensions && (f.Code.About() == problem.AboutExtension || f.Code.AboutBitmaps()):
				add("qemu-img check reads other extensions where the header's length is wrong", "%s", f.Text())
			default:
				add(fmt.Sprintf("qemu-img check misses %s", f.Code), "%s: %s", f.Path, f.Text())
			}
		}
	}
	switch said.RC {
	case 0:
		missed(problem.Corruption)
		missed(problem.Leak)
	case 3:
		missed(problem.Corruption)
		switch {
		case tooHigh || res.Totals.Corruptions > 0:
		case res.Has(problem.BitmapsStale) || res.Has(problem.BitmapsInVersion2):
			add("qemu-img check calls stale bitmaps leaks", "%s", said.Stderr)
		default:
			add("qemu-img check alone finds leaks", "%s", said.Stderr)
		}
	case 2:
		switch {
		case res.Totals.Corruptions > 0:
		case tooHigh && onlyCopied(said.Stderr):
			add("qemu-img check measures COPIED by the refcounts", "%s", said.Stderr)
		default:
			add("qemu-img check alone finds corruption", "%s", said.Stderr)
		}
	case 1:
		encrypted := img.Header.CryptMethod != qcow2.CryptNone // nobody has given it a key
		if !encrypted && res.Totals.Corruptions == 0 && res.QEMUOpen.ReadOnly == check.OpenOK {
			add("qemu-img check alone cannot check it", "%s", said.Stderr)
		}
	case -1:
		if n := l2Bytes(img); n >= manyL2Bytes {
			add("qemu-img check reads an L2 table for each of a great many L1 entries", "%d MiB", n>>20)
			break
		}
		add("qemu-img check does not end", "")
	default:
		if res.QEMUOpen.ReadOnly != check.OpenCrash {
			add("qemu-img check crashes", "%s", said.Stderr)
		}
	}
	if said.Figures != nil && said.RC != 1 && res.Totals.Corruptions == 0 {
		for key, ours := range figures(res) {
			if theirs, ok := said.Figures[key]; ours != theirs && (ok || ours != 0) {
				add(key, "%d for qcheck, %d for qemu-img check", ours, theirs)
			}
		}
	}
	if said.ReadOnly != "" && said.ReadOnly != res.QEMUOpen.ReadOnly {
		add(fmt.Sprintf("read-only: predicted %s, is %s", res.QEMUOpen.ReadOnly, said.ReadOnly), "%v", res.QEMUOpen.Reasons)
	}
	dirty := img.Header.IncompatibleFeatures.Has(qcow2.IncompatDirty)
	switch predicted := res.QEMUOpen.ReadWrite; {
	case said.ReadWrite == "" || said.ReadWrite == predicted:
	case dirty && predicted == check.OpenOK && said.ReadWrite == check.OpenRefused && res.Totals.Corruptions > 0:
		add("read-write: QEMU cannot repair a damaged image that is dirty", "%v", res.QEMUOpen.Reasons)
	case dirty && predicted == check.OpenRefused && said.ReadWrite == check.OpenOK && res.Totals.Corruptions > 0:
		add("read-write: QEMU repairs a damaged image that is dirty", "%v", res.QEMUOpen.Reasons)
	case said.ReadWrite == check.OpenDropsBitmaps && otherExtensions:
		add("read-write: QEMU reads other extensions where the header's length is wrong", "%v", res.QEMUOpen.Reasons)
	default:
		add(fmt.Sprintf("read-write: predicted %s, is %s", res.QEMUOpen.ReadWrite, said.ReadWrite), "%v", res.QEMUOpen.Reasons)
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	return out
}
