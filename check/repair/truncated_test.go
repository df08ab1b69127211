package repair

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
	"github.com/qcheck/qcheck/qcow2"
)

// cutSpecs are images of several kinds, each with data whose place in the file is not in
// the order of the disk, and metadata between it.
func cutSpecs() map[string]corpus.Spec {
	specs := make(map[string]corpus.Spec)
	add := func(name string, bits uint32, change func(s *corpus.Spec)) {
		c := uint64(1) << bits
		window := c * c / 8
		s := corpus.Spec{ClusterBits: bits, Size: min(3*window, 64<<20) + c/2}
		if bits == 21 {
			s.Size = 48<<20 + 512
		}
		at := func(n uint64) uint64 { return n * c % (s.Size - 4*c) &^ (c - 1) }
		s.Ops = []corpus.Op{
			corpus.Write{Offset: at(2), Length: 3 * c, Pattern: 1, Stamp: true},
			corpus.Write{Offset: at(1 << 20), Length: c, Pattern: 2, Stamp: true},
			corpus.Write{Offset: at(0), Length: c, Pattern: 3, Stamp: true},
			corpus.Write{Offset: s.Size - c - c/2, Length: c, Pattern: 4, Stamp: true},
			corpus.Zero{Offset: at(9), Length: c, Keep: true},
			corpus.Write{Offset: at(7), Length: c, Pattern: 5, Stamp: true},
		}
		if change != nil {
			change(&s)
		}
		specs[name] = s
	}
	for _, bits := range []uint32{9, 12, 16, 21} {
		add(fmt.Sprintf("plain-%d", 1<<bits), bits, nil)
	}
	for _, bits := range []uint32{9, 16} {
		c := uint64(1) << bits
		add(fmt.Sprintf("snapshots-%d", c), bits, func(s *corpus.Spec) {
			s.Ops = append(s.Ops, corpus.Snapshot{ID: "1", Name: "one"}, corpus.Write{Offset: 3 * c, Length: c, Pattern: 6, Stamp: true},
				corpus.Snapshot{ID: "2", Name: "two"}, corpus.Write{Offset: 11 * c, Length: 2 * c, Pattern: 7, Stamp: true})
		})
		add(fmt.Sprintf("bitmaps-%d", c), bits, func(s *corpus.Spec) {
			s.Bitmaps = []corpus.Bitmap{{Name: "a", GranularityBits: 9, Auto: true, Dirty: []corpus.Range{{Offset: 0, Length: 4 * c}}},
				{Name: "b", GranularityBits: 16, InUse: true, Dirty: []corpus.Range{{Offset: 0, Length: s.Size}}}}
		})
		add(fmt.Sprintf("lazy-%d", c), bits, func(s *corpus.Spec) { s.Lazy, s.Dirty = true, true })
	}
	add("version-2", 12, func(s *corpus.Spec) {
		s.Version, s.Ops = 2, slices.DeleteFunc(s.Ops, func(o corpus.Op) bool { _, zero := o.(corpus.Zero); return zero })
	})
	add("compressed", 16, func(s *corpus.Spec) {
		s.Ops = append(s.Ops, corpus.Write{Offset: 12 << 16, Length: 5 << 16, Pattern: 8, Compressed: true}, corpus.Write{Offset: 20 << 16, Length: 1 << 16, Pattern: 9, Stamp: true})
	})
	add("extended", 14, func(s *corpus.Spec) {
		s.ExtendedL2 = true
		s.Ops = append(s.Ops, corpus.Write{Offset: 30<<14 + 512, Length: 2048, Pattern: 8}, corpus.Zero{Offset: 30<<14 + 8192, Length: 512})
	})
	add("refcounts-1", 12, func(s *corpus.Spec) { s.RefcountBits = 1 })
	return specs
}

// cutLengths are the lengths at which an image is cut: the boundaries of all its clusters
// if they are not many, places in the middle of clusters, of sectors and of entries.
func cutLengths(img *corpus.Image, cluster int64) (all []int64) {
	clusters := (img.Size() + cluster - 1) / cluster
	step := max(1, clusters/int64(120/stride(3, 8)))
	for n := int64(1); n < clusters; n += step {
		for _, behind := range []int64{0, 8, cluster / 2, cluster - 4} {
			if len(all)%stride(2, 5) == 0 || behind == 0 {
				all = append(all, n*cluster+behind)
			} else {
				all = append(all, n*cluster)
			}
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(n int64) bool { return n >= img.Size() })
}

// cutImage is the beginning of an image.
type cutImage struct {
	*io.SectionReader
}

// TestTruncated cuts images of many kinds at many lengths: what is said of them is what a
// comparison with the whole image shows, and no repair loses a byte that can be read.
func TestTruncated(t *testing.T) {
	for name, spec := range cutSpecs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img, err := corpus.Build(spec)
			require.NoError(t, err)
			whole := disks(t, img, img.Size())
			cluster := int64(1) << spec.ClusterBits
			for i, size := range cutLengths(img, cluster) {
				cut := cutImage{io.NewSectionReader(img, 0, size)}
				if !t.Run(fmt.Sprintf("%#x", size), func(t *testing.T) {
					testTruncated(t, whole, cut, i%stride(12, 60) == 0)
				}) {
					return
				}
			}
		})
	}
}

