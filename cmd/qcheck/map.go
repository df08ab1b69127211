package main

import (
	"context"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/filemap"
	"github.com/qcheck/qcheck/report/mapview"
)

// MapCmd is `qcheck map IMAGE`.
type MapCmd struct {
	Image string `arg:"" help:"Image file or block device."`

	Output     string   `short:"o" enum:"human,html,json" default:"human" placeholder:"FORMAT" help:"How to show: human (the default; as wide as the terminal), html (one page that needs nothing else) or json."`
	ForceShare bool     `short:"U" help:"Read even while another program writes to the image; unflushed changes are not visible."`
	Jobs       number   `short:"j" placeholder:"N" help:"Read with N threads (default: one for each processor)."`
	Memory     byteSize `placeholder:"SIZE" help:"Use at most SIZE for counting references (default: half of the machine's memory)."`
	Progress   string   `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show progress: auto (the default; on a terminal), always or never."`
}

// Examples is shown below the command's help.
func (c *MapCmd) Examples() string {
	return "  qcheck map disk.qcow2\n  qcheck map -o html disk.qcow2 > disk.html"
}

// Run draws the map.
func (c *MapCmd) Run(ctx context.Context, s *streams) error {
	o, err := openImage(s, c.Image, c.ForceShare)
	if err != nil {
		return err
	}
	defer o.Close()
	if o.Live() {
		s.warning(check.Escape(c.Image) + ": another program writes to the image; unflushed changes are not visible")
	}
	fail := func(err error) error { return fmt.Errorf("%s: %w", check.Escape(c.Image), err) }
	opts := check.Options{Jobs: int(c.Jobs), MemoryLimit: int64(c.Memory), Live: o.Live(), OpenSibling: o.sibling}
	if opts.MemoryLimit == 0 {
		opts.MemoryLimit = defaultMemory()
	}
	s.progress = newProgressLine(c.Progress, s.err, c.Image)
	opts.Progress = s.progress.hook()
	res, ev, err := check.Inspect(ctx, o.img, opts)
	s.progress.done()
	if err != nil {
		return fail(err)
	}
	fine := filemap.Options{}
	if c.Output == "human" {
		n := mapview.Columns(terminalWidth(s.out))
		fine = filemap.Options{Cells: n, GuestCells: n}
	}
	m, err := filemap.Make(ctx, o.img, res, ev, fine)
	if err != nil {
		return fail(err)
	}
	switch c.Output {
	case "html":
		return mapview.HTML(s.out, c.Image, m)
	case "json":
		return mapview.JSON(s.out, c.Image, m)
	}
	return mapview.Text(s.out, c.Image, m)
}
