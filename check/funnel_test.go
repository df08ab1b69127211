package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func TestFunnelFillsInTheCatalogue(t *testing.T) {
	f := newFunnel(&Options{}, qcow2.Geometry{ClusterBits: 16})
	f.report(Finding{Code: MAP002, Message: "m"})
	f.report(Finding{Code: BMD004, Severity: Note, Repair: RepairNone, Structure: StructBitmapTable, Count: 3})
	got := f.finish()
	require.Len(t, got, 2)
	r, _ := Lookup(MAP002)
	assert.Equal(t, r.Severity, got[0].Severity)
	assert.Equal(t, r.Structure, got[0].Structure)
	assert.Equal(t, r.Repair, got[0].Repair)
	assert.EqualValues(t, 1, got[0].Count)
	assert.Equal(t, Note, got[1].Severity, "a pass may know better")
	assert.Equal(t, StructBitmapTable, got[1].Structure)
	assert.EqualValues(t, 3, got[1].Count)
	assert.Panics(t, func() { f.report(Finding{Code: "XYZ999"}) }, "a code that is not in the catalogue is a fault of ours")
}

func TestFunnelJoinsNeighbours(t *testing.T) {
	entry := func(i int, value string) Finding {
		return Finding{Code: MAP005, Extent: at(qcow2.HostOffset(0x1000+8*i), 8), Value: value}
	}
	f := newFunnel(&Options{}, qcow2.Geometry{ClusterBits: 16})
	for i := range 5 {
		f.report(entry(i, "0x2"))
	}
	f.report(entry(5, "0x4")) // another fault
	f.report(entry(7, "0x4")) // not adjoining
	got := f.finish()
	require.Len(t, got, 3)
	assert.Equal(t, at(0x1000, 40), got[0].Extent)
	assert.EqualValues(t, 5, got[0].Count)
	assert.EqualValues(t, 7, CountFindings(got).Corruptions)
}

func TestFunnelBoundsTheListNotTheTotals(t *testing.T) {
	f := newFunnel(&Options{MaxFindings: 10}, qcow2.Geometry{ClusterBits: 16})
	for i := range 1000 {
		f.report(Finding{Code: REF006, Extent: at(qcow2.HostOffset(i*100), 2), Count: 2})
	}
	f.report(Finding{Code: MAP017})
	got := f.finish()
	require.Len(t, got, 12)
	assert.True(t, got[11].Rest)
	assert.EqualValues(t, 990*2, got[11].Count)
	assert.Equal(t, Totals{Leaks: 2000, Warnings: 1}, CountFindings(got))
}

// For a repair more are listed: entries of tables by their place alone, joined whatever
// they hold; wrong refcounts not.
func TestFunnelListsPlacesForARepair(t *testing.T) {
	f := newFunnel(&Options{MaxFindings: 10, MaxPlaces: 20}, qcow2.Geometry{ClusterBits: 16})
	entry := func(code Code, i int) Finding {
		return Finding{Code: code, Extent: at(qcow2.HostOffset(0x1000+8*i), 8), Value: hex(uint64(i)), Path: "p", Message: "m",
			Structure: StructL2Table, GuestOffset: ptr(qcow2.GuestOffset(i << 16))}
	}
	for i := range 100 {
		assert.Equal(t, i > 10, f.wordless(entry(MAP006, i)), i)
		if i <= 10 {
			f.report(entry(MAP006, i))
		}
		f.report(Finding{Code: REF005, Extent: at(qcow2.HostOffset(i*100), 2)})
		f.report(Finding{Code: MAP016, Extent: at(qcow2.HostOffset(i*100), 8), Message: "m"})
		f.report(entry(MAP009, 2*i))
	}
	got := make(map[Code][]Finding)
	for _, x := range f.finish() {
		got[x.Code] = append(got[x.Code], x)
	}
	require.Len(t, got[MAP006], 11)
	last := got[MAP006][10]
	assert.Equal(t, Finding{Code: MAP006, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, Brief: true, Count: 90,
		Extent: at(0x1050, 90*8), GuestOffset: ptr(qcow2.GuestOffset(10 << 16))}, last)
	assert.Len(t, got[REF005], 10+1)
	require.Len(t, got[MAP016], 30+1)
	assert.False(t, got[MAP016][29].Brief, "these are no runs of entries, and few")
	require.Len(t, got[MAP009], 30+1)
	assert.True(t, got[MAP009][29].Brief)
	assert.True(t, got[MAP009][30].Rest)
	assert.EqualValues(t, 70, got[MAP009][30].Count)
}

