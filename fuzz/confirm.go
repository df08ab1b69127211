package fuzz

import (
	"bytes"
	"context"
	"os"
	"slices"
)

// confirm runs the command once more on what was kept, and drops what does not fail
// again: what depends on anything but the image is of no use to who has to mend it.
func (s *session) confirm(ctx context.Context, dir string) error {
	for key, like := range s.failures {
		var firm []*Failure
		for _, f := range like.kept {
			c, img, err := f.Mutant.Build(s.Images)
			if err != nil {
				return err
			}
			fs, err := s.try(ctx, dir, c, img, false)
			if err != nil {
				return err
			}
			if ctx.Err() != nil || slices.ContainsFunc(fs, func(g *Failure) bool { return g.Kind == f.Kind }) {
				firm = append(firm, f)
				continue
			}
			s.dropped++
			s.failed -= min(s.failed, f.Count)
			if f.Dir != "" {
				if err := os.RemoveAll(f.Dir); err != nil {
					return err
				}
			}
		}
		if like.kept = firm; len(firm) == 0 {
			delete(s.failures, key)
		}
	}
	return nil
}

// Change is bytes of an image before and after a mutant's changes.
type Change struct {
	Offset        uint64
	Before, After []byte
}

// Bounds of what [Mutant.Changes] tells.
const (
	mostChanges     = 8
	mostChangedPart = 16 // bytes
)

// Changes tells the bytes that differ between the image that a mutant is made of and the
// mutant: the first few of them. Where the file's length is another, what is missing is
// shorter on its side.
func (m *Mutant) Changes(images *Images) ([]Change, error) {
	_, was, err := images.Build(m.Case)
	if err != nil {
		return nil, err
	}
	_, is, err := m.Build(images)
	if err != nil {
		return nil, err
	}
	var cs []Change
	for i := range m.Mutations {
		mu := &m.Mutations[i]
		places := []uint64{mu.At}
		if mu.Op == OpSwap {
			places = append(places, mu.From)
		}
		for _, at := range places {
			n := min(mu.length(), mostChangedPart)
			if n == 0 || len(cs) >= mostChanges {
				continue
			}
			before, after := read(was.Store, at, n), read(is.Store, at, n)
			if !bytes.Equal(before, after) {
				cs = append(cs, Change{at, before, after})
			}
		}
	}
	return cs, nil
}
