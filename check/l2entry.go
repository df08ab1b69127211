package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// l2fault is a set of things that are wrong with an L2 entry.
type l2fault uint16

const (
	faultReserved       l2fault = 1 << iota // MAP005
	faultMisaligned                         // MAP006
	faultPastEnd                            // MAP007
	faultCopiedClear                        // MAP008, with an external data file
	faultCopied                             // MAP009
	faultCompressed                         // MAP010
	faultCompressedData                     // MAP011
	faultConflict                           // MAP012
	faultNoOffset                           // MAP013
	faultBitmap                             // MAP013, compressed
	faultCopiedNothing                      // MAP014
	faultDataFile                           // MAP015
	faultBeyond                             // MAP019
)

// judgement is what is to be said of an L2 entry.
type judgement struct {
	entry      qcow2.L2Entry
	bitmap     qcow2.SubclusterBitmap
	descriptor qcow2.CompressedDescriptor
	faults     l2fault
	allocated  bool // has a host cluster of its own
	compressed bool
	// The clusters to claim, if any.
	first qcow2.HostCluster
	n     uint64
	marks refcount.Marks

	dataFileEnd uint64 // bytes of the external data file that it needs
}

// judge looks at entry i of a table from every side. It reports nothing.
func (s *scanner) judge(ts *tableScan, i int) judgement {
	j := judgement{entry: qcow2.L2Entry(be64(ts.raw, i*s.entrySize))}
	if s.entrySize == 16 {
		j.bitmap = qcow2.SubclusterBitmap(be64(ts.raw, i*16+8))
	}
	if j.entry.Compressed() {
		s.judgeCompressed(&j)
	} else {
		s.judgeStandard(ts, i, &j)
	}
	if i >= ts.end && (j.allocated || j.compressed) {
		j.faults |= faultBeyond
	}
	return j
}

func (s *scanner) judgeCompressed(j *judgement) {
	c := s.c
	j.compressed = true
	j.descriptor = c.g.Compressed(j.entry)
	if j.entry.Copied() {
		j.faults |= faultCopied
	}
	if j.bitmap != 0 {
		j.faults |= faultBitmap
	}
	if c.h.HasDataFile() {
		j.faults |= faultCompressedData
		return
	}
	d := j.descriptor
	if uint64(d.Offset) >= s.fileSize || d.Offset>>56 != 0 || c.g.PastEnd(d.Offset, d.Length(), c.img.Size()) {
		j.faults |= faultCompressed
		return
	}
	j.first, j.n = c.g.ClusterSpan(d.Offset, d.Length())
	j.marks = refcount.MarkCompressed
}

func (s *scanner) judgeStandard(ts *tableScan, i int, j *judgement) {
	c, e, off := s.c, j.entry, j.entry.Offset()
	if e.Reserved(s.zeroFlag) != 0 {
		j.faults |= faultReserved
	}
	if j.bitmap.Conflicts() != 0 {
		j.faults |= faultConflict
	}
	if c.h.HasDataFile() {
		s.judgeDataFile(ts, i, j)
		return
	}
	if off == 0 {
		if e.Copied() {
			j.faults |= faultCopiedNothing
		}
		if j.bitmap.Allocated() != 0 {
			j.faults |= faultNoOffset
		}
		return
	}
	j.allocated = true
	switch {
	case !c.g.Aligned(off):
		j.faults |= faultMisaligned
	case uint64(off) >= s.fileSize:
		j.faults |= faultPastEnd
	default:
		j.first, j.n = c.g.HostCluster(off), 1
		j.marks = s.copiedMark(ts, e) | refcount.MarkSole
	}
}

// judgeDataFile judges a standard entry of an image with an external data file:
// every cluster lies where the guest sees it, and has an implicit refcount of
// one.
func (s *scanner) judgeDataFile(ts *tableScan, i int, j *judgement) {
	e, off := j.entry, j.entry.Offset()
	if off == 0 && !e.Copied() {
		if j.bitmap.Allocated() != 0 {
			j.faults |= faultNoOffset
		}
		return
	}
	j.allocated = true
	if !e.Copied() && ts.t.active() {
		j.faults |= faultCopiedClear
	}
	guest := s.c.g.GuestOffset(qcow2.GuestCluster(ts.start + uint64(i)))
	if uint64(off) != uint64(guest) {
		j.faults |= faultDataFile
		return
	}
	// A cluster that reads as zeros needs nothing of the data file.
	if s.entrySize == 16 && j.bitmap.Allocated() == 0 || s.zeroFlag && e.Zero() {
		return
	}
	j.dataFileEnd = min(uint64(off)+s.c.g.ClusterSize(), s.c.h.Size)
}

