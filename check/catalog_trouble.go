package check

// troubleRules is the part of the catalogue about what kept the check from looking; these are not faults of the image.
var troubleRules = []Rule{
	{Code: IOE001, Severity: Trouble, Structure: StructFile, Repair: RepairNone,
		Title: "a part of the file could not be read"},
	{Code: LIM001, Severity: Trouble, Structure: StructFile, Repair: RepairNone,
		Title: "a limit ended the check before everything was looked at"},
}
