package check

import (
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/qcheck/qcheck/qcow2"
)

// DefaultMaxFindings is how many findings of one code are listed one by one.
const DefaultMaxFindings = 1000

// funnel takes every finding of every pass. It alone fills in what the
// catalogue says, joins neighbours, counts and bounds. Passes that work in
// several goroutines collect into funnels of their own, which are joined in a
// fixed order, so that the result does not depend on the number of workers.
type funnel struct {
	max      int    // findings listed per code
	places   int    // further ones that are listed for a repair
	cluster  uint64 // bytes; an L2 table ends where one does
	extended bool   // L2 entries have a second word
	findings []Finding
	byCode   map[Code]*codeState
	// shut tells, by number in the catalogue, of which codes this funnel has begun to
	// count what is not listed. Its parts need not list any more of them either.
	shut   []atomic.Bool
	isPart bool
	// stale tells that nobody relies on the bitmaps: nothing in them is worse than
	// that they are stale.
	stale  bool
	reject func(*Finding) bool // see [Options.Reject]; nil for parts
}

// codeState is what a funnel knows of one code.
type codeState struct {
	rule   *Rule
	shut   *atomic.Bool // see funnel
	entry  bool         // see isEntry
	joins  bool         // see joinable
	past   bool         // see leadsPast
	listed int
	last   int // index of the last listed finding of this code
	rest   uint64
	restOf [Trouble + 1]uint64 // of rest, by severity
}

func newFunnel(opts *Options, g qcow2.Geometry) *funnel {
	f := &funnel{max: opts.MaxFindings, places: opts.MaxPlaces, cluster: g.ClusterSize(), extended: g.ExtendedL2,
		byCode: make(map[Code]*codeState), shut: make([]atomic.Bool, len(catalog)), reject: opts.Reject}
	if f.max <= 0 {
		f.max = DefaultMaxFindings
	}
	return f
}

// part is a funnel that will be joined to this one.
func (f *funnel) part() *funnel {
	return &funnel{max: f.max, places: f.places, cluster: f.cluster, extended: f.extended, byCode: make(map[Code]*codeState), shut: f.shut, isPart: true, stale: f.stale}
}

// room is how many findings of a code are listed.
func (f *funnel) room(code Code) int {
	switch code {
	case REF005, REF006, REF008:
		return f.max // a repair compares refcounts itself
	}
	return f.max + f.places
}

// of is the state of a code.
func (f *funnel) of(code Code) *codeState {
	s := f.byCode[code]
	if s == nil {
		i, ok := numberOf[code]
		if !ok {
			panic(fmt.Sprintf("finding with code %q, which is not in the catalogue", code))
		}
		s = &codeState{rule: &catalog[i], shut: &f.shut[i], entry: isEntry[code], joins: joinable(code), past: leadsPast(code), last: -1}
		f.byCode[code] = s
	}
	return s
}

// report takes one finding. A finding that continues the last one of its code
// (same owner, adjoining bytes) is joined to it; its message is then the first
// one's.
func (f *funnel) report(x Finding) { f.take(f.of(x.Code), &x) }

func (f *funnel) take(s *codeState, x *Finding) {
	f.fill(s, x)
	if f.reject != nil && f.reject(x) {
		panic(ErrRejected)
	}
	x.Rest = x.Rest || s.shut.Load()
	if f.join(s, x) {
		return
	}
	if s.listed >= f.max && f.places > 0 && s.entry {
		x.Brief = true
		x.Message, x.Path, x.Value, x.Expected, x.Cluster = "", "", "", "", nil
		if f.join(s, x) {
			return
		}
	}
	if s.listed >= f.room(x.Code) || x.Rest {
		s.rest += x.Count
		s.restOf[x.Severity] += x.Count
		if !f.isPart {
			s.shut.Store(true)
		}
		return
	}
	s.listed++
	s.last = len(f.findings)
	f.findings = append(f.findings, *x)
}

// fill fills in what the catalogue says.
func (f *funnel) fill(s *codeState, x *Finding) *funnel {
	if x.Severity == 0 {
		x.Severity = s.rule.Severity
	}
	if f.stale && saysOfBitmaps(x.Code) {
		x.Severity = min(x.Severity, Warning)
	}
	if x.Structure == "" {
		x.Structure = s.rule.Structure
	}
	if x.Repair == 0 {
		x.Repair = s.rule.Repair
	}
	x.Count = max(x.Count, 1)
	return f
}

// saysOfBitmaps tells of the codes about what bitmaps are, other than stale.
func saysOfBitmaps(c Code) bool { return c.AboutBitmaps() && c != BMP002 && c != BMP007 }

