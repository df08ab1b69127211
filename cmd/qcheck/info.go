package main

import (
	"context"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/report"
)

// InfoCmd is `qcheck info IMAGE...`.
type InfoCmd struct {
	Images []string `arg:"" name:"image" help:"Image files or block devices."`
	Format string   `short:"f" enum:",qcow2" default:"" placeholder:"qcow2" help:"The format, as qemu-img takes it; there is only one."`
	Show
}

// Examples is shown below the command's help.
func (c *InfoCmd) Examples() string {
	return "  qcheck info disk.qcow2\n  qcheck info *.qcow2\n  qcheck info -o json disk.qcow2"
}

// Run shows what the image is.
func (c *InfoCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	if len(c.Images) == 1 {
		return c.one(ctx, g, s, c.Images[0])
	}
	// Of several images JSON is an array, as of a check.
	json := c.Output == string(report.FormatJSON)
	between := map[bool][3]string{true: {"[\n", ",\n", "]\n"}, false: {"", "\n", ""}}[json]
	var codes []exitCode
	for i, image := range c.Images {
		if _, err := io.WriteString(s.out, between[min(i, 1)]); err != nil {
			return err
		}
		code := exitSound
		if err := c.one(ctx, g, s, image); err != nil {
			code = s.fail(err)
		}
		codes = append(codes, code)
	}
	if _, err := io.WriteString(s.out, between[2]); err != nil {
		return err
	}
	if code := worse(codes); code != exitSound {
		return code
	}
	return nil
}

// one shows one image.
func (c *InfoCmd) one(ctx context.Context, g *Globals, s *streams, image string) error {
	return c.show(ctx, g, s, image, func(o *opened, res *check.Result) (shown, error) {
		return report.NewInfo(image, o.img, res), nil
	})
}
