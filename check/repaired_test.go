package check

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

func TestRepaired(t *testing.T) {
	t.Parallel()
	refs := func(first, n uint64) problem.Finding {
		return problem.Finding{Code: problem.RefcountTooHigh, Severity: problem.Leak, Structure: problem.StructRefcountBlock, Cluster: ptr(qcow2.HostCluster(first)), Count: n,
			Extent: at(qcow2.HostOffset(0x20000+2*first), 2*n)}
	}
	entry := func(offset qcow2.HostOffset, bitmap string) problem.Finding {
		return problem.Finding{Code: problem.BitmapFlagsReserved, Severity: problem.Corruption, Structure: problem.StructBitmapDirectory, Bitmap: bitmap, Extent: at(offset, 4), Count: 1}
	}
	l2 := func(guest qcow2.GuestOffset, offset qcow2.HostOffset) problem.Finding {
		return problem.Finding{Code: problem.L2PastEnd, Severity: problem.Corruption, Structure: problem.StructL2Table, GuestOffset: &guest, Extent: at(offset, 8), Count: 1}
	}
	rest := func(n uint64) problem.Finding {
		return problem.Finding{Code: problem.L2PastEnd, Severity: problem.Corruption, Structure: problem.StructL2Table, Count: n, Unlisted: true}
	}
	dirty := problem.Finding{Code: problem.MarkedDirty, Severity: problem.Warning, Structure: problem.StructHeader, Extent: at(qcow2.HostOffset(72), 8), Count: 1}
	for _, tt := range []struct {
		name          string
		before, after []problem.Finding
		limit         int
		fixed         map[problem.Code]uint64
		listed        int
	}{
		{"all", []problem.Finding{dirty, refs(4, 3)}, nil, 0, map[problem.Code]uint64{problem.MarkedDirty: 1, problem.RefcountTooHigh: 3}, 2},
		{"nothing", []problem.Finding{dirty, refs(4, 3)}, []problem.Finding{refs(4, 3), dirty}, 0, map[problem.Code]uint64{}, 0},
		{"something new", []problem.Finding{dirty}, []problem.Finding{refs(4, 3)}, 0, map[problem.Code]uint64{problem.MarkedDirty: 1}, 1},
		{"a part of a run", []problem.Finding{refs(4, 10)}, []problem.Finding{refs(5, 1), refs(9, 2)}, 0, map[problem.Code]uint64{problem.RefcountTooHigh: 7}, 1},
		{"refcounts moved", []problem.Finding{refs(4, 10)}, []problem.Finding{{Code: problem.RefcountTooHigh, Severity: problem.Leak, Structure: problem.StructRefcountBlock,
			Cluster: ptr(qcow2.HostCluster(4)), Count: 4, Extent: at(qcow2.HostOffset(0x90000), 8)}}, 0, map[problem.Code]uint64{problem.RefcountTooHigh: 6}, 1},
		{"a directory moved", []problem.Finding{entry(0x1000, "a"), entry(0x1020, "b")}, []problem.Finding{entry(0x5000, "b")}, 0, map[problem.Code]uint64{problem.BitmapFlagsReserved: 1}, 1},
		{"another one of the same code", []problem.Finding{l2(0, 0x1000)}, []problem.Finding{l2(0x10000, 0x2000)}, 0, map[problem.Code]uint64{problem.L2PastEnd: 1}, 1},
		{"not all listed before", []problem.Finding{l2(0, 0x1000), rest(9)}, []problem.Finding{rest(4)}, 0, map[problem.Code]uint64{problem.L2PastEnd: 6}, 1},
		{"not all listed after", []problem.Finding{l2(0, 0x1000), l2(1, 0x1008), l2(2, 0x1010)}, []problem.Finding{l2(0, 0x1000), rest(1)}, 0, map[problem.Code]uint64{problem.L2PastEnd: 1}, 1},
		{"a limit", []problem.Finding{l2(0, 0x1000), l2(1, 0x1008), l2(2, 0x1010)}, nil, 1, map[problem.Code]uint64{problem.L2PastEnd: 3}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before, after := &Result{Findings: tt.before}, &Result{Findings: tt.after}
			before.settle()
			after.settle()
			got := Repaired(before, after, tt.limit)
			assert.Equal(t, after.Totals, got.Totals)
			assert.Equal(t, got.Totals, problem.Count(got.Findings))
			assert.Equal(t, after.Verdict, got.Verdict)
			fixed, listed := make(map[problem.Code]uint64), 0
			for _, f := range got.Findings {
				if f.Fixed {
					fixed[f.Code] += f.Count
					if !f.Unlisted {
						listed++
					}
				}
			}
			assert.Equal(t, tt.fixed, fixed)
			assert.Equal(t, tt.listed, listed)
			assert.Equal(t, tt.after, append([]problem.Finding(nil), got.Findings[len(got.Findings)-len(tt.after):]...))
		})
	}
}
