package check

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Contests are found by any byte of their clusters, also where they lie in each other
// and were noted in any order.
func TestContestants(t *testing.T) {
	c := &run{g: qcow2.Geometry{ClusterBits: 16}}
	const cs = qcow2.HostOffset(1 << 16)
	c.contested(problem.StructL2Table, 40, 2)
	c.contested(problem.StructRefcountBlock, 10, 1)
	c.contested(problem.StructRefcountBlock, 11, 1) // joins
	c.contested(problem.StructL1Table, 5, 30)
	assert.Len(t, c.contests, 3)
	for _, tt := range []struct {
		first, n uint64
		want     []problem.Structure
	}{
		{0, 5, nil},
		{4, 2, []problem.Structure{problem.StructL1Table}},
		{11, 1, []problem.Structure{problem.StructL1Table, problem.StructRefcountBlock}},
		{12, 1, []problem.Structure{problem.StructL1Table}},
		{34, 1, []problem.Structure{problem.StructL1Table}},
		{35, 5, nil},
		{35, 6, []problem.Structure{problem.StructL2Table}},
		{41, 100, []problem.Structure{problem.StructL2Table}},
		{42, 1, nil},
	} {
		var got []problem.Structure
		c.contestants(at(qcow2.HostOffset(tt.first)*cs+1, tt.n<<16-2), func(s problem.Structure) bool {
			got = append(got, s)
			return true
		})
		assert.Equal(t, tt.want, got, "%d+%d", tt.first, tt.n)
	}
	assert.True(t, c.isContested(at(10*cs, 8), true), "not only a block lies there")
	assert.False(t, (&run{g: c.g}).isContested(at(0, 8), false))
	c.contests = c.contests[:0]
	c.contested(problem.StructRefcountBlock, 10, 1)
	assert.False(t, c.isContested(at(10*cs, 8), true))
	assert.True(t, c.isContested(at(10*cs, 8), false))
}
