package check

// refcountRules is the part of the catalogue about the refcount table, its blocks, and what they say.
var refcountRules = []Rule{
	{Code: REF001, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe,
		Title: "table entry: reserved bits 0–8 set"},
	{Code: REF002, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe,
		Title: "table entry: block not aligned"},
	{Code: REF003, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe,
		Title: "table entry: block past the end of the file"},
	{Code: REF004, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe,
		Title: "two entries share a block, or a block overlaps other metadata"},
	{Code: REF005, Severity: Corruption, Structure: StructRefcountBlock, Repair: RepairSafe,
		Title: "refcount lower than references (run-length: first cluster, count, refcount, references)"},
	{Code: REF006, Severity: Leak, Structure: StructRefcountBlock, Repair: RepairSafe,
		Title: "refcount higher than references (run-length)"},
	{Code: REF007, Severity: Corruption, Structure: StructRefcountBlock, Repair: RepairNone,
		Title: "more references than the refcount width can hold"},
	{Code: REF008, Severity: Corruption, Structure: StructRefcountTable, Repair: RepairSafe,
		Title: "referenced clusters not covered by any block"},
	{Code: REF009, Severity: Warning, Structure: StructRefcountBlock, Repair: RepairNone,
		Title: "unreferenced clusters that a damaged or unreadable structure may own (named): not leaks, never freed"},
}
