package check

// siblingRules is the part of the catalogue about the encryption header, the external data file and the backing chain.
var siblingRules = []Rule{
	{Code: CRY001, Severity: Corruption, Structure: StructCryptoHeader, Repair: RepairNone,
		Title: "crypto header misaligned, past the end or overlapping"},
	{Code: CRY002, Severity: Corruption, Structure: StructCryptoHeader, Repair: RepairNone,
		Title: "LUKS header: magic, version or payload geometry wrong"},
	{Code: DAT001, Severity: Corruption, Structure: StructDataFile, Repair: RepairNone,
		Title: "external data file missing, or shorter than the guest clusters mapped into it"},
	{Code: DAT002, Severity: Warning, Structure: StructDataFile, Repair: RepairNone,
		Title: "name extension missing"},
	{Code: CHN001, Severity: Corruption, Structure: StructBackingFile, Repair: RepairNone,
		Title: "(--chain) backing file missing, unreadable, or a loop"},
	{Code: CHN002, Severity: Warning, Structure: StructBackingFile, Repair: RepairSafe,
		Title: "no backing format recorded (the format would be probed: unsafe)"},
	{Code: CHN003, Severity: Corruption, Structure: StructBackingFile, Repair: RepairNone,
		Title: "(--chain) the recorded backing format is not what the file is"},
}
