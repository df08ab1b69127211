package problem

// fileRules is the part of the catalogue about the file as a whole.
var fileRules = []Rule{
	{Code: FileTruncated, Severity: Corruption, Structure: StructFile, Repair: RepairLossy, About: AboutFile,
		Title: "the end of the file is missing",
		Spec:  "not a matter of the format",
		Why: "The file was longer once: entries lead past its end, and refcounts, or other entries, say the same. A disk or " +
			"quota that was full, a copy or a download that was cut short, or a host crash that lost the last writes does that. " +
			"What lay there is gone from this file; QEMU shows the guest zeros in its place. All that lies before the end is " +
			"whole and can be read.",
		Do: "If there is a longer copy of the file, use that: compare the sizes, and copy it again. Nothing can bring back from " +
			"this file what is not in it. Do not start a VM from it. `qcheck -n --allow-data-loss` lists what is lost; the repair " +
			"clears only the entries that lead nowhere, and every byte that can be read today reads the same after it."},
}