func testTruncated(t *testing.T, whole map[string]*qcow2.Disk, cut source, askQEMU bool) {
	if _, err := work(t.Context(), cut, cut.Size(), Options{}); errors.Is(err, errGrown) {
		img, err := qcow2.Open(cut, cut.Size())
		require.NoError(t, err)
		assert.GreaterOrEqual(t, uint64(img.Header.L1TableOffset), uint64(cut.Size()), "only where there is no way to the disk")
		return
	}
	for _, opts := range []Options{{}, {AllowDataLoss: true, BitmapPolicy: PolicyAllDirty}} {
		testRepair(t, cut, opts, func(f *problem.Finding) bool { return true })
	}
	opts := Options{AllowDataLoss: true, BitmapPolicy: PolicyAllDirty}
	plan, err := Make(t.Context(), cut, cut.Size(), opts)
	require.NoError(t, err)
	o := after(t, cut, plan)
	checkDiagnosis(t, plan, whole, cut)

	hasL1 := !slices.ContainsFunc(plan.Before.Findings, func(f problem.Finding) bool { return f.Code == problem.L1Misplaced && f.Repair == problem.RepairNone })
	if !hasL1 {
		return // there is no way to the disk
	}
	assert.False(t, plan.After.Has(problem.FileTruncated), "it is repaired")
	is := disks(t, o, o.size)
	for name, was := range whole {
		if d := is[name]; d != nil {
			assertLossDeclared(t, name, was, d, cut.Size(), plan)
		} else {
			assert.NotEmpty(t, plan.Lost, "%q", name)
		}
	}
	if !askQEMU {
		return
	}
	qemutest.Require(t)
	path := filepath.Join(t.TempDir(), "cut.qcow2")
	var b bytes.Buffer
	_, err = io.Copy(&b, io.NewSectionReader(o, 0, o.size))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	res := qemutest.Check(t, path)
	assert.Zero(t, res.Corruptions, "%+v", plan.After.Findings)
	if plan.After.Verdict == check.VerdictClean {
		assert.Zero(t, res.Leaks)
	}
}

// checkDiagnosis compares what is said to be gone, and to be there, with the whole image.
func checkDiagnosis(t *testing.T, plan *Plan, whole map[string]*qcow2.Disk, cut source) {
	tr := plan.Before.Truncation
	assert.Equal(t, tr != nil, plan.Before.Has(problem.FileTruncated))
	var there, gone, unmapped uint64
	disk := whole[""]
	cs := disk.Image().Geometry.ClusterSize()
	in := func(ranges []check.GuestRange, off uint64) bool {
		return slices.ContainsFunc(ranges, func(r check.GuestRange) bool { return r.Offset <= off && off < r.Offset+r.Length })
	}
	for x, err := range disk.Map(0, qcow2.GuestOffset(disk.Size())) {
		require.NoError(t, err)
		if !x.HasHost {
			continue
		}
		for off := uint64(0); off < x.Length; off += min(cs, 512) {
			guest, host := uint64(x.Start)+off, uint64(x.Host)+off
			if x.Kind == qcow2.GuestCompressed {
				host = uint64(x.Host) + x.HostLength
			}
			missing := host >= uint64(cut.Size())
			switch {
			case x.Kind == qcow2.GuestZero:
			case tr == nil:
				if missing && x.Kind == qcow2.GuestData && host/cs != uint64(cut.Size())/cs {
					t.Errorf("guest 0x%x is missing, and nothing tells", guest)
					return
				}
			case in(tr.Gone, guest):
				gone++
				assert.True(t, missing || x.Kind == qcow2.GuestCompressed, "guest 0x%x is there (host 0x%x)", guest, host)
			case in(tr.Unmapped, guest):
				unmapped++
			case missing && x.Kind == qcow2.GuestData && plan.Before.Truncation.Readable > 0:
				t.Errorf("guest 0x%x is missing (host 0x%x), and not said to be gone: %v", guest, host, tr)
				return
			default:
				there++
			}
		}
	}
}

// assertLossDeclared asserts that a repaired disk reads as that of the whole image did, but
// for what is said to be lost, and what lay in the part of a cluster behind the end.
func assertLossDeclared(t *testing.T, name string, was, is *qcow2.Disk, size int64, plan *Plan) {
	cs := was.Image().Geometry.ClusterSize()
	a, b := make([]byte, 512), make([]byte, 512)
	for x, err := range was.Map(0, qcow2.GuestOffset(was.Size())) {
		require.NoError(t, err)
		if x.Kind == qcow2.GuestUnallocated {
			continue
		}
		for off := uint64(0); off < x.Length; off += 512 {
			guest, host := uint64(x.Start)+off, uint64(x.Host)+off
			_, err := was.ReadAt(a, int64(guest))
			require.True(t, err == nil || err == io.EOF)
			lost := slices.ContainsFunc(plan.LostGuest, func(l GuestRange) bool {
				return l.Offset <= guest && guest < l.Offset+l.Length && l.Snapshot == name
			})
			tail := x.Kind == qcow2.GuestData && host+512 > uint64(size) && host/cs == uint64(size)/cs ||
				x.Kind == qcow2.GuestCompressed && uint64(x.Host)+x.HostLength > uint64(size)
			if lost || tail {
				continue
			}
			if _, err = is.ReadAt(b, int64(guest)); err != nil && err != io.EOF || !bytes.Equal(a, b) {
				t.Errorf("%q: guest 0x%x (host 0x%x, %v) reads otherwise: %v; lost %v", name, guest, host, x.Kind, err, plan.Lost)
				return
			}
		}
	}
}
