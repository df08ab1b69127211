package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// An image that another program writes to is read in the middle of its changes.
// What a change looks like halfway is gone when one looks again; a fault stays.

// findingKey tells two findings of different checks apart.
type findingKey struct {
	code     problem.Code
	extent   qcow2.Extent
	snapshot string
	bitmap   string
	value    problem.Value
	rest     bool
}

func keyOf(f *problem.Finding) findingKey {
	return findingKey{f.Code, f.Extent, f.Snapshot, f.Bitmap, f.Value, f.Unlisted}
}

// SameFindings tells whether two checks of an image have found the same.
func SameFindings(a, b *Result) bool {
	if len(a.Findings) != len(b.Findings) {
		return false
	}
	for i := range a.Findings {
		if keyOf(&a.Findings[i]) != keyOf(&b.Findings[i]) || a.Findings[i].Count != b.Findings[i].Count {
			return false
		}
	}
	return true
}

// Confirm gives the later of two results of a live image without the findings
// that the earlier one does not have. A count that differs becomes the smaller
// one.
func Confirm(earlier, later *Result) *Result {
	seen := make(map[findingKey]uint64, len(earlier.Findings))
	for i := range earlier.Findings {
		seen[keyOf(&earlier.Findings[i])] = earlier.Findings[i].Count
	}
	out := *later
	out.Findings = nil
	for _, f := range later.Findings {
		if n, ok := seen[keyOf(&f)]; ok {
			f.Count = min(f.Count, n)
			out.Findings = append(out.Findings, f)
		}
	}
	out.Provisional = true
	out.settle()
	return &out
}
