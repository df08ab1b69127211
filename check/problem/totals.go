package problem

// Totals counts what the findings say, in units (see [Finding.Count]).
type Totals struct {
	Corruptions uint64
	// Leaks are the clusters that `qemu-img check` counts as leaked, those in
	// doubt included.
	Leaks uint64
	// InDoubt are those of them that are not safe to free: something that was
	// lost may own them.
	InDoubt  uint64
	Warnings uint64
	Notes    uint64
	Errors   uint64 // what could not be looked at
}

// Count adds up the counts of findings that are not fixed.
func Count(fs []Finding) (t Totals) {
	for i := range fs {
		f := &fs[i]
		if f.Fixed {
			continue
		}
		switch f.Severity {
		case Corruption:
			t.Corruptions += f.Count
		case Leak:
			t.Leaks += f.Count
		case InDoubt:
			if f.Code == OwnerUnknown {
				t.Leaks += f.Count
				t.InDoubt += f.Count
			}
		case Warning:
			t.Warnings += f.Count
		case Note:
			t.Notes += f.Count
		case Trouble:
			t.Errors += f.Count
		}
	}
	return t
}
