package main

import (
	"context"
	"errors"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/chain"
	"github.com/qcheck/qcheck/qcow2"
)

// link makes an open image a file of a chain.
type link struct{ *opened }

// Name is the path at which the file was found.
func (l link) Name() string { return l.path }

// Same tells whether another file of the chain is this one.
func (l link) Same(other chain.File) bool {
	o, ok := other.(link)
	if !ok {
		return false
	}
	device, inode := l.ID()
	d, i := o.ID()
	return device == d && inode == i && (device != 0 || inode != 0)
}

// checkChain checks an open image and all files below it.
func checkChain(ctx context.Context, o *opened, opts check.Options) (*chain.Chain, error) {
	c, err := chain.Run(ctx, link{o}, o.img, chain.Options{
		Check: opts,
		Open: func(from chain.File, name, _ string) (chain.File, error) {
			b, err := from.(link).backing(name)
			if err != nil {
				o.hint = from.(link).hint
				return nil, err
			}
			return link{b}, nil
		},
		OpenData: func(from chain.File, name, format string) (check.Sibling, error) {
			return from.(link).dataFile(name, format)
		},
		Run: func(ctx context.Context, file chain.File, img *qcow2.Image, opts check.Options) (*check.Result, error) {
			l := file.(link)
			l.img = img
			return checkImage(ctx, l.opened, opts)
		},
	})
	err = errors.Join(err, c.Close())
	top := c.Layers[0].Result
	if len(opts.Require) > 0 || opts.RequireAll {
		top.Unmet = append(top.Unmet, c.Unmet(opts.Require, opts.RequireAll)...)
	}
	return c, err
}

// validateChain refuses what --chain cannot go with.
func (c *CheckCmd) validateChain() error {
	var text string
	switch {
	case !c.Chain:
	case c.NoBacking:
		text = "--chain checks the backing files, and --no-backing leaves them out: only one of the two can be meant"
	case c.Untrusted:
		text = "--chain opens the files that an image names, which an image from a stranger must not make anybody do: not with --untrusted"
	case c.writes() || c.DryRun:
		text = "--chain only checks: repair each file of the chain by itself, the lowest first"
	}
	if text == "" {
		return nil
	}
	return &usageError{text: text, hint: helpHint("")}
}
