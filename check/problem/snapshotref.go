package problem

// SnapshotRef tells which disk of an image something is about: the active one, which is
// the zero value, or that of a snapshot. A snapshot is known by the number of its entry
// in the snapshot table alone. IDs and names are text from the image: they can be empty,
// equal, or each other's, so nothing is decided by them.
type SnapshotRef uint32

// SnapshotEntry refers to entry i of the snapshot table.
func SnapshotEntry(i int) SnapshotRef { return SnapshotRef(i) + 1 }

// Entry gives the number of the entry; ok is false for the active disk.
func (r SnapshotRef) Entry() (i int, ok bool) { return int(r) - 1, r > 0 }
