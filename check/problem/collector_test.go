package problem

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func TestCollectorFillsInTheCatalogue(t *testing.T) {
	f := NewCollector(0, 0, qcow2.Geometry{ClusterBits: 16})
	f.Add(Finding{Code: L1Unaligned, Message: Say("m")})
	f.Add(Finding{Code: BitmapSizeMismatch, Severity: Note, Repair: RepairNone, Structure: StructBitmapTable, Count: 3})
	got := f.Findings()
	require.Len(t, got, 2)
	r, _ := Lookup(L1Unaligned)
	assert.Equal(t, r.Severity, got[0].Severity)
	assert.Equal(t, r.Structure, got[0].Structure)
	assert.Equal(t, r.Repair, got[0].Repair)
	assert.EqualValues(t, 1, got[0].Count)
	assert.Equal(t, Note, got[1].Severity, "a pass may know better")
	assert.Equal(t, StructBitmapTable, got[1].Structure)
	assert.EqualValues(t, 3, got[1].Count)
	assert.Panics(t, func() { f.Add(Finding{Code: "XYZ999"}) }, "a code that is not in the catalogue is a fault of ours")
}

func TestCollectorJoinsNeighbours(t *testing.T) {
	entry := func(i int, value uint64) Finding {
		return Finding{Code: L2ReservedBits, Extent: at(qcow2.HostOffset(0x1000+8*i), 8), Value: Hex(value)}
	}
	f := NewCollector(0, 0, qcow2.Geometry{ClusterBits: 16})
	for i := range 5 {
		f.Add(entry(i, 2))
	}
	f.Add(entry(5, 4)) // another fault
	f.Add(entry(7, 4)) // not adjoining
	got := f.Findings()
	require.Len(t, got, 3)
	assert.Equal(t, at(0x1000, 40), got[0].Extent)
	assert.EqualValues(t, 5, got[0].Count)
	assert.EqualValues(t, 7, Count(got).Corruptions)
}

func TestCollectorBoundsTheListNotTheTotals(t *testing.T) {
	f := NewCollector(10, 0, qcow2.Geometry{ClusterBits: 16})
	for i := range 1000 {
		f.Add(Finding{Code: RefcountTooHigh, Extent: at(qcow2.HostOffset(i*100), 2), Count: 2})
	}
	f.Add(Finding{Code: DataShared})
	got := f.Findings()
	require.Len(t, got, 12)
	assert.True(t, got[11].Unlisted)
	assert.EqualValues(t, 990*2, got[11].Count)
	assert.Equal(t, Totals{Leaks: 2000, Warnings: 1}, Count(got))
}

// For a repair more are kept, and entries of tables among them joined whatever they hold;
// wrong refcounts not.
func TestCollectorKeepsMoreForARepair(t *testing.T) {
	f := NewCollector(10, 20, qcow2.Geometry{ClusterBits: 16})
	entry := func(code Code, i int) Finding {
		return Finding{Code: code, Extent: at(qcow2.HostOffset(0x1000+8*i), 8), Value: Hex(uint64(i)), Path: ToL2Entry(0, uint64(i)), Message: Say("m"),
			Structure: StructL2Table, GuestOffset: ptr(qcow2.GuestOffset(i << 16))}
	}
	for i := range 100 {
		f.Add(entry(L2Unaligned, i))
		f.Add(Finding{Code: RefcountTooLow, Extent: at(qcow2.HostOffset(i*100), 2)})
		f.Add(Finding{Code: MetadataOverlap, Extent: at(qcow2.HostOffset(i*100), 8), Message: Say("m")})
		f.Add(entry(CompressedCopied, 2*i))
	}
	kept := f.Findings()
	got := make(map[Code][]Finding)
	for _, x := range kept {
		got[x.Code] = append(got[x.Code], x)
	}
	require.Len(t, got[L2Unaligned], 11)
	last := got[L2Unaligned][10]
	assert.EqualValues(t, 90, last.Count)
	assert.Equal(t, at(0x1050, 90*8), last.Extent)
	assert.Zero(t, last.Value, "they differ")
	assert.Len(t, got[RefcountTooLow], 10+1)
	require.Len(t, got[MetadataOverlap], 30+1)
	assert.EqualValues(t, 1, got[MetadataOverlap][29].Count, "these are no runs of entries, and few")
	require.Len(t, got[CompressedCopied], 30+1)
	assert.True(t, got[CompressedCopied][30].Unlisted)
	assert.EqualValues(t, 70, got[CompressedCopied][30].Count)

	listed := make(map[Code][]Finding)
	for _, x := range Listed(kept, 10) {
		listed[x.Code] = append(listed[x.Code], x)
	}
	assert.Equal(t, Count(kept), Count(Listed(kept, 10)))
	for code, fs := range listed {
		require.Len(t, fs, 11, code)
		assert.True(t, fs[10].Unlisted)
		assert.Equal(t, got[code][:10], fs[:10])
	}
}

