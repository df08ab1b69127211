package check

import (
	"bytes"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// checkSnapshots tests the snapshot table: that it can be walked to its end, and
// that each entry says where its L1 table is and how large it has to be
// (SNP001–SNP007). It relies on the header pass for the table's own place
// (HDR014) and leaves behind c.snapshots, the result's list, the claim on the
// table's clusters, and a doubt for every snapshot whose clusters cannot be
// found. The L1 tables themselves are the mapping pass's.
func (c *run) checkSnapshots() error {
	if c.h.NbSnapshots == 0 {
		return nil
	}
	if c.h.HasDataFile() {
		c.report(problem.Finding{
			Code: problem.SnapshotWithDataFile, Extent: at(qcow2.FieldNbSnapshots, 4),
			Value: problem.Number(c.h.NbSnapshots), Expected: problem.Words("0"),
			Message: problem.Say("the image has %d internal snapshots although its guest data is in an external data file, where they cannot keep it", c.h.NbSnapshots),
		})
	}
	if !c.snapshotTableUsable() {
		return nil // the header pass has said why, and put its clusters in doubt
	}
	t := c.readSnapshotTable()
	c.snapshots, c.snapshotTable = t.Snapshots, t.Extent
	c.snapshotStop = t.Stop.Early() || t.blank || len(t.Snapshots) > 0 && t.mended != 0 && !c.format().Snapshot(&t.Snapshots[0])
	claimed := t.Extent
	if t.Partial != nil {
		claimed.Length = max(claimed.Length, uint64(t.Partial.EntryOffset-claimed.Offset)+qcow2.SnapshotHeadSize)
		// Whatever is wrong with the name, the clusters are the snapshot's.
		if t.Partial.L1Size > 0 && c.format().SnapshotL1Usable(t.Partial) {
			c.snapshots = append(c.snapshots, *t.Partial)
		}
	}
	c.claim(Owner{Structure: problem.StructSnapshotTable, Ref: at(qcow2.FieldSnapshotsOffset, 8)}, claimed)
	if c.snapshotStop {
		c.snapshotTable = claimed
	}

	ids := make(map[string]int, len(t.Snapshots))
	for i := range t.Snapshots {
		if i%ctxStride == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		s := &t.Snapshots[i]
		c.checkSnapshotL1(i, s)
		if i == t.mended {
			continue // its ID and its extra data are a guess
		}
		c.checkSnapshotExtra(i, s)
		c.checkSnapshotID(ids, t.Snapshots, i)
	}
	c.checkSnapshotStop(&t)
	for i := range c.snapshots {
		c.res.Snapshots = append(c.res.Snapshots, snapshotInfo(&c.snapshots[i]))
	}
	return nil
}

// ctxStride is how many entries a loop goes through before it looks again
// whether the check was called off.
const ctxStride = 1024

// outside tells whether a structure is not in the file: it starts past the end,
// or reaches beyond it by a cluster or more.
func (c *run) outside(offset qcow2.HostOffset, length uint64) bool {
	return uint64(offset) >= uint64(c.img.Size()) || c.g.PastEnd(offset, length, c.img.Size())
}

// l1Bytes is the size of the snapshot's L1 table in bytes.
func l1Bytes(s *qcow2.Snapshot) uint64 { return uint64(s.L1Size) * 8 }

// checkSnapshotL1 tests the place and the size of a snapshot's L1 table.
func (c *run) checkSnapshotL1(i int, s *qcow2.Snapshot) {
	bad := func(x qcow2.Extent, value problem.Value, format string, args ...any) {
		f := snapshotFinding(problem.SnapshotL1Misplaced, i, s)
		f.Extent, f.Value, f.Message = x, value, problem.Say("%s: its L1 table ", snapshotLabel(i, s))
		f.Message.And(format, args...)
		c.report(f)
	}
	offset := at(s.EntryOffset+qcow2.SnapshotFieldL1TableOffset, 8)
	size := at(s.EntryOffset+qcow2.SnapshotFieldL1Size, 4)
	both := at(offset.Offset, offset.Length+size.Length)
	usable := true
	if !c.g.Aligned(s.L1TableOffset) {
		usable = false
		bad(offset, problem.Hex(s.L1TableOffset), "is at offset %v, which is not a multiple of the cluster size", s.L1TableOffset)
	}
	if s.L1Size > qcow2.MaxL1Entries {
		usable = false
		bad(size, problem.Number(s.L1Size), "has %d entries, more than the %d that QEMU takes", s.L1Size, qcow2.MaxL1Entries)
	}
	switch {
	case !usable:
	case s.L1Size > 0 && s.L1TableOffset == 0:
		usable = false
		bad(offset, problem.Hex(s.L1TableOffset), "is at offset 0, where the header is")
	case s.L1Size > 0 && c.outside(s.L1TableOffset, l1Bytes(s)):
		usable = false
		bad(both, problem.Hex(s.L1TableOffset), "(%d entries at offset %v) reaches past the end of the file at %#x", s.L1Size, s.L1TableOffset, c.img.Size())
	}
	if !usable {
		c.doubt(Owner{Structure: problem.StructL1Table, Snapshot: snapshotName(i, s), Of: problem.SnapshotEntry(i), Ref: offset}, "it is not where it can be read")
	}
	if s.L1Size > qcow2.MaxL1Entries {
		return
	}
	need, what := c.snapshotL1Needed(s)
	if _, known := s.DiskSize(); usable && s.L1Size == 0 && !known && c.h.L1Size > 0 {
		c.doubt(Owner{Structure: problem.StructL1Table, Snapshot: snapshotName(i, s), Of: problem.SnapshotEntry(i), Ref: offset}, "its entry in the snapshot table does not lead to it")
	}
	if need > uint64(s.L1Size) {
		f := snapshotFinding(problem.SnapshotL1TooSmall, i, s)
		f.Extent, f.Value, f.Expected = size, problem.Number(s.L1Size), problem.AtLeast(need)
		f.Message = problem.Say("%s: its L1 table has %d entries, %s need %d", snapshotLabel(i, s), s.L1Size, what, need)
		c.report(f)
		c.doubt(Owner{Structure: problem.StructL1Table, Snapshot: snapshotName(i, s), Of: problem.SnapshotEntry(i)}, "it may have had more entries than its size says")
	}
}

// snapshotL1Needed is how many L1 entries a snapshot must have, and what for.
// The VM state starts at the first L1 entry after those of the disk, and QEMU
// grows the table before it writes there, so both have to fit. Where the entry
// does not give the disk's size it could be any: then nothing is asked for.
func (c *run) snapshotL1Needed(s *qcow2.Snapshot) (need uint64, what string) {
	disk, ok := s.DiskSize()
	if !ok {
		return 0, ""
	}
	need, _ = c.format().SnapshotL1Needed(s)
	what = fmt.Sprintf("%d bytes of disk", disk)
	if state := s.VMState(); state > 0 {
		what += fmt.Sprintf(" and %d bytes of VM state behind it", state)
	}
	return need, what
}

// checkSnapshotExtra tests that a version 3 image says how large the snapshot's
// disk is.
func (c *run) checkSnapshotExtra(i int, s *qcow2.Snapshot) {
	if c.h.Version < 3 || s.ExtraDataSize >= qcow2.SnapshotExtraV3 {
		return
	}
	f := snapshotFinding(problem.SnapshotFieldsMissing, i, s)
	f.Extent = at(s.EntryOffset+qcow2.SnapshotFieldExtraDataSize, 4)
	f.Value, f.Expected = problem.Number(s.ExtraDataSize), problem.Number(qcow2.SnapshotExtraV3)
	f.Message = problem.Say("%s: %d bytes of extra data where version 3 has at least %d, so that the size of its disk is not recorded",
		snapshotLabel(i, s), s.ExtraDataSize, qcow2.SnapshotExtraV3)
	c.report(f)
}

// checkSnapshotID tests that the ID names one snapshot only. QEMU compares IDs
// up to their first NUL.
func (c *run) checkSnapshotID(seen map[string]int, all []qcow2.Snapshot, i int) {
	s := &all[i]
	f := snapshotFinding(problem.SnapshotIDAmbiguous, i, s)
	id := cString(s.ID)
	first, again := seen[id]
	switch {
	case id == "":
		f.Extent = at(s.EntryOffset+qcow2.SnapshotFieldIDSize, 2)
		f.Value = problem.Number(s.IDSize)
		f.Message = problem.Say("%s can only be named by its name", snapshotLabel(i, s))
	case again:
		f.Extent = at(s.EntryOffset+qcow2.SnapshotHeadSize+qcow2.HostOffset(s.ExtraDataSize), len(s.ID))
		f.Value = problem.Words(Excerpt(s.ID))
		f.Message = problem.Say("%s: its ID is that of %s, too", snapshotLabel(i, s), snapshotLabel(first, &all[first]))
	default:
		seen[id] = i
		return
	}
	c.report(f)
}

// checkSnapshotStop reports a walk that did not come to the end of the table.
func (c *run) checkSnapshotStop(t *snapshotTable) {
	if !t.Stop.Early() && !t.blank {
		return
	}
	owner := Owner{Structure: problem.StructSnapshotTable, Path: problem.ToSnapshot(t.Stop.Index)}
	if t.Stop.Reason == qcow2.StopUnreadable {
		c.trouble(owner, t.Stop.Extent, t.Stop.Err)
		return
	}
	c.doubt(owner, fmt.Sprintf("the table could be read up to entry %d of %d only", t.Stop.Index, c.h.NbSnapshots))
	if t.Stop.Reason == qcow2.StopTooMany {
		return // HDR014
	}
	f := problem.Finding{Code: problem.SnapshotTableShort, Path: owner.Path, Extent: t.Stop.Extent}
	lost := fmt.Sprintf("entry %d of %d", t.Stop.Index+1, c.h.NbSnapshots)
	switch s := t.Partial; {
	case t.blank:
		f.Message = problem.Say("%s is all zeros, and so the table ends before it", lost)
	case t.Stop.Reason == qcow2.StopTableSize:
		f.Message = problem.Say("%s would make the table larger than the %d bytes that QEMU takes", lost, qcow2.MaxSnapshotsTableSize)
	case s == nil:
		f.Message = problem.Say("%s lies past the end of the file at %#x", lost, c.img.Size())
		if f.Extent.Length == 0 {
			f.Extent = at(qcow2.FieldNbSnapshots, 4)
			f.Value = problem.Number(c.h.NbSnapshots)
			f.Expected = problem.Number(t.Stop.Index)
		}
	default:
		f.Code = problem.SnapshotEntryOversized
		f.Snapshot, f.Of = snapshotName(t.Stop.Index, s), problem.SnapshotEntry(t.Stop.Index)
		var what string
		f.Extent, f.Value, what = c.cutSnapshot(t)
		f.Message = problem.Say("%s: %s", lost, what)
	}
	c.report(f)
}

// cutSnapshot tells which of an entry's parts does not fit, and the size field
// that claims it.
func (c *run) cutSnapshot(t *snapshotTable) (x qcow2.Extent, value problem.Value, message string) {
	s := t.Partial
	if t.Stop.Reason == qcow2.StopExtraData {
		return at(s.EntryOffset+qcow2.SnapshotFieldExtraDataSize, 4), problem.Number(s.ExtraDataSize),
			fmt.Sprintf("%d bytes of extra data, more than the %d that QEMU takes", s.ExtraDataSize, qcow2.MaxSnapshotExtraData)
	}
	what, size, field := "name", uint64(s.NmSize), at(s.EntryOffset+qcow2.SnapshotFieldNameSize, 2)
	extraEnd := qcow2.SnapshotHeadSize + uint64(s.ExtraDataSize)
	switch fileSize := c.img.Size(); {
	case c.g.PastEnd(s.EntryOffset, extraEnd, fileSize):
		what, size, field = "extra data", uint64(s.ExtraDataSize), at(s.EntryOffset+qcow2.SnapshotFieldExtraDataSize, 4)
	case c.g.PastEnd(s.EntryOffset, extraEnd+uint64(s.IDSize), fileSize):
		what, size, field = "ID", uint64(s.IDSize), at(s.EntryOffset+qcow2.SnapshotFieldIDSize, 2)
	}
	return field, problem.Number(size),
		fmt.Sprintf("its %s of %d bytes reaches past the end of the file at %#x", what, size, c.img.Size())
}

func snapshotFinding(code problem.Code, i int, s *qcow2.Snapshot) problem.Finding {
	return problem.Finding{Code: code, Snapshot: snapshotName(i, s), Of: problem.SnapshotEntry(i), Path: problem.ToSnapshot(i)}
}

// snapshotLabel names a snapshot in a message, by all that a user may know it
// by.
func snapshotLabel(i int, s *qcow2.Snapshot) string {
	if len(s.ID) == 0 {
		return fmt.Sprintf("the snapshot without an ID (entry %d, name %s)", i, Excerpt(s.Name))
	}
	return fmt.Sprintf("snapshot %s (entry %d, name %s)", Excerpt(s.ID), i, Excerpt(s.Name))
}

// cString is a string from the image as QEMU takes it: up to the first NUL.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func snapshotInfo(s *qcow2.Snapshot) SnapshotInfo {
	disk, _ := s.DiskSize()
	return SnapshotInfo{
		ID: string(s.ID), Name: string(s.Name), Offset: s.EntryOffset,
		L1TableOffset: s.L1TableOffset, L1Size: s.L1Size,
		DiskSize: disk, VMStateSize: s.VMState(),
		DateSec: s.DateSec, DateNsec: s.DateNsec, VMClockNsec: s.VMClockNsec,
	}
}
