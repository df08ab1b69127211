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
	Image string `arg:"" help:"Image file or block device."`
	Name  string `arg:"" optional:"" help:"The bitmap to show: dirty bytes, dirty extents, digest."`
	Show
}

// Examples is shown below the command's help.
func (c *BitmapsCmd) Examples() string {
	return "  qcheck bitmaps disk.qcow2\n  qcheck bitmaps disk.qcow2 backup-7\n  qcheck bitmaps -o json disk.qcow2 backup-7"
}

// Run lists the bitmaps, or shows one.
func (c *BitmapsCmd) Run(ctx context.Context, g *Globals, s *streams) error {
	return c.show(ctx, g, s, c.Image, func(o *opened, res *check.Result) (shown, error) {
		size := o.img.Header.Size
		if c.Name == "" {
			return &report.BitmapList{Name: c.Image, VirtualSize: size, Bitmaps: res.Bitmaps, Live: res.Provisional}, nil
		}
		info, err := c.find(s, res)
		if err != nil {
			return nil, err
		}
		detail := &report.BitmapDetail{Name: c.Image, VirtualSize: size, Bitmap: *info, Live: res.Provisional}
		if err := addContent(o.img, info, detail); err != nil {
			return nil, fmt.Errorf("bitmap %s: %w", check.Escape(c.Name), err)
		}
		return detail, nil
	})
}

// find gives the bitmap of the name that was given: as it is, or as reports
// write one that cannot be typed.
func (c *BitmapsCmd) find(s *streams, res *check.Result) (*check.BitmapInfo, error) {
	var found []*check.BitmapInfo
	for i := range res.Bitmaps {
		if b := &res.Bitmaps[i]; b.Name == c.Name || check.Escape(b.Name) == c.Name || check.Excerpt(b.Name) == c.Name {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		return nil, &usageError{
			text: "there is no bitmap " + check.Escape(c.Name),
			hint: "without a name, `qcheck bitmaps` lists those there are",
		}
	}
	if len(found) > 1 {
		s.warning(fmt.Sprintf("%s: there are %d bitmaps of this name; this is the first", check.Escape(c.Image), len(found)))
	}
	return found[0], nil
}

// addContent adds what the bitmap calls dirty, where its content can be used. One
// that QEMU would not use is shown without content.
func addContent(img *qcow2.Image, info *check.BitmapInfo, d *report.BitmapDetail) error {
	if info.State != check.BitmapEnabled && info.State != check.BitmapDisabled {
		return nil
	}
	entry := info.Entry()
	b, err := img.BitmapUnchecked(&entry)
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
