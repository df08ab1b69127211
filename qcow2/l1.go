package qcow2

// MaxL1Entries is the number of entries of the largest L1 table that QEMU
// takes.
const MaxL1Entries = MaxL1Size / tableEntrySize

// ReadL1 gives a scan of the L1 table of the given number of entries at
// offset: its non-zero entries in order. At most [MaxL1Entries] are read. A
// hostile image can claim a table of that size for each of its 65,536
// snapshots, so the table is never held as a whole: what is not stored in the
// file costs nothing.
func ReadL1(img *Image, offset HostOffset, entries uint64) *TableScan[L1Entry] {
	return ScanTable[L1Entry](img, offset, min(entries, MaxL1Entries))
}