// reportEntries reports every fault of a table's entries.
func (s *scanner) reportEntries(ts *tableScan) {
	for i := range ts.entries {
		if be64(ts.raw, i*s.entrySize) == 0 && (s.entrySize == 8 || be64(ts.raw, i*s.entrySize+8) == 0) {
			continue
		}
		if j := s.judge(ts, i); j.faults != 0 {
			s.reportEntry(ts, i, &j)
		}
	}
}

// reportGarbage reports a table that is none: most of its entries make no sense,
// so that none of them is to be believed.
func (s *scanner) reportGarbage(ts *tableScan) {
	o := s.c.tableOwner(ts.t)
	s.out.Add(problem.Finding{
		Code: problem.NotAnL2Table, Path: o.Path, Snapshot: o.Snapshot, Of: o.Of, Extent: at(ts.t.offset, len(ts.raw)),
		GuestOffset: ptr(s.c.windowStart(ts.t.window)), Cluster: ptr(s.c.g.HostCluster(ts.t.offset)),
		Message: problem.Say("%s holds no L2 table: %d of its %d entries in use make no sense; %s lies there now; gone: guest %s",
			o, ts.bad-ts.past, ts.seen, s.liesThere(ts.raw), s.c.windowRange(ts.t)),
	})
	s.doubt(o, "its content is not an L2 table")
}

// entryFinding begins a finding about an L2 entry: the whole of it, or one of its
// two words.
func (c *run) entryFinding(t *l2table, i int) problem.Finding {
	return problem.Finding{
		Path: c.entryPath(t, i), Snapshot: c.l1s[t.l1].snapshot, Of: c.l1s[t.l1].of, Extent: c.entryExtent(t, i), GuestOffset: ptr(c.entryGuest(t, i)),
	}
}

func (c *run) entryPath(t *l2table, i int) problem.Path {
	return problem.ToL2Entry(uint64(t.window), uint64(i))
}

// entryGuest is the first guest byte that an L2 entry is for.
func (c *run) entryGuest(t *l2table, i int) qcow2.GuestOffset {
	return c.g.GuestOffset(qcow2.GuestCluster(uint64(t.window)*c.g.L2Entries() + uint64(i)))
}

// entryExtent is the first word of an L2 entry.
func (c *run) entryExtent(t *l2table, i int) qcow2.Extent {
	return at(t.offset+qcow2.HostOffset(uint64(i)*c.g.L2EntrySize()), 8)
}

// l2codes are the codes of the faults of an L2 entry, in the order of reports.
var l2codes = [...]struct {
	fault l2fault
	code  problem.Code
}{
	{faultReserved, problem.L2ReservedBits}, {faultMisaligned, problem.L2Unaligned}, {faultPastEnd, problem.L2PastEnd}, {faultCopiedClear, problem.L2Copied}, {faultCopied, problem.CompressedCopied},
	{faultCompressed, problem.CompressedMisplaced}, {faultCompressedData, problem.CompressedWithDataFile}, {faultConflict, problem.SubclusterConflict}, {faultNoOffset, problem.SubclusterUnplaced}, {faultBitmap, problem.SubclusterUnplaced},
	{faultCopiedNothing, problem.L2ToHeader}, {faultDataFile, problem.DataFileOffset}, {faultBeyond, problem.MappedPastDisk},
}

