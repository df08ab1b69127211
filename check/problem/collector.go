package problem

import (
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/qcheck/qcheck/qcow2"
)

// DefaultMaxFindings is how many findings of one code are listed one by one.
const DefaultMaxFindings = 1000

// Collector takes every finding of every pass. It alone fills in what the
// catalogue says, joins neighbours, counts and bounds. Passes that work in
// several goroutines collect into collectors of their own, which are joined in a
// fixed order, so that the result does not depend on the number of workers.
type Collector struct {
	max      int    // findings listed per code
	places   int    // further ones that are listed for a repair
	cluster  uint64 // bytes; an L2 table ends where one does
	extended bool   // L2 entries have a second word
	findings []Finding
	byCode   map[Code]*codeState
	// shut tells, by number in the catalogue, of which codes this collector has begun to
	// count what is not listed. Its parts need not list any more of them either.
	shut   []atomic.Bool
	isPart bool
	// stale tells that nobody relies on the bitmaps: nothing in them is worse than
	// that they are stale.
	stale bool
}

// codeState is what a collector knows of one code.
type codeState struct {
	rule   *Rule
	shut   *atomic.Bool // see collector
	listed int
	last   int // index of the last listed finding of this code
	rest   uint64
	restOf [Trouble + 1]uint64 // of rest, by severity
}

// NewCollector gives a collector that lists at most listed findings of a code, and places
// more for a repair.
func NewCollector(listed, places int, g qcow2.Geometry) *Collector {
	if listed <= 0 {
		listed = DefaultMaxFindings
	}
	return &Collector{max: listed, places: places, cluster: g.ClusterSize(), extended: g.ExtendedL2,
		byCode: make(map[Code]*codeState), shut: make([]atomic.Bool, len(catalog().rules))}
}

// Max is how many findings of a code are listed.
func (f *Collector) Max() int { return f.max }

// BitmapsAreStale tells that nobody relies on the bitmaps: nothing in them is worse than
// that they are stale.
func (f *Collector) BitmapsAreStale() { f.stale = true }

// StaleBitmaps tells whether that was said.
func (f *Collector) StaleBitmaps() bool { return f.stale }

// Part is a collector that will be joined to this one.
func (f *Collector) Part() *Collector {
	return &Collector{max: f.max, places: f.places, cluster: f.cluster, extended: f.extended, byCode: make(map[Code]*codeState), shut: f.shut, isPart: true, stale: f.stale}
}

// room is how many findings of a code are listed.
func (f *Collector) room(code Code) int {
	if code.Is(Recounted) && code.About() == AboutRefcount {
		return f.max // a repair compares refcounts itself
	}
	return f.max + f.places
}

// of is the state of a code.
func (f *Collector) of(code Code) *codeState {
	s := f.byCode[code]
	if s == nil {
		all := catalog()
		i, ok := all.number[code]
		if !ok {
			panic(fmt.Sprintf("finding with code %q, which is not in the catalogue", code))
		}
		s = &codeState{rule: &all.rules[i], shut: &f.shut[i], last: -1}
		f.byCode[code] = s
	}
	return s
}

// Add takes one finding. A finding that continues the last one of its code
// (same owner, adjoining bytes) is joined to it; its message is then the first
// one's.
func (f *Collector) Add(x Finding) { f.take(f.of(x.Code), &x) }

