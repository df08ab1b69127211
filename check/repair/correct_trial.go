package repair

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// patched is the image with a patch.
type patched struct {
	*overlay
	p *patch
}

// ReadAt reads the image as it would be.
func (r *patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.overlay.ReadAt(b, off)
	for i, v := range r.p.new {
		if at := int64(r.p.at) + int64(i) - off; at >= 0 && at < int64(n) {
			b[at] = v
		}
	}
	return n, err
}

// NextData makes patched a [qcow2.DataFinder]: what was a hole may have a bit now.
func (r *patched) NextData(off int64) (start, end int64, err error) {
	start, end, err = r.overlay.NextData(off)
	at := int64(r.p.at)
	if last := at + int64(len(r.p.new)); err == nil && off < last && start > at {
		return max(at, off), last, nil
	}
	return start, end, err
}

// try tells whether everything agrees with a patch, and how much of it is odd.
func (c *corrector) try(ctx context.Context, p *patch) (oddities int, ok bool, err error) {
	c.read += trialCost
	img := c.open(p)
	if img == nil {
		return 0, false, nil
	}
	var pass string
	var done uint64
	res, ev, err := check.Inspect(ctx, img, check.Options{
		Jobs: 1, MemoryLimit: c.opts.MemoryLimit, MaxFindings: 64, // a clean image has few
		Reject: func(f *problem.Finding) bool { return !c.tolerates(f) },
		Progress: func(p check.Progress) {
			if p.Pass != pass {
				pass, done = p.Pass, 0
			}
			c.read += p.Done - min(done, p.Done)
			done = p.Done
		},
	})
	var bug *check.PassError
	switch {
	case errors.Is(err, check.ErrRejected), errors.As(err, &bug):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	agrees, leaks, err := c.agrees(ctx, res, ev)
	if err != nil || !agrees {
		return 0, false, err
	}
	fits, err := c.contentFits(ctx, img, res, ev, p)
	if err != nil || !fits {
		return 0, false, err
	}
	oddities = c.oddities(img, res, ev, leaks)
	return oddities, !c.mild || oddities <= c.odd, nil
}

// open gives the image with a patch; nil where it cannot be read at all.
func (c *corrector) open(p *patch) *qcow2.Image {
	r := &patched{c.o, p}
	if c.img.GeometryOK && uint64(p.at) >= c.g.ClusterSize() {
		return c.img.Over(r) // the header is the same
	}
	img, err := qcow2.Open(r, c.o.size)
	if err != nil || !img.GeometryOK || !img.Header.Known() {
		return nil
	}
	return img
}

// tolerates tells whether a finding may be there while everything agrees.
func (c *corrector) tolerates(f *problem.Finding) bool {
	return !c.severe(f) && (bearable(f) || f.Severity == problem.Note || f.Code == problem.RefcountTooHigh || c.res.Has(f.Code))
}

// agrees tells whether everything agrees: there is no corruption (that has been seen to),
// nothing is in doubt, and nothing was found that was not there before. Clusters without an
// owner that were there before may stay; their number is given.
func (c *corrector) agrees(ctx context.Context, res *check.Result, ev *check.Evidence) (ok bool, leaks int, err error) {
	if len(ev.Doubts) > 0 || !ev.Complete || ev.Table == nil || res.Totals.Errors > 0 {
		return false, 0, nil
	}
	left := 0
	for i := range ev.Findings {
		f := &ev.Findings[i]
		switch {
		case bearable(f), f.Severity == problem.Note, f.Code == problem.RefcountTooHigh:
		case f.Code == problem.OwnerUnknown, f.Code == problem.OrphanL2Table, f.Severity >= problem.InDoubt,
			!c.known[placeOf(f)]:
			return false, 0, nil
		default:
			left++
		}
	}
	if c.mild && left >= c.warnings() {
		return false, 0, nil // it has mended nothing
	}
	if !res.Has(problem.MarkedCorrupt) && res.QEMUOpen.ReadWrite != check.OpenOK && c.refusedAnyway(res) {
		return false, 0, nil
	}
	now, err := balanceOf(ctx, c.opts, ev)
	if err != nil {
		return false, 0, err
	}
	if left := len(now.high); left > 0 && left >= len(c.before.high) && c.res.Has(problem.OwnerUnknown) {
		return false, 0, nil // nobody's clusters have found an owner, and would be given back next
	}
	return now.within(&c.before), len(now.high), nil
}

// refusedAnyway tells that QEMU would not open the image, for what it is in itself.
func (c *corrector) refusedAnyway(res *check.Result) bool {
	return !res.Has(problem.BackingUnreadable) && !res.Has(problem.DataFileMissing)
}

// warnings counts the findings of before that were warnings.
func (c *corrector) warnings() (n int) {
	for i := range c.ev.Findings {
		if f := &c.ev.Findings[i]; f.Severity == problem.Warning && !bearable(f) {
			n++
		}
	}
	return n
}

// oddities counts what is legal in an image, and not what QEMU makes: sizes that do not
// follow from each other, clusters that nobody owns, an old version with a new header.
func (c *corrector) oddities(img *qcow2.Image, res *check.Result, ev *check.Evidence, leaks int) (n int) {
	h := &img.Header
	vm, sizes, same := false, 0, 0
	for i := range ev.Snapshots {
		s := &ev.Snapshots[i]
		vm = vm || s.VMState() > 0
		if size, ok := s.DiskSize(); ok {
			sizes++
			if size == h.Size {
				same++
			}
			if uint64(s.L1Size) != img.Geometry.L1EntriesFor(size) && s.VMState() == 0 {
				n++
			}
		}
		if s.ExtraDataSize > snapshotExtraQEMU || oddText(s.ID) || oddText(s.Name) {
			n++
		}
	}
	if sizes > 0 && same == 0 {
		n++
	}
	if needed := h.L1Needed(img.Geometry); uint64(h.L1Size) != needed && !vm {
		n++
	}
	switch head := img.Head(); {
	case h.Version == 2 && looksLikeVersion3(head):
		n++
	case h.HeaderLength == qcow2.HeaderLengthV3 && len(img.Extensions) == 0 && len(head) > qcow2.HeaderLengthCompression && head[qcow2.HeaderLengthCompression] != 0:
		n++ // what looks like extensions is not reached
	case h.Version != 2 && h.HeaderLength != qcow2.HeaderLengthV3 && h.HeaderLength != qcow2.HeaderLengthCompression:
		n++
	}
	for i := range res.Bitmaps {
		b := &res.Bitmaps[i]
		if b.State != check.BitmapEnabled && b.State != check.BitmapDisabled {
			n++
		}
	}
	return n + leaks
}

// snapshotExtraQEMU is how much extra data QEMU gives an entry of the snapshot table.
const snapshotExtraQEMU = 24

// oddText tells that a name has bytes that no name has: it is not where it is looked for.
func oddText(name []byte) bool {
	return bytes.ContainsFunc(name, func(r rune) bool { return r < ' ' })
}

// looksLikeVersion3 tells whether the header has fields that version 2 does not have: a
// refcount width, or its own length, where such an image has extensions or nothing.
func looksLikeVersion3(head []byte) bool {
	if len(head) < qcow2.FieldCompressionType {
		return false
	}
	order := binary.BigEndian.Uint32(head[qcow2.FieldRefcountOrder:])
	length := binary.BigEndian.Uint32(head[qcow2.FieldHeaderLength:])
	return order > 0 && order <= qcow2.MaxRefcountOrder || length == qcow2.HeaderLengthV3 || length == qcow2.HeaderLengthCompression
}

// imbalance holds the clusters whose refcounts are not the number of references.
type imbalance struct {
	known     bool
	low, high []disagreement // refcount lower, and higher, than the references
	cut       bool           // there are more
}

type disagreement struct {
	cluster              qcow2.HostCluster
	refcount, references uint64
}

// maxImbalance bounds the clusters that are remembered.
const maxImbalance = 1 << 16

func balanceOf(ctx context.Context, opts *Options, ev *check.Evidence) (im imbalance, err error) {
	if ev.Table == nil || !ev.Complete {
		return im, nil
	}
	im.known = true
	_, err = refcount.Compare(ctx, ev.Counts, ev.Table, refcount.CompareOptions{
		Jobs: opts.Jobs,
		Diff: func(d refcount.Diff) {
			list := &im.low
			if d.Refcount > d.References {
				list = &im.high
			}
			for k := range d.N {
				if len(*list) == maxImbalance {
					im.cut = true
					return
				}
				*list = append(*list, disagreement{d.First + qcow2.HostCluster(k), d.Refcount, d.References})
			}
		},
	})
	return im, err
}

// balance compares the refcounts of the image as it is.
func (c *corrector) balance(ctx context.Context) (err error) {
	c.before, err = balanceOf(ctx, c.opts, c.ev)
	return err
}

// within tells whether no cluster disagrees that did not before, in the same way.
func (im *imbalance) within(before *imbalance) bool {
	if !im.known || im.cut || len(im.low) > 0 {
		return false
	}
	if before.cut || !before.known {
		return len(im.high) == 0
	}
	i := 0
	for _, d := range im.high {
		for i < len(before.high) && before.high[i].cluster < d.cluster {
			i++
		}
		if i == len(before.high) || before.high[i] != d {
			return false
		}
	}
	return true
}

// lacking gives the clusters with references missing.
func (im *imbalance) lacking() map[qcow2.HostCluster]bool {
	all := make(map[qcow2.HostCluster]bool, len(im.high))
	for _, d := range im.high {
		all[d.cluster] = true
	}
	return all
}
