package problem

// troubleRules is the part of the catalogue about what no other finding explains, and about what kept the check from
// looking, which is no fault of the image.
var troubleRules = []Rule{
	{Code: QEMURefuses, Severity: Corruption, Structure: StructFile, Repair: RepairNone, About: AboutFile,
		Title: "QEMU does not open the image as it is, and nothing else that was found says why",
		Spec:  "QEMU: qcow2_do_open",
		Why: "The steps that QEMU takes when it opens an image were followed, and one of them fails, although the " +
			"structures that the check looks at are in order. The message says which step. An image that QEMU does " +
			"not open is never called sound.",
		Do: "Do what the message asks for. If it does not help, please report it together with the image's metadata: " +
			"a finding of its own should have named the fault."},
	{Code: Unreadable, Severity: Trouble, Structure: StructFile, Repair: RepairNone, About: AboutFile, Facts: Joins,
		Title: "a part of the file could not be read",
		Spec:  "not a matter of the format",
		Why: "The disk or the network that the file lies on gave an error. This says nothing about the image itself. " +
			"What could not be read was not checked, and whatever it could own is not called a leak; the verdict is " +
			"\"incomplete\".",
		Do: "Look at the system's log, and copy the image to a sound disk with a tool that goes on after errors (for " +
			"example ddrescue). Then check the copy."},
	{Code: LimitReached, Severity: Trouble, Structure: StructFile, Repair: RepairNone, About: AboutFile,
		Title: "a limit ended the check before everything was looked at",
		Spec:  "not a matter of the format",
		Why: "Checking all of the image would take more memory than was allowed, or more than an image of this size " +
			"can justify. What was not looked at may be bad as well; the verdict is \"incomplete\".",
		Do: "Allow more memory with `--memory`, or check on a larger machine. If the image is small, the limit was " +
			"reached because its tables claim what cannot be: the other findings say where."},
}
