package check

import (
	"encoding/binary"
	"math/bits"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// scanner reads L2 tables for one worker.
type scanner struct {
	c       *run
	claimer *refcount.Claimer
	buf     []byte
	runs    []dataRun
	out     scanResult
	// versions are the tables of the same part of the disk that were scanned
	// last, oldest first.
	versions [][]byte
	// known is an answer about holes: nothing is stored from asked to start,
	// something from there to end.
	known struct{ asked, start, end qcow2.HostOffset }
	// blank: the last table had no entry, so the next may lie in a hole too,
	// which is worth a question to the file system.
	blank bool
	// lookup reads refcounts as the file has them; see overcount.
	lookup *refcount.Lookup

	entrySize  int
	zeroFlag   bool
	oddBits    uint64 // bits that an ordinary entry does not have
	offsetBits uint64
	fileSize   uint64
	// dataEnd is the first byte of the file that no entry can name.
	dataEnd uint64
	// guestEnd is the first guest cluster past the end of the disk.
	guestEnd uint64
	vmState  bool // a snapshot has VM state, so the active L1 may reach further
}

// scanResult is what a batch of tables gave.
type scanResult struct {
	*problem.Collector
	bytes                             uint64
	allocated, fragmented, compressed uint64
	unpacked                          uint64 // compressed clusters of all tables
	dataFileEnd                       uint64
	doubts                            []Doubt
	blank                             []uint32 // tables without a single entry
	garbage                           []uint32 // tables that are none
	past                              pastClaims
	readable                          uint64 // clusters of the active disk that have data in the file
	err                               error  // a claim that failed
}

// dataRun is a run of clusters that consecutive entries of a table name.
type dataRun struct {
	first qcow2.HostCluster
	n     uint64
	marks refcount.Marks
}

func newScanner(c *run) *scanner {
	s := &scanner{
		c: c, claimer: c.counts.Claimer(), entrySize: int(c.g.L2EntrySize()), zeroFlag: c.h.ZeroFlag(),
		fileSize: uint64(c.img.Size()), guestEnd: c.g.Clusters(c.h.Size),
	}
	s.offsetBits = uint64(qcow2.NewL2Entry(^qcow2.HostOffset(0), false, false))
	s.dataEnd = min(s.fileSize, 1<<bits.Len64(s.offsetBits))
	s.oddBits = ^(s.offsetBits | uint64(qcow2.NewL2Entry(0, true, s.zeroFlag))) | s.offsetBits&(c.g.ClusterSize()-1)
	for i := range c.snapshots {
		s.vmState = s.vmState || c.snapshots[i].VMState() > 0
	}
	return s
}

// batch scans the tables order[b.from:b.to].
func (s *scanner) batch(order []uint32, b span) scanResult {
	s.out = scanResult{Collector: s.c.Part()}
	cs := int(s.c.g.ClusterSize())
	s.versions = s.versions[:0]
	s.prefetch(order, b)
	for i := b.from; i < b.to; {
		if s.c.ctx.Err() != nil {
			break // a batch can be as long as there are snapshots
		}
		// Tables that follow each other in the file are read at once.
		n := s.adjacent(order, i, b.to)
		hole := s.blank && s.isHole(s.c.tables[tableAt(order, i)].offset, uint64(n*cs))
		var failed []bool
		if need := n * cs; !hole && cap(s.buf) < need {
			s.buf = make([]byte, need)
		}
		if !hole {
			failed = s.read(order, i, n, s.buf[:n*cs])
		}
		s.out.bytes += uint64(n * cs)
		for k := range n {
			idx := tableAt(order, i+k)
			t := &s.c.tables[idx]
			if i+k > b.from && s.c.tables[tableAt(order, i+k-1)].window != t.window {
				s.versions = s.versions[:0]
			}
			switch {
			case t.skip || failed != nil && failed[k]:
			case hole:
				s.noteBlank(idx)
			default:
				raw := s.buf[k*cs : (k+1)*cs]
				s.table(idx, t, raw, s.versions)
				if order != nil && i+k+1 < b.to && s.c.tables[tableAt(order, i+k+1)].window == t.window {
					s.keepVersion(raw)
				}
			}
		}
		i += n
	}
	return s.out
}

// prefetch names the tables of a batch where that saves round trips.
func (s *scanner) prefetch(order []uint32, b span) {
	if !s.c.img.Prefetches() {
		return
	}
	var extents []qcow2.Extent
	for i := b.from; i < b.to; i++ {
		extents = append(extents, at(s.c.tables[tableAt(order, i)].offset, s.c.g.ClusterSize()))
	}
	s.c.img.Prefetch(extents)
}

// keepVersion keeps a table to compare the next ones with it; the oldest of too
// many goes.
func (s *scanner) keepVersion(raw []byte) {
	n := len(s.versions)
	switch {
	case n == versionsKept:
		oldest := s.versions[0]
		copy(s.versions, s.versions[1:])
		s.versions[n-1] = append(oldest[:0], raw...)
	case n < cap(s.versions):
		s.versions = s.versions[:n+1] // with the memory of one that went
		s.versions[n] = append(s.versions[n][:0], raw...)
	default:
		s.versions = append(s.versions, append([]byte(nil), raw...))
	}
}

// isHole tells whether a range holds no stored data. What the file system said
// last is remembered: tables follow each other.
func (s *scanner) isHole(off qcow2.HostOffset, length uint64) bool {
	e := &s.known
	if off < e.asked || off >= e.end {
		e.asked = off
		e.start, e.end = s.c.img.NextData(off)
	}
	return off+qcow2.HostOffset(length) <= e.start || e.start >= qcow2.HostOffset(s.fileSize)
}

func tableAt(order []uint32, i int) uint32 {
	if order == nil {
		return uint32(i)
	}
	return order[i]
}

// adjacent is the number of tables from i on that follow each other in the file,
// at least one, and at most a batch's bytes.
func (s *scanner) adjacent(order []uint32, i, to int) int {
	cs := qcow2.HostOffset(s.c.g.ClusterSize())
	n := 1
	for i+n < to && (uint64(n)+1)*uint64(cs) <= batchBytes &&
		s.c.tables[tableAt(order, i+n)].offset == s.c.tables[tableAt(order, i+n-1)].offset+cs {
		n++
	}
	return n
}

// read fills buf with n adjacent tables. When that fails it reads them one by
// one and tells which could not be read.
func (s *scanner) read(order []uint32, i, n int, buf []byte) (failed []bool) {
	cs := s.c.g.ClusterSize()
	if s.readAt(buf, s.c.tables[tableAt(order, i)].offset) == nil {
		return nil
	}
	failed = make([]bool, n)
	for k := range n {
		t := &s.c.tables[tableAt(order, i+k)]
		if err := s.readAt(buf[uint64(k)*cs:uint64(k+1)*cs], t.offset); err != nil {
			failed[k] = true
			o := s.c.tableOwner(t)
			s.out.Add(troubleFinding(o, at(t.offset, cs), err))
			s.doubt(o, "it could not be read")
		}
	}
	return failed
}

// readAt reads tables. Of an entry that the end of the file cuts nothing is left: half
// an offset leads to what is somebody else's.
func (s *scanner) readAt(p []byte, off qcow2.HostOffset) error {
	if err := s.c.img.ReadAt(p, off); err != nil {
		return err
	}
	if whole := (s.fileSize - uint64(off)) &^ uint64(s.entrySize-1); whole < uint64(len(p)) {
		clear(p[whole:])
	}
	return nil
}

// tableOwner names an L2 table.
func (c *run) tableOwner(t *l2table) Owner {
	l := &c.l1s[t.l1]
	return Owner{Structure: problem.StructL2Table, Path: problem.ToL1Entry(uint64(t.window)), Snapshot: l.snapshot, Of: l.of, Ref: l.entry(uint64(t.window))}
}

func (s *scanner) doubt(o Owner, why string) {
	if len(s.out.doubts) < maxDoubts {
		s.out.doubts = append(s.out.doubts, Doubt{Owner: o, Why: why})
	}
}

// tableScan is the state of scanning one table.
type tableScan struct {
	t        *l2table
	raw      []byte
	versions [][]byte // tables of the same part of the disk, read before
	entries  int
	end      int    // the first entry past the end of the disk
	start    uint64 // guest cluster of the first entry
	seen     int    // entries that are not zero
	bad      int    // entries at fault
	past     int    // of these, such as lead past the end of the file to where it can have reached once
	beyond   int    // entries that only map what lies past the end of the disk

	next                                           qcow2.HostOffset // where the next cluster would not be fragmented
	allocated, fragmented, compressed, dataFileEnd uint64
	readable                                       uint64
}

// garbageEntries is how many bad entries a table must have, and half of all its
// entries, to be taken for something that is no L2 table.
const garbageEntries = 16

// table scans one table: judges its entries and claims what they name.
func (s *scanner) table(idx uint32, t *l2table, raw []byte, versions [][]byte) {
	ts := s.begin(t, raw, versions)
	s.runs = s.runs[:0]
	s.entries(ts)
	s.blank = ts.seen == 0
	if s.blank {
		s.noteBlank(idx)
		return
	}
	if nonsense := ts.bad - ts.past; nonsense > garbageEntries && nonsense > ts.seen/2 {
		s.reportGarbage(ts)
		s.out.garbage = append(s.out.garbage, idx)
		return
	}
	if ts.bad+ts.beyond > 0 {
		s.reportEntries(ts)
	}
	if t.active() {
		s.out.allocated += ts.allocated
		s.out.fragmented += ts.fragmented
		s.out.compressed += ts.compressed
		s.out.readable += ts.readable
	}
	s.out.unpacked += ts.compressed
	s.out.dataFileEnd = max(s.out.dataFileEnd, ts.dataFileEnd)
	for _, r := range s.runs {
		if err := s.claimer.ClaimMarked(r.first, r.n, uint64(t.times), r.marks); err != nil && s.out.err == nil {
			s.out.err = err
		}
	}
}

// noteBlank notes a table without a single entry.
func (s *scanner) noteBlank(idx uint32) {
	if len(s.out.blank) < maxBlank {
		s.out.blank = append(s.out.blank, idx)
	}
}

func (s *scanner) begin(t *l2table, raw []byte, versions [][]byte) *tableScan {
	ts := &tableScan{t: t, raw: raw, versions: versions, entries: len(raw) / s.entrySize}
	ts.start = uint64(t.window) * uint64(ts.entries)
	ts.end = ts.entries
	if t.active() {
		switch {
		case ts.start < s.guestEnd:
			ts.end = int(min(uint64(ts.entries), s.guestEnd-ts.start))
		case !s.vmState:
			ts.end = 0
		}
	}
	return ts
}

// entries walks the entries of a table. Runs of ordinary ones are taken
// together; everything else goes through judge.
func (s *scanner) entries(ts *tableScan) {
	step := s.c.g.ClusterSize()
	ordinary := !s.c.h.HasDataFile()
	extended := s.entrySize == 16
	for i := 0; i < ts.entries; {
		e := be64(ts.raw, i*s.entrySize)
		if e == 0 && (!extended || be64(ts.raw, i*16+8) == 0) {
			i++
			continue
		}
		if off := e & s.offsetBits; ordinary && i < ts.end && e&s.oddBits == 0 && off != 0 && off < s.dataEnd {
			// Each next cluster of a run has the entry of the one before plus
			// a cluster, and must lie within the file too.
			limit := int(min(uint64(ts.end-i), (s.dataEnd-off-1)/step+1))
			run := ts.raw[i*s.entrySize : (i+limit)*s.entrySize]
			n := 0
			if extended {
				n = ascendingExtended(run, e, step)
			} else {
				n = 1 + ascending(run[8:], e+step, step)
			}
			if n > 0 {
				s.take(ts, i, uint64(n), qcow2.L2Entry(e))
				i += n
				continue
			}
		}
		s.odd(ts, i)
		i++
	}
}

// ascending is how many entries of a table have the values want, want+step and
// so on. A sequential disk is one such run; four entries at a time go as fast as
// memory gives them.
func ascending(raw []byte, want, step uint64) int {
	n := 0
	for ; len(raw) >= 32; raw = raw[32:] {
		differ := (binary.BigEndian.Uint64(raw) ^ want) |
			(binary.BigEndian.Uint64(raw[8:]) ^ (want + step)) |
			(binary.BigEndian.Uint64(raw[16:]) ^ (want + 2*step)) |
			(binary.BigEndian.Uint64(raw[24:]) ^ (want + 3*step))
		if differ != 0 {
			break
		}
		n, want = n+4, want+4*step
	}
	for ; len(raw) >= 8 && binary.BigEndian.Uint64(raw) == want; raw = raw[8:] {
		n, want = n+1, want+step
	}
	return n
}

// ascendingExtended is the same for extended entries, whose subclusters are
// each allocated, or zero, or neither.
func ascendingExtended(raw []byte, want, step uint64) int {
	n := 0
	for ; len(raw) >= 16; raw = raw[16:] {
		entry, bitmap := binary.BigEndian.Uint64(raw), qcow2.SubclusterBitmap(binary.BigEndian.Uint64(raw[8:]))
		if entry != want || bitmap.Conflicts() != 0 {
			break
		}
		n, want = n+1, want+step
	}
	return n
}

func be64(b []byte, at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }

// take accounts for n ordinary entries that name consecutive clusters.
func (s *scanner) take(ts *tableScan, i int, n uint64, e qcow2.L2Entry) {
	ts.seen += int(n)
	ts.readable += n
	off := e.Offset()
	s.allocated(ts, off, n)
	if end := uint64(off) + n<<s.c.g.ClusterBits; end > s.fileSize {
		s.tail(ts, i+int(n)-1, end-s.fileSize)
	}
	first := s.c.g.HostCluster(off)
	marks := s.copiedMark(ts, e)
	if len(ts.versions) == 0 {
		s.runs = append(s.runs, dataRun{first, n, marks | refcount.MarkSole})
		return
	}
	for k := range n {
		m := marks
		if !ts.known(i+int(k), s.entrySize) {
			m |= refcount.MarkSole
		}
		if last := len(s.runs) - 1; k > 0 && s.runs[last].marks == m {
			s.runs[last].n++
			continue
		}
		s.runs = append(s.runs, dataRun{first + qcow2.HostCluster(k), 1, m})
	}
}

func (s *scanner) allocated(ts *tableScan, off qcow2.HostOffset, n uint64) {
	ts.allocated += n
	if ts.next != 0 && off != ts.next {
		ts.fragmented++
	}
	ts.next = off + qcow2.HostOffset(n*s.c.g.ClusterSize())
}

func (s *scanner) copiedMark(ts *tableScan, e qcow2.L2Entry) refcount.Marks {
	switch {
	case !ts.t.active():
		return 0
	case e.Copied():
		return refcount.MarkCopied
	}
	return refcount.MarkNotCopied
}

// known tells whether a version of the table that was scanned before has the
// same entry in the same place: it is then the same use of the cluster, kept by
// a snapshot.
func (ts *tableScan) known(i, entrySize int) bool {
	const copied = uint64(1) << 63
	e := be64(ts.raw, i*entrySize)
	for _, v := range ts.versions {
		if (be64(v, i*entrySize)^e)&^copied == 0 {
			return true
		}
	}
	return false
}

// odd takes one entry that is not ordinary.
func (s *scanner) odd(ts *tableScan, i int) {
	ts.seen++
	j := s.judge(ts, i)
	switch {
	case j.faults == faultBeyond:
		ts.beyond++ // it may be the size that is wrong, and the table all that there is of the disk
	case j.faults != 0:
		ts.bad++
		s.pastEnd(ts, i, &j)
	}
	switch {
	case j.compressed:
		ts.allocated++
		ts.compressed++
		ts.fragmented++ // as QEMU counts: compressed clusters always are
	case j.allocated:
		s.allocated(ts, j.entry.Offset(), 1)
	}
	ts.dataFileEnd = max(ts.dataFileEnd, j.dataFileEnd)
	if j.n > 0 {
		ts.readable++
		if ts.known(i, s.entrySize) {
			j.marks &^= refcount.MarkSole
		}
		s.runs = append(s.runs, dataRun{j.first, j.n, j.marks})
	}
}

// cluster is room for a cluster.
func (s *scanner) cluster() []byte {
	if n := int(s.c.g.ClusterSize()); cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	return s.buf[:s.c.g.ClusterSize()]
}

// load reads a table a second time, to name entries; ok is false when it has
// none, is no table or cannot be read, which has been reported.
func (s *scanner) load(idx uint32) (ts *tableScan, ok bool) {
	t := &s.c.tables[idx]
	if t.skip || s.isHole(t.offset, s.c.g.ClusterSize()) {
		return nil, false
	}
	raw := s.cluster()
	if s.readAt(raw, t.offset) != nil {
		return nil, false
	}
	return s.begin(t, raw, nil), true
}

// again judges an entry of a loaded table; ok is false when it names no clusters
// of the file.
func (s *scanner) again(ts *tableScan, i int) (j judgement, ok bool) {
	if be64(ts.raw, i*s.entrySize) == 0 {
		return j, false
	}
	j = s.judge(ts, i)
	return j, j.n > 0
}
