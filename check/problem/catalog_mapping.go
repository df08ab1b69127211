package problem

// mappingRules is the part of the catalogue about the mapping from guest to host: L1 tables, L2 tables and what they point to.
var mappingRules = []Rule{
	{Code: L1ReservedBits, Severity: Corruption, Structure: StructL1Table, Repair: RepairSafe, About: AboutL1Entry, Facts: Joins | ThroughL1,
		Title: "reserved bits are set in an L1 entry",
		Spec:  "Cluster mapping, L1 table entry",
		Why: "Bits 0 to 8 and 56 to 62 of an L1 entry must be zero. QEMU masks them out in places and not in others. " +
			"A bit that is set where none may be is a sign of damage to the disk or to the memory of the machine " +
			"that wrote it, and the rest of the entry may be damaged too.",
		Do: "`qcheck -r` can clear the bits when the rest of the entry makes sense. Until then do not let QEMU " +
			"write to the image; copy the data out with `qemu-img convert` and compare it with a backup."},
	{Code: L1Unaligned, Severity: Corruption, Structure: StructL1Table, Repair: RepairLossy, About: AboutL1Entry, Facts: Joins | ThroughL1,
		Title: "an L1 entry points to an L2 table that is not at the start of a cluster",
		Spec:  "Cluster mapping, L1 table entry; QEMU: check_refcounts_l1",
		Why: "L2 tables are clusters, so their offset is a multiple of the cluster size. This one is not; the entry " +
			"is damaged. The part of the disk that the table maps cannot be read, QEMU marks the image corrupt when " +
			"it gets there. Its clusters are not called leaks, since they may belong to the lost table.",
		Do: "Restore the image from a backup, or read what is left of it with `qemu-img convert`. Do not run " +
			"`qemu-img check -r`: it frees the clusters of the lost table. `qcheck -r --allow-data-loss` can " +
			"clear the entry, which loses this part of the disk."},
	{Code: L1PastEnd, Severity: Corruption, Structure: StructL1Table, Repair: RepairLossy, About: AboutL1Entry, Facts: Joins | LeadsPastEnd | ThroughL1,
		Title: "an L1 entry points to an L2 table past the end of the file",
		Spec:  "Cluster mapping, L1 table entry; QEMU: check_refcounts_l1",
		Why: "The file was cut off, or the entry is damaged. Past the end of the file everything reads as zeros, so " +
			"the part of the disk that this table maps appears to be empty, and QEMU may write other data where the " +
			"table is thought to be.",
		Do: "If the file was cut off (by an incomplete copy, for example), copy it again. Otherwise restore it from a " +
			"backup. Do not run `qemu-img check -r`: it frees what belongs to the lost table, and can make the file " +
			"as long as the wrong offset says."},
	{Code: L1Copied, Severity: Corruption, Structure: StructL1Table, Repair: RepairSafe, About: AboutL1Entry, Facts: Joins | ThroughL1 | Recounted,
		Title: "the COPIED flag of an L1 entry contradicts the refcount of its L2 table",
		Spec:  "Cluster mapping, L1 table entry, bit 63; QEMU: check_oflag_copied",
		Why: "The flag says that the L2 table belongs to the active disk alone and may be written in place. If it is " +
			"set on a table that a snapshot shares, a write changes the snapshot. If it is not set on one that is " +
			"not shared, QEMU makes a needless copy.",
		Do: "`qcheck -r` can set the flag as the refcount says. Until then do not start a VM from the image if " +
			"it has snapshots that you need."},
	{Code: L2ReservedBits, Severity: Corruption, Structure: StructL2Table, Repair: RepairSafe, About: AboutL2Entry, Facts: Joins,
		Title: "reserved bits are set in an L2 entry",
		Spec:  "Cluster mapping, Standard Cluster Descriptor; Extended L2 Entries",
		Why: "Bits 1 to 8 and 56 to 61 must be zero, and bit 0 as well in version 2 images and with extended L2 " +
			"entries. In an image of version 2 that bit 0 would be the zero flag, which does not exist there: QEMU " +
			"marks the image corrupt when it reads the cluster, and `qemu-img check` does not see it.",
		Do: "`qcheck -r` can clear the bits. If a VM wrote the image, look for damage to the host's memory or " +
			"disk as well. Copy the data out with `qemu-img convert` and compare it with a backup."},
	{Code: L2Unaligned, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins,
		Title: "an L2 entry points into the middle of a cluster",
		Spec:  "Cluster mapping, Standard Cluster Descriptor; QEMU: check_refcounts_l2",
		Why: "Data clusters start at a multiple of the cluster size. The entry is damaged, and what the guest had in " +
			"this cluster cannot be found through it. QEMU marks the image corrupt when the guest gets there. Where " +
			"the cluster reads as zeros anyway, nothing is lost.",
		Do: "Restore this part of the disk from a backup. `qcheck -r --allow-data-loss` can clear the entry: " +
			"without loss where the cluster reads as zeros, otherwise the guest sees zeros or the backing file " +
			"there."},
	{Code: L2PastEnd, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins | LeadsPastEnd,
		Title: "an L2 entry points past the end of the file",
		Spec:  "Cluster mapping, Standard Cluster Descriptor; QEMU: qcow2_inc_refcounts_imrt",
		Why: "The file was cut off, or the entry is damaged. The guest reads zeros from this cluster; a write there " +
			"makes the file as long as the entry says. The last cluster of an image may be partly missing; this one " +
			"lies beyond the end by a cluster or more. Where the entry is for what lies past the end of the disk, too, " +
			"nobody reads it: QEMU was killed while it shrank the disk.",
		Do: "If the file was cut off (by an incomplete copy, a full file system), copy it again or restore it. " +
			"`qcheck -r --allow-data-loss` can clear the entry, so that the guest sees zeros or the backing file " +
			"there. Where nobody reads it `qcheck -r` is enough."},
	{Code: L2Copied, Severity: Corruption, Structure: StructL2Table, Repair: RepairSafe, About: AboutL2Entry, Facts: Joins | Recounted,
		Title: "the COPIED flag of an L2 entry contradicts the refcount of its cluster",
		Spec:  "Cluster mapping, L2 table entry, bit 63; QEMU: check_oflag_copied",
		Why: "The flag says that the cluster belongs to the active disk alone and may be written in place. If it is " +
			"set on a cluster that a snapshot shares, a write changes the snapshot as well. If it is not set on one " +
			"that is not shared, QEMU makes a needless copy.",
		Do: "`qcheck -r` can set the flag as the refcount says. Until then do not start a VM from the image if " +
			"it has snapshots that you need. If the refcount is reported as wrong too, that is the cause."},
	{Code: CompressedCopied, Severity: Corruption, Structure: StructL2Table, Repair: RepairSafe, About: AboutL2Entry, Facts: Joins,
		Title: "a compressed cluster has the COPIED flag",
		Spec:  "Cluster mapping, L2 table entry, bit 63; QEMU: check_refcounts_l2",
		Why: "Compressed clusters are never written in place, so the flag must not be set. Reading is not affected. " +
			"The entry was written by faulty software or damaged.",
		Do: "`qcheck -r` can clear the flag; no data is lost."},
	{Code: CompressedMisplaced, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins | LeadsPastEnd,
		Title: "a compressed cluster lies outside the file or where it cannot lie",
		Spec:  "Cluster mapping, Compressed Clusters Descriptor; QEMU: qcow2_parse_compressed_l2_entry",
		Why: "The entry of a compressed cluster says where its data starts and how many sectors it has. This one " +
			"points past the end of the file, or has bits set above the largest offset that there is. The guest " +
			"gets an I/O error when it reads the cluster.",
		Do: "Restore this part of the disk from a backup. If the file was cut off, copy it again. `qcheck -r " +
			"--allow-data-loss` can clear the entry, so that the guest sees zeros or the backing file there."},
	{Code: CompressedWithDataFile, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins,
		Title: "there is a compressed cluster in an image with an external data file",
		Spec:  "Header, incompatible_features, bit 2; QEMU: qcow2_get_host_offset",
		Why: "With an external data file guest data lies there, at its own offset, and cannot be compressed. QEMU " +
			"marks the image corrupt when the guest gets to the cluster. The entry is damaged, or the feature bit " +
			"is.",
		Do: "If the image never had an external data file, restore the header from a backup. Otherwise restore " +
			"this part of the disk. `qcheck -r --allow-data-loss` can clear the entry."},
	{Code: SubclusterConflict, Severity: Corruption, Structure: StructL2Table, Repair: RepairSafe, About: AboutL2Entry, Facts: Joins,
		Title: "a subcluster is called both allocated and zero",
		Spec:  "Extended L2 Entries, Subcluster Allocation Bitmap; QEMU: qcow2_get_subcluster_type",
		Why: "With extended L2 entries each of the 32 parts of a cluster has a bit for \"allocated\" and one for " +
			"\"reads as zeros\". Both at once contradict each other. QEMU takes the whole entry for invalid: the guest " +
			"gets an I/O error wherever in this cluster it reads or writes, in the 31 other parts as well, and QEMU " +
			"marks the image corrupt.",
		Do: "`qcheck -r` makes the whole cluster readable again: a part that holds data is kept as data, one that " +
			"holds nothing but zeros reads as zeros. Which of the two bits is wrong cannot be told for certain: " +
			"compare this part of the disk with a backup."},
	{Code: SubclusterUnplaced, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins,
		Title: "subclusters are allocated without a place, or a compressed cluster has subclusters",
		Spec:  "Extended L2 Entries, Subcluster Allocation Bitmap; QEMU: qcow2_get_subcluster_type",
		Why: "A subcluster that is allocated needs a host cluster, and this entry has none; or the entry is of a " +
			"compressed cluster, which has no subclusters, and its bitmap is not zero. In the first case the " +
			"guest's data cannot be found, and QEMU marks the image corrupt.",
		Do: "Restore this part of the disk from a backup. The bitmap of a compressed cluster can be cleared " +
			"without loss; allocated subclusters without a place can only be given up."},
	{Code: L2ToHeader, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins,
		Title: "an L2 entry points to the image's header",
		Spec:  "Cluster mapping, Standard Cluster Descriptor",
		Why: "Offset 0 together with the COPIED flag means the first cluster of the file, and that is the header. " +
			"Only with an external data file does it mean guest data. A write of the guest would overwrite the " +
			"header. The entry is damaged, or the feature bit of the external data file is missing.",
		Do: "Do not start a VM from this image. If it used to have an external data file, restore the header " +
			"from a backup. `qcheck -r --allow-data-loss` can clear the entry, which gives up what the guest had " +
			"there."},
	{Code: DataFileOffset, Severity: Corruption, Structure: StructL2Table, Repair: RepairNone, About: AboutL2Entry, Facts: Joins,
		Title: "an image with an external data file maps a guest cluster to another offset",
		Spec:  "Header, incompatible_features, bit 2; QEMU: qcow2_get_host_offset",
		Why: "In an external data file each guest cluster lies at its own guest offset. An entry that names another " +
			"one is damaged. QEMU marks the image corrupt when the guest gets there; `qemu-img check` does not see " +
			"it.",
		Do: "If the data file is marked as raw, it holds the disk by itself and can be used without the image. " +
			"Otherwise compare with a backup: which data the guest should see here cannot be told from the image."},
	{Code: MetadataOverlap, Severity: Corruption, Structure: StructDataCluster, Repair: RepairLossy, About: AboutCluster, Facts: Overlap | ThroughL1,
		Title: "a cluster has two owners, and one of them is metadata",
		Spec:  "Host cluster management; QEMU: qcow2_pre_write_overlap_check",
		Why: "A table of the image and something else (guest data, another table) claim the same cluster. Each write " +
			"to one destroys the other, and a guest can rewrite the image's structure. Refcounts may agree with it, " +
			"so that `qemu-img check` finds nothing. Software that allocates clusters twice makes such images, and " +
			"so does writing to one image from two places.",
		Do: "Do not start a VM from this image, and copy it before anything else. Both owners are named: one of " +
			"them holds the other's data now. Restore from a backup what turns out to be wrong. `qcheck -r " +
			"--allow-data-loss` can give the guest's side a copy of its own."},
	{Code: DataShared, Severity: Warning, Structure: StructDataCluster, Repair: RepairNone, About: AboutCluster,
		Title: "two guest clusters share one host cluster",
		Spec:  "Host cluster management",
		Why: "Two places of one disk show the same host cluster, and its refcount says so. The format allows it, and " +
			"each is copied before it is written; QEMU never makes it. It may come from software that removes " +
			"duplicates, or from damage that happens to look sound.",
		Do: "If you know of such software nothing needs to be done. Otherwise compare both places with a backup: one " +
			"of them may show the other's data. `qemu-img convert` makes a new image without sharing."},
	{Code: L2TableShared, Severity: Corruption, Structure: StructL1Table, Repair: RepairLossy, About: AboutTable, Facts: ThroughL1,
		Title: "one L2 table is used for two parts of the same disk",
		Spec:  "Cluster mapping; Host cluster management",
		Why: "Two L1 entries of one L1 table name the same L2 table, so two parts of the disk show the same content, " +
			"and a write to one changes the other, or breaks the refcounts. One of the entries is damaged; the " +
			"table that it should name may be among the unreferenced clusters.",
		Do: "Copy the image before anything else, and compare both parts with a backup. Do not run `qemu-img " +
			"check -r`: it may free the table that is missing. `qcheck -r --allow-data-loss` can clear one of " +
			"the entries."},
	{Code: MappedPastDisk, Severity: Corruption, Structure: StructL1Table, Repair: RepairNone, About: AboutL2Entry, Facts: Joins,
		Title: "something is mapped past the end of the virtual disk",
		Spec:  "Cluster mapping; Header, size",
		Why: "The active tables map clusters beyond the virtual size. Only the state of a virtual machine, which " +
			"snapshots keep there, explains that, and there is none. The virtual size in the header was damaged, or " +
			"the disk was shrunk by software that did not clean up.",
		Do: "If the disk was larger before, the size in the header (bytes 24 to 31) is wrong: restore it from a " +
			"backup, and do not use the image until then. Otherwise the clusters are wasted space; `qemu-img " +
			"convert` makes an image without them."},
	{Code: OrphanL2Table, Severity: Corruption, Structure: StructL2Table, Repair: RepairReattach, About: AboutTable,
		Title: "a cluster that nothing refers to looks like a lost L2 table",
		Spec:  "Cluster mapping, L1 table entry",
		Why: "It reads as an L2 table whose entries name clusters that nothing refers to either, and an L1 table has " +
			"a hole or a bad entry where it could belong. Then a whole part of the disk has come off by one damaged " +
			"entry: its data is still there, but the guest sees zeros, and whoever frees \"leaked\" clusters " +
			"destroys it. The finding says where it belongs, and why. It is a warning only where the table may as " +
			"well be left over from an operation that was cut short: there are snapshots, the dirty bit is set, the " +
			"entries do not all have COPIED set with a refcount of one, or nothing but zeros is stored there.",
		Do: "Never run `qemu-img check -r` on this image: it frees the data. Copy the image first. `qcheck -r " +
			"--reattach` can hang the table back where the evidence allows only one place."},
	{Code: NotAnL2Table, Severity: Corruption, Structure: StructL2Table, Repair: RepairLossy, About: AboutTable, Facts: ThroughL1,
		Title: "a cluster that is used as an L2 table does not hold one",
		Spec:  "Cluster mapping, L2 table entry",
		Why: "An L1 entry names this cluster, but most of what stands in it makes no sense as L2 entries. It was " +
			"overwritten by something else, or the L1 entry names the wrong cluster. The part of the disk that the " +
			"table should map cannot be read, and its clusters are not called leaks. This is one finding in place " +
			"of one for each entry.",
		Do: "Copy the image, write nothing to it, and restore this part of the disk from a backup. If the right " +
			"table still exists, it may be pointed out among the findings as a lost L2 table (MAP020). `qcheck " +
			"-r --allow-data-loss` can only give this part up."},
	{Code: TableWiped, Severity: Corruption, Structure: StructL2Table, Repair: RepairNone, About: AboutTable,
		Title: "a table is all zeros, while data that nothing refers to fits there",
		Spec:  "Cluster mapping; QEMU: qcow2_cache_flush, discard_in_l2_slice",
		Why: "An L2 or L1 table that reads as zeros maps nothing, and the image is in order as far as a reader can " +
			"tell. But clusters that hold data have a refcount and no owner, and a wiped table explains that: a hole " +
			"punched in the wrong place, or a write that was lost. Then a whole part of the disk reads as zeros. " +
			"`qemu-img check` calls its clusters leaks and says that no data is harmed. It is in doubt only where an " +
			"interrupted operation of QEMU's can have left the same: the dirty bit is set, the table is the newest one, " +
			"the clusters are the last ones or one short run, or all tables before or behind it are empty too.",
		Do: "Copy the image before anything else, and start no VM from it: QEMU may give these clusters to something " +
			"else. Never run `qemu-img check -r`: it frees the data for good. Restore this part of the disk from a " +
			"backup, or let a recovery tool look at the clusters that are named. No repair frees them but one with " +
			"`--free-unowned`."},
	{Code: ClusterNotStored, Severity: Warning, Structure: StructDataCluster, Repair: RepairNone, About: AboutCluster,
		Title: "allocated clusters are holes of the file (--data)",
		Spec:  "Standard Cluster Descriptor",
		Why: "The guest's tables say that data is there, and the file system stores none, so that the guest reads " +
			"zeros. Clusters that were allocated in advance look like that, and so do zeros in a copy made with " +
			"`cp --sparse`, `rsync -S` or `fallocate -d`: then it is a note. It is a warning where such clusters are " +
			"few and all others are stored as a whole: programs that manage qcow2 images have punched holes into the " +
			"wrong clusters, and nothing else tells of data that was lost like that.",
		Do: "For a note, nothing. For a warning, compare the named part of the disk with a backup; start with the " +
			"files that the guest has there. A repair can do nothing: what was there is gone."},
	{Code: CompressedUnreadable, Severity: Corruption, Structure: StructDataCluster, Repair: RepairLossy, About: AboutL2Entry, Facts: Joins,
		Title: "a compressed cluster cannot be decompressed (--data)",
		Spec:  "Cluster mapping, Compressed Clusters Descriptor; QEMU: qcow2_co_decompress",
		Why: "The compressed data does not give one whole cluster. It was overwritten or damaged on the disk, or the " +
			"compression type in the header is wrong, if that goes for all of them. The guest gets an I/O error " +
			"when it reads the cluster.",
		Do: "Restore this part of the disk from a backup, or write it anew from the guest: a cluster that is written " +
			"as a whole is not read before. `qcheck -r --data --allow-data-loss` replaces it by zeros or by the backing " +
			"file."},
}
