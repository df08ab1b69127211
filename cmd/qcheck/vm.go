package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/qmp"
	"github.com/qcheck/qcheck/report"
)

// vm is a running QEMU whose images are checked.
type vm struct {
	command *CheckCmd
	client  *qmp.Client
	guest   string
	nodes   []vmNode
}

// vmNode is a node that is to be checked, with the path of its image.
type vmNode struct {
	qmp.Node
	path string
}

// validateQMP refuses what --qmp cannot go with.
func (c *CheckCmd) validateQMP() error {
	var text string
	switch {
	case c.QMP == "":
	case c.writes() || c.DryRun:
		text = "--qmp checks the images of a running QEMU, and what is in use is never repaired: stop the VM first"
	case len(c.FilesFrom) > 0:
		text = "--qmp takes its images from QEMU, not from a list"
	case c.Untrusted:
		text = "--qmp is for images that a VM uses already: --untrusted comes before that"
	}
	if text == "" {
		return nil
	}
	return &usageError{text: text, hint: helpHint("")}
}

// askVM connects to QEMU and finds the nodes that are meant.
func (c *CheckCmd) askVM(ctx context.Context) (*vm, error) {
	client, err := qmp.Dial(ctx, c.QMP)
	if err != nil {
		return nil, fmt.Errorf("--qmp: %s", check.Escape(err.Error()))
	}
	v := &vm{command: c, client: client}
	if err := v.find(c.Images); err != nil {
		client.Close()
		return nil, fmt.Errorf("--qmp: %s", check.Escape(err.Error()))
	}
	return v, nil
}

// find asks for all nodes and keeps those named: all but backing files where none is.
func (v *vm) find(names []string) (err error) {
	if v.guest, err = v.client.Guest(); err != nil {
		return err
	}
	nodes, err := v.client.Nodes()
	if err != nil {
		return err
	}
	devices, err := v.client.Devices()
	if err != nil {
		return err
	}
	for _, name := range names {
		if node := devices[name]; node != "" {
			name = node
		}
		i := slices.IndexFunc(nodes, func(n qmp.Node) bool { return n.Name == name })
		if i < 0 {
			var all []string
			for _, n := range nodes {
				all = append(all, n.Name)
			}
			return fmt.Errorf("QEMU has no qcow2 node or device %q; there are: %s", name, strings.Join(all, ", "))
		}
		if err := v.add(nodes[i]); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if len(names) > 0 || n.ReadOnly {
			continue
		}
		if err := v.add(n); err != nil {
			return err
		}
	}
	if len(v.nodes) == 0 {
		return fmt.Errorf("QEMU has no qcow2 image open for writing")
	}
	return nil
}

func (v *vm) add(n qmp.Node) error {
	path, err := v.client.Path(n.File)
	if err == nil {
		v.nodes = append(v.nodes, vmNode{n, path})
	}
	return err
}

// paths gives the images of the nodes.
func (v *vm) paths() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, n := range v.nodes {
			if !yield(n.path, nil) {
				return
			}
		}
	}
}

// one checks the image of a node while QEMU uses it, and goes by what QEMU says of its
// bitmaps just before.
func (v *vm) one(ctx context.Context, s *streams, path string, opts check.Options) (report.Image, exitCode) {
	i := slices.IndexFunc(v.nodes, func(n vmNode) bool { return n.path == path })
	live := &report.Live{Guest: v.guest, Node: v.nodes[i].Name, Bitmaps: []check.LiveBitmap{}}
	nodes, err := v.client.Nodes()
	k := slices.IndexFunc(nodes, func(n qmp.Node) bool { return n.Name == live.Node })
	if err == nil && k < 0 {
		err = fmt.Errorf("QEMU has closed node %s meanwhile", check.Escape(live.Node))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", check.Escape(path), err)
		return report.Image{Name: path, Err: err}, s.fail(err)
	}
	for _, b := range nodes[k].Bitmaps {
		if b.Name != "" { // a job's own
			live.Bitmaps = append(live.Bitmaps, check.LiveBitmap(b))
		}
	}
	opts.LiveBitmaps = live.Bitmaps
	c := *v.command
	c.ForceShare = true
	image, code := c.one(ctx, s, path, opts)
	image.Live = live
	return image, code
}
