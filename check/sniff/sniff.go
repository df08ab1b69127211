// Package sniff tells what a cluster of an image is that nothing leads to: by what it
// holds, and by what the refcounts say of the clusters that it names.
//
// Content alone proves little. The table of a bitmap reads like an L2 table, a
// directory's cluster can be left over from an earlier one, and a guest may have
// written anything. So each kind asks for evidence besides:
//
//	L2 table          its entries could be in order, and name clusters that have a
//	                  refcount and no reference. That of the active disk has COPIED set
//	                  for each cluster of refcount 1
//	bitmap table      the same, but COPIED is never set, each cluster that it names has
//	                  refcount 1, and it is no larger than a bitmap of the disk can be
//	bitmap directory  its entries parse exactly; the rest of its clusters is zeros; the
//	                  tables have the size that the disk takes, and tables and data are
//	                  nobody else's
//	L1 table          names clusters that read as L2 tables, and lack a reference
//	refcount block    counts something for every cluster that has a reference
//	snapshot table    begins with an entry as QEMU writes it
//
// Nothing here decides what becomes of a cluster, and nothing of it is asked about
// images in which every cluster has its owner.
package sniff

import (
	"encoding/binary"

	"github.com/qcheck/qcheck/qcow2"
)

// Kind is what a cluster is.
type Kind uint8

// The kinds. A cluster that shows no sign of another one is Data.
const (
	Data Kind = iota
	Zeros
	L2Table
	L1Table
	BitmapTable
	BitmapDirectory
	BitmapData // that a bitmap's table names which was found
	SnapshotTable
	RefcountBlock
)

var kindNames = [...]string{
	Data: "data", Zeros: "zeros", L2Table: "L2 table", L1Table: "L1 table", BitmapTable: "bitmap table",
	BitmapDirectory: "bitmap directory", BitmapData: "bitmap data", SnapshotTable: "snapshot table", RefcountBlock: "refcount block",
}

func (k Kind) String() string { return kindNames[k] }

// Sniffer looks at clusters of one image.
type Sniffer struct {
	Format
	img        *qcow2.Image
	refcount   func(qcow2.HostCluster) uint64
	references func(qcow2.HostCluster) uint64
	buf        []byte
	head       [qcow2.BitmapHeadSize]byte
	known      map[qcow2.HostCluster]Kind // structures of bitmaps that were found
	tried      uint64                     // clusters and table entries that were looked at
	blocks     int                        // blocks that were compared
}

// New makes a sniffer. What the file and the check say of a cluster is asked of
// refcount and references, which must give 0 for clusters past the end.
func New(img *qcow2.Image, refcount, references func(qcow2.HostCluster) uint64) *Sniffer {
	return &Sniffer{Format: FormatOf(img), img: img, refcount: refcount, references: references,
		known: make(map[qcow2.HostCluster]Kind)}
}

// Unowned tells whether a cluster has a refcount for which a reference is missing.
func (s *Sniffer) Unowned(cl qcow2.HostCluster) bool { return s.refcount(cl) > s.references(cl) }

// orphan tells whether a cluster has the refcount of a single owner, and none was found.
func (s *Sniffer) orphan(cl qcow2.HostCluster) bool {
	return s.refcount(cl) == 1 && s.references(cl) == 0
}

// Known gives what a cluster is of the bitmaps that were found.
func (s *Sniffer) Known(cl qcow2.HostCluster) (Kind, bool) {
	k, ok := s.known[cl]
	return k, ok
}

// Learn takes the clusters of structures that were found for what they are.
func (s *Sniffer) Learn(runs []Run) {
	for _, r := range runs {
		for i := range r.N {
			s.known[r.First+qcow2.HostCluster(i)] = r.Kind
		}
	}
}

// Run is a run of clusters of one kind.
type Run struct {
	First qcow2.HostCluster
	N     uint64
	Kind  Kind
}

// read reads a cluster; ok is false where that fails.
func (s *Sniffer) read(cl qcow2.HostCluster) (b []byte, ok bool) {
	if s.buf == nil {
		s.buf = make([]byte, s.g.ClusterSize())
	}
	return s.buf, s.img.ReadAt(s.buf, s.g.HostOffset(cl)) == nil
}

