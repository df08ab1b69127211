// Demo writes the images of `make demo` into a directory, and tells for each its path and what it shows,
// a line each with a tab between.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/qcheck/qcheck/corpus"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func write(dir string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, c := range corpus.Demo() {
		img, err := c.Build()
		if err != nil {
			return err
		}
		path := filepath.Join(dir, strings.TrimPrefix(c.Filename(), "demo-"))
		if err := img.WriteFile(path); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s\t%s\n", path, c.Story); err != nil {
			return err
		}
	}
	return nil
}
