package check

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// checkVirtualSize tests that the L1 table can map the whole disk.
func (c *run) checkVirtualSize() {
	needed := c.h.L1Needed(c.g)
	if uint64(c.h.L1Size) < needed {
		f := problem.Finding{
			Code: problem.L1TooSmall, Extent: at(qcow2.FieldL1Size, 4), Value: problem.Number(c.h.L1Size), Expected: problem.AtLeast(needed),
			Message: problem.Say("l1_size is %d entries, but the virtual size of %d bytes takes %d", c.h.L1Size, c.h.Size, needed),
		}
		if needed > qcow2.MaxL1Entries {
			f.Repair = problem.RepairNone
			f.Message.And(", more than the %d that QEMU takes", qcow2.MaxL1Entries)
		}
		c.reportField(f)
		c.doubt(Owner{Structure: problem.StructL1Table}, "it may have more entries than l1_size says")
		return
	}
	if needed > qcow2.MaxL1Entries {
		c.reportField(problem.Finding{
			Code: problem.HeaderCombination, Extent: at(qcow2.FieldSize, 8), Value: problem.Number(c.h.Size),
			Expected: problem.AtMost(qcow2.MaxL1Entries * c.g.L2Coverage()),
			Message: problem.Say("a disk of %d bytes in clusters of %d bytes takes %d L1 entries, more than the %d that QEMU takes",
				c.h.Size, c.g.ClusterSize(), needed, qcow2.MaxL1Entries),
		})
	}
}

// tablePointer is what the header says about the place of a table: an offset
// and a count, in two fields side by side.
type tablePointer struct {
	code      problem.Code
	structure problem.Structure
	offset    qcow2.HostOffset
	offsetAt  qcow2.HostOffset // the place of the offset's field
	count     uint64
	countAt   qcow2.HostOffset // the place of the count's field
	countName string
	unit      uint64 // bytes that one of count takes, at least
	max       uint64 // the largest count
	inFile    uint64 // bytes that must lie within the file
}

func (c *run) l1Pointer() tablePointer {
	return tablePointer{
		code: problem.L1Misplaced, structure: problem.StructL1Table,
		offset: c.h.L1TableOffset, offsetAt: qcow2.FieldL1TableOffset,
		count: uint64(c.h.L1Size), countAt: qcow2.FieldL1Size, countName: "l1_size",
		unit: 8, max: qcow2.MaxL1Entries, inFile: uint64(c.h.L1Size) * 8,
	}
}

func (c *run) refTablePointer() tablePointer {
	n := uint64(c.h.RefcountTableClusters)
	return tablePointer{
		code: problem.RefcountTableMisplaced, structure: problem.StructRefcountTable,
		offset: c.h.RefcountTableOffset, offsetAt: qcow2.FieldRefcountTableOffset,
		count: n, countAt: qcow2.FieldRefcountTableClusters, countName: "refcount_table_clusters",
		unit: c.g.ClusterSize(), max: qcow2.MaxRefcountTableSize / c.g.ClusterSize(), inFile: n * c.g.ClusterSize(),
	}
}

func (c *run) snapshotTablePointer() tablePointer {
	return tablePointer{
		code: problem.SnapshotTableMisplaced, structure: problem.StructSnapshotTable,
		offset: c.h.SnapshotsOffset, offsetAt: qcow2.FieldSnapshotsOffset,
		count: uint64(c.h.NbSnapshots), countAt: qcow2.FieldNbSnapshots, countName: "nb_snapshots",
		unit: qcow2.SnapshotHeadSize, max: qcow2.MaxSnapshots,
		inFile: 1, // the entries vary in size: where the table ends is for its own pass to say
	}
}

// fields is the place of both fields.
func (t tablePointer) fields() qcow2.Extent { return at(min(t.offsetAt, t.countAt), 12) }

