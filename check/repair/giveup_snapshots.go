package repair

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// giveUpSnapshots writes the snapshot table anew without the entries that cannot be
// read, or whose L1 table is not there. What such a snapshot owned alone is lost.
func (s *session) giveUpSnapshots(context.Context) (bool, error) {
	if !s.losing() || s.headerShared() || s.snapshotsToFind() {
		return false, nil
	}
	gone := make(map[int]*problem.Finding) // by entry
	broken := s.res.Has(problem.SnapshotTableShort) || s.res.Has(problem.SnapshotEntryOversized)
	mended := -1
	var clash *problem.Finding
	var codes []problem.Code
	all := false
	for i := range s.ev.Findings {
		f := &s.ev.Findings[i]
		if f.Unlisted || f.Repair != problem.RepairLossy {
			continue
		}
		entry := s.snapshotAt(f.Extent.Offset)
		switch {
		case f.Code == problem.SnapshotTableMisplaced, f.Code.Is(problem.Overlap) && f.Structure == problem.StructSnapshotTable:
			all = true
		case f.Code == problem.SnapshotEntryOversized && entry >= 0:
			mended = entry
		case f.Code == problem.SnapshotFieldsMissing && broken && entry >= 0 && len(s.ev.Snapshots[entry].ID) == 0:
			gone[entry] = f // what stands there is no entry
		case f.Code == problem.SnapshotTableShort, f.Code == problem.SnapshotEntryOversized:
		case entry >= 0 && f.Code == problem.SnapshotL1Misplaced:
			gone[entry] = f
		case entry >= 0 && f.Code.Is(problem.Overlap) && f.Structure == problem.StructL1Table:
			gone[entry], clash = f, f
		default:
			continue
		}
		codes = append(codes, f.Code)
	}
	if len(codes) == 0 {
		return false, nil
	}
	if clash != nil { // of such there may be more than are listed
		for _, l := range s.ev.L1Tables()[1:] {
			if i := s.snapshotAt(l.Ref.Offset); l.Entries == 0 && i >= 0 && gone[i] == nil {
				gone[i] = clash
			}
		}
	}
	slices.Sort(codes)
	codes = slices.Compact(codes)
	var kept []qcow2.Snapshot
	for i := range s.ev.Snapshots {
		snap := &s.ev.Snapshots[i]
		if f := gone[i]; all || f != nil {
			why := "the snapshot table is not where it can be"
			if f != nil {
				why = reasonFor(f)
			}
			s.lose("snapshot %s: %s", snapshotLabel(snap), why)
			s.said.Snapshots = append(s.said.Snapshots, s.entryBefore(i))
			continue
		}
		kept = append(kept, *snap)
	}
	if n := int64(s.h.NbSnapshots) - int64(len(s.ev.Snapshots)); n > 0 {
		s.said.SnapshotTable = true
		s.lose("%d of %d snapshots: their entries in the snapshot table cannot be read", n, s.h.NbSnapshots)
	}
	if mended >= 0 && gone[mended] == nil {
		s.nameMended(kept, s.ev.Snapshots[mended].EntryOffset)
	}
	s.dropEntries(func(i int) bool { return all || gone[i] != nil })
	return true, s.writeSnapshots(kept, codes)
}

// snapshotsToFind tells whether the snapshots are there, and the header need only be led back
// to them, which is not asked for: then they are not given up.
func (s *session) snapshotsToFind() bool { return s.ev.LostSnapshots != nil && !s.opts.Reattach }

// dropEntries notes that the snapshot table has lost entries, so that others have another
// number from now on.
func (s *session) dropEntries(gone func(i int) bool) {
	var origin []problem.SnapshotRef
	for i := range s.ev.Snapshots {
		if !gone(i) {
			origin = append(origin, s.original(problem.SnapshotEntry(i)))
		}
	}
	*s.origin = append(origin, 0)[:len(origin)] // not nil, even where none is left
}

