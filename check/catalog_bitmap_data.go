package check

// bitmapDataRules is the part of the catalogue about the tables and the data of bitmaps.
var bitmapDataRules = []Rule{
	{Code: BMT001, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairSafe,
		Title: "table entry: reserved bits 1–8 set"},
	{Code: BMT002, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairSafe,
		Title: "table entry: reserved bits 56–63 set"},
	{Code: BMT003, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy,
		Title: "table entry: bit 0 set together with an offset"},
	{Code: BMT004, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy,
		Title: "table entry: offset not cluster-aligned"},
	{Code: BMT005, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy,
		Title: "table entry: cluster past the end of the file"},
	{Code: BMT006, Severity: Corruption, Structure: StructBitmapTable, Repair: RepairPolicy,
		Title: "a bitmap cluster shared with another bitmap or any other structure"},
	{Code: BMX001, Severity: Warning, Structure: StructBitmapData, Repair: RepairSafe,
		Title: "tail bits set: in the last byte, or anywhere after the last bit to the end of the last cluster"},
	{Code: BMX002, Severity: Note, Structure: StructBitmapData, Repair: RepairSafe,
		Title: "a stored cluster is all zeros or all ones and could be one table entry"},
	{Code: BMX003, Severity: Corruption, Structure: StructBitmapData, Repair: RepairPolicy,
		Title: "a data cluster cannot be read"},
}
