package repair

import (
	"bytes"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// source is an image in memory.
type source interface {
	ReadAt(p []byte, off int64) (int, error)
	Size() int64
}

// after gives the image as it is when the plan has been carried out.
func after(t *testing.T, img io.ReaderAt, p *Plan) *overlay {
	t.Helper()
	o := newOverlay(img, p.OldSize, false)
	o.size = p.NewSize
	for e := range p.Edits.All() {
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

// disks gives the active disk and those of all snapshots that can be read, by ID.
// Of two snapshots of one ID the second one is left out.
func disks(t testing.TB, r io.ReaderAt, size int64) map[string]*qcow2.Disk {
	t.Helper()
	img, err := qcow2.Open(r, size)
	require.NoError(t, err)
	all := make(map[string]*qcow2.Disk)
	if d, err := img.ActiveDisk(qcow2.DiskOptions{}); err == nil {
		all[""] = d
	}
	for _, s := range qcow2.ReadSnapshotTable(img).Snapshots {
		id := check.Escape(s.ID)
		if d, err := img.SnapshotDisk(&s, qcow2.DiskOptions{}); err == nil && all[id] == nil {
			all[id] = d
		}
	}
	return all
}

// assertSameGuest asserts that whatever could be read of the one disk reads the
// same in the other, but for what is said to be lost; and that nothing else comes up
// there, unless it was found again.
func assertSameGuest(t testing.TB, name string, was, is *qcow2.Disk, found bool, lost ...GuestRange) {
	t.Helper()
	compare := func(from, to *qcow2.Disk, what string) {
		for x, err := range from.Map(0, qcow2.GuestOffset(from.Size())) {
			if err != nil || x.Kind == qcow2.GuestUnallocated || x.Kind == qcow2.GuestZero {
				continue
			}
			for done := uint64(0); done < x.Length; {
				n := min(x.Length-done, 1<<20)
				off := uint64(x.Start) + done
				given := false // what is said to be lost may need a backing file now
				for _, l := range lost {
					switch {
					case l.Snapshot != name:
					case l.Offset <= off && off < l.Offset+l.Length:
						given, n = true, min(n, l.Offset+l.Length-off)
					case off < l.Offset:
						n = min(n, l.Offset-off)
					}
				}
				done += n
				if given {
					continue
				}
				a, b := make([]byte, n), make([]byte, n)
				if _, err := was.ReadAt(a, int64(off)); err != nil && err != io.EOF {
					continue
				}
				_, err := is.ReadAt(b, int64(off))
				if err != nil && err != io.EOF || !bytes.Equal(a, b) {
					t.Errorf("%q: guest data at 0x%x %s: %v", name, off, what, err)
					return
				}
			}
		}
	}
	compare(was, is, "is lost")
	if !found {
		compare(is, was, "came up")
	}
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
		if m, err := img.BitmapUnchecked(&e); err == nil {
			if d, err := m.Digest(); err == nil {
				all[b.Name] = d
			}
		}
	}
	return all
}

// onlyFrees tells that a second repair does nothing but free what was in doubt before the
// first one, and is not any more.
func onlyFrees(first, second *Plan) bool {
	for e := range second.Edits.All() {
		if e.Stage != StageRelease {
			return false
		}
	}
	return first.After.Has(problem.RefcountTooHigh)
}

// doubted tells that something was in doubt in an image, of the kind that is meant.
func doubted(t testing.TB, img source, meant func(check.Doubt) bool) bool {
	t.Helper()
	opened, err := qcow2.Open(img, img.Size())
	require.NoError(t, err)
	_, ev, err := check.Inspect(t.Context(), opened, check.Options{})
	require.NoError(t, err)
	return slices.ContainsFunc(ev.Doubts, meant)
}

func anyDoubt(check.Doubt) bool { return true }

// l2Window is the part of a disk that the L1 entry of a finding is for.
func l2Window(t testing.TB, img source, f *problem.Finding) GuestRange {
	t.Helper()
	opened, err := qcow2.Open(img, img.Size())
	require.NoError(t, err)
	index := f.Path.Entry()
	n := opened.Geometry.L2Coverage()
	return GuestRange{Snapshot: f.Snapshot, Offset: index * n, Length: n}
}

func listed(fs []problem.Finding, want func(*problem.Finding) bool) (codes []string) {
	for i := range fs {
		if want(&fs[i]) {
			codes = append(codes, string(fs[i].Code))
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// repairCases are the damaged images of the corpus that can be repaired in memory.
func repairCases() (cases []corpus.Case) {
	for _, c := range corpus.Cases() {
		if c.Healthy() || c.Huge || c.Unreadable != nil || strings.HasPrefix(c.Name, "hostile/") || c.NotQcow2() {
			continue
		}
		cases = append(cases, c)
	}
	return cases
}

// ways are the options with which every damaged image of the corpus is repaired, and
// which findings they may not leave.
var ways = []struct {
	name  string
	opts  Options
	leave func(f *problem.Finding) bool
}{
	{"safe", Options{}, func(f *problem.Finding) bool {
		return f.Repair != problem.RepairSafe || strings.HasPrefix(string(f.Code), "BM")
	}},
	{"all-dirty", Options{BitmapPolicy: PolicyAllDirty}, func(f *problem.Finding) bool {
		return f.Repair != problem.RepairSafe && f.Repair != problem.RepairPolicy
	}},
	{"reattach", Options{Reattach: true, BitmapPolicy: PolicyRemove}, func(f *problem.Finding) bool {
		return f.Repair != problem.RepairSafe && f.Repair != problem.RepairPolicy
	}},
	{"lossy", Options{AllowDataLoss: true, BitmapPolicy: PolicyAllDirty}, func(f *problem.Finding) bool {
		return f.Repair == problem.RepairNone || f.Repair == problem.RepairReattach
	}},
	{"lossy-reattach", Options{AllowDataLoss: true, Reattach: true}, func(f *problem.Finding) bool {
		return f.Repair == problem.RepairNone || f.Repair == problem.RepairReattach || f.Code == problem.BitmapInUse
	}},
}

// Every damaged image of the corpus: what can be repaired in a way is, nothing that
// could be read reads otherwise but for what is said to be lost, no sound bitmap
// changes, and a second repair finds nothing to do.
func TestRepairCorpus(t *testing.T) {
	every := stride(8, 96)
	for i, c := range repairCases() {
		for k, way := range ways {
			if (i*3+k)%every != 0 {
				continue
			}
			t.Run(c.Name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				img, err := c.Build()
				require.NoError(t, err)
				testRepair(t, img, way.opts, way.leave)
			})
		}
	}
}

// testRepair repairs an image and says what is wrong with that.
func testRepair(t *testing.T, img source, opts Options, leave func(f *problem.Finding) bool) {
	t.Helper()
	plan, err := Make(t.Context(), img, img.Size(), opts)
	require.NoError(t, err)
	opts.Jobs = 1
	again, err := work(t.Context(), img, img.Size(), opts)
	require.NoError(t, err)
	require.Equal(t, editsOf(plan), editsOf(again), "the plan for an image is always the same")

	o := after(t, img, plan)
	// Of what was given up the data is kept, in clusters that nothing refers to, and so is
	// what was in doubt. The next repair cannot know.
	kept := (len(plan.Lost) > 0 || plan.Before.Totals.InDoubt > 0) && !opts.FreeUnowned || doubted(t, img, anyDoubt)
	assert.Empty(t, listed(plan.After.Findings, func(f *problem.Finding) bool {
		return f.Severity != problem.Note && !leave(f) && !(kept && f.Code == problem.RefcountTooHigh)
	}), "what can be repaired is, and what was in doubt is not freed")
	if !opts.AllowDataLoss {
		assert.Empty(t, plan.LostGuest)
	}

	second, err := work(t.Context(), o, o.size, opts)
	require.NoError(t, err)
	if !kept || !onlyFrees(plan, second) {
		assert.Empty(t, editsOf(second), "a second repair finds nothing to do")
	}
	assert.Equal(t, o.size, second.NewSize)

	before, now := disks(t, img, img.Size()), disks(t, o, o.size)
	for name, was := range before {
		d := now[name]
		if d == nil {
			assert.True(t, name != "" && len(plan.Lost) > 0, "%q is gone", name)
			continue
		}
		if opts.Reattach && name != "" && slices.ContainsFunc(plan.Before.Findings, func(f problem.Finding) bool { return f.Snapshot == name }) {
			continue // it may have been read from what is not its own
		}
		// Where metadata is read as an L2 table, data is whatever that happens to lead to.
		spared := plan.LostGuest
		for _, f := range plan.Before.Findings {
			if f.Structure == problem.StructL2Table && f.Code.Is(problem.Overlap) && f.GuestOffset == nil {
				spared = append(spared, l2Window(t, img, &f))
			}
		}
		found := plan.Before.Has(problem.L1TooSmall) || opts.Reattach
		assertSameGuest(t, name, was, d, found, spared...)
	}
	if plan.Before.Has(problem.BitmapTrailingBits) || opts.Reattach && plan.Before.Has(problem.L1Misplaced) {
		// The digest covers bits that mean nothing, and that are cleared; and with a
		// disk comes up what it has written over a bitmap.
		return
	}
	is := sumsOf(t, o, o.size)
	for name, d := range sumsOf(t, img, img.Size()) {
		assert.Equal(t, d, is[name], "bitmap %s", name)
	}
}
