package check

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// DefaultMaxFindings is how many findings of one code are listed one by one.
const DefaultMaxFindings = 1000

// funnel takes every finding of every pass. It alone fills in what the
// catalogue says, joins neighbours, counts and bounds. Passes that work in
// several goroutines collect into funnels of their own, which are joined in a
// fixed order, so that the result does not depend on the number of workers.
type funnel struct {
	max      int          // findings listed per code
	maxOf    map[Code]int // the same for single codes
	findings []Finding
	byCode   map[Code]*codeState
}

type codeState struct {
	listed int
	last   int // index of the last listed finding of this code
	rest   uint64
	worst  Severity
}

func newFunnel(opts *Options) *funnel {
	f := &funnel{max: opts.MaxFindings, maxOf: opts.MaxFindingsOf, byCode: make(map[Code]*codeState)}
	if f.max <= 0 {
		f.max = DefaultMaxFindings
	}
	return f
}

// most is how many findings of a code are listed.
func (f *funnel) most(code Code) int {
	if n, ok := f.maxOf[code]; ok {
		return n
	}
	return f.max
}

// report takes one finding. A finding that continues the last one of its code
// (same owner, adjoining bytes) is joined to it; its message is then the first
// one's.
func (f *funnel) report(x Finding) {
	r, ok := Lookup(x.Code)
	if !ok {
		panic(fmt.Sprintf("finding with code %q, which is not in the catalogue", x.Code))
	}
	if x.Severity == 0 {
		x.Severity = r.Severity
	}
	if x.Structure == "" {
		x.Structure = r.Structure
	}
	if x.Repair == 0 {
		x.Repair = r.Repair
	}
	x.Count = max(x.Count, 1)

	s := f.byCode[x.Code]
	if s == nil {
		s = &codeState{last: -1}
		f.byCode[x.Code] = s
	}
	if s.rest == 0 && s.last >= 0 && continues(&f.findings[s.last], &x) {
		last := &f.findings[s.last]
		last.Extent.Length += x.Extent.Length
		last.Count += x.Count
		return
	}
	if s.listed >= f.most(x.Code) || x.Rest {
		s.rest += x.Count
		s.worst = max(s.worst, x.Severity)
		return
	}
	s.listed++
	s.last = len(f.findings)
	f.findings = append(f.findings, x)
}

// full tells that no more findings of a code are listed one by one, so that
// their messages need not be made: one with Rest set and a count will do.
func (f *funnel) full(code Code) bool {
	s := f.byCode[code]
	return s != nil && s.listed >= f.most(code)
}

// crowded counts n more of a code, and is true, where no more findings of it are
// listed one by one: there can be millions, which it would take long to word. A
// severity of 0 is the catalogue's.
func (f *funnel) crowded(code Code, severity Severity, n uint64) bool {
	if !f.full(code) {
		return false
	}
	f.report(Finding{Code: code, Severity: severity, Count: n, Rest: true})
	return true
}

// continues tells whether b carries on where a ends.
func continues(a, b *Finding) bool {
	return a.Extent.Length != 0 && b.Extent.Length != 0 &&
		a.Extent.Offset+qcow2.HostOffset(a.Extent.Length) == b.Extent.Offset &&
		a.Severity == b.Severity && a.Structure == b.Structure && a.Repair == b.Repair &&
		a.Snapshot == b.Snapshot && a.Bitmap == b.Bitmap &&
		a.Value == b.Value && a.Expected == b.Expected &&
		joinable[a.Code]
}

// joinable holds the codes whose findings are entries of a table, where a run of
// bad neighbours is one piece of news.
var joinable = map[Code]bool{
	MAP001: true, MAP002: true, MAP003: true, MAP004: true, MAP005: true, MAP006: true,
	MAP007: true, MAP008: true, MAP009: true, MAP010: true, MAP011: true, MAP012: true,
	MAP013: true, MAP014: true, MAP015: true, MAP019: true,
	REF001: true, REF002: true, REF003: true,
	BMT001: true, BMT002: true, BMT003: true, BMT004: true, BMT005: true,
	BMX002: true, BMX003: true,
	IOE001: true,
}

// absorb adds all that another funnel took, in its order.
func (f *funnel) absorb(g *funnel) {
	for _, x := range g.findings {
		f.report(x)
	}
	for _, r := range catalog {
		if s := g.byCode[r.Code]; s != nil && s.rest > 0 {
			f.report(Finding{Code: r.Code, Severity: s.worst, Count: s.rest, Rest: true})
		}
	}
}

// finish gives all findings; what was not listed one by one is one finding a
// code at the end, so that the counts of the list always make up the totals.
func (f *funnel) finish() []Finding {
	out := f.findings
	for _, r := range catalog {
		s := f.byCode[r.Code]
		if s == nil || s.rest == 0 {
			continue
		}
		out = append(out, Finding{
			Code: r.Code, Severity: s.worst, Structure: r.Structure, Repair: r.Repair, Count: s.rest, Rest: true,
			Message: fmt.Sprintf("%d more of these are not listed: %s", s.rest, r.Title),
		})
	}
	return out
}
