package problem

// siblingRules is the part of the catalogue about the encryption header, the external data file and the backing chain.
var siblingRules = []Rule{
	{Code: CryptoHeaderMisplaced, Severity: Corruption, Structure: StructCryptoHeader, Repair: RepairNone, About: AboutCrypto,
		Title: "the encryption header is misplaced",
		Spec:  "Full disk encryption header pointer; QEMU: qcow2_read_extensions",
		Why: "The LUKS header must start at a multiple of the cluster size, lie within the file, and overlap nothing. " +
			"Without it no key can unlock the disk. The pointer is damaged, or the file was cut off.",
		Do: "Write nothing to the image. If the file was cut off, copy it again; otherwise restore the first cluster " +
			"from a backup. The header itself may still be in the file: it starts with the bytes " +
			"\"LUKS\\xba\\xbe\"."},
	{Code: LUKSHeaderDamaged, Severity: Corruption, Structure: StructCryptoHeader, Repair: RepairNone, About: AboutCrypto,
		Title: "the LUKS header is damaged",
		Spec:  "Full disk encryption header pointer, LUKS; QEMU: qcrypto_block_luks_load_header",
		Why: "The header does not start as a LUKS header does, or its version or the places of its parts make no " +
			"sense. It holds the keys of the disk: without it nobody can read the data, even with the right " +
			"password.",
		Do: "Restore the LUKS header from a backup (of the header, or of an older state of the image: the keys do not " +
			"change with the data). Write nothing to the image until then."},
	{Code: NotEncrypted, Severity: Corruption, Structure: StructHeader, Repair: RepairNone, About: AboutHeader,
		Title: "the image is said to be encrypted, but its data is not",
		Spec:  "Header, crypt_method",
		Why: "crypt_method is 1, the old encryption with AES, which leaves no other trace in the metadata. But a sector " +
			"of data was found that no encryption can have made: it has only a few different bytes. The field is " +
			"damaged, most likely by one bit. QEMU asks for a key, and whatever key it is given, the guest reads noise.",
		Do: "If the image was never encrypted, bytes 32 to 35 can be set to 0 in a copy of it; `qcheck -n` shows whether " +
			"a repair does that."},
	{Code: DataFileMissing, Severity: Corruption, Structure: StructDataFile, Repair: RepairNone, About: AboutSibling,
		Title: "the external data file is missing or too short",
		Spec:  "External Data File Name header extension; Header, incompatible_features, bit 2",
		Why: "The image keeps guest data in another file. That file is not there, or ends before the clusters that " +
			"the image maps into it. What lies past its end reads as zeros. Moving the image without its data file, " +
			"or an incomplete copy, does that.",
		Do: "Put the data file where the image names it (`qcheck info` shows the name), or copy it again. Do not " +
			"start a VM before: it would see zeros in place of its data."},
	{Code: DataFileUnnamed, Severity: Corruption, Structure: StructDataFile, Repair: RepairNone, About: AboutSibling,
		Title: "the image has an external data file, but does not name it",
		Spec:  "External Data File Name header extension",
		Why: "The header says that guest data is in another file and not in which one. The format allows it, and " +
			"whoever opens the image must name the file each time: that is a warning. QEMU cannot open it by itself. " +
			"Where the name was there once and is damaged, it is corruption.",
		Do: "Name the file whenever you open the image (for QEMU by the option data-file). `qemu-img amend -o " +
			"data_file=NAME` can record it."},
	{Code: DataFileMisplaced, Severity: Warning, Structure: StructDataFile, Repair: RepairNone, About: AboutSibling,
		Title: "the external data file is not where QEMU looks for it",
		Spec:  "External Data File Name header extension; QEMU: qcow2_do_open, bdrv_open_child",
		Why: "The image names its data file by a relative path. QEMU takes that from the folder in which it was " +
			"started, not from the folder of the image, unlike the name of a backing file. The data file lies beside " +
			"the image, so QEMU finds it only when it is started there; or it lies in the current folder, and will " +
			"not be found from any other.",
		Do: "Record an absolute path: `qemu-img amend -o data_file=/PATH/TO/FILE IMAGE`, in the folder of the image. " +
			"Or start QEMU there."},
	{Code: BackingUnreadable, Severity: Corruption, Structure: StructBackingFile, Repair: RepairNone, About: AboutSibling,
		Title: "the backing file is missing, cannot be read, or the chain is a loop",
		Spec:  "Header, backing_file_offset; QEMU: bdrv_open_backing_file",
		Why: "All that the image does not hold itself comes from its backing file. Without that QEMU refuses to open " +
			"the image. In a loop a file is its own backing file, directly or through others: `qemu-img check` " +
			"never ends on one.",
		Do: "Put the backing file where the image names it (`qcheck info` shows the name), or tell the image its new " +
			"place with `qemu-img rebase -u -b FILE -F FORMAT IMAGE`. The file must be the same as before: any " +
			"other gives the guest wrong data."},
	{Code: BackingFormatMissing, Severity: Warning, Structure: StructBackingFile, Repair: RepairNone, About: AboutSibling,
		Title: "the format of the backing file is not recorded",
		Spec:  "Header extensions, backing file format name",
		Why: "Then the format is guessed from the content. A guest that can write a raw backing file could make it " +
			"look like another format, with a backing file of its choice, and read files of the host. QEMU warns of " +
			"it, and libvirt refuses.",
		Do: "Record it with `qemu-img rebase -u -b FILE -F FORMAT IMAGE`, FORMAT being what the file really is (for " +
			"example raw or qcow2)."},
	{Code: BackingFormatWrong, Severity: Corruption, Structure: StructBackingFile, Repair: RepairNone, About: AboutSibling,
		Title: "the backing file is not of the recorded format",
		Spec:  "Header extensions, backing file format name",
		Why: "The image says that its backing file is of one format, and the file is of another. Read as raw, a qcow2 " +
			"file shows its tables in place of the disk; read as qcow2, a raw disk cannot be opened. The backing " +
			"file was converted or exchanged, or the record was wrong from the start.",
		Do: "Find out which of the two is right. `qemu-img rebase -u -b FILE -F FORMAT IMAGE` sets the record; it " +
			"changes no data, but with a wrong format the guest sees something else than before."},
	{Code: BackingLength, Severity: Note, Structure: StructBackingFile, Repair: RepairNone, About: AboutSibling,
		Title: "the backing file is not as long as the disk (--chain)",
		Spec:  "Header, backing_file_offset",
		Why: "The disk in the backing file and the disk of the image differ in length. Where the backing file is " +
			"shorter, what lies past its end reads as zeros, as it does after the image was enlarged. Where it is " +
			"longer, its end cannot be seen through the image. Both are legitimate, and both also happen when the " +
			"backing file was exchanged or cut short.",
		Do: "Nothing, if the disk was resized after the overlay was made. Otherwise find out whether the backing file " +
			"is the one that the image was made on."},
	{Code: BackingInUse, Severity: Trouble, Structure: StructBackingFile, Repair: RepairNone, About: AboutSibling,
		Title: "another program writes to the backing file",
		Spec:  "QEMU: block/file-posix.c, image locking",
		Why: "An overlay holds what differs from its backing file. If something writes to the backing file, the " +
			"disk of the overlay changes with it and no longer fits together. Most often a VM was started from the " +
			"base image of others. A block commit into the base by the VM that has the whole chain open is in order.",
		Do: "Stop whatever writes to the backing file; QEMU does not open the overlay until then. What the overlays " +
			"hold is only good for the state that the base had when they were made: restore that from a backup if " +
			"the base was changed."},
	{Code: BackingUnsound, Severity: Trouble, Structure: StructBackingFile, Repair: RepairNone, About: AboutSibling,
		Title: "a file below the image in its chain is not sound (--chain)",
		Spec:  "Header, backing_file_offset",
		Why: "What the image does not hold itself comes from the files below it. One of them has been checked as " +
			"well, and something was found in it. The finding has the severity and the count of what was found " +
			"there; the report lists the findings of that file by themselves.",
		Do: "Check that file by itself (`qcheck FILE`) and repair it there. Not while overlays of it are in use; a " +
			"repair that loses no data changes nothing for its overlays, one that does changes all of their disks."},
}
