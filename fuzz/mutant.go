package fuzz

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/qcheck/qcheck/corpus"
)

// Mutant is an image of the corpus with changes.
type Mutant struct {
	Case      string     `json:"case"`
	Seed      uint64     `json:"seed"`
	Mutations []Mutation `json:"mutations"`
}

// maxMutations is how many changes a new mutant has at most.
const maxMutations = 6

// Images builds the images of cases, and keeps some of them: most mutants are made
// of images that were built before. It is safe for concurrent use.
type Images struct {
	mu   sync.Mutex
	kept map[string]*corpus.Image
}

// mostKept bounds the images that are kept.
const mostKept = 100

// Build gives the image of a case, for the caller alone.
func (b *Images) Build(name string) (*corpus.Case, *corpus.Image, error) {
	c, ok := corpus.Lookup(name)
	if !ok {
		return nil, nil, fmt.Errorf("there is no case %q", name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if img := b.kept[name]; img != nil {
		return &c, img.Clone(), nil
	}
	img, err := c.Build()
	if err != nil {
		return nil, nil, err
	}
	if b.kept == nil || len(b.kept) >= mostKept {
		b.kept = make(map[string]*corpus.Image)
	}
	b.kept[name] = img
	return &c, img.Clone(), nil
}

// Cases gives the names of the cases that mutants are made of: all but those that
// are hostile or huge, or rest on I/O errors or a limit of memory.
var Cases = sync.OnceValue(func() []string {
	var names []string
	for _, c := range corpus.Cases() {
		if !c.Huge && !c.QEMUSlow && len(c.Unreadable) == 0 && c.MemoryLimit == 0 && !strings.HasPrefix(c.Name, "hostile/") {
			names = append(names, c.Name)
		}
	}
	return names
})

// NewMutant makes the mutant of a number, of the cases named; the same numbers and
// names give the same mutant on every machine.
func NewMutant(images *Images, names []string, seed uint64) (*Mutant, *corpus.Image, error) {
	rnd := rand.New(rand.NewPCG(seed, 0x71636865636b))
	m := &Mutant{Case: names[rnd.IntN(len(names))], Seed: seed}
	_, img, err := images.Build(m.Case)
	if err != nil {
		return nil, nil, err
	}
	// Mostly few: of an image with many faults little can be learned.
	n := 1
	for n < maxMutations && rnd.IntN(5) < 3 {
		n++
	}
	for tries := 0; len(m.Mutations) < n && tries < 10*maxMutations; tries++ {
		if mu, ok := mutate(rnd, img.Store); ok {
			mu.apply(img.Store)
			m.Mutations = append(m.Mutations, mu)
		}
	}
	return m, img, nil
}

// Build makes the mutant's image.
func (m *Mutant) Build(images *Images) (*corpus.Case, *corpus.Image, error) {
	c, img, err := images.Build(m.Case)
	if err != nil {
		return nil, nil, err
	}
	for i := range m.Mutations {
		if err := m.Mutations[i].check(); err != nil {
			return nil, nil, err
		}
		m.Mutations[i].apply(img.Store)
	}
	return c, img, nil
}

// String tells the mutant in words.
func (m *Mutant) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %s", m.Seed, m.Case)
	for i := range m.Mutations {
		b.WriteString("; " + m.Mutations[i].Text)
	}
	return b.String()
}

// Minimise takes mutations away, one at a time, while keep is true of what is left,
// and gives the shortest list that it found.
func (m *Mutant) Minimise(keep func(*Mutant) bool) *Mutant {
	best := *m
	for again := true; again; {
		again = false
		for i := 0; i < len(best.Mutations); i++ {
			less := best
			less.Mutations = append(append([]Mutation(nil), best.Mutations[:i]...), best.Mutations[i+1:]...)
			if keep(&less) {
				best, again = less, true
				i--
			}
		}
	}
	return &best
}