// What adjoins in the file need not adjoin on the disk.
func TestFunnelDoesNotJoinL2Tables(t *testing.T) {
	f := newFunnel(&Options{}, qcow2.Geometry{ClusterBits: 16})
	for i := range 4 {
		f.report(Finding{Code: MAP007, Extent: at(qcow2.HostOffset(0x1fff0+8*i), 8), Value: "v", GuestOffset: ptr(qcow2.GuestOffset(0))})
		f.report(Finding{Code: MAP003, Extent: at(qcow2.HostOffset(0x1fff0+8*i), 8), Value: "v", GuestOffset: ptr(qcow2.GuestOffset(0))})
	}
	var extents []qcow2.Extent
	for _, x := range f.finish() {
		extents = append(extents, x.Extent)
	}
	assert.ElementsMatch(t, []qcow2.Extent{at(0x1fff0, 16), at(0x20000, 16), at(0x1fff0, 32)}, extents, "an L1 table can take several clusters")
}

// Of a run that a repair goes by, what lies in a cluster that two structures have is told
// from the rest.
func TestFunnelEndsPlacesWithTheCluster(t *testing.T) {
	f := newFunnel(&Options{MaxFindings: 1, MaxPlaces: 9}, qcow2.Geometry{ClusterBits: 16})
	for i := range 6 {
		f.report(Finding{Code: MAP002, Extent: at(qcow2.HostOffset(0x1ffe8+8*i), 8), Value: hex(uint64(i))})
	}
	got := f.finish()
	require.Len(t, got, 3)
	assert.Equal(t, at(0x1fff0, 16), got[1].Extent)
	assert.Equal(t, at(0x20000, 24), got[2].Extent)

	// Entries that lead past the end of the file are joined at once.
	f = newFunnel(&Options{MaxFindings: 1, MaxPlaces: 9}, qcow2.Geometry{ClusterBits: 16})
	for i := range 6 {
		f.report(Finding{Code: MAP003, Extent: at(qcow2.HostOffset(0x1ffe8+8*i), 8), Value: hex(uint64(i))})
	}
	got = f.finish()
	require.Len(t, got, 2)
	assert.Equal(t, at(0x1ffe8, 24), got[0].Extent)
	assert.Equal(t, at(0x20000, 24), got[1].Extent)
}

// Neighbours that lead past the end of the file are one finding whatever they hold.
func TestFunnelJoinsWhatLeadsPastTheEnd(t *testing.T) {
	for _, code := range []Code{MAP003, MAP007, MAP010, REF003, BMT005} {
		for _, extended := range []bool{false, true} {
			step := 8
			if extended && (code == MAP007 || code == MAP010) {
				step = 16
			}
			f := newFunnel(&Options{MaxFindings: 3}, qcow2.Geometry{ClusterBits: 16, ExtendedL2: extended})
			for i := range 100 {
				x := Finding{Code: code, Extent: at(qcow2.HostOffset(0x1000+step*i), 8), Value: hex(uint64(i)), Message: "m", GuestOffset: ptr(qcow2.GuestOffset(i << 16))}
				if i == 0 || !f.wordless(x) {
					assert.Zero(t, i, "further ones need no words")
					f.report(x)
				}
			}
			got := f.finish()
			require.Len(t, got, 1, code)
			assert.EqualValues(t, 100, got[0].Count)
			assert.Equal(t, at(0x1000, 99*step+8), got[0].Extent)
			assert.Empty(t, got[0].Value, "they differ")
		}
	}
}

// However findings are spread over funnels, joining these in order gives the
// same list and the same totals.
func TestFunnelAbsorb(t *testing.T) {
	var all []Finding
	for i := range 300 {
		all = append(all, Finding{Code: []Code{MAP005, MAP006, REF005}[i%3], Extent: at(qcow2.HostOffset(i/3*8+i%3*100000), 8), Value: []string{"a", "b"}[i/60%2]})
	}
	whole := newFunnel(&Options{MaxFindings: 4}, qcow2.Geometry{ClusterBits: 16})
	for _, x := range all {
		whole.report(x)
	}
	for _, parts := range []int{1, 2, 7, 50} {
		joined := newFunnel(&Options{MaxFindings: 4}, qcow2.Geometry{ClusterBits: 16})
		for from := 0; from < len(all); {
			to := min(from+(len(all)+parts-1)/parts, len(all))
			part := joined.part()
			for _, x := range all[from:to] {
				part.report(x)
			}
			joined.absorb(part)
			from = to
		}
		assert.Equal(t, CountFindings(whole.finish()), CountFindings(joined.finish()), "%d parts", parts)
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"backup-7":      "backup-7",
		"Zürich 東京":     "Zürich 東京",
		"a\x1b[31mb":    `a\x1b[31mb`,
		"nul\x00":       `nul\x00`,
		`back\slash`:    `back\\slash`,
		`"quoted"`:      `"quoted"`,
		"\xff\xfe":      `\xff\xfe`,
		"line\nbreak":   `line\nbreak`,
		"\u202egnp.exe": `\u202egnp.exe`,
		"":              "",
	} {
		assert.Equal(t, want, Escape(in))
		assert.Equal(t, want, Escape([]byte(in)))
	}
}