func (f *Collector) take(s *codeState, x *Finding) {
	f.fill(s, x)
	x.Rest = x.Rest || s.shut.Load()
	if f.join(s, x) {
		return
	}
	if s.listed >= f.max && f.places > 0 && s.rule.isEntry() {
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
func (f *Collector) fill(s *codeState, x *Finding) {
	x.fill(s.rule)
	if f.stale && x.Code.AboutBitmaps() && s.rule.Facts&WhileStale == 0 {
		x.Severity = min(x.Severity, Warning)
	}
}

// Filled is the finding with what the catalogue says of its code wherever it does not say
// otherwise itself. A code that is not in the catalogue is a fault of ours: it panics.
func (x Finding) Filled() Finding {
	r := row(x.Code)
	if r == nil {
		panic(fmt.Sprintf("finding with code %q, which is not in the catalogue", x.Code))
	}
	x.fill(r)
	return x
}

func (x *Finding) fill(r *Rule) {
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
}

// join makes one finding of the last one of a code and one that carries on where
// that ends.
func (f *Collector) join(s *codeState, x *Finding) bool {
	if s.rule.Facts&Joins == 0 || s.rest > 0 || s.last < 0 || x.Rest || !f.continues(&f.findings[s.last], x) {
		return false
	}
	last := &f.findings[s.last]
	last.Extent.Length = uint64(x.Extent.Offset-last.Extent.Offset) + x.Extent.Length
	last.Count += x.Count
	if s.rule.Facts&LeadsPastEnd != 0 {
		last.Value, last.Expected = "", "" // they differ from entry to entry
	}
	return true
}

// Met tells whether there was a finding of a code.
func (f *Collector) Met(code Code) bool {
	s := f.of(code)
	return s.listed > 0 || s.rest > 0
}

// Full tells that no more findings of a code are listed one by one, so that
// their messages need not be made: one with Rest set and a count will do.
func (f *Collector) Full(code Code) bool {
	s := f.of(code)
	return s.listed >= f.room(code) || s.shut.Load()
}

// Crowded counts n more of a code, and is true, where no more findings of it are
// listed one by one: there can be millions, which it would take long to word. A
// severity of 0 is the catalogue's.
func (f *Collector) Crowded(code Code, severity Severity, n uint64) bool {
	if !f.Full(code) {
		return false
	}
	f.Add(Finding{Code: code, Severity: severity, Count: n, Rest: true})
	return true
}

// Wordless takes a finding about entries of a table that has not been put into words
// yet, and is true, where none are needed any more.
func (f *Collector) Wordless(x Finding) bool {
	s := f.of(x.Code)
	if s.rule.Facts&LeadsPastEnd != 0 && !x.Rest && !s.shut.Load() && f.filledAndJoined(s, &x) {
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

func (f *Collector) filledAndJoined(s *codeState, x *Finding) bool {
	f.fill(s, x)
	return f.join(s, x)
}

// continues tells whether b carries on where a ends.
func (f *Collector) continues(a, b *Finding) bool {
	if uint64(b.Extent.Offset)&(f.cluster-1) == 0 && (b.Brief || f.places > 0 && b.Code.Is(LeadsPastEnd) || b.GuestOffset != nil && b.Structure != StructL1Table) {
		// Another L2 table need not be the next one of the disk. And where two
		// structures lie in a cluster, only what is there is to be left alone.
		return false
	}
	gap := b.Extent.Offset - a.Extent.Offset - qcow2.HostOffset(a.Extent.Length)
	return a.Extent.Length != 0 && b.Extent.Length != 0 && b.Extent.Offset > a.Extent.Offset &&
		(gap == 0 || gap == 8 && f.extended && a.Code.About() == AboutL2Entry) && a.Severity == b.Severity && a.Structure == b.Structure && a.Repair == b.Repair &&
		a.Of == b.Of && a.Bitmap == b.Bitmap &&
		(a.Value == b.Value && a.Expected == b.Expected || a.Code.Is(LeadsPastEnd))
}

// Absorb adds all that another collector took, in its order.
func (f *Collector) Absorb(g *Collector) {
	for _, x := range g.findings {
		f.Add(x)
	}
	for _, r := range catalog().rules {
		if s := g.byCode[r.Code]; s != nil {
			for severity, n := range s.eachRest() {
				f.Add(Finding{Code: r.Code, Severity: severity, Count: n, Rest: true})
			}
		}
	}
}

// Findings gives all findings; what was not listed one by one is one finding for each
// code and severity at the end, so that the counts of the list always make up the totals.
func (f *Collector) Findings() []Finding {
	out := f.findings
	for _, r := range catalog().rules {
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
