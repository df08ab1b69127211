package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Repaired gives the result of the check after a repair together with what the
// repair has settled: findings of the check before it that the later one does not
// have any more. They come first, with Fixed set, at most limit of one code one by
// one (0 means [problem.DefaultMaxFindings]); totals and verdict are those of the later
// check.
//
// A finding is taken for the same one where code and place agree, or code and owner
// if its structure was moved. A run of which a part is left is settled for the rest of
// its count.
func Repaired(before, after *Result, limit int) *Result {
	if limit <= 0 {
		limit = problem.DefaultMaxFindings
	}
	left := newLeftovers(after)
	fixed := make([]problem.Finding, 0, len(before.Findings))
	// Exact matches first, so that what resembles a finding cannot take the place of
	// the one that it is.
	counts := make([]uint64, len(before.Findings))
	for i := range before.Findings {
		f := &before.Findings[i]
		counts[i] = f.Count - left.takeSame(f)
	}
	for i := range before.Findings {
		f := &before.Findings[i]
		if counts[i] > 0 {
			counts[i] -= left.takeLike(f, counts[i])
		}
	}
	listed, rest := make(map[problem.Code]int), make(map[problem.Code]*problem.Finding)
	for i := range before.Findings {
		f := before.Findings[i]
		if counts[i] == 0 {
			continue
		}
		f.Count, f.Fixed = counts[i], true
		if !f.Unlisted && listed[f.Code] < limit {
			listed[f.Code]++
			fixed = append(fixed, f)
			continue
		}
		r := rest[f.Code]
		if r == nil {
			r = &problem.Finding{Code: f.Code, Severity: f.Severity, Structure: f.Structure, Repair: f.Repair, Fixed: true, Unlisted: true}
			rest[f.Code] = r
		}
		r.Count += f.Count
	}
	for _, rule := range problem.Catalog() {
		if r := rest[rule.Code]; r != nil {
			fixed = append(fixed, *r)
		}
	}
	out := *after
	out.Findings = append(fixed, after.Findings...)
	return &out
}

// leftovers are the findings of a later check, of each as many units as have not
// been recognised yet.
type leftovers struct {
	findings []problem.Finding
	counts   []uint64
	exact    map[findingKey][]int
	byCode   map[problem.Code][]int
	tried    int
}

// maxTried bounds how often findings are compared one by one; beyond it only their
// numbers are.
const maxTried = 1 << 24

func newLeftovers(r *Result) *leftovers {
	l := &leftovers{findings: r.Findings, counts: make([]uint64, len(r.Findings)),
		exact: make(map[findingKey][]int), byCode: make(map[problem.Code][]int)}
	for i := range r.Findings {
		f := &r.Findings[i]
		l.counts[i] = f.Count
		l.exact[keyOf(f)] = append(l.exact[keyOf(f)], i)
		l.byCode[f.Code] = append(l.byCode[f.Code], i)
	}
	return l
}

// take takes up to n units of finding i.
func (l *leftovers) take(i int, n uint64) uint64 {
	n = min(n, l.counts[i])
	l.counts[i] -= n
	return n
}

// takeSame takes the units of the same finding.
func (l *leftovers) takeSame(f *problem.Finding) (n uint64) {
	for _, i := range l.exact[keyOf(f)] {
		if f.Unlisted || f.Extent.Length > 0 || l.findings[i].Text() == f.Text() {
			n += l.take(i, f.Count-n)
		}
	}
	return n
}

// takeLike takes up to n units of findings that are most likely the same one, and
// then of those that are not listed one by one.
func (l *leftovers) takeLike(f *problem.Finding, n uint64) (taken uint64) {
	list := l.byCode[f.Code]
	for _, i := range list {
		if l.counts[i] == 0 {
			continue
		}
		if l.tried++; l.tried > maxTried {
			break
		}
		if g := &l.findings[i]; !g.Unlisted && alike(f, g) {
			taken += l.take(i, n-taken)
		}
	}
	for _, i := range list {
		if l.findings[i].Unlisted || f.Unlisted || l.tried > maxTried {
			taken += l.take(i, n-taken)
		}
	}
	return taken
}

// alike tells whether two findings of one code are about the same thing.
func alike(f, g *problem.Finding) bool {
	overlap := func(a, n, b, m uint64) bool { return a < b+m && b < a+n }
	if f.Structure == problem.StructRefcountBlock && f.Cluster != nil && g.Cluster != nil {
		return overlap(uint64(*f.Cluster), f.Count, uint64(*g.Cluster), g.Count)
	}
	if extentsOverlap(f.Extent, g.Extent) && f.Snapshot == g.Snapshot && f.Bitmap == g.Bitmap {
		return true
	}
	if f.Structure != g.Structure || f.Snapshot != g.Snapshot || f.Bitmap != g.Bitmap {
		return false
	}
	if f.GuestOffset != nil || g.GuestOffset != nil {
		return f.GuestOffset != nil && g.GuestOffset != nil && *f.GuestOffset == *g.GuestOffset
	}
	return f.Bitmap != "" || f.Snapshot != "" || f.Extent.Length == 0 && g.Extent.Length == 0
}

func extentsOverlap(a, b qcow2.Extent) bool {
	return a.Length > 0 && b.Length > 0 && uint64(a.Offset) < uint64(b.Offset)+b.Length && uint64(b.Offset) < uint64(a.Offset)+a.Length
}
