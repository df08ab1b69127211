package check

import (
	"cmp"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// checkTablePlace tests where an entry says that the bitmap's table is and how
// large, and decides how many of its entries are to be read (b.entries, 0 for
// none). An entry that is not whole is tested in silence.
func (p *bitmapsPass) checkTablePlace(b *bitmap) {
	bad := func(f problem.Finding) {
		if b.partial {
			return
		}
		p.report(f)
		if cmp.Or(f.Severity, problem.Corruption) == problem.Corruption {
			b.badEntry = cmp.Or(b.badEntry, "its table is not as it must be")
		}
	}
	offset, size := b.TableOffset, uint64(b.TableSize)
	b.needed, b.sized = 0, false
	// Of a size that goes with a granularity that cannot be, nothing can be said.
	knowable := b.granularityOK()
	if knowable {
		b.needed = p.g.BitmapTableEntries(qcow2.BitmapBits(p.h.SectorAlignedSize(), uint(b.GranularityBits)))
		b.sized = b.needed == size
	}
	const offsetAt, sizeAt = qcow2.BitmapFieldTableOffset, qcow2.BitmapFieldTableSize
	value, expected := problem.Number(size), problem.Value{}
	if knowable && b.needed > 0 {
		expected = problem.Number(b.needed)
	}
	tooLarge := size > qcow2.MaxBitmapTableEntries || size*p.g.ClusterSize() > qcow2.MaxBitmapPhysicalSize
	switch {
	case size == 0:
		bad(b.entryFinding(problem.BitmapTableSize, sizeAt, 4, value, expected, "its table is said to have 0 entries"))
	case size > qcow2.MaxBitmapTableEntries:
		bad(b.entryFinding(problem.BitmapTableSize, sizeAt, 4, value, expected, "its table is said to have %d entries, more than the %d that QEMU takes", size, qcow2.MaxBitmapTableEntries))
	case tooLarge:
		bad(b.entryFinding(problem.BitmapTableSize, sizeAt, 4, value, expected, "its table is said to have %d entries, for %d bytes of data, more than the %d that QEMU takes",
			size, size*p.g.ClusterSize(), qcow2.MaxBitmapPhysicalSize))
	}

	placed := false
	switch {
	case offset == 0:
		bad(b.entryFinding(problem.BitmapTableMisplaced, offsetAt, 8, problem.Hex(offset), problem.Value{}, "its table is said to be at offset 0, where the header is"))
	case !p.g.Aligned(offset):
		bad(b.entryFinding(problem.BitmapTableMisplaced, offsetAt, 8, problem.Hex(offset), problem.Value{}, "its table is said to be at offset %v, which is not the start of a cluster", offset))
	case uint64(offset) >= uint64(p.img.Size()):
		bad(b.entryFinding(problem.BitmapTableMisplaced, offsetAt, 8, problem.Hex(offset), problem.Value{}, "its table is said to be at offset %v, but the file ends at 0x%x", offset, p.img.Size()))
	default:
		placed = true
	}
	if !placed {
		p.doubt(b.tableOwner(), "its directory entry does not lead to it")
		return
	}

	fits := func(n uint64) bool { return n > 0 && !p.outside(offset, n*8) }
	inUse := b.Flags.Has(qcow2.BitmapInUse)
	switch {
	case size == 0 || tooLarge:
		// What the disk needs is what is there, if anything is.
		if knowable && fits(b.needed) && b.needed <= qcow2.MaxBitmapTableEntries {
			b.entries = b.needed
		}
		if !b.sized || b.entries == 0 {
			p.doubt(b.tableOwner(), "its size is not known")
		}
	case !fits(size) && (inUse || !knowable || b.sized):
		bad(b.entryFinding(problem.BitmapTableMisplaced, offsetAt, 12, problem.Words(fmt.Sprintf("%d at %v", size, offset)), problem.Value{}, "its table of %d entries at offset %v reaches past the end of the file at 0x%x", size, offset, p.img.Size()))
		p.doubt(b.tableOwner(), "it reaches past the end of the file")
	case knowable && !b.sized:
		f := b.entryFinding(problem.BitmapSizeMismatch, sizeAt, 4, value, problem.Number(b.needed), "its table has %d entries, but a disk of %d bytes and a granularity of %d bytes need %d",
			size, p.h.Size, uint64(1)<<b.GranularityBits, b.needed)
		if p.settleTableSize(b) && inUse {
			f.Severity = problem.Note
			p.resizedInUse = true
			f.Message.And("; the disk was resized while the bitmap was in use")
		} else if !inUse && (!oneBit(size, b.needed) || p.storesBeyond(b)) {
			p.mendGranularity(b, &f)
		}
		bad(f)
	default:
		b.entries = size
	}
}

// settleTableSize decides how much of a table to read that has not the size that
// the disk needs. Entries beyond what is needed are read if there are any; those
// that seem to follow the table are not, but what they name may be the bitmap's.
// The result is false where what is there is not as a resize leaves it.
//
// Tables of many bitmaps can lie in one place, or nearly so: what has been found
// out about one is remembered, and there is a bound to what is read in all.
func (p *bitmapsPass) settleTableSize(b *bitmap) bool {
	place := tablePlace{b.TableOffset, b.TableSize, b.needed}
	s, known := p.settled[place]
	if !known {
		s = p.tryTableSizes(b)
		if p.settled == nil {
			p.settled = make(map[tablePlace]tableSize)
		}
		p.settled[place] = s
	}
	b.entries = s.entries
	if s.unknown {
		p.doubt(b.tableOwner(), "its size is not known")
	}
	return s.resized
}

// tablePlace is where a table of the wrong size is, and tableSize what was made
// of it.
type (
	tablePlace struct {
		offset qcow2.HostOffset
		size   uint32
		needed uint64
	}
	tableSize struct {
		entries uint64
		unknown bool
		resized bool // it is as a resize leaves it
	}
)

// maxSettled is how many entries are read at most, of all bitmaps together, to
// find out how long tables of the wrong size are.
const maxSettled = 1 << 24

// tryTableSizes is settleTableSize for a table that was not seen yet.
func (p *bitmapsPass) tryTableSizes(b *bitmap) tableSize {
	lo, hi := min(uint64(b.TableSize), b.needed), max(uint64(b.TableSize), b.needed)
	if lo == 0 { // a disk of less than a sector, which has no bits for QEMU
		lo = hi
	}
	if p.outside(b.TableOffset, lo*8) {
		return tableSize{unknown: true}
	}
	tooSmall := uint64(b.TableSize) < b.needed
	unknown := tableSize{entries: lo, unknown: true, resized: tooSmall}
	if p.outside(b.TableOffset, hi*8) {
		return unknown
	}
	p.reserve(at(b.TableOffset, hi*8))
	if p.settling += hi - lo; p.settling > maxSettled {
		return unknown
	}
	entries := lo
	scan := qcow2.ScanTable[qcow2.BitmapTableEntry](p.img, b.TableOffset, hi)
	for _, e := range scan.From(lo) {
		if p.entryFaults(e) != 0 {
			return unknown
		}
		if !tooSmall {
			entries = hi
		} else if e.Offset() != 0 {
			p.reserve(at(e.Offset(), p.g.ClusterSize()))
		}
	}
	return tableSize{entries: entries, resized: true}
}

// The faults that a table entry can have.
type bitmapFaults uint8

const (
	badLow       bitmapFaults = 1 << iota // BMT001
	badHigh                               // BMT002
	badAllOnes                            // BMT003
	badAlignment                          // BMT004
	badPlace                              // BMT005
)

// entryFaults judges a table entry.
func (p *bitmapsPass) entryFaults(e qcow2.BitmapTableEntry) bitmapFaults {
	var f bitmapFaults
	if e.ReservedLow() != 0 {
		f |= badLow
	}
	if e.ReservedHigh() != 0 {
		f |= badHigh
	}
	o := e.Offset()
	if o == 0 {
		return f
	}
	switch {
	case e.AllOnes():
		// Where the offset leads makes no difference: it may not be there.
		f |= badAllOnes
	case !p.g.Aligned(o):
		f |= badAlignment
	case p.g.PastEnd(o, p.g.ClusterSize(), p.img.Size()):
		f |= badPlace
	}
	return f
}

// checkTables reads each table once, however many bitmaps have it, and collects
// the clusters of the data.
func (p *bitmapsPass) checkTables() error {
	var prev *bitmap
	for _, b := range p.byPlace() {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if b.partial {
			continue
		}
		if p.overlapsEarlier(b, prev) {
			b.entries = 0
			continue
		}
		prev = b
		if err := p.scanTable(b); err != nil {
			return err
		}
	}
	// An entry of which only the head is there gets what nobody else has.
	for _, b := range p.byPlace() {
		if !b.partial {
			continue
		}
		if first, n := p.g.ClusterSpan(b.TableOffset, b.entries*8); p.taken(uint64(first), n) {
			b.entries = 0
			continue
		}
		return p.scanTable(b) // there is no other
	}
	return nil
}

// overlapsEarlier tells whether a table shares clusters with the directory or
// with the table before it in the file, and reports it. Such a table is not
// read: tables that overlap each other would be read over and over.
func (p *bitmapsPass) overlapsEarlier(b, prev *bitmap) bool {
	first, n := p.g.ClusterSpan(b.TableOffset, b.entries*8)
	shared := func(x qcow2.Extent) uint64 {
		f, m := p.g.ClusterSpan(x.Offset, x.Length)
		lo, hi := max(f, first), min(f+qcow2.HostCluster(m), first+qcow2.HostCluster(n))
		return uint64(max(lo, hi) - lo)
	}
	f := b.entryFinding(problem.BitmapOverlap, qcow2.BitmapFieldTableOffset, 8, problem.Hex(b.TableOffset), problem.Value{}, "")
	f.Structure, f.Cluster = problem.StructBitmapTable, ptr(first)
	f.Message = problem.Say("%s: its table at %v", b.label(), b.TableOffset)
	same := false
	if f.Count = shared(p.directory); f.Count > 0 {
		f.Message.And(" lies where the bitmap directory is")
	} else {
		if prev != nil {
			f.Count = shared(at(prev.TableOffset, prev.entries*8))
		}
		if f.Count == 0 {
			return false
		}
		if same = b.TableOffset == prev.TableOffset && b.entries == prev.entries; same {
			f.Message.And(" is that of %s, too", prev.label())
			prev.copies++
		} else {
			f.Message.And(" lies where that of %s is", prev.label())
		}
		prev.shared = true
		prev.spoil("another bitmap's table lies where its own is")
	}
	p.report(f)
	b.spoil("its table lies where another structure of the bitmaps is")
	if !same {
		p.reserve(at(b.TableOffset, b.entries*8))
		p.doubt(b.tableOwner(), "it lies where another structure of the bitmaps is")
	}
	return true
}

// A table of which so many entries, and most, are no table entries is taken for
// something else that lies there.
const foreignEntries = 8

// scanTable reads a table. Its sound entries become runs of data clusters; the
// others are reported.
func (p *bitmapsPass) scanTable(b *bitmap) error {
	scan := qcow2.ScanTable[qcow2.BitmapTableEntry](p.img, b.TableOffset, b.entries)
	p.addTable(b)
	var stored, faulty, n uint64
	cut := false
	start := len(p.runs)
	for i, e := range scan.All() {
		if n++; n%(1<<14) == 0 && p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		faults := p.entryFaults(e)
		if faults != 0 && !p.cutOff(b, e, faults) {
			faulty++
		}
		cut = cut || faults != 0
		if e.Offset() == 0 {
			continue
		}
		stored++
		if faults&^(badLow|badHigh) == 0 {
			p.addData(b, i, e.Offset())
		}
		if i == b.needed-1 && b.sized {
			b.last = e
		}
	}
	b.blank = n == 0
	for _, bad := range scan.Unreadable() {
		b.spoil("its table cannot be read")
		p.trouble(b.tableOwner(), at(bad.Offset, bad.Length), bad)
	}
	switch {
	case faulty == 0 && !cut:
	case faulty >= foreignEntries && faulty*2 > max(stored, faulty):
		p.runs = p.runs[:start]
		b.last = 0
		return p.reportGarbage(b, scan, faulty)
	default:
		return p.reportTable(b, scan)
	}
	return nil
}

// cutOff tells of an entry that leads past the end of the file to where the file can have
// reached before it was cut, and notes it. It is an entry all the same.
func (p *bitmapsPass) cutOff(b *bitmap, e qcow2.BitmapTableEntry, faults bitmapFaults) bool {
	if faults != badPlace || !p.wasInFile(e.Offset(), p.g.ClusterSize()) {
		return false
	}
	if p.stale == "" && !b.partial {
		p.claimPastEnd(problem.StructBitmapData, e.Offset(), p.g.ClusterSize())
	}
	return true
}

// reportTable goes through a table again for the sake of what is wrong with it.
func (p *bitmapsPass) reportTable(b *bitmap, scan *qcow2.TableScan[qcow2.BitmapTableEntry]) error {
	doubt := false
	var n uint64
	for i, e := range scan.All() {
		if n++; n%ctxStride == 0 && p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		faults := p.entryFaults(e)
		if faults == 0 {
			continue
		}
		b.spoil("its table has entries that are not as they must be")
		if !b.partial {
			p.reportEntry(b, i, e, faults)
		}
		o := e.Offset()
		switch {
		case faults&badPlace != 0:
			doubt = true
		case faults&badAlignment != 0:
			doubt = true
			p.reserve(at(o&^qcow2.HostOffset(p.g.ClusterSize()-1), p.g.ClusterSize()))
		case faults&badAllOnes != 0:
			// Either bit 0 is wrong or the offset is, and the cluster not its own.
			p.reserve(at(o&^qcow2.HostOffset(p.g.ClusterSize()-1), p.g.ClusterSize()))
		}
	}
	if doubt {
		p.doubt(b.dataOwner(qcow2.Extent{}), "entries of its table do not lead to clusters")
	}
	return nil
}

// reportEntry reports each fault of a table entry.
func (p *bitmapsPass) reportEntry(b *bitmap, i uint64, e qcow2.BitmapTableEntry, faults bitmapFaults) {
	bad := func(code problem.Code, expected problem.Value, format string, args ...any) {
		if p.Unlisted(code, 0, 1) {
			return
		}
		f := problem.Finding{
			Code: code, Extent: at(b.tableEntry(i), 8), Bitmap: b.name, Path: problem.ToBitmapTableEntry(i), Value: problem.Hex(e), Expected: expected,
			Message: problem.Say("%s: table entry %d is 0x%016x: ", b.label(), i, uint64(e)),
		}
		f.Message.And(format, args...)
		p.report(f)
	}
	sound := uint64(e) &^ (e.ReservedLow() | e.ReservedHigh())
	if faults&badLow != 0 {
		bad(problem.BitmapLowReserved, problem.Hex(sound), "reserved bits 0x%x are set", e.ReservedLow())
	}
	if faults&badHigh != 0 {
		bad(problem.BitmapHighReserved, problem.Hex(sound), "reserved bits 0x%x are set", e.ReservedHigh())
	}
	if faults&badAllOnes != 0 {
		bad(problem.BitmapEntryContradiction, problem.Value{}, "it names a cluster and has bit 0 set, which says that there is none")
	}
	if faults&badAlignment != 0 {
		bad(problem.BitmapEntryUnaligned, problem.Value{}, "offset %v is not the start of a cluster", e.Offset())
	}
	if faults&badPlace != 0 {
		bad(problem.BitmapEntryPastEnd, problem.Value{}, "the cluster at %v is past the end of the file at 0x%x", e.Offset(), p.img.Size())
	}
}

// reportGarbage reports a table that holds something else, once.
func (p *bitmapsPass) reportGarbage(b *bitmap, scan *qcow2.TableScan[qcow2.BitmapTableEntry], faulty uint64) error {
	codes := []problem.Code{problem.BitmapLowReserved, problem.BitmapHighReserved, problem.BitmapEntryContradiction, problem.BitmapEntryUnaligned, problem.BitmapEntryPastEnd}
	f := problem.Finding{
		Extent: at(b.TableOffset, b.entries*8), Bitmap: b.name, Count: faulty, Repair: problem.RepairPolicy,
		Message: problem.Say("%s: %d of its table's %d entries are no table entries: the table was overwritten or lies elsewhere", b.label(), faulty, b.entries),
	}
	for _, e := range scan.All() {
		if faults := p.entryFaults(e); faults != 0 {
			for i, code := range codes {
				if faults&(1<<i) != 0 {
					f.Code = code
				}
			}
			break
		}
	}
	if !b.partial {
		p.report(f)
	}
	b.spoil("its table was overwritten or lies elsewhere")
	p.doubt(b.dataOwner(qcow2.Extent{}), "its table does not hold table entries")
	return p.ctx.Err()
}