// reportEntry reports each fault of an entry. There can be millions.
func (s *scanner) reportEntry(ts *tableScan, i int, j *judgement) {
	readsZeros := s.zeroFlag && j.entry.Zero()
	guest, l := s.c.entryGuest(ts.t, i), &s.c.l1s[ts.t.l1]
	for _, k := range l2codes {
		if j.faults&k.fault == 0 || k.fault == faultBeyond && j.faults&(faultPastEnd|faultCompressed) != 0 {
			continue // no larger disk would show what is not there
		}
		f := problem.Finding{Code: k.code, Snapshot: l.snapshot, Of: l.of, Path: s.c.entryPath(ts.t, i), Extent: s.c.entryExtent(ts.t, i), GuestOffset: &guest}
		switch k.fault {
		case faultReserved:
			if r := uint64(j.entry.Reserved(s.zeroFlag)); j.faults&(faultMisaligned|faultPastEnd) != 0 || r&(r-1) != 0 {
				f.Repair = problem.RepairLossy // what stands there may be no entry at all
			}
		case faultMisaligned:
			if readsZeros {
				f.Repair = problem.RepairSafe // nothing is read from there
			}
		case faultPastEnd:
			if readsZeros || s.c.g.ExtendedL2 && j.bitmap.Allocated() == 0 || s.forNobody(ts, j) {
				f.Repair = problem.RepairSafe
			}
		case faultCompressed:
			if s.forNobody(ts, j) {
				f.Repair = problem.RepairSafe
			}
		case faultConflict, faultNoOffset, faultBitmap:
			f.Extent.Offset += 8
			if k.fault == faultBitmap {
				f.Repair = problem.RepairSafe
			}
		case faultBeyond:
			f.Severity = problem.Warning // QEMU goes on, but a larger disk would show the data
		}
		s.describe(&f, j, k.fault)
		s.out.Add(f)
	}
	readsZeros = readsZeros || s.c.g.ExtendedL2 && j.faults&faultPastEnd != 0 && j.bitmap.Allocated() == 0
	lost := !s.forNobody(ts, j) && (j.faults&(faultPastEnd|faultCompressed|faultNoOffset|faultCopiedNothing) != 0 || j.faults&faultMisaligned != 0 && !readsZeros)
	if lost && len(s.out.doubts) < maxDoubts {
		s.doubt(Owner{Structure: problem.StructDataCluster, Path: s.c.entryPath(ts.t, i), Snapshot: l.snapshot, Of: l.of}, "its L2 entry does not lead to data")
	}
}

// forNobody tells of an entry that leads past the end of the file from a part of the
// active disk past its end: QEMU leaves such when it is killed while it shrinks a disk,
// because it cuts the file and sets the size before it writes the table. No snapshot
// shares the table, whose disk could be larger.
func (s *scanner) forNobody(ts *tableScan, j *judgement) bool {
	past := j.faults == faultBeyond|faultPastEnd ||
		j.faults == faultBeyond|faultCompressed && uint64(j.descriptor.Offset) >= s.fileSize
	return past && ts.t.active() && ts.t.times == 1
}

// describe says what is wrong with an L2 entry, and what stands there.
func (s *scanner) describe(f *problem.Finding, j *judgement, fault l2fault) {
	c, off, end := s.c, uint64(j.entry.Offset()), uint64(s.fileSize)
	f.Value = problem.Hex(j.entry)
	say := func(format string, numbers ...uint64) { f.Message = problem.SayOfEntry(format, numbers...) }
	switch fault {
	case faultReserved:
		r := j.entry.Reserved(s.zeroFlag)
		f.Value, f.Expected = problem.Hex(r), problem.Hex(uint64(0))
		say("is 0x%016x: reserved bits 0x%x are set", uint64(j.entry), r)
	case faultMisaligned:
		f.Expected = problem.MultipleOf(c.g.ClusterSize())
		say("names data at 0x%x, which is not the start of a cluster", off)
	case faultPastEnd:
		say("names data at 0x%x, but the file ends at 0x%x", off, end)
	case faultCopiedClear:
		f.Value, f.Expected = problem.Flag(false), problem.Flag(true)
		say("has COPIED clear; with an external data file every cluster is the only one of its kind")
	case faultCopied:
		f.Value, f.Expected = problem.Flag(true), problem.Flag(false)
		say("is compressed and has COPIED set")
	case faultCompressed:
		say("names compressed data at 0x%x, %d bytes, but the file ends at 0x%x", uint64(j.descriptor.Offset), j.descriptor.Length(), end)
	case faultCompressedData:
		say("is compressed, which an image with an external data file cannot have")
	case faultConflict:
		f.Value = problem.Hex(j.bitmap)
		say("has %d subclusters that are both allocated and zero (mask 0x%08x)", uint64(j.bitmap.ConflictCount()), uint64(j.bitmap.Conflicts()))
	case faultNoOffset:
		f.Value = problem.Hex(j.bitmap)
		say("has allocated subclusters (mask 0x%08x) but no place for them", uint64(j.bitmap.Allocated()))
	case faultBitmap:
		f.Value, f.Expected = problem.Hex(j.bitmap), problem.Hex(uint64(0))
		say("is compressed, so its subcluster bitmap must be zero, but is 0x%016x", uint64(j.bitmap))
	case faultCopiedNothing:
		say("has COPIED set but names no cluster")
	case faultDataFile:
		f.Expected = problem.Hex(*f.GuestOffset)
		say("maps guest offset 0x%x to 0x%x of the data file; the two must be the same", uint64(*f.GuestOffset), off)
	case faultBeyond:
		say("maps guest offset 0x%x, past the end of the disk at 0x%x", uint64(*f.GuestOffset), c.h.Size)
	}
}
