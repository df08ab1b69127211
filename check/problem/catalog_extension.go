package problem

// extensionRules is the part of the catalogue about the header extensions (qcow2 specification, "Header extensions").
var extensionRules = []Rule{
	{Code: ExtensionOverrun, Severity: Corruption, Structure: StructExtension, Repair: RepairNone, About: AboutExtension,
		Title: "a header extension runs past the space for extensions",
		Spec:  "Header extensions; QEMU: qcow2_read_extensions",
		Why: "Each extension says how long it is. This one claims more than there is before the backing file's name " +
			"or the end of the first cluster, or the space ends without the mark that ends it, so it and what " +
			"follows cannot be read. QEMU refuses to open the image.",
		Do: "Restore the first cluster from a backup. The extension's length is the four bytes that are named; in a " +
			"copy of the image it can be set right when the type tells what it must be (bitmaps 24, encryption " +
			"header pointer 16)."},
	{Code: ExtensionDuplicate, Severity: Warning, Structure: StructExtension, Repair: RepairNone, About: AboutExtension,
		Title: "a header extension is there twice",
		Spec:  "Header extensions",
		Why: "Each type of extension may appear once. Readers differ in which of them they go by (QEMU takes the last " +
			"one), so two programs can see two different disks: another backing format, other bitmaps.",
		Do: "If both say the same nothing needs to be done. Otherwise find out which software wrote the image, and " +
			"make a new one with `qemu-img convert`."},
	{Code: ExtensionLength, Severity: Corruption, Structure: StructExtension, Repair: RepairPolicy, About: AboutExtension,
		Title: "a header extension has the wrong length for its type",
		Spec:  "Header extensions; Bitmaps extension; Full disk encryption header pointer; Feature name table",
		Why: "The bitmaps extension has 24 bytes, the encryption header pointer 16, each feature name 48, and QEMU " +
			"takes no more than 15 for the backing format. With another length the content is cut or comes from " +
			"another place. QEMU refuses to open an image whose bitmaps or encryption extension has a wrong length.",
		Do: "Restore the first cluster from a backup. If it is the bitmaps extension, `qcheck -r` can set it " +
			"right or give the bitmaps up, as `--bitmap-policy` says; the disk itself is not affected."},
	{Code: CryptoPointerContradiction, Severity: Corruption, Structure: StructExtension, Repair: RepairNone, About: AboutExtension,
		Title: "the encryption header pointer contradicts the encryption method",
		Spec:  "Full disk encryption header pointer",
		Why: "LUKS needs a header, and this extension says where it is; with any other method it must not be there. " +
			"Without it a LUKS image cannot be unlocked, since the key material cannot be found.",
		Do: "For a LUKS image restore the first cluster from a backup. Write nothing to the image: its key material " +
			"is still in it, and is lost for ever once it is overwritten."},
	{Code: ExtensionUnused, Severity: Warning, Structure: StructExtension, Repair: RepairSafe, About: AboutExtension,
		Title: "a header extension names something that the image does not use",
		Spec:  "String header extensions",
		Why: "A data file is named without the feature bit for external data files, or a backing format is recorded " +
			"without a backing file. QEMU ignores it. It is left over from a rebase or from software that does not " +
			"clean up.",
		Do: "`qcheck -r` can remove it. Nothing needs to be done today."},
	{Code: FeatureNameImpossible, Severity: Warning, Structure: StructExtension, Repair: RepairNone, About: AboutExtension,
		Title: "the feature name table has an entry for a bit that cannot exist",
		Spec:  "Feature name table",
		Why: "The table gives names to feature bits, so that software that does not know a feature can at least name " +
			"it. Its types go from 0 to 2 and its bits from 0 to 63. An entry beyond that names nothing.",
		Do: "Nothing needs to be done."},
	{Code: ExtensionUnknown, Severity: Note, Structure: StructExtension, Repair: RepairNone, About: AboutExtension,
		Title: "there is a header extension of a type that qcheck does not know",
		Spec:  "Header extensions",
		Why:   "Unknown extensions may be ignored. Software other than QEMU put it there, or a newer QEMU.",
		Do:    "Nothing needs to be done. `qcheck -r` keeps it byte for byte."},
}
