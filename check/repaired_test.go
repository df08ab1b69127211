package check

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/qcow2"
)

func TestRepaired(t *testing.T) {
	t.Parallel()
	refs := func(first, n uint64) Finding {
		return Finding{Code: REF006, Severity: Leak, Structure: StructRefcountBlock, Cluster: ptr(qcow2.HostCluster(first)), Count: n,
			Extent: at(qcow2.HostOffset(0x20000+2*first), 2*n)}
	}
	entry := func(offset qcow2.HostOffset, bitmap string) Finding {
		return Finding{Code: BMD005, Severity: Corruption, Structure: StructBitmapDirectory, Bitmap: bitmap, Extent: at(offset, 4), Count: 1}
	}
	l2 := func(guest qcow2.GuestOffset, offset qcow2.HostOffset) Finding {
		return Finding{Code: MAP007, Severity: Corruption, Structure: StructL2Table, GuestOffset: &guest, Extent: at(offset, 8), Count: 1}
	}
	rest := func(n uint64) Finding {
		return Finding{Code: MAP007, Severity: Corruption, Structure: StructL2Table, Count: n, Rest: true}
	}
	dirty := Finding{Code: HDR006, Severity: Warning, Structure: StructHeader, Extent: at(qcow2.HostOffset(72), 8), Count: 1}
	for _, tt := range []struct {
		name          string
		before, after []Finding
		limit         int
		fixed         map[Code]uint64
		listed        int
	}{
		{"all", []Finding{dirty, refs(4, 3)}, nil, 0, map[Code]uint64{HDR006: 1, REF006: 3}, 2},
		{"nothing", []Finding{dirty, refs(4, 3)}, []Finding{refs(4, 3), dirty}, 0, map[Code]uint64{}, 0},
		{"something new", []Finding{dirty}, []Finding{refs(4, 3)}, 0, map[Code]uint64{HDR006: 1}, 1},
		{"a part of a run", []Finding{refs(4, 10)}, []Finding{refs(5, 1), refs(9, 2)}, 0, map[Code]uint64{REF006: 7}, 1},
		{"refcounts moved", []Finding{refs(4, 10)}, []Finding{{Code: REF006, Severity: Leak, Structure: StructRefcountBlock,
			Cluster: ptr(qcow2.HostCluster(4)), Count: 4, Extent: at(qcow2.HostOffset(0x90000), 8)}}, 0, map[Code]uint64{REF006: 6}, 1},
		{"a directory moved", []Finding{entry(0x1000, "a"), entry(0x1020, "b")}, []Finding{entry(0x5000, "b")}, 0, map[Code]uint64{BMD005: 1}, 1},
		{"another one of the same code", []Finding{l2(0, 0x1000)}, []Finding{l2(0x10000, 0x2000)}, 0, map[Code]uint64{MAP007: 1}, 1},
		{"not all listed before", []Finding{l2(0, 0x1000), rest(9)}, []Finding{rest(4)}, 0, map[Code]uint64{MAP007: 6}, 1},
		{"not all listed after", []Finding{l2(0, 0x1000), l2(1, 0x1008), l2(2, 0x1010)}, []Finding{l2(0, 0x1000), rest(1)}, 0, map[Code]uint64{MAP007: 1}, 1},
		{"a limit", []Finding{l2(0, 0x1000), l2(1, 0x1008), l2(2, 0x1010)}, nil, 1, map[Code]uint64{MAP007: 3}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before, after := &Result{Findings: tt.before}, &Result{Findings: tt.after}
			before.settle()
			after.settle()
			got := Repaired(before, after, tt.limit)
			assert.Equal(t, after.Totals, got.Totals)
			assert.Equal(t, got.Totals, CountFindings(got.Findings))
			assert.Equal(t, after.Verdict, got.Verdict)
			fixed, listed := make(map[Code]uint64), 0
			for _, f := range got.Findings {
				if f.Fixed {
					fixed[f.Code] += f.Count
					if !f.Rest {
						listed++
					}
				}
			}
			assert.Equal(t, tt.fixed, fixed)
			assert.Equal(t, tt.listed, listed)
			assert.Equal(t, tt.after, append([]Finding(nil), got.Findings[len(got.Findings)-len(tt.after):]...))
		})
	}
}
