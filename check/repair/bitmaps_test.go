package repair

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
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

var policies = []BitmapPolicy{PolicyMark, PolicyAllDirty, PolicyRemove}

// repairable gives the codes that a repair of the bitmaps should have settled.
func repairable(res *check.Result, policy BitmapPolicy) (codes []problem.Code) {
	for _, f := range res.Findings {
		ours := f.Code.AboutBitmaps() || f.Code == problem.QEMUCrash || f.Code == problem.ExtensionLength
		if !ours || f.Repair == problem.RepairNone || f.Repair == problem.RepairLossy || f.Code == problem.BitmapDataUniform {
			continue
		}
		if policy == PolicyMark && (f.Severity == problem.Note || f.Code == problem.BitmapInUse) {
			continue // in use it was and is
		}
		codes = append(codes, f.Code)
	}
	return codes
}

func bitmapCases() (cases []corpus.Case) {
	for _, c := range corpus.Cases() {
		if c.Huge {
			continue
		}
		if slices.ContainsFunc(c.Want, func(w corpus.Want) bool {
			return w.Code.AboutBitmaps() || w.Code == problem.QEMUCrash || w.Code == problem.ExtensionLength && strings.Contains(c.Name, "bitmap")
		}) {
			cases = append(cases, c)
		}
	}
	return cases
}

// takesMore tells whether there is something besides the bitmaps that no safe repair
// settles.
func takesMore(res *check.Result) bool {
	return slices.ContainsFunc(res.Findings, func(f problem.Finding) bool {
		return f.Severity == problem.Corruption && !f.Code.AboutBitmaps() && (f.Repair == problem.RepairLossy || f.Repair == problem.RepairNone)
	})
}

// sayings gives what each bitmap that can be used says: its dirty ranges, and
// its digest where that is not to change by bits that mean nothing.
func sayings(t testing.TB, img *qcow2.Image, res *check.Result, digest bool) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, info := range res.Bitmaps {
		if info.State != check.BitmapEnabled && info.State != check.BitmapDisabled {
			continue
		}
		e := info.Entry()
		b, err := img.BitmapUnchecked(&e)
		require.NoError(t, err)
		h := sha256.New()
		for x, err := range b.Dirty() {
			require.NoError(t, err)
			fmt.Fprintln(h, x)
		}
		if digest {
			d, err := b.Digest()
			require.NoError(t, err)
			h.Write(d[:])
		}
		m[info.Name] = fmt.Sprintf("%x %v %d", h.Sum(nil), e.Flags, e.GranularityBits)
	}
	return m
}

func TestBitmapCases(t *testing.T) {
	every := stride(4, 27)
	for i, c := range bitmapCases() {
		for k, policy := range policies {
			// Some have tens of thousands of bitmaps.
			if many := strings.HasPrefix(c.Name, "hostile/65535"); (i+k)%every != 0 || many && !thorough {
				continue
			}
			t.Run(c.Name+"/"+string(policy), func(t *testing.T) {
				t.Parallel()
				img, err := c.Build()
				require.NoError(t, err)
				r, err := c.Reader(img)
				require.NoError(t, err)
				testBitmapRepair(t, r, img, Options{BitmapPolicy: policy, CompactBitmaps: c.BitmapData, OpenSibling: c.Options(img).OpenSibling})
			})
		}
	}
}

func testBitmapRepair(t *testing.T, r source, img *corpus.Image, opts Options) *overlay {
	p, err := Make(t.Context(), r, r.Size(), opts)
	require.NoError(t, err)
	all := func(*problem.Finding) bool { return true }
	t.Logf("%s → %s (%d edits, +%d) %q", listed(p.Before.Findings, all), listed(p.After.Findings, all), p.Edits.Len(), p.NewSize-p.OldSize, p.Lost)
	for e := range p.Edits.All() {
		t.Logf("%v %v+%d %s %v", e.Stage, e.Offset, len(e.New), e.Reason, e.Codes)
	}
	after := after(t, r, p)
	opened, err := qcow2.Open(after, after.size)
	require.NoError(t, err)
	inspect := check.Options{BitmapData: opts.CompactBitmaps, OpenSibling: opts.OpenSibling}
	res, err := check.Run(t.Context(), opened, inspect)
	require.NoError(t, err)
	assert.Empty(t, repairable(res, opts.BitmapPolicy))
	// A table far out in a hole may be where no refcount table can reach.
	// And what else lies where the bitmaps are is not for the bitmap policy, nor is
	// what is wrong besides and takes more than a safe repair.
	// Bitmaps that were found, and that the header has no room for, are kept as they are,
	// and so is what was in doubt.
	if !res.Has(problem.BitmapsOrphaned) && !res.Has(problem.RefcountMissing) && !doubted(t, r, anyDoubt) && !strings.Contains(t.Name(), "/overlap/") && !takesMore(p.Before) {
		assert.Zero(t, res.Totals.Corruptions+res.Totals.Leaks-res.Totals.InDoubt, "%v", res.Findings)
	}

	again, err := Make(t.Context(), after, after.size, opts)
	require.NoError(t, err)
	assert.True(t, again.Empty() || doubted(t, r, anyDoubt) && onlyFrees(p, again), "%v", editsOf(again))

	// Sound bitmaps are what they were.
	before, err := qcow2.Open(r, r.Size())
	require.NoError(t, err)
	was, err := check.Run(t.Context(), before, inspect)
	require.NoError(t, err)
	digest := !was.Has(problem.BitmapTrailingBits) && !was.Has(problem.BitmapDataUniform)
	now := sayings(t, opened, res, digest)
	for name, content := range sayings(t, before, was, digest) {
		assert.Equal(t, content, now[name], "bitmap %q", name)
	}
	return after
}

