package problem

// refcountRules is the part of the catalogue about the refcount table, its blocks, and what they say.
var refcountRules = []Rule{
	{Code: RefcountEntryReserved, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe, About: AboutRefcountEntry, Facts: Joins,
		Title: "reserved bits are set in an entry of the refcount table",
		Spec:  "Host cluster management, Refcount table entry",
		Why: "Bits 0 to 8 must be zero. The entry is damaged, and the block that it names may not be the right one. " +
			"QEMU opens the image, and fails or marks it corrupt when it needs a refcount from that block.",
		Do: "`qcheck -r` can build the refcounts again from what refers to the clusters; no data is lost. Until " +
			"then the data can be read, for example by `qemu-img convert` into a new image."},
	{Code: RefcountEntryUnaligned, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe, About: AboutRefcountEntry, Facts: Joins,
		Title: "an entry of the refcount table points into the middle of a cluster",
		Spec:  "Host cluster management, Refcount table entry; QEMU: check_refblocks",
		Why: "Refcount blocks are clusters, so their offset is a multiple of the cluster size. The entry is damaged: " +
			"the refcounts of the clusters that the block covers are not known, so nobody can tell which of them " +
			"are free. Guest data can still be read.",
		Do: "`qcheck -r` can build the refcounts again from what refers to the clusters; no data is lost. Until " +
			"then do not start a VM from the image."},
	{Code: RefcountEntryPastEnd, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe, About: AboutRefcountEntry, Facts: Joins | LeadsPastEnd,
		Title: "an entry of the refcount table points past the end of the file",
		Spec:  "Host cluster management, Refcount table entry; QEMU: check_refblocks",
		Why: "The file was cut off, or the entry is damaged. The refcounts of the clusters that the block covers read " +
			"as zero, so that they appear to be free: QEMU would write new data over data in use.",
		Do: "Do not start a VM from the image. Do not run `qemu-img check -r` either: it can make the file as " +
			"long as the wrong offset says. `qcheck -r` can build the refcounts again from what refers to the " +
			"clusters; no data is lost."},
	{Code: RefcountBlockOverlap, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe, About: AboutTable, Facts: Overlap | ThroughL1,
		Title: "a refcount block is used twice, or overlaps other metadata",
		Spec:  "Host cluster management, Refcount table entry; QEMU: check_refblocks",
		Why: "Two entries of the refcount table name the same block, or a block lies on another table of the image. " +
			"Refcounts of different clusters then overwrite each other, or the other table. Each allocation makes " +
			"it worse.",
		Do: "Do not start a VM from the image, and copy it before anything else. `qcheck -r` can build the " +
			"refcounts again in clusters that are really free; no data is lost unless the other table was " +
			"overwritten already, which other findings say."},
	{Code: RefcountTooLow, Severity: Corruption, Structure: StructRefcountBlock, Repair: RepairSafe, About: AboutRefcount, Facts: Recounted,
		Title: "clusters have a lower refcount than there are references to them",
		Spec:  "Host cluster management; QEMU: check_refcounts",
		Why: "A cluster in use counts as free, or one that is shared counts as used once. QEMU will give it to " +
			"something else, or write to it in place though a snapshot shows it too: two owners overwrite each " +
			"other's data. It comes from a crash, from two writers at once, or from a full disk.",
		Do: "Do not start a VM from the image. `qcheck -r` can set the refcounts to the number of references; no " +
			"data is lost. Until then the data can be read, for example by `qemu-img convert` into a new image."},
	{Code: RefcountTooHigh, Severity: Leak, Structure: StructRefcountBlock, Repair: RepairSafe, About: AboutRefcount, Facts: Recounted,
		Title: "clusters have a higher refcount than there are references to them",
		Spec:  "Host cluster management; QEMU: check_refcounts",
		Why: "The refcount is higher than the number of references, of which there may be none: the cluster will not be " +
			"freed when it is not in use any more. Space is lost, nothing else. A process that was " +
			"killed between allocating a cluster and using it leaves some; many may come from an interrupted " +
			"snapshot or resize. They are called leaks only if every structure that could own them was read and is " +
			"sound.",
		Do: "The image can be used as it is. `qcheck -r` can free them. Do not use `qemu-img check -r leaks` for " +
			"it where anything else is reported, or where the image has both snapshots and bitmaps: it can " +
			"destroy data. `qemu-img convert` makes a new image without them."},
	{Code: RefcountOverflow, Severity: Corruption, Structure: StructRefcountBlock, Repair: RepairNone, About: AboutRefcount,
		Title: "clusters have more references than a refcount of this width can count",
		Spec:  "Host cluster management; Header, refcount_order",
		Why: "The width of refcounts is fixed when an image is created. Here a cluster is shared by more snapshots or " +
			"entries than the width can express, so the count is wrong, and the cluster will count as free while it " +
			"is still in use.",
		Do: "Delete snapshots that are not needed, on a copy of the image, or make a new image with wider refcounts " +
			"(`qemu-img convert -o refcount_bits=16`, without snapshots)."},
	{Code: RefcountMissing, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe, About: AboutRefcount, Facts: Recounted,
		Title: "clusters in use have no refcount at all",
		Spec:  "Host cluster management, Refcount table entry; QEMU: qcow2_get_refcount",
		Why: "The refcount table has no block that covers them, so they count as free, and QEMU will give them to " +
			"something else. The table's entry was lost, or software that does not keep refcounts wrote the image.",
		Do: "Do not start a VM from the image. `qcheck -r` can add the missing blocks, or build the refcounts " +
			"again; no data is lost."},
	{Code: OwnerUnknown, Severity: InDoubt, Structure: StructRefcountBlock, Repair: RepairNone, About: AboutRefcount,
		Title: "clusters have no known owner, but a damaged structure may own them",
		Spec:  "Host cluster management",
		Why: "Nothing that could be read refers to these clusters, but some structure could not be read whole and " +
			"sound, and they may belong to it. To free them would make the damage final. So they are not called " +
			"leaks and no repair releases them. The structure is named.",
		Do: "Deal with the named structure first: restore it from a backup or repair it. Do not run `qemu-img check " +
			"-r` on this image: it calls these clusters leaks and frees them."},
}
