package main

import (
	"context"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/report"
)

// InfoCmd is `qcheck info IMAGE`.
type InfoCmd struct {
	Image      string `arg:"" help:"Image file or block device."`
	Output     string `short:"o" enum:"human,json" default:"human" placeholder:"FORMAT" help:"How to show: ${enum}."`
	ForceShare bool   `short:"U" help:"Read even while another program writes to the image."`
}

// Examples is shown below the command's help.
func (c *InfoCmd) Examples() string {
	return "  qcheck info disk.qcow2\n  qcheck info -o json disk.qcow2"
}

// Run shows what the image is.
func (c *InfoCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	o, err := openImage(c.Image, c.ForceShare)
	if err != nil {
		return openFailure(s, err)
	}
	defer o.Close()
	res, err := checkImage(ctx, o, check.Options{}, c.ForceShare)
	if err != nil {
		return err
	}
	info := report.NewInfo(c.Image, o.img, res)
	if c.Output == "json" {
		return info.JSON(s.out)
	}
	return info.Human(s.out, g.reportOptions(s.out))
}
