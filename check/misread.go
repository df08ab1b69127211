package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// An L1 table that is looked for in the wrong place is not one. What lies there may be guest
// data, so nothing may be written to it, not even to give its entries up.

// misreadEntries is how many entries must make no sense for a table to be taken for none
// where nothing else speaks against it.
const misreadEntries = 3

// judgeL1s finds the L1 tables that are none: most of their entries make no sense, or none of
// the clusters that they name reads as an L2 table, and what follows the last entry is not
// zero, as it is behind a table.
func (c *run) judgeL1s() {
	suspects := make(map[uint32]bool)
	for n := range c.l1s {
		l := &c.l1s[n]
		if l.odd > 0 && l.odd > l.seen/2 && (l.odd >= misreadEntries || c.follows(l)) {
			c.misread(l)
		}
	}
	for i := range c.tables {
		if t := &c.tables[i]; t.skip && len(suspects) < maxBlank {
			suspects[t.l1] = true
		}
	}
	for n := range suspects {
		l := &c.l1s[n]
		if tables, others := c.targets(l); !l.misread && tables == 0 && (others >= maxTargets || others > 0 && c.follows(l)) {
			c.misread(l)
		}
	}
}

func (c *run) misread(l *l1table) {
	l.misread, c.hasMisread = true, true
	first, n := c.g.ClusterSpan(l.extent.Offset, l.extent.Length)
	c.contested(problem.StructL1Table, first, n)
	c.doubt(l.owner(), "what lies where it is looked for is none")
}

// namedByMisread tells whether a finding is about an entry of an L1 table that is none, or
// about a table that only such an entry leads to.
func (c *run) namedByMisread(f *problem.Finding) bool {
	if !f.Code.Is(problem.ThroughL1) {
		return false
	}
	for i := range c.l1s {
		l := &c.l1s[i]
		if !l.misread || l.of != f.Of {
			continue
		}
		if f.Structure == problem.StructL2Table || f.Unlisted || f.Extent.Offset >= l.extent.Offset && f.Extent.Offset < l.end() {
			return true
		}
	}
	return false
}

// follows tells whether something stands between the last entry of an L1 table and the end of
// its clusters.
func (c *run) follows(l *l1table) bool {
	first, n := c.g.ClusterSpan(l.extent.Offset, l.extent.Length)
	end := c.g.HostOffset(first + qcow2.HostCluster(n))
	x := at(l.end(), uint64(end-l.end()))
	if uint64(end) > uint64(c.img.Size()) {
		return false
	}
	zero, err := c.img.IsZero(x)
	return x.Length > 0 && err == nil && !zero
}
