package fuzz_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

var walks = flag.Int("walks", 16, "how many images QEMU makes by a random walk")

// walk has a real QEMU do things to an image, in any order. What it refuses to do is
// part of the walk.
type walk struct {
	t    *testing.T
	rnd  *rand.Rand
	path string
	done []string

	v2          bool
	size        int64 // of the disk, in bytes
	cluster     int64
	snapshots   []string
	bitmaps     []string
	numbered    int
	compressing bool
}

func (w *walk) run(program string, args ...string) {
	res := qemutest.Run(w.t, program, args...)
	w.done = append(w.done, fmt.Sprintf("%s %s (%d)", program, strings.Join(args, " "), res.RC))
	require.Less(w.t, res.RC, 128, "QEMU crashed: %v", w.done)
}

// area is a range of the disk, on the boundaries of clusters or of sectors.
func (w *walk) area(unit int64) (off, n int64) {
	units := w.size / unit
	off = w.rnd.Int64N(units)
	n = 1 + w.rnd.Int64N(min(units-off, 40))
	return off * unit, n * unit
}

func (w *walk) io(command string) { w.run(qemutest.QemuIO, "-f", "qcow2", "-c", command, w.path) }
func (w *walk) img(args ...string) {
	w.run(qemutest.QemuImg, append(args, w.path)...)
}

func (w *walk) name(kind string) string {
	w.numbered++
	return fmt.Sprintf("%s%d", kind, w.numbered)
}

// step does one thing.
func (w *walk) step() {
	unit := []int64{512, w.cluster}[w.rnd.IntN(2)]
	off, n := w.area(unit)
	pick := func(names []string) string { return names[w.rnd.IntN(len(names))] }
	switch w.rnd.IntN(16) {
	case 0, 1, 2, 3:
		w.io(fmt.Sprintf("write -P %d %d %d", 1+w.rnd.IntN(255), off, n))
	case 4:
		w.io(fmt.Sprintf("write -z %d %d", off, n))
	case 5:
		w.io(fmt.Sprintf("write -z -u %d %d", off, n))
	case 6:
		w.io(fmt.Sprintf("discard %d %d", off, n))
	case 7:
		if w.compressing {
			off, _ = w.area(w.cluster)
			w.io(fmt.Sprintf("write -c -P %d %d %d", 1+w.rnd.IntN(255), off, w.cluster))
		}
	case 8, 9:
		s := w.name("s")
		w.img("snapshot", "-c", s)
		w.snapshots = append(w.snapshots, s)
	case 10:
		if len(w.snapshots) > 0 {
			w.img("snapshot", "-a", pick(w.snapshots))
		}
	case 11:
		if len(w.snapshots) > 0 {
			w.img("snapshot", "-d", pick(w.snapshots))
		}
	case 12:
		grown := w.size + w.rnd.Int64N(64)*w.cluster
		w.run(qemutest.QemuImg, "resize", "-f", "qcow2", w.path, fmt.Sprint(grown))
	case 13:
		w.run(qemutest.QemuImg, "resize", "-f", "qcow2", "--shrink", w.path, fmt.Sprint(max(w.cluster, w.size-w.rnd.Int64N(64)*w.cluster)))
	case 14:
		if !w.v2 {
			b := w.name("b")
			w.run(qemutest.QemuImg, "bitmap", "--add", "-g", fmt.Sprint(512<<w.rnd.IntN(12)), "-f", "qcow2", w.path, b)
			w.bitmaps = append(w.bitmaps, b)
		}
	case 15:
		if len(w.bitmaps) > 0 {
			how := []string{"--remove", "--clear", "--disable", "--enable"}[w.rnd.IntN(4)]
			w.run(qemutest.QemuImg, "bitmap", how, "-f", "qcow2", w.path, pick(w.bitmaps))
		}
	}
	w.size = qemutest.Info(w.t, w.path).VirtualSize
}

// Whatever QEMU does to an image, a check finds nothing wrong with it, and counts
// what `qemu-img check` counts.
func TestRandomWalksOfQEMU(t *testing.T) {
	qemutest.Require(t)
	n := *walks
	if testing.Short() {
		n /= 4
	}
	for seed := range uint64(n) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(*firstSeed, seed))
			bits := []int{9, 10, 12, 12, 14, 16, 16, 21}[rnd.IntN(8)]
			w := &walk{t: t, rnd: rnd, path: filepath.Join(t.TempDir(), "walk.qcow2"), cluster: 1 << bits,
				size: max(1<<20, int64(200)<<bits), compressing: true}
			options := []string{fmt.Sprintf("cluster_size=%d", w.cluster)}
			switch rnd.IntN(7) {
			case 0:
				options, w.v2 = append(options, "compat=0.10"), true
			case 1:
				options = append(options, fmt.Sprintf("refcount_bits=%d", 4<<rnd.IntN(5)))
			case 2:
				options = append(options, "lazy_refcounts=on")
			case 3:
				if bits >= 14 {
					options = append(options, "extended_l2=on")
				}
			case 4:
				options = append(options, "preallocation=metadata")
			case 5:
				options, w.compressing = append(options, "data_file="+w.path+".data"), false
			}
			w.run(qemutest.QemuImg, "create", "-q", "-f", "qcow2", "-o", strings.Join(options, ","), w.path, fmt.Sprint(w.size))
			for range 3 {
				for range 2 + rnd.IntN(6) {
					w.step()
				}
				w.verify()
			}
		})
	}
}

func (w *walk) verify() {
	w.t.Helper()
	said := strings.Join(w.done, "\n")
	want := qemutest.Check(w.t, w.path)
	require.True(w.t, want.Ran, "%s\n%s", want.Stderr, said)
	require.Zero(w.t, want.RC, "%s\n%s", want.Stderr, said)
	f, err := os.Open(w.path)
	require.NoError(w.t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(w.t, err)
	img, err := qcow2.Open(f, st.Size())
	require.NoError(w.t, err)
	res, err := check.Run(context.Background(), img, check.Options{BitmapData: true})
	require.NoError(w.t, err)
	for i := range res.Findings {
		f := &res.Findings[i]
		assert.Equal(w.t, problem.Note, f.Severity, "%s %s: %s\n%s", f.Code, f.Path, f.Text(), said)
	}
	assert.Equal(w.t, check.OpenOK, res.QEMUOpen.ReadWrite, "%v\n%s", res.QEMUOpen.Reasons, said)
	assert.EqualValues(w.t, want.ImageEndOffset, res.ImageEndOffset, "image-end-offset\n%s", said)
	assert.EqualValues(w.t, want.TotalClusters, res.TotalClusters, "total-clusters\n%s", said)
	assert.EqualValues(w.t, want.AllocatedClusters, res.AllocatedClusters, "allocated-clusters\n%s", said)
	assert.EqualValues(w.t, want.FragmentedClusters, res.FragmentedClusters, "fragmented-clusters\n%s", said)
	assert.EqualValues(w.t, want.CompressedClusters, res.CompressedClusters, "compressed-clusters\n%s", said)
}
