package check

import (
	"errors"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// ErrInUse means that another program has a file open for writing.
var ErrInUse = errors.New("another program writes to it")

// LoopError tells that a backing file is a file further up in its own chain. It is an
// [ErrBackingLoop].
type LoopError struct {
	Again string // the file that is met twice, as reports name it
}

func (e *LoopError) Error() string { return fmt.Sprintf("the chain leads back to %s", e.Again) }

// Is makes it an [ErrBackingLoop].
func (e *LoopError) Is(target error) bool { return target == ErrBackingLoop }

// Add takes further findings into a result that is complete, fills in what the
// catalogue says of their codes, and sums up anew. A verdict of incomplete stays.
func (r *Result) Add(more ...problem.Finding) {
	was := r.Verdict
	for _, f := range more {
		r.Findings = append(r.Findings, f.Filled())
	}
	r.settle()
	if was == VerdictIncomplete {
		r.Verdict = was
	}
}

// AddBelow adds to the result what was found in a file below the image in its chain of
// backing files: for each severity that makes that file unsound one finding (CHN006), which
// counts as much as there. QEMU opens no image of which it refuses a part. The file is
// named as reports do, depth is how far below the image it is.
func (r *Result) AddBelow(name string, depth int, below *Result, at qcow2.Extent) {
	t := below.Totals
	var more []problem.Finding
	add := func(severity problem.Severity, count uint64, one, many string) {
		if count == 0 {
			return
		}
		what := fmt.Sprintf("%d %s", count, many)
		if count == 1 {
			what = "1 " + one
		}
		more = append(more, problem.Finding{
			Code: problem.BackingUnsound, Severity: severity, Extent: at, Count: count, Value: problem.Words(string(below.Verdict)),
			Message: problem.Say(`"%s", %d below the image in its chain, has %s`, Excerpt(name), depth, what),
		})
	}
	add(problem.Trouble, t.Errors, "part that could not be looked at", "parts that could not be looked at")
	add(problem.Corruption, t.Corruptions, "corruption", "corruptions")
	add(problem.Leak, t.Leaks-t.InDoubt, "leaked cluster", "leaked clusters")
	add(problem.Warning, t.Warnings, "warning", "warnings")
	switch {
	case len(more) > 0 && more[0].Severity == problem.Trouble:
	case below.Verdict == VerdictIncomplete || below.Verdict == VerdictUnsupported:
		add(problem.Trouble, 1, "parts that qcheck does not understand", "")
	}
	if t.InDoubt > 0 || below.Verdict == VerdictInDoubt {
		add(problem.InDoubt, max(t.InDoubt, 1), "cluster without a known owner", "clusters without a known owner")
	}
	if q := below.QEMUOpen; q.ReadOnly == OpenRefused || q.ReadOnly == OpenCrash {
		r.refusedBelow(name, q)
	}
	r.Add(more...)
}

// refusedBelow says that QEMU does not open a file that the image needs.
func (r *Result) refusedBelow(name string, q QEMUOpen) {
	for _, outcome := range []*OpenOutcome{&r.QEMUOpen.ReadOnly, &r.QEMUOpen.ReadWrite} {
		if *outcome != OpenCrash && *outcome != "" {
			*outcome = q.ReadOnly
		}
	}
	for _, reason := range q.Reasons {
		r.QEMUOpen.Reasons = append(r.QEMUOpen.Reasons, fmt.Sprintf(`backing file "%s": %s`, Excerpt(name), reason))
	}
}
