package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The refcount table pass tests the entries of the refcount table: reserved
// bits, places where no block can be (REF001-003). Blocks that lie where other
// metadata is (REF004) are found with all other overlaps in the mapping pass.
//
// It relies on the header's fields for the table, which the header pass has
// judged.
//
// It leaves behind the list of refcount blocks, with the table and the blocks
// claimed.

// refBlock is a refcount block that the refcount table names.
type refBlock struct {
	index  uint64 // in the refcount table
	offset qcow2.HostOffset
	bad    bool // its content cannot be trusted, or it is the block of another entry
}

// refTableExtent is the place of the refcount table.
func (c *run) refTableExtent() qcow2.Extent {
	return at(c.h.RefcountTableOffset, uint64(c.h.RefcountTableClusters)*c.g.ClusterSize())
}

func (c *run) refTableEntry(index uint64) qcow2.Extent {
	return at(c.h.RefcountTableOffset+qcow2.HostOffset(index*8), 8)
}

// blockOwner names a refcount block.
func (c *run) blockOwner(b *refBlock) Owner {
	return Owner{Structure: problem.StructRefcountBlock, Path: problem.ToRefTableEntry(b.index), Ref: c.refTableEntry(b.index)}
}

// checkRefTable runs the pass.
func (c *run) checkRefTable() error {
	if !c.refTableUsable() {
		return nil
	}
	table := Owner{Structure: problem.StructRefcountTable, Ref: at(qcow2.FieldRefcountTableOffset, 8)}
	x := c.refTableExtent()
	c.claim(table, x)
	scan := qcow2.ScanTable[qcow2.RefTableEntry](c.img, x.Offset, x.Length/8)
	for i, e := range scan.All() {
		if i%(1<<16) == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		c.checkRefTableEntry(i, e)
	}
	for _, bad := range scan.Unreadable() {
		c.trouble(table, at(bad.Offset, bad.Length), bad)
		c.refTableHoles = append(c.refTableHoles, span{
			from: int((bad.Offset - x.Offset) / 8), to: int((bad.Offset-x.Offset)+qcow2.HostOffset(bad.Length)+7) / 8,
		})
	}
	return nil
}

func (c *run) checkRefTableEntry(i uint64, e qcow2.RefTableEntry) {
	offset := e.Offset()
	bad := func(code problem.Code, value, expected problem.Value, format string, numbers ...uint64) {
		c.report(problem.Finding{
			Code: code, Path: problem.ToRefTableEntry(i), Extent: c.refTableEntry(i), Value: value, Expected: expected,
			Message: problem.SayOfEntry(format, numbers...),
		})
	}
	if r := e.Reserved(); r != 0 {
		bad(problem.RefcountEntryReserved, problem.Hex(r), problem.Hex(uint64(0)), "is 0x%016x: reserved bits 0x%x are set", uint64(e), r)
	}
	switch {
	case offset == 0:
		return
	case !c.g.Aligned(offset):
		bad(problem.RefcountEntryUnaligned, problem.Hex(e), problem.MultipleOf(c.g.ClusterSize()), "names a refcount block at 0x%x, which is not the start of a cluster", uint64(offset))
	case c.g.PastEnd(offset, c.g.ClusterSize(), c.img.Size()):
		c.claimPastEnd(problem.StructRefcountBlock, offset, c.g.ClusterSize())
		bad(problem.RefcountEntryPastEnd, problem.Hex(e), problem.Value{}, "names a refcount block at 0x%x, but the file ends at 0x%x", uint64(offset), uint64(c.img.Size()))
	default:
		c.count(c.g.HostCluster(offset), 1, 1)
		c.blocks = append(c.blocks, refBlock{index: i, offset: offset})
		return
	}
	c.badBlocks = append(c.badBlocks, i)
}
