package problem

import "slices"

// manyCodes is how many codes can have as many findings as are listed of one, until
// those of all codes together are bounded.
const manyCodes = 5

// Bounded gives the findings that a report lists where at most most findings of a code
// are wanted: all of them, unless they are more than five times that, and than five times
// [DefaultMaxFindings]. Then as many of each code as there is room for, and the others as
// one finding a code, with Unlisted set, so that the counts still add up to the totals. fs
// stays as it is.
func Bounded(fs []Finding, most int) []Finding {
	return bounded(fs, manyCodes*max(most, DefaultMaxFindings))
}

func bounded(fs []Finding, room int) []Finding {
	if len(fs) <= room {
		return fs
	}
	type kind struct {
		code  Code
		fixed bool
	}
	listed := make(map[kind]int)
	for i := range fs {
		if !fs[i].Unlisted {
			listed[kind{fs[i].Code, fs[i].Fixed}]++
		}
	}
	each := share(listed, room)
	out := make([]Finding, 0, room)
	rest := make(map[kind]*Finding)
	seen := make(map[kind]int)
	for i := range fs {
		f := &fs[i]
		k := kind{f.Code, f.Fixed}
		if seen[k]++; !f.Unlisted && seen[k] <= each {
			out = append(out, *f)
			continue
		}
		if r := rest[k]; r != nil {
			r.Count += f.Count
			if f.Severity > r.Severity {
				r.Severity = f.Severity
			}
			continue
		}
		r := unlisted(f.Code, f.Severity, f.Count)
		r.Fixed = f.Fixed
		rest[k] = &r
	}
	for _, rule := range catalog().rules {
		for _, fixed := range []bool{false, true} {
			if r := rest[kind{rule.Code, fixed}]; r != nil {
				out = append(out, *r)
			}
		}
	}
	return out
}

// share is how many of each kind there can be, so that all of them take no more than room.
func share[K comparable](kinds map[K]int, room int) int {
	var counts []int
	for _, n := range kinds {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	for i, n := range counts {
		left := len(counts) - i
		if n*left > room {
			return room / left
		}
		room -= n
	}
	return room
}

// unlisted is the one finding of a code for those that are not listed one by one.
func unlisted(code Code, severity Severity, count uint64) Finding {
	return Finding{Code: code, Severity: severity, Count: count, Unlisted: true}.Filled()
}

// Listed gives the first most findings of each code, and all others as one finding for each
// code and severity at the end. fs stays as it is.
func Listed(fs []Finding, most int) []Finding {
	seen := make(map[Code]int)
	more := make(map[Code]*codeState)
	out := make([]Finding, 0, min(len(fs), most))
	for i := range fs {
		f := &fs[i]
		if seen[f.Code]++; !f.Unlisted && seen[f.Code] <= most {
			out = append(out, *f)
			continue
		}
		if more[f.Code] == nil {
			more[f.Code] = new(codeState)
		}
		more[f.Code].bySeverity[f.Severity] += f.Count
	}
	return appendUnlisted(out, more)
}

// appendUnlisted adds what is not listed, in the order of the catalogue.
func appendUnlisted(out []Finding, more map[Code]*codeState) []Finding {
	for i := range catalog().rules {
		if s := more[catalog().rules[i].Code]; s != nil {
			for severity, n := range s.eachUnlisted() {
				out = append(out, unlisted(catalog().rules[i].Code, severity, n))
			}
		}
	}
	return out
}
