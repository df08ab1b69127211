package check

// extensionRules is the part of the catalogue about the header extensions (qcow2 specification, "Header extensions").
var extensionRules = []Rule{
	{Code: EXT001, Severity: Corruption, Structure: StructExtension, Repair: RepairNone,
		Title: "an extension's length runs past the first cluster / into the backing file name"},
	{Code: EXT002, Severity: Warning, Structure: StructExtension, Repair: RepairNone,
		Title: "a type that may appear once appears again"},
	{Code: EXT003, Severity: Corruption, Structure: StructExtension, Repair: RepairPolicy,
		Title: "wrong length of a fixed-size extension (bitmaps 24, crypto pointer 16, feature name table a multiple of 48)"},
	{Code: EXT004, Severity: Corruption, Structure: StructExtension, Repair: RepairNone,
		Title: "crypto pointer missing with LUKS, or present without it"},
	{Code: EXT005, Severity: Warning, Structure: StructExtension, Repair: RepairSafe,
		Title: "data file name without the feature bit; backing format without a backing file"},
	{Code: EXT006, Severity: Warning, Structure: StructExtension, Repair: RepairNone,
		Title: "feature name table entry of unknown type or bit above 63"},
	{Code: EXT007, Severity: Note, Structure: StructExtension, Repair: RepairNone,
		Title: "unknown extension (kept byte for byte by every repair)"},
}
