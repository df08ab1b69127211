// Package metadump copies the metadata of a qcow2 image, at the same offsets of a file of
// the same size that is otherwise a hole. Such a copy is a qcow2 image to every reader, a
// check finds in it what it finds in the original, and it can be given away: it has no
// byte of what a guest has written, and nothing that leads to a key.
//
// What belongs to the copy is not worked out a second time: a check runs on the image, and
// what it reads is noted. Of that
//
//	metadata that reads as what it is said to be     is copied
//	metadata that nothing leads to any more          is copied, where it was recognised
//	the encryption header                            is copied without salts, digests and key slots' content
//	everything else                                  is replaced by a filler where it is not zero
//
// The filler makes no sense as an entry of any table, so that a cluster of the guest's
// that was read as one makes as little sense in the copy.
package metadump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Options says what to copy, and how. The zero value is right.
type Options struct {
	// Anonymize replaces the names of files, snapshots and bitmaps, and whatever else
	// reads like text, by others of the same length: the same name by the same one
	// everywhere. The default is false.
	Anonymize bool
	// Jobs is how many goroutines read at once. The default is GOMAXPROCS.
	Jobs int
	// MemoryLimit bounds the check's reference counts, in bytes. The default is no limit.
	MemoryLimit int64
	// Live tells that another process has the image open for writing. The default is false.
	Live bool
	// Progress is told how far the check has come. The default is nil.
	Progress func(check.Progress)
}

// checkOptions are those of the check that tells what is metadata. Other files are left
// out of it, since a copy of the metadata goes without them.
func (o *Options) checkOptions() check.Options {
	return check.Options{Jobs: o.Jobs, MemoryLimit: o.MemoryLimit, Live: o.Live, Progress: o.Progress, NoBacking: true, BitmapData: true}
}

// Check checks an image as [Make] does, to be compared by [Differences].
func Check(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*check.Result, error) {
	img, err := qcow2.Open(r, size)
	if err != nil {
		return nil, err
	}
	return check.Run(ctx, img, opts.checkOptions())
}

// Dump is the metadata of an image, ready to be copied.
type Dump struct {
	// Result is that of the check of the image, without its other files.
	Result *check.Result
	// Size is that of the image file, in bytes.
	Size int64

	r       io.ReaderAt
	cluster int64
	spans   []span   // what the check has read
	parts   []part   // what lies where, in the order of the file
	names   *renamer // nil where nothing is to be renamed
}

// Make works out what of an image of size bytes is metadata. Nothing is written. It
// fails where the check does, and with [qcow2.ErrNotQcow2].
func Make(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Dump, error) {
	rec, reader := record(r)
	img, err := qcow2.Open(reader, size)
	if err != nil {
		return nil, err
	}
	res, ev, err := check.Inspect(ctx, img, opts.checkOptions())
	if err != nil {
		return nil, err
	}
	spans := slices.Clone(rec.read()) // what follows reads for its own ends
	d := &Dump{Result: res, Size: size, r: r, spans: spans, cluster: qcow2.SectorSize}
	if img.GeometryOK {
		d.cluster = int64(img.Geometry.ClusterSize())
		d.parts = partsOf(img, ev, spans)
	} else {
		d.parts = []part{{at: span{0, qcow2.SectorSize}, as: asIs}}
	}
	if opts.Anonymize {
		d.names = newRenamer(img, ev, d.parts)
	}
	return d, nil
}

// Stats tells what a copy holds.
type Stats struct {
	Copied  uint64 // bytes of metadata
	Removed uint64 // bytes that the check had read and that are not metadata, or are secret
}

// step is how much is read at once.
const step = 1 << 20

// CopyTo writes the metadata, at the same offsets. What is zero is not written: w must be
// a new file, which the caller makes as long as the image.
func (d *Dump) CopyTo(ctx context.Context, w io.WriterAt) (Stats, error) {
	var st Stats
	buf := make([]byte, step)
	next := 0
	for _, s := range d.spans {
		for s.from < s.to {
			if err := ctx.Err(); err != nil {
				return st, err
			}
			for next < len(d.parts) && d.parts[next].at.to <= s.from {
				next++
			}
			piece, as := span{s.from, min(s.to, s.from+step)}, removed
			if next < len(d.parts) {
				if p := &d.parts[next]; p.at.from <= s.from {
					piece.to, as = min(piece.to, p.at.to), p.as
				} else {
					piece.to = min(piece.to, p.at.from)
				}
			}
			if err := d.piece(w, buf[:piece.to-piece.from], piece.from, as, &st); err != nil {
				return st, err
			}
			s.from = piece.to
		}
	}
	return st, nil
}

// piece copies bytes that are all treated alike.
func (d *Dump) piece(w io.WriterAt, b []byte, off int64, as treatment, st *Stats) error {
	// What cannot be read any more stays a hole.
	if n, err := d.r.ReadAt(b, off); n < len(b) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %d bytes at 0x%x: %w", len(b), off, err)
	} else {
		clear(b[n:])
	}
	switch as {
	case removed:
		st.Removed += fill(b, off)
	case keyHeader:
		st.Removed += withoutKeys(b, uint64(off-d.headerOf(off)))
		st.Copied += uint64(len(b))
	default:
		st.Copied += uint64(len(b))
		if d.names != nil {
			d.names.rename(b, off)
		}
	}
	return writeSparse(w, b, off)
}

// headerOf is where the part starts that has a byte.
func (d *Dump) headerOf(off int64) int64 {
	for i := range d.parts {
		if p := &d.parts[i]; p.as == keyHeader && off >= p.at.from && off < p.at.to {
			return p.at.from
		}
	}
	return off
}

// writeSparse writes what is not zero, page by page.
func writeSparse(w io.WriterAt, b []byte, off int64) error {
	const page = 4096
	for len(b) > 0 {
		n := min(int64(len(b)), page-off%page)
		if !zero(b[:n]) {
			if _, err := w.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+n
	}
	return nil
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// Differences compares the check of an image with that of the copy of its metadata: it
// gives, in words, what only one of them has found. Names are not compared.
func Differences(original, dump *check.Result) []string {
	type key struct {
		code   problem.Code
		extent qcow2.Extent
		sev    problem.Severity
		count  uint64
		rest   bool
	}
	count := make(map[key]int)
	keyOf := func(f *problem.Finding) key { return key{f.Code, f.Extent, f.Severity, f.Count, f.Unlisted} }
	for i := range original.Findings {
		count[keyOf(&original.Findings[i])]++
	}
	var out []string
	for i := range dump.Findings {
		f := &dump.Findings[i]
		if k := keyOf(f); count[k] > 0 {
			count[k]--
		} else {
			out = append(out, fmt.Sprintf("only in the copy: %s at %v", f.Code, f.Extent.Offset))
		}
	}
	for i := range original.Findings {
		f := &original.Findings[i]
		if k := keyOf(f); count[k] > 0 {
			count[k]--
			out = append(out, fmt.Sprintf("not in the copy: %s at %v", f.Code, f.Extent.Offset))
		}
	}
	return out
}
