package check_test

import (
	"context"
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

// fault is one damage, and the finding that must come of it whatever else is
// damaged.
type fault struct {
	name   string
	code   problem.Code
	at     corpus.Place // the finding's bytes
	damage []corpus.Damage
	// way leads to what is damaged: what must be sound for it to be found.
	way string
	// cuts is what is not found any more because of it: the ways that begin so.
	cuts []string
	// not are codes of other faults beside which this one is not told, with the
	// reason.
	not map[problem.Code]string
}

const gib = 1 << 30

// multiSpec has everything that can be damaged: data in two parts of the disk, two
// snapshots, three bitmaps.
func multiSpec() corpus.Spec {
	dirty := []corpus.Range{{Offset: 0, Length: mib}, {Offset: gib, Length: mib}}
	return corpus.Spec{Size: 2 * gib, RefcountTableClusters: 2, Ops: []corpus.Op{
		corpus.Write{Offset: 0, Length: 2 * mib, Pattern: 0x11, Stamp: true},
		corpus.Snapshot{ID: "1", Name: "one"},
		corpus.Write{Offset: mib, Length: 512 * kib, Pattern: 0x22, Stamp: true},
		corpus.Snapshot{ID: "2", Name: "two"},
		corpus.Write{Offset: gib, Length: mib, Pattern: 0x33, Stamp: true},
		corpus.Write{Offset: gib + 4*mib, Length: 64 * kib, Pattern: 0x44, Compressed: true},
		corpus.Reserve{Name: "room", Clusters: 8},
	}, Bitmaps: []corpus.Bitmap{
		{Name: "a", Auto: true, Dirty: dirty}, {Name: "b", Dirty: dirty}, {Name: "c", Auto: true, Dirty: dirty[1:]},
	}}
}

func faults() []fault {
	const copied = 1 << 63
	header, room := corpus.HeaderField, corpus.Reserved("room")
	ext := func(off, n uint64) corpus.Place { return corpus.ExtensionData(qcow2.ExtBitmaps, off, n) }
	l1Size, snapshots := header(qcow2.FieldL1Size), header(qcow2.FieldSnapshotsOffset)
	second := corpus.L2Entry(gib)
	hole := corpus.L2Entry(gib + 128*mib)
	one := func(code problem.Code, way string, p corpus.Place, damage ...corpus.Damage) fault {
		f := fault{name: damage[0].String(), code: code, at: p, way: way, damage: damage}
		return f
	}
	cutting := func(f fault, ways ...string) fault { f.cuts = ways; return f }
	besides := func(f fault, code problem.Code, why string) fault {
		f.not = map[problem.Code]string{code: why}
		return f
	}
	return []fault{
		one(problem.AutoclearUnknown, "header", header(qcow2.FieldAutoclearFeatures), corpus.SetBits(header(qcow2.FieldAutoclearFeatures), 1<<5)),
		one(problem.MarkedCorrupt, "header", header(qcow2.FieldIncompatibleFeatures), corpus.SetBits(header(qcow2.FieldIncompatibleFeatures), 2)),
		one(problem.HeaderPaddingSet, "header", corpus.Bytes(106, 1), corpus.Put(corpus.Bytes(106, 1), []byte{1})),
		cutting(one(problem.L1Misplaced, "header", header(qcow2.FieldL1TableOffset), corpus.Add(header(qcow2.FieldL1TableOffset), 512)), "l1"),
		cutting(one(problem.RefcountTableMisplaced, "header", header(qcow2.FieldRefcountTableOffset), corpus.Add(header(qcow2.FieldRefcountTableOffset), 8)), "refcounts"),
		cutting(one(problem.SnapshotTableMisplaced, "header", snapshots, corpus.Add(snapshots, 8)), "snapshots"),
		cutting(one(problem.L1TooSmall, "header", l1Size, corpus.Set(l1Size, 1)), "l1 far"), // they are no entries any more

		one(problem.L1ReservedBits, "l1", corpus.L1Entry(0), corpus.SetBits(corpus.L1Entry(0), 1<<60)),
		one(problem.L1Unaligned, "l1 far", corpus.L1Entry(1), corpus.PointAt(corpus.L1Entry(1), room, 512)),
		cutting(one(problem.L1PastEnd, "l1 far", corpus.L1Entry(2), corpus.PointAt(corpus.L1Entry(2), corpus.End(1), mib)), "l1 far second"),
		one(problem.L1ReservedBits, "snapshots l1", corpus.SnapshotL1Entry("1", 3), corpus.SetBits(corpus.SnapshotL1Entry("1", 3), 1<<3)),
		one(problem.L2ReservedBits, "l1 far second", second, corpus.SetBits(second, 1<<5)),
		one(problem.L2Unaligned, "l1 far second", corpus.L2Entry(gib+64*kib), corpus.Add(corpus.L2Entry(gib+64*kib), 512)),
		one(problem.L2PastEnd, "l1 far second", corpus.L2Entry(gib+128*kib), corpus.PointAt(corpus.L2Entry(gib+128*kib), corpus.End(1), mib)),
		one(problem.CompressedCopied, "l1 far second", corpus.L2Entry(gib+4*mib), corpus.SetBits(corpus.L2Entry(gib+4*mib), copied)),
		one(problem.L2ToHeader, "l1 far second", corpus.L2Entry(gib+64*mib), corpus.Set(corpus.L2Entry(gib+64*mib), copied)),
		besides(one(problem.L2Copied, "l1 far second", corpus.L2Entry(gib+192*kib), corpus.ClearBits(corpus.L2Entry(gib+192*kib), copied)),
			problem.RefcountTableMisplaced, "while refcounts are unknown there may be references that were not seen, and a clear flag harms nobody"),
		one(problem.MetadataOverlap, "l1 far second", hole, corpus.Point(hole, corpus.L2Table(gib)), corpus.AddRefcount(corpus.L2Table(gib), 1), corpus.ClearBits(corpus.L1Entry(2), copied)),

		one(problem.RefcountEntryReserved, "refcounts", corpus.RefcountTableEntry(7), corpus.SetBits(corpus.RefcountTableEntry(7), 1<<3)),
		one(problem.RefcountEntryUnaligned, "refcounts", corpus.RefcountTableEntry(9), corpus.Set(corpus.RefcountTableEntry(9), 0x10200)),
		one(problem.RefcountEntryPastEnd, "refcounts", corpus.RefcountTableEntry(11), corpus.SetOffset(corpus.RefcountTableEntry(11), corpus.End(1), mib)),
		besides(one(problem.RefcountTooLow, "refcounts", corpus.RefcountOf(corpus.BitmapTable("b")), corpus.SetRefcount(corpus.BitmapTable("b"), 0)),
			problem.BitmapDirectoryMisplaced, "nothing leads to the table"),
		besides(one(problem.RefcountTooLow, "refcounts", corpus.RefcountOf(corpus.SnapshotTable()), corpus.SetRefcount(corpus.SnapshotTable(), 0)),
			problem.SnapshotTableMisplaced, "nothing leads to the table"),

		cutting(one(problem.SnapshotL1Misplaced, "snapshots", corpus.SnapshotField("1", 0, 8), corpus.Add(corpus.SnapshotField("1", 0, 8), 512)), "snapshots l1"),
		one(problem.SnapshotFieldsMissing, "snapshots", corpus.SnapshotField("2", qcow2.SnapshotFieldExtraDataSize, 4), corpus.Set(corpus.SnapshotField("2", qcow2.SnapshotFieldExtraDataSize, 4), 8)),

		one(problem.BitmapExtensionReserved, "bitmaps", ext(qcow2.BitmapsExtReserved, 4), corpus.Set(ext(qcow2.BitmapsExtReserved, 4), 7)),
		one(problem.BitmapCountWrong, "bitmaps", ext(qcow2.BitmapsExtNbBitmaps, 4), corpus.Set(ext(qcow2.BitmapsExtNbBitmaps, 4), 65536)),
		cutting(one(problem.BitmapDirectoryMisplaced, "bitmaps", ext(qcow2.BitmapsExtDirectoryOffset, 8), corpus.Add(ext(qcow2.BitmapsExtDirectoryOffset, 8), 8)), "bitmaps directory"),
		besides(one(problem.BitmapDirectorySize, "bitmaps", ext(qcow2.BitmapsExtDirectorySize, 8), corpus.Add(ext(qcow2.BitmapsExtDirectorySize, 8), 8)),
			problem.BitmapDirectoryMisplaced, "there is no directory whose entries could be counted"),
		cutting(one(problem.BitmapTableMisplaced, "bitmaps directory", corpus.BitmapField("a", 0, 8), corpus.Add(corpus.BitmapField("a", 0, 8), 8)), "bitmaps directory a"),
		one(problem.BitmapFlagsReserved, "bitmaps directory", corpus.BitmapField("b", qcow2.BitmapFieldFlags, 4), corpus.SetBits(corpus.BitmapField("b", qcow2.BitmapFieldFlags, 4), 1<<7)),
		one(problem.BitmapGranularity, "bitmaps directory", corpus.BitmapField("c", qcow2.BitmapFieldGranularityBits, 1), corpus.Set(corpus.BitmapField("c", qcow2.BitmapFieldGranularityBits, 1), 64)),
		one(problem.BitmapTypeUnknown, "bitmaps directory", corpus.BitmapField("b", qcow2.BitmapFieldType, 1), corpus.Set(corpus.BitmapField("b", qcow2.BitmapFieldType, 1), 2)),
		one(problem.BitmapEntryPadding, "bitmaps directory", corpus.BitmapField("a", 30, 1), corpus.Put(corpus.BitmapField("a", 30, 1), []byte{1})),
		one(problem.BitmapLowReserved, "bitmaps directory a", corpus.BitmapTableEntry("a", 0), corpus.SetBits(corpus.BitmapTableEntry("a", 0), 1<<4)),
		one(problem.BitmapEntryContradiction, "bitmaps directory b", corpus.BitmapTableEntry("b", 0), corpus.SetBits(corpus.BitmapTableEntry("b", 0), 1)),
		one(problem.BitmapEntryPastEnd, "bitmaps directory c", corpus.BitmapTableEntry("c", 0), corpus.PointAt(corpus.BitmapTableEntry("c", 0), corpus.End(1), mib)),
	}
}

// met tells whether the fault was found where it is.
func (f *fault) met(img *corpus.Image, res *check.Result) bool {
	x, err := img.Find(f.at)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(res.Findings, func(g problem.Finding) bool {
		return g.Code == f.code && g.Extent.Offset < x.Offset+qcow2.HostOffset(x.Length) && x.Offset < g.Extent.Offset+qcow2.HostOffset(g.Extent.Length)
	})
}

// hiddenBy tells whether another fault keeps this one from being found.
func (f *fault) hiddenBy(g *fault) bool {
	if _, ok := f.not[g.code]; ok {
		return true
	}
	return slices.ContainsFunc(g.cuts, func(way string) bool { return strings.HasPrefix(f.way, way) })
}

// Each of several faults is found as it is alone: one broken structure never
// hides another, unless it is what leads there.
func TestSeveralFaults(t *testing.T) {
	sound, err := corpus.Build(multiSpec())
	require.NoError(t, err)
	require.Equal(t, check.VerdictClean, checkCorpus(t, sound).Verdict)
	all := faults()
	for i := range all {
		img := sound.Clone()
		for _, d := range all[i].damage {
			_, err := d.Apply(img)
			require.NoError(t, err, all[i].name)
		}
		require.True(t, all[i].met(img, checkCorpus(t, img)), "alone: %s: %s", all[i].code, all[i].name)
	}
	rounds := 600
	if testing.Short() {
		rounds = 100
	}
	for seed := range uint64(rounds) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		img := sound.Clone()
		var done []*fault
		var touched []qcow2.Extent
		for n := 2 + rnd.IntN(5); len(done) < n; {
			f := &all[rnd.IntN(len(all))]
			if slices.Contains(done, f) || overlapsOne(t, img, f, touched) {
				continue
			}
			for _, d := range f.damage {
				x, err := d.Apply(img)
				require.NoError(t, err, f.name)
				touched = append(touched, x)
			}
			done = append(done, f)
		}
		var names []string
		for _, f := range done {
			names = append(names, string(f.code)+": "+f.name)
		}
		said := fmt.Sprintf("seed %d: %s", seed, strings.Join(names, "; "))
		before := img.Sum()
		res := checkCorpus(t, img)
		assert.Equal(t, before, img.Sum(), said)
		assert.Equal(t, problem.Count(res.Findings), res.Totals, said)
		for _, f := range done {
			if !slices.ContainsFunc(done, func(g *fault) bool { return g != f && f.hiddenBy(g) }) {
				assert.True(t, f.met(img, res), "%s %s was not found; %s", f.code, f.name, said)
			}
		}
		if seed%4 == 0 {
			q, err := img.Open()
			require.NoError(t, err)
			again, err := check.Run(context.Background(), q, check.Options{Jobs: 5})
			require.NoError(t, err)
			again.MemoryPeak = res.MemoryPeak
			assert.Equal(t, res, again, said)
		}
	}
}

// overlapsOne tells whether a fault would change bytes that another one has
// changed: the image would then hold one of them only.
func overlapsOne(t *testing.T, img *corpus.Image, f *fault, touched []qcow2.Extent) bool {
	t.Helper()
	probe := img.Clone()
	for _, d := range f.damage {
		x, err := d.Apply(probe)
		require.NoError(t, err, f.name)
		for _, y := range touched {
			if x.Offset < y.Offset+qcow2.HostOffset(y.Length) && y.Offset < x.Offset+qcow2.HostOffset(x.Length) {
				return true
			}
		}
	}
	return false
}
