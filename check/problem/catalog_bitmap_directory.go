package problem

// bitmapDirectoryRules is the part of the catalogue about the bitmaps extension and the bitmap directory.
var bitmapDirectoryRules = []Rule{
	{Code: BitmapExtensionMissing, Severity: Corruption, Structure: StructBitmapExtension, Repair: RepairSafe, About: AboutBitmapExtension,
		Title: "the header claims bitmaps, but there is no bitmaps extension",
		Spec:  "Header, autoclear_features, bit 0; Bitmaps extension",
		Why: "Bit 0 of the autoclear features says that the bitmaps extension is up to date, but the header has none. " +
			"The extension was lost, or the bit was set by damage. There are no bitmaps that anybody could find.",
		Do: "`qcheck -r` can clear the bit. If the disk had bitmaps, the next backup must be a full one."},
	{Code: BitmapsStale, Severity: Leak, Structure: StructBitmapExtension, Repair: RepairPolicy, About: AboutBitmapExtension, Facts: HidesBitmap | WhileStale,
		Title: "all bitmaps are stale: the image was written to without them",
		Spec:  "Header, autoclear_features, bit 0; Bitmaps extension; QEMU: qcow2_read_extensions",
		Why: "Software that does not know bitmaps clears this bit before it writes. What it wrote is not in the " +
			"bitmaps, so an incremental backup by them would miss it. QEMU ignores the bitmaps, and drops them when " +
			"it opens the image for writing. The clusters of the bitmaps count as leaked.",
		Do: "Make a full backup and start the chain anew. Do not set the bit again by hand: the bitmaps do not " +
			"show what was written meanwhile. `qcheck -r` can keep, drop or fill them, as `--bitmap-policy` says."},
	{Code: BitmapCountWrong, Severity: Corruption, Structure: StructBitmapExtension, Repair: RepairSafe, About: AboutBitmapExtension,
		Title: "the number of bitmaps is wrong",
		Spec:  "Bitmaps extension, nb_bitmaps; QEMU: qcow2_read_extensions, bitmap_list_load",
		Why: "The extension says how many entries the bitmap directory has: at least one, at most 65,535 for QEMU. " +
			"The directory has another number of entries. QEMU refuses to open the image.",
		Do: "`qcheck -r` can set the number right where the directory is sound, otherwise it does what " +
			"`--bitmap-policy` says. The disk itself is not affected. When the VM must start now and its bitmaps " +
			"can be given up, take a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and " +
			"the next backup must be a full one."},
	{Code: BitmapExtensionReserved, Severity: Warning, Structure: StructBitmapExtension, Repair: RepairPolicy, About: AboutBitmapExtension, Facts: ReservedFormat | HidesBitmap,
		Title: "the reserved field of the bitmaps extension is not zero",
		Spec:  "Bitmaps extension; QEMU: qcow2_read_extensions",
		Why: "Bytes 4 to 7 of the extension are kept for later versions of the format and must be zero today. QEMU " +
			"refuses to open an image in which they are not. Newer software wrote them, or they are damaged; the " +
			"verdict is \"unsupported\".",
		Do: "Use the software that wrote the image. `qcheck -r` can set them to zero and do with the bitmaps what " +
			"`--bitmap-policy` says, since what they mean is not known. When the VM must start now and its bitmaps can be given up, take " +
			"a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be " +
			"a full one."},
	{Code: BitmapDirectoryMisplaced, Severity: Corruption, Structure: StructBitmapExtension, Repair: RepairPolicy, About: AboutBitmapExtension,
		Title: "the bitmap directory is misplaced or has an impossible size",
		Spec: "Bitmaps extension, bitmap_directory_offset and bitmap_directory_size; QEMU: qcow2_read_extensions, " +
			"bitmap_list_load",
		Why: "The directory names all bitmaps. It must start at a multiple of the cluster size, lie within the file, " +
			"and have between one entry and just under 64 MiB. Without it no bitmap can be found, and the clusters " +
			"of the bitmaps are not called leaks. QEMU refuses to open the image.",
		Do: "If the file was cut off, copy it again. `qcheck -r` can give the bitmaps up, as `--bitmap-policy` " +
			"says; the disk itself is not affected. When the VM must start now and its bitmaps can be given up, " +
			"take a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup " +
			"must be a full one."},
	{Code: BitmapDirectorySize, Severity: Corruption, Structure: StructBitmapExtension, Repair: RepairSafe, About: AboutBitmapExtension,
		Title: "the size of the bitmap directory does not match its entries",
		Spec:  "Bitmaps extension, bitmap_directory_size; QEMU: bitmap_list_load",
		Why: "The directory's size must be the sum of its entries. Here bytes are left over at its end, or an entry " +
			"is missing. QEMU refuses to open the image.",
		Do: "`qcheck -r` can set the size right where the entries are sound, otherwise it does what " +
			"`--bitmap-policy` says. The disk itself is not affected. When the VM must start now and its bitmaps " +
			"can be given up, take a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and " +
			"the next backup must be a full one."},
	{Code: BitmapsInVersion2, Severity: Leak, Structure: StructBitmapExtension, Repair: RepairPolicy, About: AboutBitmapExtension, Facts: WhileStale,
		Title: "a version 2 image has a bitmaps extension",
		Spec:  "Bitmaps extension; Header, autoclear_features",
		Why: "Version 2 has no autoclear features, so nothing says whether the bitmaps are up to date. They must " +
			"count as stale, and QEMU ignores them.",
		Do: "Make a full backup. To use bitmaps, turn the image into version 3 with `qemu-img amend -o " +
			"compat=1.1`, and add new ones. `qcheck -r` can drop the old ones, as `--bitmap-policy` says."},
	{Code: BitmapsOrphaned, Severity: Corruption, Structure: StructBitmapExtension, Repair: RepairPolicy, About: AboutBitmapExtension,
		Title: "nothing leads to a bitmap directory that is there",
		Spec:  "Bitmaps extension; Bitmap directory",
		Why: "The bitmaps extension is gone, damaged, or leads elsewhere. Among the clusters that have no owner there " +
			"is a bitmap directory whose entries parse exactly, with the tables and the data that they name. While " +
			"autoclear bit 0 is set the bitmaps are up to date: QEMU refuses to write to such an image. Where it is " +
			"clear, other software may have written to the disk since, and they are stale. The clusters count as " +
			"leaks for `qemu-img check`, which would free them.",
		Do: "Do not run `qemu-img check -r`. `qcheck -r` leads the extension back to the directory. Bitmaps that " +
			"nothing vouches for come back in use, or as `--bitmap-policy` says. Where the header has no room for " +
			"the extension the finding says so: give the bitmaps up with `--bitmap-policy=remove`."},
	{Code: BitmapEntryBroken, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap,
		Title: "an entry of the bitmap directory does not end where it says, or is wiped",
		Spec:  "Bitmap directory; QEMU: bitmap_list_load",
		Why: "The sizes of name and extra data in the entry add up to more than is left of the directory. The entry " +
			"is damaged, and nothing but its sizes leads to those that follow. Where these can be recognised all the same " +
			"they are checked like any other; where not, the finding says how many of them could be read. QEMU refuses " +
			"to open the image, whatever the other bitmaps are like.",
		Do: "`qcheck -r` can keep the entries that could be read and do with this one what `--bitmap-policy` " +
			"says. The disk itself is not affected. When the VM must start now and its bitmaps can be given up, " +
			"take a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup " +
			"must be a full one."},
	{Code: BitmapTableMisplaced, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap, Facts: HidesBitmap,
		Title: "the table of a bitmap is misplaced",
		Spec:  "Bitmap directory, bitmap_table_offset; QEMU: check_dir_entry",
		Why: "The table must start at a multiple of the cluster size, not at 0, and lie within the file. The content " +
			"of the bitmap cannot be found. QEMU refuses to open the image when the offset is not aligned; past the " +
			"end of the file it may read the bitmap as empty, so that a backup misses data.",
		Do: "Do not make an incremental backup by this bitmap. `qcheck -r` can do what `--bitmap-policy` says; " +
			"the disk itself is not affected. When the VM must start now and its bitmaps can be given up, take a " +
			"copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a " +
			"full one."},
	{Code: BitmapTableSize, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap, Facts: HidesBitmap,
		Title: "the table of a bitmap is empty or too large",
		Spec:  "Bitmap directory, bitmap_table_size; QEMU: check_dir_entry",
		Why: "QEMU takes between one entry and 2^27 entries, and no more than 512 MiB of bitmap data. The entry is " +
			"damaged. QEMU refuses to open the image.",
		Do: "`qcheck -r` can do with this bitmap what `--bitmap-policy` says; the disk itself is not affected. " +
			"When the VM must start now and its bitmaps can be given up, take a copy and clear bit 0 of byte 95 " +
			"in it: QEMU then ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapSizeMismatch, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap, Facts: HidesBitmap,
		Title: "the size of a bitmap does not match the virtual disk",
		Spec:  "Bitmap directory, bitmap_table_size and granularity_bits; QEMU: bitmap_list_load",
		Why: "Size of the disk, granularity and size of the table belong together. The disk was resized by software " +
			"that does not know bitmaps, or one of the numbers is damaged. QEMU refuses to open the image. If the " +
			"bitmap is in use it is only worth a note: its size may be out of date then.",
		Do: "Do not make an incremental backup by this bitmap: it may speak of other places of the disk than you " +
			"think. `qcheck -r` can do what `--bitmap-policy` says. When the VM must start now and its bitmaps " +
			"can be given up, take a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and " +
			"the next backup must be a full one."},
	{Code: BitmapFlagsReserved, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairSafe, About: AboutBitmap,
		Title: "reserved flags of a bitmap are set",
		Spec:  "Bitmap directory, flags; QEMU: check_dir_entry",
		Why: "Flags 3 to 31 must be zero. QEMU refuses to open the image, whatever the other bitmaps are like. Newer " +
			"software set them, or they are damaged.",
		Do: "`qcheck -r` can clear them. When the VM must start now and its bitmaps can be given up, take a copy " +
			"and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a full " +
			"one."},
	{Code: BitmapTypeUnknown, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap, Facts: HidesBitmap,
		Title: "the type of a bitmap is not one that exists",
		Spec:  "Bitmap directory, type; QEMU: check_dir_entry",
		Why: "There is one type: 1, dirty tracking. QEMU refuses to open the image. Newer software made the bitmap, " +
			"or the entry is damaged.",
		Do: "`qcheck -r` can do with this bitmap what `--bitmap-policy` says; the disk itself is not affected. " +
			"When the VM must start now and its bitmaps can be given up, take a copy and clear bit 0 of byte 95 " +
			"in it: QEMU then ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapGranularity, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap, Facts: HidesBitmap,
		Title: "the granularity of a bitmap is out of range",
		Spec:  "Bitmap directory, granularity_bits; QEMU: check_dir_entry",
		Why: "One bit of the bitmap stands for 2 to the power of granularity_bits bytes. The format allows 0 to 63; " +
			"QEMU takes only 9 to 31 (512 bytes to 2 GiB), and refuses to open an image with any other, even a " +
			"valid one. The finding says which of the two is exceeded.",
		Do: "If the bitmap comes from other software, use that software. `qcheck -r` can do with it what " +
			"`--bitmap-policy` says. When the VM must start now and its bitmaps can be given up, take a copy and " +
			"clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapNameLength, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap,
		Title: "the name of a bitmap is empty or too long",
		Spec:  "Bitmap directory, name_size; QEMU: check_dir_entry",
		Why: "A name must not be empty, and QEMU takes no more than 1,023 bytes. QEMU opens an image with an empty " +
			"name, but the bitmap can be neither used nor removed by name; with too long a name it refuses to open " +
			"the image.",
		Do: "`qcheck -r` can do with this bitmap what `--bitmap-policy` says; the disk itself is not affected. " +
			"If QEMU refuses the image: when the VM must start now and its bitmaps can be given up, take a copy " +
			"and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next backup must be a full " +
			"one."},
	{Code: BitmapNameDuplicate, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap,
		Title: "two bitmaps have the same name",
		Spec:  "Bitmap directory, name; QEMU: qcow2_load_dirty_bitmaps",
		Why: "Names are how bitmaps are found, so a backup cannot tell which of the two it uses. QEMU refuses to open " +
			"the image, or ignores one of them if that is in use. Software other than QEMU makes such directories.",
		Do: "Make a full backup. `qcheck -r` can rename or drop the second one, as `--bitmap-policy` says; two " +
			"bitmaps are never merged without a word. When the VM must start now and its bitmaps can be given " +
			"up, take a copy and clear bit 0 of byte 95 in it: QEMU then ignores all bitmaps, and the next " +
			"backup must be a full one."},
	{Code: BitmapExtraData, Severity: Warning, Structure: StructBitmapDirectory, Repair: RepairNone, About: AboutBitmap, Facts: ReservedFormat,
		Title: "a bitmap has extra data, made for later versions of the format",
		Spec:  "Bitmap directory, extra_data_size and flag extra_data_compatible; QEMU: bitmap_list_load",
		Why: "No extra data is defined today. With the flag extra_data_compatible such a bitmap may be used, without " +
			"it it must be left alone. QEMU refuses to open an image with either. Newer software made it, or the " +
			"entry is damaged; the verdict is \"unsupported\".",
		Do: "Use the software that made the bitmap. `qcheck -r` keeps it byte for byte. When the VM must start " +
			"now and its bitmaps can be given up, take a copy and clear bit 0 of byte 95 in it: QEMU then " +
			"ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapEntryPadding, Severity: Warning, Structure: StructBitmapDirectory, Repair: RepairSafe, About: AboutBitmap,
		Title: "the padding of an entry of the bitmap directory is not zero",
		Spec:  "Bitmap directory, padding",
		Why: "Entries are filled up to a multiple of 8 bytes, with zeros. Something else stands there. Nothing reads " +
			"it today; it is a sign of faulty software or of damage nearby.",
		Do: "`qcheck -r` can set it to zero. Nothing needs to be done today."},
	{Code: BitmapInUse, Severity: Warning, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap,
		Title: "a bitmap was not closed cleanly and must not be used",
		Spec:  "Bitmap directory, flag in_use; QEMU: qcow2_load_dirty_bitmaps",
		Why: "While an image is open for writing its bitmaps live in memory, and are marked in use on the disk. The " +
			"mark is left when QEMU is killed or the host crashes: the last writes are not in the bitmap. QEMU " +
			"shows it as inconsistent, and will only let it be removed. The disk itself is not affected. In an " +
			"image that is in use right now the mark is normal.",
		Do: "An incremental backup by this bitmap is not possible: make a full one. `qemu-img bitmap --remove " +
			"IMAGE NAME` takes it away, once no VM uses the image. `qcheck -r --bitmap-policy=all-dirty` fills " +
			"it instead, so that the next incremental backup copies everything and the chain goes on."},
	{Code: BitmapAutoOnOther, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap, Facts: HidesBitmap,
		Title: "a bitmap that does not track writes is marked to record them",
		Spec:  "Bitmap directory, flag auto and type",
		Why: "The flag auto makes a bitmap record every write, which only the type \"dirty tracking\" can do. The " +
			"type or the flag is damaged. QEMU refuses to open the image because of the type.",
		Do: "`qcheck -r` can do with this bitmap what `--bitmap-policy` says; the disk itself is not affected. " +
			"When the VM must start now and its bitmaps can be given up, take a copy and clear bit 0 of byte 95 " +
			"in it: QEMU then ignores all bitmaps, and the next backup must be a full one."},
	{Code: BitmapNameDangerous, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairPolicy, About: AboutBitmap,
		Title: "the name of a bitmap cannot be typed, or is dangerous for QEMU",
		Spec:  "Bitmap directory, name; QEMU: update_ext_header_and_dir_in_place",
		Why: "The name is not UTF-8, or has control characters in it. With a NUL in the name QEMU loses every bitmap " +
			"of the image when it opens it for writing: it takes the name for shorter than it is, fails to write " +
			"the directory, and has cleared the bit that makes the bitmaps count before. Names are always shown " +
			"escaped here.",
		Do: "With a NUL in the name do not open the image for writing: `qcheck -r` can cut the name at the NUL, as QEMU " +
			"reads it. Otherwise nothing needs to be done, if your backup software can deal with the name."},
	{Code: BitmapTableElsewhere, Severity: Corruption, Structure: StructBitmapDirectory, Repair: RepairSafe, About: AboutBitmap,
		Title: "the table of a bitmap is not where its entry says, but elsewhere",
		Spec:  "Bitmap directory, bitmap_table_offset",
		Why: "The entry leads to what is no table, to nothing at all, or to another bitmap's table. A table of the " +
			"size that the bitmap must have lies elsewhere, without an owner: one flipped bit away, or it is all that " +
			"has no owner. QEMU takes some of such offsets for an empty bitmap, and an incremental backup then " +
			"misses data.",
		Do: "Do not make an incremental backup by this bitmap yet. `qcheck -r` leads its entry back to the table, " +
			"and the bitmap is what it was."},
}
