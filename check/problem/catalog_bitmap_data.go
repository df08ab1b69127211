package problem

// bitmapDataRules is the part of the catalogue about the tables and the data of bitmaps.
var bitmapDataRules = []Rule{
	{Code: BitmapLowReserved, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairSafe, About: AboutBitmapEntry, Facts: Joins,
		Title: "low reserved bits are set in an entry of a bitmap table",
		Spec:  "Bitmap table; QEMU: check_table_entry",
		Why: "Bits 1 to 8 of an entry must be zero. The entry is damaged or was written by faulty software. QEMU " +
			"refuses to open the image if the bitmap is not in use.",
		Do: "Do not make an incremental backup by this bitmap. `qcheck -r` can clear the bits when the rest of " +
			"the entry makes sense. When the VM must start now and its bitmaps can be given up, take a copy and " +
			"clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapHighReserved, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairSafe, About: AboutBitmapEntry, Facts: Joins,
		Title: "high reserved bits are set in an entry of a bitmap table",
		Spec:  "Bitmap table; QEMU: check_table_entry",
		Why: "Bits 56 to 63 of an entry must be zero. The entry is damaged or was written by faulty software. QEMU " +
			"refuses to open the image if the bitmap is not in use.",
		Do: "Do not make an incremental backup by this bitmap. `qcheck -r` can clear the bits when the rest of " +
			"the entry makes sense. When the VM must start now and its bitmaps can be given up, take a copy and " +
			"clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapEntryContradiction, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy, About: AboutBitmapEntry, Facts: Joins | HidesBitmap | NoEntry,
		Title: "an entry of a bitmap table has both a cluster and the all-ones mark",
		Spec:  "Bitmap table; QEMU: check_table_entry",
		Why: "Bit 0 means \"all of this part is dirty\", and is allowed only in an entry without a cluster. With both " +
			"it is not known which of the two is meant. QEMU refuses to open the image if the bitmap is not in use.",
		Do: "Do not make an incremental backup by this bitmap. `qcheck -r` can do what `--bitmap-policy` says; " +
			"the disk itself is not affected. When the VM must start now and its bitmaps can be given up, take a " +
			"copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a " +
			"full one."},
	{Code: BitmapEntryUnaligned, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy, About: AboutBitmapEntry, Facts: Joins | HidesBitmap | NoEntry,
		Title: "an entry of a bitmap table points into the middle of a cluster",
		Spec:  "Bitmap table; QEMU: check_table_entry",
		Why: "The data of bitmaps lies in whole clusters, so the offset is a multiple of the cluster size. The entry " +
			"is damaged: what this part of the bitmap said is lost. QEMU refuses to open the image if the bitmap is " +
			"not in use.",
		Do: "Do not make an incremental backup by this bitmap. `qcheck -r` can do what `--bitmap-policy` says; " +
			"the disk itself is not affected. When the VM must start now and its bitmaps can be given up, take a " +
			"copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a " +
			"full one."},
	{Code: BitmapEntryPastEnd, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy, About: AboutBitmapEntry, Facts: Joins | LeadsPastEnd | HidesBitmap | NoEntry,
		Title: "an entry of a bitmap table points past the end of the file",
		Spec:  "Bitmap table; QEMU: load_bitmap_data",
		Why: "The file was cut off, or the entry is damaged. QEMU opens the image all the same and reads zeros there: " +
			"this part of the disk counts as unchanged, and an incremental backup misses what was written to it, " +
			"without any error.",
		Do: "Make a full backup. If the file was cut off, copy it again. Do not run `qemu-img check -r`: it " +
			"writes the zeros down for good. `qcheck -r` can do what `--bitmap-policy` says."},
	{Code: BitmapOverlap, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy, About: AboutBitmapTable, Facts: Overlap | HidesBitmap | ThroughL1,
		Title: "the table or the data of a bitmap shares a cluster with something else",
		Spec:  "Bitmaps; Host cluster management",
		Why: "A cluster belongs to a bitmap and also to another bitmap, to guest data or to another table. Each write " +
			"to one overwrites the other, and QEMU does not watch the tables and data of bitmaps when it writes. " +
			"Neither can be trusted; both are named.",
		Do: "Do not start a VM from this image: closing it writes the bitmap over the other owner. Copy the " +
			"image, and make a full backup. `qcheck -r` can do with the bitmap what `--bitmap-policy` says."},
	{Code: BitmapTrailingBits, Severity: Warning, Structure: StructBitmapData, Repair: RepairNone, About: AboutBitmapData,
		Title: "bits are set after the last bit of a bitmap",
		Spec:  "Bitmap data",
		Why: "The last cluster of a bitmap is longer than the bitmap, and what is left over must be zero. QEMU " +
			"ignores it, but other readers may take it for dirty ranges past the end of the disk, and QEMU's own " +
			"digest of the bitmap covers some of it. Faulty software leaves such bits. Where the granularity of the " +
			"bitmap or the size of the disk is damaged, they are the bits of what lies further on.",
		Do: "If the granularity of the bitmap and the size of the disk are what they should be, nothing needs to " +
			"be done. `qcheck -r` leaves the bits as they are: clearing dirty bits could make an incremental backup miss data."},
	{Code: BitmapDataUniform, Severity: Note, Structure: StructBitmapData, Repair: RepairSafe, About: AboutBitmapData, Facts: Joins,
		Title: "a cluster of a bitmap is all zeros or all ones",
		Spec:  "Bitmap table",
		Why:   "Such a cluster can be left out: one mark in the bitmap table says the same. It only costs space.",
		Do:    "Nothing needs to be done. `qcheck -r --compact-bitmaps` frees the cluster."},
	{Code: BitmapDataUnreadable, Severity: Corruption, Structure: StructBitmapData, Repair: RepairPolicy, About: AboutBitmapData, Facts: Joins | HidesBitmap,
		Title: "the data of a bitmap cannot be read",
		Spec:  "Bitmap data; QEMU: load_bitmap_data",
		Why: "The disk gives an error for this cluster. What this part of the bitmap said is not known, and QEMU " +
			"refuses to open the image.",
		Do: "Make a full backup, and look after the disk that the image lies on: copy the image elsewhere with a " +
			"tool that goes on after errors. `qcheck -r` can do what `--bitmap-policy` says."},
}
