package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
)

// CorpusCmd is `qcheck corpus`.
type CorpusCmd struct {
	List    CorpusListCmd    `cmd:"" help:"List the images by name, with their stories."`
	Write   CorpusWriteCmd   `cmd:"" help:"Write images to a folder."`
	Export  CorpusExportCmd  `cmd:"" help:"Write images as seeds for a fuzzer."`
	Run     CorpusRunCmd     `cmd:"" help:"Run a reader over the images and compare what it reads."`
	Samples CorpusSamplesCmd `cmd:"" help:"Write four images that show what a check says."`
}

// Examples is shown below the command's help.
func (c *CorpusCmd) Examples() string {
	return "  qcheck corpus list bitmap\n  qcheck corpus write /tmp/images\n  qcheck corpus run -- ./my-reader {}\n  qcheck corpus samples /tmp/images"
}

// noCase is the error of a pattern that no image's name matches.
func noCase(pattern string) error {
	return &usageError{text: fmt.Sprintf("no image's name matches %q", pattern), hint: "`qcheck corpus list` shows all"}
}

// CorpusListCmd is `qcheck corpus list [PATTERN]`.
type CorpusListCmd struct {
	Pattern string `arg:"" optional:"" help:"A section ('bitmap'), or a shell pattern: with a slash for the whole name ('bitmap/*name*'), without one for what follows the slash ('*-clusters-512')."`
	JSON    bool   `name:"json" help:"One JSON object a line (see docs/corpus.md)."`
}

// Examples is shown below the command's help.
func (c *CorpusListCmd) Examples() string {
	return "  qcheck corpus list\n  qcheck corpus list --json 'bitmap/*name*'"
}

// Run lists cases.
func (c *CorpusListCmd) Run(s *streams) error {
	cases, err := corpus.Select(c.Pattern)
	if err != nil {
		return err
	}
	if len(cases) == 0 {
		return noCase(c.Pattern)
	}
	enc := json.NewEncoder(s.out)
	enc.SetEscapeHTML(false)
	for i := range cases {
		k := &cases[i]
		if c.JSON {
			err = enc.Encode(k.Entry())
		} else {
			_, err = fmt.Fprintf(s.out, "%s: %s\n", k.Name, k.Story)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// CorpusWriteCmd is `qcheck corpus write FOLDER [PATTERN]`.
type CorpusWriteCmd struct {
	Dir     string   `arg:"" name:"folder" help:"Where to write; made where it is not there. Files of the same names are replaced. index.json tells of all that was written (see docs/corpus.md)."`
	Pattern string   `arg:"" optional:"" help:"As in 'qcheck corpus list'; all images without it."`
	MaxDisk byteSize `name:"max-disk" help:"Leave out images with a larger virtual disk, for readers that read all of it (64M, 2G). The default is no limit." placeholder:"SIZE"`
}

// Examples is shown below the command's help.
func (c *CorpusWriteCmd) Examples() string {
	return "  qcheck corpus write /tmp/images\n  qcheck corpus write /tmp/images 'bitmap/*name*'\n  qcheck corpus write --max-disk 64M /tmp/images"
}

// Run writes images.
func (c *CorpusWriteCmd) Run(s *streams) error {
	cases, err := corpus.Selection{Pattern: c.Pattern, MaxDisk: uint64(c.MaxDisk)}.Export(c.Dir)
	if err != nil {
		return err
	}
	if len(cases) == 0 {
		if c.MaxDisk > 0 {
			return &usageError{text: fmt.Sprintf("no image whose name matches %q has so small a disk", c.Pattern), hint: "`qcheck corpus list` shows all"}
		}
		return noCase(c.Pattern)
	}
	noun := "images"
	if len(cases) == 1 {
		noun = "image"
	}
	_, err = fmt.Fprintf(s.out, "%d %s written to %s\n", len(cases), noun, check.Escape(c.Dir))
	return err
}

// CorpusSamplesCmd is `qcheck corpus samples FOLDER`.
type CorpusSamplesCmd struct {
	Dir string `arg:"" name:"folder" help:"Where to write; made where it is not there. Files of the same names are replaced."`
}

// Examples is shown below the command's help.
func (c *CorpusSamplesCmd) Examples() string { return "  qcheck corpus samples /tmp/images" }

// Run writes the samples.
func (c *CorpusSamplesCmd) Run(s *streams) error {
	samples := corpus.Samples()
	for i := range samples {
		k := &samples[i]
		if err := k.WriteFiles(c.Dir); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(s.out, "%s: %s\n", check.Escape(filepath.Join(c.Dir, k.Filename())), k.Story); err != nil {
			return err
		}
	}
	return nil
}