// join makes one finding of the last one of a code and one that carries on where
// that ends.
func (f *funnel) join(s *codeState, x *Finding) bool {
	if !s.joins || s.rest > 0 || s.last < 0 || x.Rest || !f.continues(&f.findings[s.last], x) {
		return false
	}
	last := &f.findings[s.last]
	last.Extent.Length = uint64(x.Extent.Offset-last.Extent.Offset) + x.Extent.Length
	last.Count += x.Count
	if s.past {
		last.Value, last.Expected = "", "" // they differ from entry to entry
	}
	return true
}

// met tells whether there was a finding of a code.
func (f *funnel) met(code Code) bool {
	s := f.of(code)
	return s.listed > 0 || s.rest > 0
}

// full tells that no more findings of a code are listed one by one, so that
// their messages need not be made: one with Rest set and a count will do.
func (f *funnel) full(code Code) bool {
	s := f.of(code)
	return s.listed >= f.room(code) || s.shut.Load()
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

// wordless takes a finding about entries of a table that has not been put into words
// yet, and is true, where none are needed any more.
func (f *funnel) wordless(x Finding) bool {
	s := f.of(x.Code)
	if s.past && !x.Rest && !s.shut.Load() && f.fill(s, &x).join(s, &x) {
		return true
	}
	if !s.shut.Load() {
		if s.last < 0 || s.rest == 0 && !f.findings[s.last].Brief {
			return false // it may be listed, or carry on the last one that is
		}
		x.Brief, x.Rest = f.places > 0, f.places == 0
	}
	f.take(s, &x)
	return true
}

// continues tells whether b carries on where a ends.
func (f *funnel) continues(a, b *Finding) bool {
	if uint64(b.Extent.Offset)&(f.cluster-1) == 0 && (b.Brief || f.places > 0 && leadsPast(b.Code) || b.GuestOffset != nil && b.Structure != StructL1Table) {
		// Another L2 table need not be the next one of the disk. And where two
		// structures lie in a cluster, only what is there is to be left alone.
		return false
	}
	gap := b.Extent.Offset - a.Extent.Offset - qcow2.HostOffset(a.Extent.Length)
	return a.Extent.Length != 0 && b.Extent.Length != 0 && b.Extent.Offset > a.Extent.Offset &&
		(gap == 0 || gap == 8 && f.extended && l2Entries[a.Code]) && a.Severity == b.Severity && a.Structure == b.Structure && a.Repair == b.Repair &&
		a.Of == b.Of && a.Bitmap == b.Bitmap &&
		(a.Value == b.Value && a.Expected == b.Expected || leadsPast(a.Code))
}

// isEntry holds the codes whose findings are entries of a table: where such an entry
// is says all that a repair needs to know.
var isEntry = map[Code]bool{
	MAP001: true, MAP002: true, MAP003: true, MAP004: true, MAP005: true, MAP006: true,
	MAP007: true, MAP008: true, MAP009: true, MAP010: true, MAP011: true, MAP012: true,
	MAP013: true, MAP014: true, MAP015: true, MAP019: true,
	REF001: true, REF002: true, REF003: true,
	BMT001: true, BMT002: true, BMT003: true, BMT004: true, BMT005: true,
}

// leadsPast tells of the codes of entries that lead past the end of the file. Neighbours
// are one piece of news whatever they hold: each leads somewhere else.
func leadsPast(code Code) bool {
	return l2Entries[code] || code == MAP003 || code == REF003 || code == BMT005
}

// l2Entries are those of L2 entries, of which the first word is at fault.
var l2Entries = map[Code]bool{MAP007: true, MAP010: true}

// joinable tells of the codes where a run of bad neighbours is one piece of news.
func joinable(code Code) bool {
	return isEntry[code] || code == BMX002 || code == BMX003 || code == IOE001
}

// absorb adds all that another funnel took, in its order.
func (f *funnel) absorb(g *funnel) {
	for _, x := range g.findings {
		f.report(x)
	}
	for _, r := range catalog {
		if s := g.byCode[r.Code]; s != nil {
			for severity, n := range s.eachRest() {
				f.report(Finding{Code: r.Code, Severity: severity, Count: n, Rest: true})
			}
		}
	}
}

// finish gives all findings; what was not listed one by one is one finding for each
// code and severity at the end, so that the counts of the list always make up the totals.
func (f *funnel) finish() []Finding {
	out := f.findings
	for _, r := range catalog {
		if s := f.byCode[r.Code]; s != nil {
			for severity, n := range s.eachRest() {
				out = append(out, restFinding(r.Code, severity, n))
			}
		}
	}
	return out
}

// eachRest gives what is not listed one by one, the worst first: the totals must not depend
// on how much is listed, and findings of one code can differ in severity.
func (s *codeState) eachRest() iter.Seq2[Severity, uint64] {
	return func(yield func(Severity, uint64) bool) {
		for severity := Trouble; severity > 0; severity-- {
			if n := s.restOf[severity]; n > 0 && !yield(severity, n) {
				return
			}
		}
	}
}
