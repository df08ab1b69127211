package problem

// snapshotRules is the part of the catalogue about the snapshot table.
var snapshotRules = []Rule{
	{Code: SnapshotTableShort, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairLossy, About: AboutSnapshot,
		Title: "the snapshot table ends before its last entry does",
		Spec:  "Snapshots; QEMU: qcow2_do_read_snapshots",
		Why: "The entries of the table follow each other, and each says how long it is. Here one of them runs past " +
			"the end of the file or past what QEMU takes (64 MiB). It and all that follow are not known, nor which " +
			"clusters they use. QEMU refuses to open the image.",
		Do: "If the file was cut off, copy it again. The active disk does not depend on the snapshots. `qcheck " +
			"-r --allow-data-loss` can keep the entries that can be read; what the others hold is then lost."},
	{Code: SnapshotL1Misplaced, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairLossy, About: AboutSnapshot, Facts: LeadsToL1,
		Title: "the L1 table of a snapshot is misplaced or too large",
		Spec:  "Snapshots, Snapshot table entry; QEMU: qcow2_validate_table",
		Why: "The L1 table of a snapshot must start at a multiple of the cluster size, lie within the file and have " +
			"no more than 32 MiB. The entry is damaged: the snapshot cannot be used, and the clusters that belong " +
			"to it alone are not called leaks, since they may come back with it.",
		Do: "The active disk and the other snapshots are not affected. Do not run `qemu-img check -r`: it frees " +
			"what the snapshot owns. `qcheck -r --allow-data-loss` can drop the snapshot."},
	{Code: SnapshotFieldsMissing, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairSafe, About: AboutSnapshot,
		Title: "a snapshot of a version 3 image lacks fields that it must have",
		Spec:  "Snapshots, Snapshot table entry, extra data; QEMU: qcow2_check_read_snapshot_table",
		Why: "Entries in version 3 images have at least 16 bytes of extra data: the size of the VM state and of the " +
			"disk. Without them QEMU takes the image's present size for the snapshot's, which is wrong after a " +
			"resize. Old software, or an upgrade from version 2, leaves such entries.",
		Do: "`qcheck -r` can write the entry anew with the fields filled in. If the disk was resized since, note " +
			"which size it had."},
	{Code: SnapshotEntryOversized, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairLossy, About: AboutSnapshot,
		Title: "an entry of the snapshot table is oversized or cut off",
		Spec:  "Snapshots, Snapshot table entry; QEMU: qcow2_do_read_snapshots",
		Why: "The entry claims more than 1,024 bytes of extra data, which QEMU refuses, or its name or ID runs past " +
			"the table. Nothing but the sizes in the entry leads to the next one: where the entries that follow can be " +
			"recognised all the same they are checked like any other, where not the table ends here, and nothing that " +
			"they may own is called a leak.",
		Do: "Do not delete or take snapshots until this is mended. The active disk does not depend on the table. " +
			"Restore it from a backup; or let `qcheck -r --allow-data-loss` keep the entries that could be read."},
	{Code: SnapshotIDAmbiguous, Severity: Warning, Structure: StructSnapshotTable, Repair: RepairNone, About: AboutSnapshot,
		Title: "two snapshots have the same ID, or one has none",
		Spec:  "Snapshots, Snapshot table entry",
		Why: "IDs must be unique. With two equal ones `qemu-img snapshot -a` and `-d` take the first that they find, " +
			"which may not be the one you mean. Software other than QEMU makes such tables.",
		Do: "Use names in place of IDs, if the names differ. To be sure which snapshot is which, read each from a " +
			"copy."},
	{Code: SnapshotWithDataFile, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairNone, About: AboutSnapshot,
		Title: "an image with an external data file has internal snapshots",
		Spec:  "Header, incompatible_features, bit 2",
		Why: "With an external data file clusters have no refcounts, so nothing protects what a snapshot shows from " +
			"being overwritten. The format does not allow it. Either the feature bit or the number of snapshots in " +
			"the header is wrong.",
		Do: "Look at `qcheck info`, and restore the header from a backup. Do not rely on the content of the " +
			"snapshots."},
	{Code: SnapshotL1TooSmall, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairNone, About: AboutSnapshot,
		Title: "the L1 table of a snapshot is too small for its disk",
		Spec:  "Snapshots, Snapshot table entry",
		Why: "The table does not cover the virtual disk as large as it was when the snapshot was taken. The entry is " +
			"damaged in its size or in the table's. The end of the disk would be missing when the snapshot is used.",
		Do: "Do not go back to this snapshot. Restore the table from a backup, or read the part that is there from a " +
			"copy."},
	{Code: SnapshotsOrphaned, Severity: Corruption, Structure: StructSnapshotTable, Repair: RepairReattach, About: AboutSnapshot,
		Title: "there are snapshots that the header does not lead to",
		Spec:  "Header, nb_snapshots and snapshots_offset; Snapshots",
		Why: "The header counts fewer snapshots than the table has, or leads elsewhere. The entries are there and make " +
			"sense: each has an L1 table that nothing else refers to, and all that it leads to lacks just these " +
			"references. QEMU does not see these snapshots, and `qemu-img check` calls what they own leaks. It is in " +
			"doubt where the deletion of a snapshot that was cut short may have left the entry.",
		Do: "Never run `qemu-img check -r` on this image: it frees what the snapshots own. `qcheck -r --reattach` leads " +
			"the header back to them."},
}