// What adjoins in the file need not adjoin on the disk.
func TestCollectorDoesNotJoinL2Tables(t *testing.T) {
	f := NewCollector(0, 0, qcow2.Geometry{ClusterBits: 16})
	for i := range 4 {
		f.Add(Finding{Code: L2PastEnd, Extent: at(qcow2.HostOffset(0x1fff0+8*i), 8), Value: Hex(uint64(7)), GuestOffset: ptr(qcow2.GuestOffset(0))})
		f.Add(Finding{Code: L1PastEnd, Extent: at(qcow2.HostOffset(0x1fff0+8*i), 8), Value: Hex(uint64(7)), GuestOffset: ptr(qcow2.GuestOffset(0))})
	}
	var extents []qcow2.Extent
	for _, x := range f.Findings() {
		extents = append(extents, x.Extent)
	}
	assert.ElementsMatch(t, []qcow2.Extent{at(0x1fff0, 16), at(0x20000, 16), at(0x1fff0, 32)}, extents, "an L1 table can take several clusters")
}

// Of a run that a repair goes by, what lies in a cluster that two structures have is told
// from the rest.
func TestCollectorEndsRangesWithTheCluster(t *testing.T) {
	f := NewCollector(1, 9, qcow2.Geometry{ClusterBits: 16})
	for i := range 6 {
		f.Add(Finding{Code: L1Unaligned, Extent: at(qcow2.HostOffset(0x1ffe8+8*i), 8), Value: Hex(uint64(i))})
	}
	got := f.Findings()
	require.Len(t, got, 3)
	assert.Equal(t, at(0x1fff0, 16), got[1].Extent)
	assert.Equal(t, at(0x20000, 24), got[2].Extent)

	// Entries that lead past the end of the file are joined at once.
	f = NewCollector(1, 9, qcow2.Geometry{ClusterBits: 16})
	for i := range 6 {
		f.Add(Finding{Code: L1PastEnd, Extent: at(qcow2.HostOffset(0x1ffe8+8*i), 8), Value: Hex(uint64(i))})
	}
	got = f.Findings()
	require.Len(t, got, 2)
	assert.Equal(t, at(0x1ffe8, 24), got[0].Extent)
	assert.Equal(t, at(0x20000, 24), got[1].Extent)
}

// Neighbours that lead past the end of the file are one finding whatever they hold.
func TestCollectorJoinsWhatLeadsPastTheEnd(t *testing.T) {
	for _, code := range []Code{L1PastEnd, L2PastEnd, CompressedMisplaced, RefcountEntryPastEnd, BitmapEntryPastEnd} {
		for _, extended := range []bool{false, true} {
			step := 8
			if extended && (code == L2PastEnd || code == CompressedMisplaced) {
				step = 16
			}
			f := NewCollector(3, 0, qcow2.Geometry{ClusterBits: 16, ExtendedL2: extended})
			for i := range 100 {
				x := Finding{Code: code, Extent: at(qcow2.HostOffset(0x1000+step*i), 8), Value: Hex(uint64(i)), Message: Say("m"), GuestOffset: ptr(qcow2.GuestOffset(i << 16))}
				f.Add(x)
			}
			got := f.Findings()
			require.Len(t, got, 1, code)
			assert.EqualValues(t, 100, got[0].Count)
			assert.Equal(t, at(0x1000, 99*step+8), got[0].Extent)
			assert.Zero(t, got[0].Value, "they differ")
		}
	}
}

// However findings are spread over collectors, joining these in order gives the
// same list and the same totals.
func TestCollectorAbsorb(t *testing.T) {
	var all []Finding
	for i := range 300 {
		all = append(all, Finding{Code: []Code{L2ReservedBits, L2Unaligned, RefcountTooLow}[i%3], Extent: at(qcow2.HostOffset(i/3*8+i%3*100000), 8), Value: Number(i / 60 % 2)})
	}
	whole := NewCollector(4, 0, qcow2.Geometry{ClusterBits: 16})
	for _, x := range all {
		whole.Add(x)
	}
	for _, parts := range []int{1, 2, 7, 50} {
		joined := NewCollector(4, 0, qcow2.Geometry{ClusterBits: 16})
		for from := 0; from < len(all); {
			to := min(from+(len(all)+parts-1)/parts, len(all))
			part := joined.Part()
			for _, x := range all[from:to] {
				part.Add(x)
			}
			joined.Absorb(part)
			from = to
		}
		assert.Equal(t, Count(whole.Findings()), Count(joined.Findings()), "%d parts", parts)
	}
}

func at(offset qcow2.HostOffset, length int) qcow2.Extent {
	return qcow2.Extent{Offset: offset, Length: uint64(length)}
}

func ptr[T any](v T) *T { return &v }
