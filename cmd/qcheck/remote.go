package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/remote"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report"
)

// remoteOne checks an image that is read over a network. Other files that it names are not
// looked at, and whether something writes to it nobody can tell.
func (c *CheckCmd) remoteOne(ctx context.Context, s *streams, name string, opts check.Options) (report.Image, exitCode) {
	image := report.Image{Name: remote.Shown(name), MaxFindings: opts.MaxFindings, Remote: true}
	fail := func(err error) (report.Image, exitCode) {
		if errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%s: %w", image.Name, errInterrupted)
		}
		image.Err = err
		return image, s.fail(err)
	}
	if c.DryRun { // it was named in a list
		return fail(errRemoteRepair(image.Name))
	}
	if c.Chain {
		return fail(&usageError{text: image.Name + ": --chain is for files: what a remote image names is not looked for", hint: helpHint("")})
	}
	f, err := remote.Open(ctx, name)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	img, err := qcow2.Open(f, f.Size())
	if err != nil {
		return fail(fmt.Errorf("%s: %w", image.Name, err))
	}
	if img.GeometryOK {
		image.ClusterSize = img.Geometry.ClusterSize()
	}
	if img.Header.HasBackingFile() && !c.NoBacking || img.Header.HasDataFile() {
		s.warning(image.Name + ": the other files that it names are not looked at")
	}
	image.Result, image.Err = check.Run(ctx, img, opts)
	if errors.Is(image.Err, context.Canceled) {
		image.Err = errInterrupted
	}
	o := &opened{path: image.Name}
	return c.finish(s, o, image)
}

// errRemoteRepair refuses to repair over a network.
func errRemoteRepair(shown string) error {
	return &usageError{text: shown + ": a remote image is only checked, never repaired: download it first", hint: helpHint("")}
}

// validateRemote refuses repairs of remote images before anything else is done.
func (c *CheckCmd) validateRemote() error {
	for _, name := range c.Images {
		if c.asked() && remote.Is(name) {
			return errRemoteRepair(remote.Shown(name))
		}
	}
	return nil
}

// shownName is what messages call an image.
func shownName(path string) string {
	if remote.Is(path) {
		return remote.Shown(path)
	}
	return path
}
