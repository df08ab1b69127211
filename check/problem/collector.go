package problem

import (
	"fmt"
	"iter"
	"slices"
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
	listed   int    // findings listed per code
	extra    int    // further ones that are kept for a repair
	cluster  uint64 // bytes; an L2 table ends where one does
	extended bool   // L2 entries have a second word
	findings []Finding
	byCode   map[Code]*codeState
	// shut tells, by number in the catalogue, of which codes this collector has begun to
	// count what is not kept. Its parts need not keep any more of them either.
	shut   []atomic.Bool
	isPart bool
	// stale tells that nobody relies on the bitmaps: nothing in them is worse than
	// that they are stale.
	stale bool
	watch func(*Finding) // see Watch; nil for parts
}

// codeState is what a collector knows of one code.
type codeState struct {
	rule       *Rule
	shut       *atomic.Bool // see Collector
	kept       int
	last       int // index of the last kept finding of this code
	unlisted   uint64
	bySeverity [Trouble + 1]uint64 // of unlisted
}

// NewCollector gives a collector that keeps at most so many findings of a code as are
// listed, and extra ones beyond those for a repair, of which neighbours are one finding
// whatever they hold. The default of listed is [DefaultMaxFindings].
func NewCollector(listed, extra int, g qcow2.Geometry) *Collector {
	if listed <= 0 {
		listed = DefaultMaxFindings
	}
	return &Collector{listed: listed, extra: extra, cluster: g.ClusterSize(), extended: g.ExtendedL2,
		byCode: make(map[Code]*codeState), shut: make([]atomic.Bool, len(catalog().rules))}
}

// Part is a collector that will be joined to this one.
func (c *Collector) Part() *Collector {
	return &Collector{listed: c.listed, extra: c.extra, cluster: c.cluster, extended: c.extended, byCode: make(map[Code]*codeState), shut: c.shut, isPart: true, stale: c.stale}
}

// Listed is how many findings of a code are listed.
func (c *Collector) Listed() int { return c.listed }

// BitmapsAreStale tells that nobody relies on the bitmaps: nothing in them is worse than
// that they are stale.
func (c *Collector) BitmapsAreStale() { c.stale = true }

// StaleBitmaps tells whether that was said.
func (c *Collector) StaleBitmaps() bool { return c.stale }

// Watch shows every finding to a function, from one goroutine at a time, as it comes and
// before any are joined.
func (c *Collector) Watch(seen func(*Finding)) { c.watch = seen }

// room is how many findings of a code are kept.
func (c *Collector) room(r *Rule) int {
	if r.About == AboutRefcount && r.Facts&Recounted != 0 {
		return c.listed // a repair compares refcounts itself
	}
	return c.listed + c.extra
}

// of is the state of a code.
func (c *Collector) of(code Code) *codeState {
	s := c.byCode[code]
	if s == nil {
		all := catalog()
		i, ok := all.number[code]
		if !ok {
			panic(fmt.Sprintf("finding with code %q, which is not in the catalogue", code))
		}
		s = &codeState{rule: &all.rules[i], shut: &c.shut[i], last: -1}
		c.byCode[code] = s
	}
	return s
}

// Add takes one finding. A finding that continues the last one of its code
// (same owner, adjoining bytes) is joined to it; its message is then the first
// one's.
func (c *Collector) Add(x Finding) {
	s := c.of(x.Code)
	x.fill(s.rule)
	x.Severity = c.severity(s, x.Severity)
	if c.watch != nil {
		c.watch(&x)
	}
	x.Unlisted = x.Unlisted || s.shut.Load()
	if c.join(s, &x) {
		return
	}
	if s.kept >= c.room(s.rule) || x.Unlisted {
		c.count(s, x.Severity, x.Count)
		return
	}
	s.kept++
	s.last = len(c.findings)
	c.findings = append(c.findings, x)
}

// Unlisted counts n more of a code, and is true, where no more findings of it are kept:
// there can be more than anybody could make one by one. A severity of 0 is the
// catalogue's.
func (c *Collector) Unlisted(code Code, severity Severity, n uint64) bool {
	s := c.of(code)
	if s.unlisted == 0 && !s.shut.Load() {
		return false
	}
	c.Count(code, severity, n)
	return true
}

