package main

import (
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
)

// CorpusExportCmd is `qcheck corpus export --format FORMAT FOLDER [PATTERN]`.
type CorpusExportCmd struct {
	Format  string   `required:"" enum:"go-fuzz,afl,libfuzzer" help:"go-fuzz (testdata/fuzz of Go's native fuzzer), afl or libfuzzer (OSS-Fuzz, too)." placeholder:"FORMAT"`
	MaxSize byteSize `name:"max-size" help:"Leave out longer images. The default is 256k." placeholder:"SIZE"`
	Dir     string   `arg:"" name:"folder" help:"Where to write; made where it is not there. Files of the same names are replaced."`
	Pattern string   `arg:"" optional:"" help:"As in 'qcheck corpus list'; all images without it."`
}

// Examples is shown below the command's help.
func (c *CorpusExportCmd) Examples() string {
	return "  qcheck corpus export --format go-fuzz testdata/fuzz/FuzzMyReader\n  qcheck corpus export --format libfuzzer seeds 'header'"
}

// Run writes the seeds.
func (c *CorpusExportCmd) Run(s *streams) error {
	most := int64(c.MaxSize)
	if most == 0 {
		most = corpus.DefaultSeedSize
	}
	n, err := corpus.ExportSeeds(c.Dir, c.Pattern, corpus.SeedFormat(c.Format), most)
	if err != nil {
		return err
	}
	if n == 0 {
		return noCase(c.Pattern)
	}
	_, err = fmt.Fprintf(s.out, "%d seeds written to %s\n", n, check.Escape(c.Dir))
	return err
}
