package fuzz

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Minimise takes mutations away while keep is true of what is left, and gives the
// shortest list of those for which it is: first one at a time, then whatever is
// shorter than what that came to.
func (m *Mutant) Minimise(keep func(*Mutant) bool) *Mutant {
	best := *m
	for again := true; again; {
		again = false
		for i := 0; i < len(best.Mutations); i++ {
			less := best
			less.Mutations = slices.Delete(slices.Clone(best.Mutations), i, i+1)
			if keep(&less) {
				best, again = less, true
				i--
			}
		}
	}
	if len(m.Mutations) > maxMutations {
		return &best // too many to try them all
	}
	for n := 1; n < len(best.Mutations); n++ {
		for set := range uint(1) << len(m.Mutations) {
			if bits.OnesCount(set) != n {
				continue
			}
			less := *m
			less.Mutations = nil
			for i := range m.Mutations {
				if set>>i&1 == 1 {
					less.Mutations = append(less.Mutations, m.Mutations[i])
				}
			}
			if keep(&less) {
				return &less
			}
		}
	}
	return &best
}

// minimiseBytes makes the mutations that are left change fewer bytes, from both ends,
// while keep is true.
func (m *Mutant) minimiseBytes(keep func(*Mutant) bool) *Mutant {
	best := *m
	for i := range best.Mutations {
		for _, front := range []bool{true, false} {
			for n := best.Mutations[i].length() / 2; n > 0; {
				tried := best
				tried.Mutations = slices.Clone(best.Mutations)
				mu := &tried.Mutations[i]
				if mu.length() <= n {
					n = mu.length() / 2
					continue
				}
				mu.drop(n, front)
				if !keep(&tried) {
					n /= 2
					continue
				}
				best = tried
			}
		}
	}
	return &best
}

// length is how many bytes a mutation changes; 0 for the file's size.
func (m *Mutation) length() uint64 { return max(m.Length, uint64(len(m.Bytes))) }

// drop makes a mutation leave n of its bytes as they are, at its front or its end.
func (m *Mutation) drop(n uint64, front bool) {
	whole := m.whole()
	if front {
		m.At += n
		if m.Op == OpCopy || m.Op == OpSwap {
			m.From += n
		}
	}
	if m.Op != OpWrite {
		m.Length -= n
	} else if front {
		m.Bytes = m.Bytes[n:]
	} else {
		m.Bytes = m.Bytes[:uint64(len(m.Bytes))-n]
	}
	unit := "bytes"
	if m.length() == 1 {
		unit = "byte"
	}
	m.Text = fmt.Sprintf("%s%s%d %s at %#x", whole, inPart, m.length(), unit, m.At)
	if m.Op == OpWrite {
		m.Text += fmt.Sprintf(", %x", m.Bytes)
	}
}

// inPart stands between the words for a mutation and what is left of it.
const inPart = "; of this only "

// whole gives the words for a mutation before anything of it was taken away.
func (m *Mutation) whole() string {
	whole, _, _ := strings.Cut(m.Text, inPart)
	return whole
}
