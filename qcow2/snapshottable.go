package qcow2

// SnapshotTable is the snapshot table as far as it could be walked.
type SnapshotTable struct {
	// Snapshots holds the whole entries, in the order of the table.
	Snapshots []Snapshot
	// Extent is what they cover: from snapshots_offset to the end of the last
	// entry, without its padding (QEMU's snapshots_size).
	Extent Extent
	// Stop is how the walk ended; StopEnd after all nb_snapshots entries.
	Stop TableStop
	// Partial is the entry at Stop as far as it could be decoded: its head,
	// with the place of its L1 table, is sound to read even when its extra
	// data, ID or name are not. Nil when not even the head is there.
	Partial *Snapshot
}

// ReadSnapshotTable walks the nb_snapshots entries of the snapshot table at
// snapshots_offset. It never fails: where it cannot go on it says so in Stop,
// and what was read until then stands. It reads and keeps no more than the file
// holds and QEMU's limits allow (MaxSnapshots entries, MaxSnapshotExtraData
// bytes of extra data in each, MaxSnapshotsTableSize bytes in all), whatever
// the header claims.
//
// An entry whose last bytes lie past the end of the file is whole as long as
// they lie in the file's last cluster, which reads as zeros where it is
// missing. QEMU reads zeros further on as well; entries made of them are not
// given (StopPastEnd).
func ReadSnapshotTable(img *Image) SnapshotTable {
	base := img.Header.SnapshotsOffset
	t := SnapshotTable{Extent: Extent{Offset: base}}
	w := entryWindow{img: img}
	at, end := base, base
	for i := range img.Header.NbSnapshots {
		t.Stop.Index = int(i)
		if i == MaxSnapshots {
			t.Stop.Reason, t.Stop.Extent = StopTooMany, Extent{Offset: at}
			break
		}
		s, reason, err := readSnapshot(&w, at, uint64(at-base))
		if reason != StopEnd {
			t.Stop.Reason, t.Stop.Err = reason, err
			t.Stop.Extent = img.inFile(Extent{at, max(SnapshotHeadSize, s.size())})
			if s.EntrySize != 0 {
				t.Partial = &s
			}
			break
		}
		t.Snapshots = append(t.Snapshots, s)
		t.Stop.Index++
		end = at + HostOffset(s.size())
		at += HostOffset(s.EntrySize)
	}
	t.Extent.Length = uint64(end - base)
	return t
}

// size is the entry's size in bytes without padding, as it claims.
func (s *Snapshot) size() uint64 {
	if s.EntrySize == 0 {
		return 0
	}
	return SnapshotHeadSize + uint64(s.ExtraDataSize) + uint64(s.IDSize) + uint64(s.NmSize)
}

// readSnapshot reads the entry at offset at, which before bytes of table
// precede. EntrySize is 0 when there is not even a head.
func readSnapshot(w *entryWindow, at HostOffset, before uint64) (Snapshot, StopReason, error) {
	img := w.img
	switch {
	case at >= HostOffset(max(img.size, 0)):
		return Snapshot{}, StopPastEnd, nil
	case !img.reaches(at, SnapshotHeadSize):
		return Snapshot{}, StopCut, nil
	}
	head, err := w.bytes(at, SnapshotHeadSize)
	if err != nil {
		return Snapshot{}, StopUnreadable, err
	}
	s, _ := DecodeSnapshot(head, at)
	size := s.size()
	reason := StopEnd
	switch {
	case s.ExtraDataSize > MaxSnapshotExtraData:
		reason = StopExtraData
	case before+size > MaxSnapshotsTableSize:
		reason = StopTableSize
	case !img.reaches(at, size):
		reason = StopCut
	}
	if reason != StopEnd {
		// Of an entry that is not whole, the extra data still tells the size
		// of the disk and of the VM state.
		size = img.inFile(Extent{at, min(size, SnapshotHeadSize+MaxSnapshotExtraData)}).Length
		if b, err := w.bytes(at, size); err == nil {
			s, _ = DecodeSnapshot(b, at)
		}
		return s, reason, nil
	}
	b, err := w.bytes(at, size)
	if err != nil {
		return s, StopUnreadable, err
	}
	s, _ = DecodeSnapshot(b, at)
	return s, StopEnd, nil
}
