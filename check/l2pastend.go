package check

import (
	"iter"
	"math/bits"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// pastEnd notes an entry that leads past the end of the file to where the file can have
// reached before it was cut, and what of the disk is gone with that.
func (s *scanner) pastEnd(ts *tableScan, i int, j *judgement) {
	if j.faults&^(faultPastEnd|faultCompressed|faultBeyond) != 0 {
		return
	}
	offset, length := j.entry.Offset(), s.c.g.ClusterSize()
	if j.compressed {
		offset, length = j.descriptor.Offset, j.descriptor.Length()
	}
	if !s.c.wasInFile(offset, length) {
		return
	}
	ts.past++
	if first, n := s.c.pastEndOfFile(offset, length); n > 0 {
		s.out.past.claim(problem.StructDataCluster, first, n)
	}
	guest, end := (ts.start+uint64(i))<<s.c.g.ClusterBits, s.diskEnd(ts)
	for from, length := range LostParts(s.c.g, j.entry, j.bitmap, s.zeroFlag) {
		if from += guest; from < end {
			s.out.past.lose(lostRange{l1: ts.t.l1, from: from, length: min(length, end-from)})
			s.out.past.shared = s.out.past.shared || ts.t.times > 1
		}
	}
}

// diskEnd is the size of the disk that a table is for.
func (s *scanner) diskEnd(ts *tableScan) uint64 {
	if ts.t.active() {
		return s.c.h.Size
	}
	return 1 << 63 // a snapshot's disk can have had another size
}

// LostParts gives the parts of a cluster that are gone with its host cluster, each by
// where in the cluster it begins and its length in bytes: all of it, or the subclusters
// that are stored there; none where it reads as zeros.
func LostParts(g qcow2.Geometry, e qcow2.L2Entry, b qcow2.SubclusterBitmap, zeroFlag bool) iter.Seq2[uint64, uint64] {
	return func(yield func(from, length uint64) bool) {
		switch {
		case e.Compressed() || !g.ExtendedL2 && !(zeroFlag && e.Zero()):
			yield(0, g.ClusterSize())
		case g.ExtendedL2:
			size := g.SubclusterSize()
			for k, n := uint64(0), uint64(0); k < qcow2.SubclustersPerCluster; k += max(n, 1) {
				n = uint64(bits.TrailingZeros32(^(b.Allocated() >> k)))
				if n > 0 && !yield(k*size, n*size) {
					return
				}
			}
		}
	}
}

// tail notes that of the last cluster of a run the end of the file has cut so many bytes.
func (s *scanner) tail(ts *tableScan, i int, missing uint64) {
	cs := s.c.g.ClusterSize()
	from, end := (ts.start+uint64(i))*cs, s.diskEnd(ts)
	if from < end && len(s.out.past.tails) < maxBlank {
		from += cs - missing
		length := missing
		if from+length > end {
			length = max(end, from) - from
		}
		s.out.past.tails = append(s.out.past.tails, lostRange{l1: ts.t.l1, from: from, length: length})
	}
}

// liesThere names what a table was overwritten with, as far as that can be told.
func (s *scanner) liesThere(raw []byte) string {
	// Refcounts are small numbers, and hardly ever differ from their neighbours'.
	const largest = 1 << 10
	block := s.c.g.RefcountBlock(raw)
	n := len(raw) * 8 / int(s.c.g.RefcountBits())
	if s.c.g.RefcountBits() < 8 || !s.c.h.RefcountOrderOK() {
		return "something else"
	}
	used := 0
	for i := range n {
		switch v := block.Get(i); {
		case v > largest:
			return "something else, such as guest data,"
		case v > 0:
			used++
		}
	}
	if used < garbageEntries {
		return "something else"
	}
	return "what reads as a refcount block"
}