// Classify tells what a cluster is to which no reference was found. What cannot be
// read is Data: nothing speaks for anything else.
func (s *Sniffer) Classify(cl qcow2.HostCluster) Kind {
	if k, ok := s.known[cl]; ok {
		return k
	}
	off := s.g.HostOffset(cl)
	if s.img.IsHole(off, s.g.ClusterSize()) {
		return Zeros
	}
	b, ok := s.read(cl)
	switch {
	case !ok:
		return Data
	case Zero(b):
		return Zeros
	case s.L1Table(b) && s.leadsToTables(cl):
		return L1Table
	case s.bitmapTable(b):
		return BitmapTable
	case s.ownsUnowned(b):
		return L2Table
	case s.snapshotTable(b, off):
		return SnapshotTable
	case s.refcountBlock(b):
		return RefcountBlock
	}
	if _, ok := s.Directory(cl, nil); ok {
		return BitmapDirectory
	}
	return Data
}

// ownsUnowned tells whether a cluster reads as an L2 table all of whose clusters lack a
// reference.
func (s *Sniffer) ownsUnowned(b []byte) (owns bool) {
	if !s.L2Table(b) {
		return false
	}
	for i := 0; i < len(b); i += s.entrySize {
		e := qcow2.L2Entry(binary.BigEndian.Uint64(b[i:]))
		x := qcow2.Extent{Offset: e.Offset(), Length: 1}
		if e.Compressed() {
			d := s.g.Compressed(e)
			x = qcow2.Extent{Offset: d.Offset, Length: d.Length()}
		} else if e.Offset() == 0 {
			continue
		}
		first, n := s.g.ClusterSpan(x.Offset, x.Length)
		for k := range n {
			if !s.Unowned(first + qcow2.HostCluster(k)) {
				return false
			}
		}
		owns = true
	}
	return owns
}

// bitmapTable tells whether a cluster can be the table of a bitmap: its entries are
// sound, each cluster that they name is its alone, and it ends where the table of the
// finest bitmap of the disk does. An L2 table of such clusters has COPIED set.
func (s *Sniffer) bitmapTable(b []byte) bool {
	if !s.BitmapTable(b) {
		return false
	}
	if most := s.entriesFor(qcow2.MinBitmapGranularity); most < uint64(len(b))/8 && !Zero(b[most*8:]) {
		return false
	}
	stored := false
	for i := 0; i < len(b); i += 8 {
		off := qcow2.BitmapTableEntry(binary.BigEndian.Uint64(b[i:])).Offset()
		if off != 0 && !s.orphan(s.g.HostCluster(off)) {
			return false
		}
		stored = stored || off != 0
	}
	return stored
}

// entriesFor is how many table entries a bitmap of a granularity has.
func (s *Sniffer) entriesFor(granularityBits uint8) uint64 {
	return s.g.BitmapTableEntries(qcow2.BitmapBits(s.img.Header.SectorAlignedSize(), uint(granularityBits)))
}

// maxTargets bounds the tables that are looked at to tell whether an L1 table is one.
const maxTargets = 16

// leadsToTables tells whether what an L1 table names lacks references and reads as L2
// tables.
func (s *Sniffer) leadsToTables(cl qcow2.HostCluster) bool {
	tables := 0
	head := make([]byte, min(s.g.ClusterSize(), 4<<10))
	for _, e := range qcow2.ReadL1(s.img, s.g.HostOffset(cl), s.g.ClusterSize()/8).All() {
		off := e.Offset()
		if off == 0 {
			continue
		}
		if !s.Unowned(s.g.HostCluster(off)) || s.img.ReadAt(head, off) != nil || Zero(head) || !s.L2Table(head) {
			return false
		}
		if tables++; tables == maxTargets {
			break
		}
	}
	return tables > 0
}

func (s *Sniffer) snapshotTable(b []byte, off qcow2.HostOffset) bool {
	e, err := qcow2.DecodeSnapshot(b, off)
	return err == nil && e.L1Size > 0 && s.Snapshot(&e) && s.Unowned(s.g.HostCluster(e.L1TableOffset))
}

// maxBlocks bounds how often a cluster is compared with what a refcount block must
// hold.
const maxBlocks = 64

func (s *Sniffer) refcountBlock(b []byte) bool {
	if !s.img.Header.RefcountOrderOK() {
		return false
	}
	per := s.g.RefcountBlockEntries()
	for index := range (s.g.Clusters(s.size) + per - 1) / per {
		if s.blocks++; s.blocks > maxBlocks {
			return false
		}
		if fits, used := s.RefcountBlock(b, index, s.references); fits && used {
			return true
		}
	}
	return false
}