// original gives what entry of the snapshot table, as it was before the repair, is meant.
func (s *session) original(of problem.SnapshotRef) problem.SnapshotRef {
	i, ok := of.Entry()
	if !ok || *s.origin == nil || i >= len(*s.origin) {
		return of
	}
	return (*s.origin)[i]
}

// snapshotAt gives the number of the entry of the snapshot table that has a byte,
// or -1.
func (s *session) snapshotAt(o qcow2.HostOffset) int {
	i, found := slices.BinarySearchFunc(s.ev.Snapshots, o, func(snap qcow2.Snapshot, o qcow2.HostOffset) int {
		return cmp.Compare(snap.EntryOffset, o)
	})
	if !found {
		i--
	}
	if i < 0 || uint64(o-s.ev.Snapshots[i].EntryOffset) >= max(s.ev.Snapshots[i].EntrySize, qcow2.SnapshotHeadSize) {
		return -1
	}
	return i
}

// entryBefore gives the place that entry i of the snapshot table had before the repair.
func (s *session) entryBefore(i int) qcow2.HostOffset {
	if k, ok := s.original(problem.SnapshotEntry(i)).Entry(); ok && k < len(s.first.Snapshots) {
		return s.first.Snapshots[k].EntryOffset
	}
	return s.ev.Snapshots[i].EntryOffset
}

// snapshotLabel names a snapshot by all that a user may know it by.
func snapshotLabel(s *qcow2.Snapshot) string {
	return fmt.Sprintf("%s (%s)", check.Excerpt(s.ID), check.Excerpt(s.Name))
}

// nameMended gives a snapshot whose ID was in a part of the entry that makes no sense
// one that no other has, or had.
func (s *session) nameMended(kept []qcow2.Snapshot, entry qcow2.HostOffset) {
	i := slices.IndexFunc(kept, func(snap qcow2.Snapshot) bool { return snap.EntryOffset == entry })
	taken := make(map[string]bool)
	for k := range s.ev.Snapshots {
		if snap := &s.ev.Snapshots[k]; snap.EntryOffset != entry {
			taken[string(snap.ID)] = true
		}
	}
	if i < 0 || len(kept[i].ID) > 0 && bytes.IndexByte(kept[i].ID, 0) < 0 && !taken[string(kept[i].ID)] {
		return
	}
	id := 1
	for taken[strconv.Itoa(id)] {
		id++
	}
	s.said.Renamed = append(s.said.Renamed, s.entryBefore(s.snapshotAt(entry)))
	kept[i].ID = []byte(strconv.Itoa(id))
	s.lose("the ID of a snapshot, which gets %d as its new one: its entry makes no sense", id)
}

// writeSnapshots writes a new snapshot table and makes the header name it.
func (s *session) writeSnapshots(all []qcow2.Snapshot, codes []problem.Code) error {
	var table []byte
	for i := range all {
		snap := all[i]
		if s.h.Version > 2 && len(snap.ExtraData) < qcow2.SnapshotExtraV3 {
			size, ok := snap.DiskSize()
			if !ok {
				size = s.h.Size
			}
			snap.ExtraData = slices.Clone(snap.ExtraData)
			snap.SetExtra(snap.VMState(), size)
		}
		table = append(table, snap.Encode()...)
	}
	off := qcow2.HostOffset(0)
	if len(table) > 0 {
		var err error
		if off, err = newAllocator(s).take(s.g.Clusters(uint64(len(table)))); err != nil {
			return err
		}
		if err := s.o.write(off, table, intent{reason: "a snapshot table with complete entries", codes: codes}); err != nil {
			return err
		}
	}
	var b [12]byte
	putHalf(b[:], uint32(len(all)))
	putWord(b[4:], uint64(off))
	return s.o.write(qcow2.FieldNbSnapshots, b[:], intent{reason: "use the new snapshot table", codes: codes})
}
