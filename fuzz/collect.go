package fuzz

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"
)

// alike are failures of one kind and detail.
type alike struct {
	minimised int        // mutants that were minimised, or are being
	kept      []*Failure // each with another Where
}

// mostMinimised is how many failures of one kind and detail are minimised, to see
// whether they come from something else than those before. Hangs take long.
func mostMinimised(f *Failure) int {
	switch {
	case f.Kind == "difference", f.Kind == "memory", f.Located:
		return 1 // the detail says what it is about
	}
	switch f.Kind {
	case "hang":
		return 4
	}
	return 24
}

// take counts a failure. Where it is none of those that there were before, it is
// minimised and kept.
func (s *session) take(ctx context.Context, dir string, f *Failure) error {
	key := f.Kind + ": " + f.Detail
	seed := f.Mutant.Seed
	s.mu.Lock()
	like := s.failures[key]
	if like == nil {
		like = new(alike)
		s.failures[key] = like
	}
	if like.minimised >= mostMinimised(f) && len(like.kept) > 0 {
		defer s.mu.Unlock()
		like.kept[0].Count++
		return like.kept[0].noteSeed(seed)
	}
	like.minimised++
	s.mu.Unlock()

	var failed error
	same := func(m *Mutant) bool {
		if ctx.Err() != nil || failed != nil {
			return false // what there is so far is kept
		}
		c, img, err := m.Build(s.Images)
		if err != nil {
			return false
		}
		fs, err := s.try(ctx, dir, c, img, false)
		if err != nil {
			failed = err
		}
		return ctx.Err() == nil && slices.ContainsFunc(fs, func(g *Failure) bool { return g.Kind == f.Kind && g.Detail == f.Detail })
	}
	f.Mutant = f.Mutant.Minimise(same).minimiseBytes(same)
	if f.Kind != "difference" {
		f.Where = f.Mutant.where()
	}
	f.Count = 1
	if cs, err := f.Mutant.Changes(s.Images); err == nil {
		f.Changes = cs
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(like.kept, func(g *Failure) bool { return g.Where == f.Where || mostMinimised(f) == 1 }); i >= 0 {
		like.kept[i].Count++
		if err := like.kept[i].noteSeed(seed); err != nil {
			return err
		}
		return failed
	}
	like.kept = append(like.kept, f)
	if s.Out != "" {
		if err := s.save(f); err != nil {
			return err
		}
	}
	return failed
}

// wholeNumbers are no parts of names such as l1_size.
var wholeNumbers = regexp.MustCompile(`\b(0x[0-9a-f]+|[0-9]+)\b`)

// where names what a mutant changes, without numbers and values; where there is
// nothing to be changed, the kind of image.
func (m *Mutant) where() string {
	if len(m.Mutations) == 0 {
		return path.Dir(m.Case)
	}
	var parts []string
	for i := range m.Mutations {
		text, _, _ := strings.Cut(m.Mutations[i].whole(), ": ")
		parts = append(parts, wholeNumbers.ReplaceAllString(text, "N"))
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), "; ")
}
