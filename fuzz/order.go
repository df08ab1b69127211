package fuzz

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// order gives the numbers of a session's mutants, those of one image after the other:
// making an image takes a hundred times as long as changing it. Every number comes once,
// within a window of its place.
type order struct {
	names  int    // of images
	next   uint64 // the first number that no window has held yet
	end    uint64 // the number after the last; 0: there is no last
	width  uint64 // of the next window
	window []uint64
}

// The longer a session runs the more of its numbers can wait for their image.
const (
	firstWindow = 1 << 13
	lastWindow  = 1 << 15
)

func newOrder(names int, seed, runs uint64) *order {
	o := &order{names: names, next: seed, width: firstWindow}
	if runs > 0 {
		o.end = seed + runs
	}
	return o
}

// take gives the next number; ok is false after the last.
func (o *order) take() (seed uint64, ok bool) {
	if len(o.window) == 0 {
		o.fill()
	}
	if len(o.window) == 0 {
		return 0, false
	}
	seed, o.window = o.window[0], o.window[1:]
	return seed, true
}

func (o *order) fill() {
	n := o.width
	if o.end > 0 {
		n = min(n, o.end-o.next)
	}
	o.width = min(2*o.width, lastWindow)
	type place struct {
		seed  uint64
		image uint32
	}
	places := make([]place, n)
	for i := range places {
		seed := o.next + uint64(i)
		// Not in the order of their names: a session that is short must not stay with a few
		// sections.
		image := uint32(choose(seedRand(seed), o.names)) * 2654435761
		places[i] = place{seed, image}
	}
	o.next += n
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.image, b.image) })
	for _, p := range places {
		o.window = append(o.window, p.seed)
	}
}

// seedRand is what the mutant of a number is made with.
func seedRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x71636865636b)) }

// choose takes the image, which is the first choice.
func choose(rnd *rand.Rand, names int) int { return rnd.IntN(names) }
