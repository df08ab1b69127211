package report

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// named is how many images the last lines of a report name.
const named = 20

// summary collects what the last lines say of images that need it.
type summary struct {
	lines []summaryLine // the worst first, at most named
	more  int           // beyond them
}

type summaryLine struct {
	rank int // the verdict's; 0 for what a repair has made sound
	text string
}

// add takes the line of an image.
func (s *summary) add(rank int, text string) {
	i, _ := slices.BinarySearchFunc(s.lines, rank, func(l summaryLine, rank int) int {
		return cmp.Or(cmp.Compare(rank, l.rank), -1) // behind those that are as bad
	})
	s.lines = slices.Insert(s.lines, i, summaryLine{rank, text})
	if len(s.lines) > named {
		s.lines = s.lines[:named]
		s.more++
	}
}

// rankOf orders verdicts by how bad they are; 0 is the rank of no verdict.
func rankOf(v check.Verdict) int { return len(severest) - slices.Index(severest, v) }

// inOrder tells that nothing is to be said of an image: the exit code is 0.
func inOrder(img *Image) bool {
	r := img.Result
	return img.Err == nil && r != nil && len(r.Unmet) == 0 && (r.Verdict == check.VerdictClean || r.Verdict == check.VerdictWarnings)
}

// oneLine says of an image what there is to know in one line: what was repaired, the
// verdict, the code to begin with, the first requirement that is not met.
func (h *Human) oneLine(img *Image) string {
	line := h.bold.Sprint(printable(img.Name)+":") + " "
	r := img.Result
	if r == nil {
		return line + h.verdict(img.verdict()).Sprint(string(img.verdict()))
	}
	if img.repaired() {
		line += "repaired: " + settled(r.Findings, img.ClusterSize) + "; now "
	}
	line += h.verdict(r.Verdict).Sprint(string(r.Verdict))
	if code := worstCode(r.Findings); code != "" {
		line += " (" + string(code) + ")"
	}
	if img.Err != nil {
		line += ": " + printable(img.Err.Error())
	}
	if len(r.Unmet) > 0 {
		line += "; requirement not met: " + printable(r.Unmet[0])
		if n := len(r.Unmet); n > 1 {
			line += ", and " + plural(uint64(n-1), "more", "more")
		}
	}
	return line
}

// worstCode is the code of the worst finding that is left, "" where there is none but
// notes.
func worstCode(fs []problem.Finding) (code problem.Code) {
	worst := problem.Note
	for i := range fs {
		if f := &fs[i]; !f.Fixed && f.Severity > worst {
			worst, code = f.Severity, f.Code
		}
	}
	return code
}