// faults gives what is wrong with the pointer: none, one, or one for each field.
func (t tablePointer) faults(g qcow2.Geometry, fileSize int64) []problem.Finding {
	var fs []problem.Finding
	add := func(x qcow2.Extent, value, expected problem.Value, format string, args ...any) {
		fs = append(fs, problem.Finding{Code: t.code, Extent: x, Value: value, Expected: expected, Message: problem.Say(format, args...)})
	}
	name := ownerNames[t.structure]
	tooLarge := t.count > t.max
	if tooLarge {
		add(at(t.countAt, 4), problem.Number(t.count), problem.AtMost(t.max),
			"%s is %d, more than the %d that QEMU takes", t.countName, t.count, t.max)
	}
	switch {
	case t.count == 0 && t.structure == problem.StructRefcountTable:
		add(at(t.countAt, 4), problem.Number(0), problem.AtLeast(1), "%s is 0: there is no refcount table", t.countName)
	case !g.Aligned(t.offset):
		add(at(t.offsetAt, 8), problem.Hex(t.offset), problem.MultipleOf(g.ClusterSize()),
			"the %s is said to start at %v, which is not the start of a cluster", name, t.offset)
	case t.count > 0 && t.offset == 0:
		add(at(t.offsetAt, 8), problem.Hex(t.offset), problem.AtLeastOffset(g.ClusterSize()), "the %s is said to start at %v, where the header is", name, t.offset)
	case tooLarge:
	case t.count > 0 && (uint64(t.offset) >= uint64(fileSize) || g.PastEnd(t.offset, t.inFile, fileSize)):
		add(t.fields(), problem.Words(fmt.Sprintf("%d at %v", t.count, t.offset)), problem.Words(fmt.Sprintf("within 0x%x bytes", fileSize)),
			"the %s is said to take %d bytes or more at %v, but the file ends at 0x%x", name, t.count*t.unit, t.offset, fileSize)
	}
	return fs
}

// usable tells that the table is there and can be read.
func (t tablePointer) usable(g qcow2.Geometry, fileSize int64) bool {
	return t.count > 0 && len(t.faults(g, fileSize)) == 0
}

// l1CanShrink tells whether the L1 table is where it can be, if it is only as long as
// the disk needs it.
func (c *run) l1CanShrink() bool {
	p := c.l1Pointer()
	needed := c.h.L1Needed(c.g)
	if needed == 0 || needed >= p.count {
		return false
	}
	p.count, p.inFile = needed, needed*8
	return p.usable(c.g, c.img.Size())
}

// checkTablePointers tests where the header says that tables are. A table that
// cannot be found may own clusters that nobody can name.
func (c *run) checkTablePointers() {
	for _, t := range []tablePointer{c.l1Pointer(), c.refTablePointer(), c.snapshotTablePointer()} {
		faults := t.faults(c.g, c.img.Size())
		for _, f := range faults {
			switch {
			case t.structure == problem.StructL1Table && f.Extent.Offset == t.countAt && c.h.DiskTooLarge(c.g):
				continue // the virtual size asks for it, and that is reported
			case t.structure == problem.StructL1Table && !c.l1CanShrink() && c.l1Readable() == 0:
				f.Repair = problem.RepairNone
			case t.structure == problem.StructSnapshotTable && t.count == 0:
				f.Repair = problem.RepairSafe // nothing is lost with a table of no entries
			}
			c.reportField(f)
		}
		if len(faults) > 0 && t.count > 0 {
			c.doubt(Owner{Structure: t.structure, Ref: t.fields()}, "the header does not lead to it")
		}
	}
}

// l1Usable tells whether the active L1 table can be read: it has entries, starts
// at a cluster of its own, is no larger than QEMU's limit, and lies within the
// file. Where it is not, HDR012 has said why, unless there are no entries.
func (c *run) l1Usable() bool {
	return c.img.GeometryOK && c.l1Pointer().usable(c.g, c.img.Size())
}

// refTableUsable tells whether the refcount table can be read, in the sense of
// l1Usable. Whether refcounts can be decoded is another matter, see
// [qcow2.Header.RefcountOrderOK].
func (c *run) refTableUsable() bool {
	return c.img.GeometryOK && c.refTablePointer().usable(c.g, c.img.Size())
}

// snapshotTableUsable tells whether there is a snapshot table whose start can be
// read; it may still run past the end of the file.
func (c *run) snapshotTableUsable() bool {
	return c.img.GeometryOK && c.snapshotTablePointer().usable(c.g, c.img.Size())
}
