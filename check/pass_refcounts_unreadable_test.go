package check

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/check/problem"
)

// What a refcount block says that cannot be read is unknown, not 0: the clusters
// that it covers get no finding.
func TestUnreadableRefcountBlock(t *testing.T) {
	m := newTestImage(t, nil).finish()
	m.bad = append(m.bad, at(m.blocks, 1))
	c := assertFindings(t, m, spot{problem.Unreadable, m.blocks, m.g.ClusterSize()})
	assert.Equal(t, problem.StructRefcountBlock, c.res.Findings[0].Structure)
	assert.Equal(t, problem.ToRefTableEntry(0), c.res.Findings[0].Path)
}

// Nor are clusters uncovered whose entry in the refcount table cannot be read.
func TestUnreadableRefcountTable(t *testing.T) {
	m := newTestImage(t, nil).finish()
	m.bad = append(m.bad, at(m.h.RefcountTableOffset, 1))
	fs := m.inspect(t, Options{}).res.Findings
	assert.NotEmpty(t, fs)
	for _, f := range fs {
		assert.Contains(t, []problem.Code{problem.Unreadable, problem.OwnerUnknown}, f.Code, f.Text())
	}
}