// Count counts n more of a code without keeping a finding. A severity of 0 is the
// catalogue's.
func (c *Collector) Count(code Code, severity Severity, n uint64) {
	s := c.of(code)
	if severity == 0 {
		severity = s.rule.Severity
	}
	c.count(s, c.severity(s, severity), n)
}

func (c *Collector) count(s *codeState, severity Severity, n uint64) {
	s.unlisted += n
	s.bySeverity[severity] += n
	if !c.isPart {
		s.shut.Store(true)
	}
}

// severity is how bad a finding of a code is where nobody may rely on bitmaps.
func (c *Collector) severity(s *codeState, severity Severity) Severity {
	if c.stale && s.rule.Code.AboutBitmaps() && s.rule.Facts&WhileStale == 0 {
		return min(severity, Warning)
	}
	return severity
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
func (c *Collector) join(s *codeState, x *Finding) bool {
	if s.rule.Facts&Joins == 0 || s.unlisted > 0 || s.last < 0 || x.Unlisted {
		return false
	}
	last := &c.findings[s.last]
	mixed := s.rule.Facts&LeadsPastEnd != 0 || c.extra > 0 && s.kept > c.listed && s.rule.isEntry()
	if !mixed && (last.Value != x.Value || last.Expected != x.Expected) || !c.adjoin(s, last, x) {
		return false
	}
	last.Extent.Length = uint64(x.Extent.Offset-last.Extent.Offset) + x.Extent.Length
	last.Count += x.Count
	if mixed {
		last.Value, last.Expected = Value{}, Value{} // they differ from entry to entry
	}
	return true
}

// Met tells whether there was a finding of a code.
func (c *Collector) Met(code Code) bool {
	s := c.of(code)
	return s.kept > 0 || s.unlisted > 0
}

// adjoin tells whether b is of the same owner as a and begins where a ends.
func (c *Collector) adjoin(s *codeState, a, b *Finding) bool {
	words := s.rule.About == AboutL2Entry && s.rule.Facts&LeadsPastEnd != 0 // of which the first is at fault
	if uint64(b.Extent.Offset)&(c.cluster-1) == 0 &&
		(c.extra > 0 && (s.kept > c.listed || s.rule.Facts&LeadsPastEnd != 0) || b.GuestOffset != nil && b.Structure != StructL1Table) {
		// Another L2 table need not be the next one of the disk. And where two
		// structures lie in a cluster, only what is there is to be left alone.
		return false
	}
	gap := b.Extent.Offset - a.Extent.Offset - qcow2.HostOffset(a.Extent.Length)
	return a.Extent.Length != 0 && b.Extent.Length != 0 && b.Extent.Offset > a.Extent.Offset &&
		(gap == 0 || gap == 8 && c.extended && words) && a.Severity == b.Severity && a.Structure == b.Structure && a.Repair == b.Repair &&
		a.Of == b.Of && a.Bitmap == b.Bitmap
}

// Absorb adds all that another collector took, in its order.
func (c *Collector) Absorb(part *Collector) {
	for _, x := range part.findings {
		c.Add(x)
	}
	for _, r := range catalog().rules {
		if s := part.byCode[r.Code]; s != nil {
			for severity, n := range s.eachUnlisted() {
				c.Count(r.Code, severity, n)
			}
		}
	}
}

// Findings gives all findings that were kept; what was not is one finding for each
// code and severity at the end, so that the counts of the list always make up the totals.
func (c *Collector) Findings() []Finding {
	return appendUnlisted(slices.Clip(c.findings), c.byCode)
}

// eachUnlisted gives what is not listed one by one, the worst first: the totals must not depend
// on how much is listed, and findings of one code can differ in severity.
func (s *codeState) eachUnlisted() iter.Seq2[Severity, uint64] {
	return func(yield func(Severity, uint64) bool) {
		for severity := Trouble; severity > 0; severity-- {
			if n := s.bySeverity[severity]; n > 0 && !yield(severity, n) {
				return
			}
		}
	}
}