// damages are ways to break one of three bitmaps, or the extension.
var damages = []corpus.Damage{
	corpus.Set(corpus.BitmapField("b0", qcow2.BitmapFieldTableOffset, 8), 0),
	corpus.Add(corpus.BitmapField("b1", qcow2.BitmapFieldTableOffset, 8), 8),
	corpus.Set(corpus.BitmapField("b1", qcow2.BitmapFieldTableSize, 4), 0),
	corpus.Add(corpus.BitmapField("b0", qcow2.BitmapFieldTableSize, 4), 1),
	corpus.SetBits(corpus.BitmapField("b0", qcow2.BitmapFieldFlags, 4), 1),
	corpus.SetBits(corpus.BitmapField("b1", qcow2.BitmapFieldFlags, 4), 1<<9),
	corpus.Set(corpus.BitmapField("b1", qcow2.BitmapFieldType, 1), 3),
	corpus.Set(corpus.BitmapField("b0", qcow2.BitmapFieldGranularityBits, 1), 80),
	corpus.Set(corpus.BitmapField("b1", qcow2.BitmapFieldGranularityBits, 1), 40),
	corpus.Set(corpus.BitmapField("b1", qcow2.BitmapFieldNameSize, 2), 300),
	corpus.Put(corpus.BitmapField("b1", qcow2.BitmapHeadSize, 2), []byte("b0")),
	corpus.Set(corpus.BitmapField("b0", 28, 1), 1),
	corpus.Wipe(corpus.BitmapEntry("b1")),
	corpus.SetBits(corpus.BitmapTableEntry("b0", 0), 1),
	corpus.SetBits(corpus.BitmapTableEntry("b0", 0), 1<<60),
	corpus.Set(corpus.BitmapTableEntry("b0", 1), 1<<40),
	corpus.Copy(corpus.BitmapTableEntry("b1", 0), corpus.BitmapTableEntry("b0", 0)),
	corpus.SetOffset(corpus.BitmapField("b1", qcow2.BitmapFieldTableOffset, 8), corpus.BitmapTable("b0"), 0),
	corpus.SetOffset(corpus.BitmapField("b1", qcow2.BitmapFieldTableOffset, 8), corpus.BitmapDirectory(), 0),
	corpus.SetOffset(corpus.BitmapField("b0", qcow2.BitmapFieldTableOffset, 8), corpus.L2Table(0), 0),
	corpus.SetOffset(corpus.BitmapField("b0", qcow2.BitmapFieldTableOffset, 8), corpus.RefcountBlock(0), 0),
	corpus.Point(corpus.BitmapTableEntry("b0", 1), corpus.L1Table()),
	corpus.Point(corpus.BitmapTableEntry("b0", 1), corpus.Data(0)),
	corpus.SetBits(corpus.BitmapData("b0", 4).At(2, 1), 1),
	corpus.Set(corpus.ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtNbBitmaps, 4), 7),
	corpus.Set(corpus.ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtReserved, 4), 7),
	corpus.Add(corpus.ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtDirectorySize, 8), 16),
	corpus.Set(corpus.ExtensionLength(qcow2.ExtBitmaps), 16),
	corpus.Set(corpus.ExtensionLength(qcow2.ExtBitmaps), 32),
	corpus.ClearBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), uint64(qcow2.AutoclearBitmaps)),
}

// Several faults at once, and a bitmap that is sound: nothing is left that could be
// repaired, and the sound one is as it was.
func TestBitmapDamagesTogether(t *testing.T) {
	const mib = 1 << 20
	spec := corpus.Spec{ClusterBits: 12, Size: 64*mib + 512,
		Ops: []corpus.Op{corpus.Write{Length: 8192, Pattern: 1}, corpus.Snapshot{ID: "1", Name: "s"}, corpus.Write{Length: 4096, Pattern: 2}},
		Bitmaps: []corpus.Bitmap{
			{Name: "b0", GranularityBits: 9, Auto: true, Dirty: []corpus.Range{{Length: mib}, {Offset: 40 * mib, Length: 4 * mib}, {Offset: 64 * mib, Length: 512}}},
			{Name: "sound", GranularityBits: 9, Auto: true, Dirty: []corpus.Range{{Offset: 3 * mib, Length: 9 * mib}}},
			{Name: "b1", GranularityBits: 16, Dirty: []corpus.Range{{Length: mib}}},
		}}
	runs := 250 / stride(4, 15)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range runs {
		picked := []corpus.Damage{damages[i%len(damages)]}
		for range 1 + r.IntN(2) {
			picked = append(picked, damages[r.IntN(len(damages))])
		}
		policy := policies[i/len(damages)%len(policies)]
		t.Run(fmt.Sprintf("%s/%d", policy, i), func(t *testing.T) {
			img, err := corpus.Build(spec)
			require.NoError(t, err)
			var texts []string
			for _, d := range picked {
				_, err := d.Apply(img)
				require.NoError(t, err)
				texts = append(texts, d.String())
			}
			t.Log(strings.Join(texts, "; "))
			before := disks(t, img, img.Size())
			o := testBitmapRepair(t, img, img, Options{BitmapPolicy: policy})
			for name, d := range disks(t, o, o.size) {
				assertSameGuest(t, name, before[name], d, false)
			}
		})
	}
}
