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
	Samples CorpusSamplesCmd `cmd:"" help:"Write four images that show what a check says."`
}

// CorpusListCmd is `qcheck corpus list [PATTERN]`.
type CorpusListCmd struct {
	Pattern string `arg:"" optional:"" help:"A section ('bitmap') or a shell pattern ('bitmap/*name*')."`
	JSON    bool   `name:"json" help:"One JSON object a line."`
}

// Run lists cases.
func (c *CorpusListCmd) Run(s *streams) error {
	cases, err := corpus.Select(c.Pattern)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(s.out)
	for i := range cases {
		k := &cases[i]
		codes := []check.Code{}
		for _, w := range k.Want {
			codes = append(codes, w.Code)
		}
		if c.JSON {
			err = enc.Encode(struct {
				Name     string       `json:"name"`
				File     string       `json:"file"`
				Story    string       `json:"story"`
				Findings []check.Code `json:"findings"`
			}{k.Name, k.Filename(), k.Story, codes})
		} else {
			_, err = fmt.Fprintf(s.out, "%s: %s\n", k.Name, k.Story)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// CorpusWriteCmd is `qcheck corpus write DIR [PATTERN]`.
type CorpusWriteCmd struct {
	Dir     string `arg:"" help:"The folder; made where it is not there."`
	Pattern string `arg:"" optional:"" help:"A section ('bitmap') or a shell pattern ('bitmap/*name*')."`
}

// Examples is shown below the command's help.
func (c *CorpusWriteCmd) Examples() string {
	return "  qcheck corpus write /tmp/images\n  qcheck corpus write /tmp/images 'bitmap/*'"
}

// Run writes images.
func (c *CorpusWriteCmd) Run(s *streams) error {
	cases, err := corpus.Export(c.Dir, c.Pattern)
	if err != nil {
		return err
	}
	if len(cases) == 0 {
		return fmt.Errorf("no image's name matches %q; `qcheck corpus list` shows all", c.Pattern)
	}
	_, err = fmt.Fprintf(s.out, "%d images written to %s\n", len(cases), check.Escape(c.Dir))
	return err
}

// CorpusSamplesCmd is `qcheck corpus samples DIR`.
type CorpusSamplesCmd struct {
	Dir string `arg:"" help:"The folder; made where it is not there."`
}

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
