package problem

import (
	"fmt"
	"slices"
)

// manyCodes is how many codes can have as many findings as are listed of one, until
// those of all codes together are bounded.
const manyCodes = 5

// Bounded gives the findings that a report lists where at most most findings of a code
// are wanted: all of them, unless they are more than five times that, and than five times
// [DefaultMaxFindings]. Then as many of each code as there is room for, and the others as
// one finding a code, with Rest set, so that the counts still add up to the totals. fs
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
		if !fs[i].Rest {
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
		if seen[k]++; !f.Rest && seen[k] <= each {
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
		r := restFinding(f.Code, f.Severity, f.Count)
		r.Fixed = f.Fixed
		rest[k] = &r
	}
	for _, rule := range catalog().rules {
		for _, fixed := range []bool{false, true} {
			if r := rest[kind{rule.Code, fixed}]; r != nil {
				r.Message = restMessage(&rule, r.Count)
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

// restFinding is the one finding of a code for those that are not listed one by one.
func restFinding(code Code, severity Severity, count uint64) Finding {
	r, _ := Lookup(code)
	return Finding{Code: code, Severity: severity, Structure: r.Structure, Repair: r.Repair, Count: count, Rest: true,
		Message: restMessage(&r, count)}
}

func restMessage(r *Rule, count uint64) string {
	return fmt.Sprintf("%d more of these are not listed: %s", count, r.Title)
}
