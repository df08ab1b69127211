package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report"
)

// BitmapsCmd is `qcheck bitmaps IMAGE [NAME]`.
type BitmapsCmd struct {
	Image      string `arg:"" help:"Image file or block device."`
	Name       string `arg:"" optional:"" help:"The bitmap to show: dirty bytes, dirty extents, digest."`
	Output     string `short:"o" enum:"human,json" default:"human" placeholder:"FORMAT" help:"How to show: ${enum}."`
	ForceShare bool   `short:"U" help:"Read even while another program writes to the image; what it keeps in memory is not seen."`
}

// Examples is shown below the command's help.
func (c *BitmapsCmd) Examples() string {
	return "  qcheck bitmaps disk.qcow2\n  qcheck bitmaps disk.qcow2 backup-7\n  qcheck bitmaps -o json disk.qcow2 backup-7"
}

// Run lists the bitmaps, or shows one.
func (c *BitmapsCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	o, err := openImage(c.Image, c.ForceShare)
	if err != nil {
		return openFailure(s, err)
	}
	defer o.Close()
	if o.Live() {
		s.warning(check.Escape(c.Image) + ": another program writes to the image; its bitmaps are as they were when it was opened")
	}
	res, err := checkImage(ctx, o, check.Options{}, c.ForceShare)
	if err != nil {
		return err
	}
	size := o.img.Header.Size
	if c.Name == "" {
		list := report.BitmapList{Name: c.Image, VirtualSize: size, Bitmaps: res.Bitmaps}
		if c.Output == "json" {
			return list.JSON(s.out)
		}
		return list.Human(s.out, g.reportOptions(s.out))
	}
	info, err := findBitmap(res, c.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.Image), err)
	}
	detail := report.BitmapDetail{Name: c.Image, VirtualSize: size, Bitmap: *info}
	if err := addContent(o.img, info, &detail); err != nil {
		return fmt.Errorf("%s: bitmap %s: %w", check.Escape(c.Image), check.Escape(c.Name), err)
	}
	if c.Output == "json" {
		return detail.JSON(s.out)
	}
	return detail.Human(s.out, g.reportOptions(s.out))
}

func findBitmap(res *check.Result, name string) (*check.BitmapInfo, error) {
	for i := range res.Bitmaps {
		if res.Bitmaps[i].Name == name {
			return &res.Bitmaps[i], nil
		}
	}
	return nil, fmt.Errorf("there is no bitmap %s; `qcheck bitmaps IMAGE` lists what there is", check.Escape(name))
}

// addContent adds what the bitmap calls dirty, where its content can be used. One
// that QEMU would not use is shown without content.
func addContent(img *qcow2.Image, info *check.BitmapInfo, d *report.BitmapDetail) error {
	if info.State != check.BitmapEnabled && info.State != check.BitmapDisabled {
		return nil
	}
	entry := info.Entry()
	b, err := img.Bitmap(&entry)
	if be, ok := errors.AsType[*qcow2.BitmapError](err); ok && be.Problem == qcow2.BitmapUnsaved {
		return nil
	}
	if err != nil {
		return err
	}
	if d.DirtyBytes, err = b.DirtyBytes(); err != nil {
		return err
	}
	digest, err := b.Digest()
	if err != nil {
		return err
	}
	d.Content, d.Digest, d.Extents = true, hex.EncodeToString(digest[:]), b.Dirty()
	return nil
}
