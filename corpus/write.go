package corpus

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Select gives the cases whose name a pattern matches: a shell pattern for the
// whole name ("bitmap/name-*"), or the name of a section ("bitmap"). An empty
// pattern matches all.
func Select(pattern string) ([]Case, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return slices.DeleteFunc(Cases(), func(c Case) bool {
		whole, _ := path.Match(pattern, c.Name)
		return pattern != "" && !whole && !strings.HasPrefix(c.Name, pattern+"/")
	}), nil
}

// Export writes the images of the cases that a pattern matches (see [Select])
// into a directory, which is made where it is not there, together with the
// files that the images need. It gives the cases written; each stands in the
// file that [Case.Filename] tells, and [IndexName] tells of all of them. Images that
// no file system can hold are left out.
func Export(dir, pattern string) ([]Case, error) {
	cases, err := Select(pattern)
	if err != nil {
		return nil, err
	}
	cases = slices.DeleteFunc(cases, func(c Case) bool { return c.Huge })
	if len(cases) == 0 {
		return nil, nil
	}
	var entries []Entry
	for i := range cases {
		img, entry, err := cases[i].BuildEntry()
		if err == nil {
			err = img.WriteFiles(dir, cases[i].Filename())
		}
		if err != nil {
			return cases[:i], err
		}
		entries = append(entries, entry)
	}
	return cases, writeIndex(dir, entries)
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
