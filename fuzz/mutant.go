package fuzz

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
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
	// Folder holds images to be used in place of the corpus: all files that are
	// called *.qcow2. The default is the corpus.
	Folder string

	mu    sync.Mutex
	kept  map[string]*corpus.Image
	bytes int64 // that they take
}

// mostKept bounds the images that are kept, in bytes.
const mostKept = 256 << 20

// Build gives the image of a case, for the caller alone.
func (b *Images) Build(name string) (*corpus.Case, *corpus.Image, error) {
	c, ok := corpus.Lookup(name)
	if b.Folder != "" {
		c, ok = corpus.Case{Name: name}, true
	}
	if !ok {
		return nil, nil, fmt.Errorf("there is no case %q", name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if img := b.kept[name]; img != nil {
		return &c, img.Clone(), nil
	}
	build := c.Build
	if b.Folder != "" {
		build = func() (*corpus.Image, error) { return load(filepath.Join(b.Folder, filepath.Base(name))) }
	}
	img, err := build()
	if err != nil {
		return nil, nil, err
	}
	if b.kept == nil || b.bytes >= mostKept {
		b.kept, b.bytes = make(map[string]*corpus.Image), 0
	}
	b.kept[name] = img
	b.bytes += img.Memory()
	if guest := img.Guest(); guest != nil {
		b.bytes += guest.Memory()
	}
	for _, s := range img.Siblings {
		b.bytes += s.Memory()
	}
	return &c, img.Clone(), nil
}

// caseOf gives the case of a name, without its image.
func (b *Images) caseOf(name string) (*corpus.Case, error) {
	if b.Folder != "" {
		return &corpus.Case{Name: name}, nil
	}
	c, ok := corpus.Lookup(name)
	if !ok {
		return nil, fmt.Errorf("there is no case %q", name)
	}
	return &c, nil
}

// maxLoaded is the longest file that is used of a folder, in bytes.
const maxLoaded = 1 << 30

// load reads an image file, and of its folder what belongs to it: its backing file
// and its data file, unless their names lead elsewhere.
func load(path string) (*corpus.Image, error) {
	s, err := loadFile(path)
	if err != nil {
		return nil, err
	}
	img := &corpus.Image{Store: s}
	opened, err := qcow2.Open(s, s.Size())
	if err != nil {
		return img, nil // of another format; a header will not be found in it
	}
	backing, _ := opened.BackingFileName()
	names := []string{string(backing)}
	if e := opened.Extension(qcow2.ExtDataFile); e != nil {
		names = append(names, string(e.Data))
	}
	for _, name := range names {
		if name == "" || name == imageName || !filepath.IsLocal(name) || filepath.Base(name) != name {
			continue
		}
		s, err := loadFile(filepath.Join(filepath.Dir(path), name))
		if err != nil {
			continue // it is missing, as it is for every other reader
		}
		if img.Siblings == nil {
			img.Siblings = make(map[string]*corpus.Store)
		}
		img.Siblings[name] = s
	}
	return img, nil
}

// loadFile reads a file.
func loadFile(path string) (*corpus.Store, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxLoaded {
		return nil, fmt.Errorf("%s: no file, or too long a one to be kept in memory", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := corpus.NewStore(st.Size())
	buf := make([]byte, 1<<20)
	for off := int64(0); off < st.Size(); off += int64(len(buf)) {
		n, err := f.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			return nil, err
		}
		s.WriteAt(buf[:n], off) // zeros take no memory
	}
	s.Truncate(st.Size())
	return s, nil
}

// Names gives the images that mutants can be made of.
func (b *Images) Names() ([]string, error) {
	if b.Folder == "" {
		return Cases(), nil
	}
	paths, err := filepath.Glob(filepath.Join(b.Folder, "*.qcow2"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Size() <= maxLoaded {
			names = append(names, filepath.Base(p))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no file that is called *.qcow2", b.Folder)
	}
	return names, nil
}

// Cases gives the names of the cases that mutants are made of: all but those that
// are hostile, huge or long, rest on I/O errors or a limit of memory, or have damaged data.
var Cases = sync.OnceValue(func() []string {
	var names []string
	for _, c := range corpus.Cases() {
		if !c.Huge && !c.Long && !c.DataDamaged && !c.QEMUSlow && len(c.Unreadable) == 0 && c.MemoryLimit == 0 && !strings.HasPrefix(c.Name, "hostile/") {
			names = append(names, c.Name)
		}
	}
	return names
})

// Select gives the names of those of [Cases] that a pattern matches (see [corpus.Select])
// and whose virtual disk has at most maxDisk bytes; 0 is no limit.
func Select(pattern string, maxDisk uint64) ([]string, error) {
	cases, err := corpus.Select(pattern)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range cases {
		if !slices.Contains(Cases(), cases[i].Name) {
			continue
		}
		if maxDisk > 0 {
			img, err := cases[i].Build()
			if err != nil {
				return nil, err
			}
			if img.DiskSize() > maxDisk {
				continue
			}
		}
		names = append(names, cases[i].Name)
	}
	return names, nil
}

// NewMutant makes the mutant of a number, of the cases named; the same numbers and
// names give the same mutant on every machine.
func NewMutant(images *Images, names []string, seed uint64) (*Mutant, *corpus.Image, error) {
	rnd := seedRand(seed)
	m := &Mutant{Case: names[choose(rnd, len(names))], Seed: seed}
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
