package check

// snapshotRules is the part of the catalogue about the snapshot table.
var snapshotRules = []Rule{
	{Code: SNP001, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairLossy,
		Title: "table truncated or running past its bounds or the file"},
	{Code: SNP002, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairLossy,
		Title: "a snapshot's L1 table misaligned, too large, or past the end"},
	{Code: SNP003, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairSafe,
		Title: "v3 image: extra data shorter than 16 bytes"},
	{Code: SNP004, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairLossy,
		Title: "extra data over 1,024 bytes, name or ID truncated"},
	{Code: SNP005, Severity: Warning, Structure: StructSnapshotTable, Repair: RepairNone,
		Title: "two snapshots with the same ID; empty ID"},
	{Code: SNP006, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairNone,
		Title: "snapshots in an image with an external data file"},
	{Code: SNP007, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairNone,
		Title: "the snapshot's L1 is too small for its disk size"},
}
