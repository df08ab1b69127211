package corpus

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Select gives the cases whose name a shell pattern matches: the whole name where the
// pattern has a slash ("bitmap/name-*"), else the section before the slash ("bitmap") or
// what follows it ("*-clusters-512"). An empty pattern matches all.
func Select(pattern string) ([]Case, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	pattern = strings.TrimSuffix(pattern, "/")
	whole := strings.Contains(pattern, "/")
	matches := func(name string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	}
	return slices.DeleteFunc(Cases(), func(c Case) bool {
		section, rest, _ := strings.Cut(c.Name, "/")
		switch {
		case pattern == "":
			return false
		case whole:
			return !matches(c.Name)
		}
		return !matches(section) && !matches(rest)
	}), nil
}

// ErrHuge is the error of asking for files of images that no file system can hold.
var ErrHuge = errors.New("no file system can hold such an image: it exists in memory only")

// Export writes the images of the cases that a pattern matches as [Selection.Export]
// does.
func Export(dir, pattern string) ([]Case, error) { return Selection{Pattern: pattern}.Export(dir) }

// Selection chooses cases.
type Selection struct {
	// Pattern is one for [Select]. The default is all cases.
	Pattern string
	// MaxDisk leaves out images with a virtual disk of more bytes, by what they were made
	// with or by what their header says. The default is no limit.
	MaxDisk uint64
}

// DiskSize is the size of the virtual disk in bytes: the larger of what the image was
// made with and what its header says, which may be damaged.
func (img *Image) DiskSize() uint64 {
	if q, err := img.Open(); err == nil {
		return max(img.size, q.Header.Size)
	}
	return img.size
}

// Export writes the images of the cases into a directory, which is made where it is not
// there, together with the files that the images need. It gives the cases written; each
// stands in the file that [Case.Filename] tells, and [IndexName] tells of all of them.
// Images that no file system can hold are left out; where there are no others the error
// is [ErrHuge].
func (sel Selection) Export(dir string) ([]Case, error) {
	selected, err := Select(sel.Pattern)
	if err != nil || len(selected) == 0 {
		return nil, err
	}
	cases := slices.DeleteFunc(selected, func(c Case) bool { return c.Huge })
	if len(cases) == 0 {
		return nil, ErrHuge
	}
	entries := make([]Entry, len(cases))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range cases {
		g.Go(func() error {
			img, entry, err := cases[i].BuildEntry()
			if err != nil {
				return err
			}
			if sel.MaxDisk > 0 && img.DiskSize() > sel.MaxDisk {
				return nil
			}
			entries[i] = entry
			return img.WriteFiles(dir, entry.File)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	cases = slices.DeleteFunc(cases, func(c Case) bool { return !written(entries, c.Name) })
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Name == "" })
	if len(cases) == 0 {
		return nil, nil
	}
	return cases, writeIndex(dir, entries)
}

// written tells whether the entries have one of a name.
func written(entries []Entry, name string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == name })
}

// WriteFiles builds the case and writes its image, and the files that it needs,
// into a directory, which is made where it is not there. The files are sparse.
func (c *Case) WriteFiles(dir string) error {
	img, err := c.Build()
	if err != nil {
		return err
	}
	return img.WriteFiles(dir, c.Filename())
}

// WriteFiles writes the image to a file of this name in a directory, which is
// made where it is not there, and the files that belong to it beside it.
func (img *Image) WriteFiles(dir, name string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for other, s := range img.Siblings {
		if err := s.WriteFile(filepath.Join(dir, other)); err != nil {
			return err
		}
	}
	return img.WriteFile(filepath.Join(dir, name))
}
