package problem

// headerRules is the part of the catalogue about the file header (qcow2 specification, "Header").
var headerRules = []Rule{
	{Code: NotQcow2, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the file does not start as a qcow2 image does",
		Spec:  "Header, magic",
		Why: "Every qcow2 image starts with the four bytes \"QFI\\xfb\"; this file does not. It is of another format " +
			"(a raw disk, VMDK, an archive), or empty, or it was a qcow2 image whose first bytes were overwritten. " +
			"Nothing else can be said of it, and the exit code is 63.",
		Do: "Look at what it is with `qemu-img info` or `file`. If it was a qcow2 image once, write nothing to it: " +
			"all but the first cluster may still be there, and a backup of the header or the parameters with which " +
			"the image was created can bring it back."},
	{Code: VersionUnknown, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader, Facts: UnknownFormat,
		Title: "the version is not 2 or 3",
		Spec:  "Header, version; QEMU: qcow2_do_open",
		Why: "There are versions 2 and 3 of the format. Another number means an image from software that is newer " +
			"than qcheck, or a damaged header. QEMU refuses to open it. What can be checked under the rules of " +
			"version 3 is checked all the same, and the verdict is \"unsupported\".",
		Do: "If the image comes from newer software, use that software. If it was an ordinary image before, the " +
			"header is damaged: restore its first cluster from a backup. The version is in bytes 4 to 7."},
	{Code: ClusterSizeInvalid, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the cluster size is not one that can be used",
		Spec:  "Header, cluster_bits; Extended L2 Entries; QEMU: qcow2_do_open",
		Why: "Clusters are the unit of everything in the image. Their size is 2 to the power of cluster_bits, which " +
			"must be 9 to 21 (QEMU knows no more than 2 MiB), and at least 14 with extended L2 entries. Outside of " +
			"this range nothing beyond the header can be found. The cause is nearly always a damaged header.",
		Do: "Restore the first cluster from a backup. If you know the image's cluster size (64 KiB, that is 16, " +
			"unless another one was asked for when it was created), cluster_bits can be set right in a copy of the " +
			"image: it is bytes 20 to 23."},
	{Code: HeaderLengthInvalid, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the header length is not a valid one",
		Spec:  "Header, header_length; QEMU: qcow2_do_open",
		Why: "A version 3 header says how long it is: at least 104 bytes, a multiple of 8, and no more than a " +
			"cluster. The header extensions start where it ends, so with a wrong length they are read from the " +
			"wrong place: the backing format, the bitmaps and the data file's name are lost, or QEMU refuses to " +
			"open the image.",
		Do: "Restore the first cluster from a backup. QEMU writes 112 here (104 before version 5.1); in a copy of the " +
			"image bytes 100 to 103 can be set to what fits: the header extensions must follow at that offset."},
	{Code: FeatureUnknown, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader, Facts: UnknownFormat,
		Title: "an incompatible feature bit is set that qcheck does not know",
		Spec:  "Header, incompatible_features",
		Why: "An incompatible feature changes the format so that software that does not know it must not open the " +
			"image. Either newer software made the image, or the bit was set by damage. The image's own feature " +
			"name table may name the feature. What follows the known rules is checked, and the verdict is " +
			"\"unsupported\".",
		Do: "Find out which software made the image and use that, or a later version of qcheck. Never clear the bit " +
			"by hand unless you know that it was set by damage."},
	{Code: MarkedDirty, Severity: Warning, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the image is marked dirty: its refcounts may be stale",
		Spec:  "Header, incompatible_features, bit 0",
		Why: "With lazy refcounts QEMU puts off updating refcounts while the image is open, and says so with this " +
			"bit. It is still set when QEMU was killed or the host crashed. Guest data is not affected; refcounts " +
			"may be too low or too high, which the other findings say. QEMU brings them in line when it next opens " +
			"the image for writing.",
		Do: "`qcheck -r` can bring the refcounts in line and clear the bit. If nothing but this and wrong " +
			"refcounts is reported, starting the VM does the same. If there are other corruptions, copy the " +
			"image first."},
	{Code: MarkedCorrupt, Severity: Corruption, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the image is marked corrupt",
		Spec:  "Header, incompatible_features, bit 1; QEMU: qcow2_signal_corruption",
		Why: "QEMU sets this bit when it meets an inconsistency while the image is in use, to stop further damage. " +
			"From then on it opens the image for reading only. The cause is among the other findings; if there are " +
			"none, it was repaired, or it was on the way to the disk only. A repair by qcheck sets it as well, for " +
			"as long as it is at work.",
		Do: "If a repair with `--undo FILE` was interrupted, name that file again: `qcheck undo IMAGE --undo FILE`. " +
			"Else settle the other corruptions first. `qcheck -r` can clear the bit once nothing corrupt is left. " +
			"Until then the data can be read, for example by `qemu-img convert` into a new image; compare that " +
			"with a backup."},
	{Code: AutoclearUnknown, Severity: Warning, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "an autoclear feature bit is set that qcheck does not know",
		Spec:  "Header, autoclear_features",
		Why: "Such a bit says that some additional data in the image is up to date. Software that does not know it " +
			"must clear it before writing, so that the data counts as stale from then on. It was set by newer " +
			"software, or by damage. QEMU clears it when it next opens the image for writing.",
		Do: "`qcheck -r` can clear it. Nothing needs to be done, unless you use the software that set it."},
	{Code: RefcountWidthInvalid, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the refcount width is not one that exists",
		Spec:  "Header, refcount_order; QEMU: qcow2_do_open",
		Why: "Refcounts are 2 to the power of refcount_order bits wide: 1 to 64 bits, so the field goes from 0 to 6. " +
			"With another value no refcount can be read, and QEMU refuses to open the image. The header is damaged.",
		Do: "Restore the first cluster from a backup. QEMU's default is 16 bits, that is 4; in a copy of the image " +
			"bytes 96 to 99 can be set to it, and qcheck then says whether the refcounts make sense."},
	{Code: CryptMethodUnknown, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the encryption method is not one that exists",
		Spec:  "Header, crypt_method; QEMU: qcow2_do_open",
		Why: "The methods are 0 (none), 1 (AES, obsolete) and 2 (LUKS). Another value means a damaged header; QEMU " +
			"refuses to open the image.",
		Do: "Restore the first cluster from a backup. If you know that the image was never encrypted, bytes 32 to 35 " +
			"can be set to 0 in a copy of it."},
	{Code: L1TooSmall, Severity: Corruption, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the L1 table is too small for the virtual disk",
		Spec:  "Header, l1_size and size; QEMU: qcow2_do_open",
		Why: "Each L1 entry covers a fixed part of the virtual disk, and the table must cover all of it. Here it does " +
			"not: the virtual size or the table's size in the header is damaged, or a resize was interrupted. QEMU " +
			"refuses to open the image.",
		Do: "`qcheck -r` can add the missing entries as unallocated where there is room for them. First find out " +
			"which of the two numbers is wrong: if the disk had another size before, the size in the header " +
			"(bytes 24 to 31) is."},
	{Code: L1Misplaced, Severity: Corruption, Structure: StructHeader, Repair: RepairLossy, About: AboutHeader, Facts: LeadsToL1,
		Title: "the L1 table is misplaced or too large",
		Spec:  "Header, l1_table_offset and l1_size; QEMU: qcow2_do_open",
		Why: "The active L1 table is the root of all guest data. Its offset must be a multiple of the cluster size, " +
			"it must lie within the file and not in the header, and QEMU takes no more than 32 MiB. If it cannot be " +
			"read then no guest data can be found through it, and nothing is called a leak, since all of it may " +
			"still belong to the disk.",
		Do: "Restore the first cluster from a backup if only the header is damaged. A snapshot of the image has " +
			"an L1 table of its own and can still be read. Write nothing to the image: its data is still in it. " +
			"`qcheck -r --allow-data-loss` can shorten a table that is only too long; " +
			"it never starts from an empty one."},
	{Code: RefcountTableMisplaced, Severity: Corruption, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the refcount table is misplaced, missing or too large",
		Spec:  "Header, refcount_table_offset and refcount_table_clusters; QEMU: qcow2_do_open",
		Why: "The refcount table says which clusters are free. Its offset must be a multiple of the cluster size, it " +
			"must lie within the file and not in the header, have at least one cluster, and QEMU takes no more than " +
			"8 MiB. Guest data does not depend on it, but nobody can write to the image without it, and QEMU " +
			"refuses to open the image.",
		Do: "`qcheck -r` can build all refcounts again from what refers to the clusters; no data is lost. Until " +
			"then restore the first cluster from a backup, if that is where the damage is."},
	{Code: SnapshotTableMisplaced, Severity: Corruption, Structure: StructHeader, Repair: RepairLossy, About: AboutHeader,
		Title: "the snapshot table is misplaced, or there are too many snapshots",
		Spec:  "Header, nb_snapshots and snapshots_offset; QEMU: qcow2_do_open",
		Why: "The table of internal snapshots must start at a multiple of the cluster size and lie within the file, " +
			"not in the header, and QEMU takes 65,536 snapshots at most. If it cannot be read, the clusters of the " +
			"snapshots have no owner that could be named; they are not called leaks. QEMU refuses to open the " +
			"image.",
		Do: "Restore the first cluster from a backup if only the header is damaged. `qcheck -r " +
			"--allow-data-loss` can give up the snapshots, and with them their data. The active disk does not " +
			"depend on them."},
	{Code: BackingNameMisplaced, Severity: Corruption, Structure: StructHeader, Repair: RepairLossy, About: AboutHeader,
		Title: "the backing file's name is misplaced or too long",
		Spec:  "Header, backing_file_offset and backing_file_size; QEMU: qcow2_do_open",
		Why: "The name of the backing file has at most 1,023 bytes and lies in the first cluster. Here it does not, " +
			"so the backing file is not known, and QEMU refuses to open the image. All that the image does not hold " +
			"itself would be read from that file.",
		Do: "If you know the backing file, restore the header from a backup. Never go on without it: the guest would " +
			"see zeros in place of its data."},
	{Code: CompressionTypeContradiction, Severity: Corruption, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the compression type contradicts the compression feature bit",
		Spec:  "Header, compression_type and incompatible_features, bit 3",
		Why: "The bit says that compressed clusters use something other than zlib, and the field says what. One " +
			"without the other, or a type that nobody knows, is a contradiction: compressed clusters cannot be read " +
			"with certainty, and QEMU refuses to open the image.",
		Do: "`qcheck -r` can set the bit or the field where only one reading is possible. By hand, in a copy: " +
			"zlib is type 0 (byte 104) with bit 3 of byte 79 clear, zstd is type 1 with the bit set. Which of " +
			"the two it is shows when the compressed clusters decompress."},
	{Code: HeaderPaddingSet, Severity: Warning, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the padding of the header is not zero",
		Spec:  "Header padding",
		Why: "What is left of the header after its last field must be zero, so that later versions of the format can " +
			"give it a meaning. Software that writes something else there is at fault. Nothing reads these bytes " +
			"today.",
		Do: "`qcheck -r` can set them to zero. Nothing needs to be done today."},
	{Code: RawExternalMisused, Severity: Corruption, Structure: StructHeader, Repair: RepairSafe, About: AboutHeader,
		Title: "the raw external data bit is set where it must not be",
		Spec:  "Header, autoclear_features, bit 1; backing_file_offset",
		Why: "The bit says that the external data file is a raw disk image by itself. It has no meaning without an " +
			"external data file, and it excludes a backing file, which could show through nowhere. QEMU refuses to " +
			"open the image, or treats the data file as what it is not.",
		Do: "Without an external data file `qcheck -r` can clear the bit. With a backing file somebody must " +
			"decide: the disk is either in the data file alone or on top of the backing file."},
	{Code: HeaderCombination, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the header combines values that QEMU refuses together",
		Spec:  "Header; QEMU: qcow2_do_open",
		Why: "Each field is valid for itself, but QEMU does not open an image with all of them: for example a virtual " +
			"disk so large, in clusters so small, that its L1 table would need more than 32 MiB. Software other " +
			"than QEMU makes such an image, or one of the fields is damaged. Combinations that have a code of their " +
			"own are reported under that.",
		Do: "If the virtual size (bytes 24 to 31) is not what it was, restore the header from a backup. Otherwise use " +
			"the software that made the image, and copy the disk into one with larger clusters."},
	{Code: HeaderCut, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the file is shorter than its own header",
		Spec:  "Header",
		Why: "The file ends before the header does. It was cut off while it was being copied, created or downloaded. " +
			"There is no guest data in it.",
		Do: "Copy or download it again, and compare the size."},
	{Code: QEMUCrash, Severity: Corruption, Structure: StructHeader, Repair: RepairPolicy, About: AboutHeader, Facts: HidesBitmap,
		Title: "QEMU crashes when it opens this image",
		Spec:  "QEMU: hbitmap_alloc (util/hbitmap.c), called by bitmap_list_load",
		Why: "QEMU makes a bitmap in memory for every bitmap that it finds, also for one that is in use. More than " +
			"2^41 bits fail an assertion: the process is aborted, and with it the virtual machine or the tool. A " +
			"very small granularity on a very large disk does it, or a damaged size in the header.",
		Do: "Do not open the image with QEMU. If the virtual size (bytes 24 to 31) is not what it was, restore " +
			"the header from a backup. `qcheck -r` can take the bitmap away or keep it, as `--bitmap-policy` " +
			"says; the disk itself is not affected."},
	{Code: ExtensionsIgnored, Severity: Warning, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "header extensions are ignored because the backing file's name starts within the header",
		Spec:  "Header extensions; backing_file_offset; QEMU: qcow2_do_open",
		Why: "Header extensions lie between the header and the name of the backing file. If that name starts before " +
			"the header ends, no room is left for them, and QEMU ignores all of them without a word: bitmaps, the " +
			"data file's name, the backing format. Software other than QEMU makes such images.",
		Do: "If the image is supposed to have bitmaps or a data file, do not let QEMU write to it, and restore the " +
			"header from a backup. `qemu-img convert` makes a new image with a proper header."},
}
