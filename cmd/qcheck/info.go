package main

import (
	"context"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/report"
)

// InfoCmd is `qcheck info IMAGE`.
type InfoCmd struct {
	Image string `arg:"" help:"Image file or block device."`
	Show
}

// Examples is shown below the command's help.
func (c *InfoCmd) Examples() string {
	return "  qcheck info disk.qcow2\n  qcheck info -o json disk.qcow2"
}

// Run shows what the image is.
func (c *InfoCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	return c.show(ctx, g, s, c.Image, func(o *opened, res *check.Result) (shown, error) {
		return report.NewInfo(c.Image, o.img, res), nil
	})
}
