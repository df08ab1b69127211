package metadump

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/qcheck/qcheck/qcow2"
)

// Record tells of which image, in what state, a dump is a copy. It is kept beside the
// copy: in it there would be no room for it that no check looked at.
type Record struct {
	// Size is that of the image file, in bytes.
	Size int64 `json:"image-size"`
	// SHA256 is that of the ranges of the image file, one after the other.
	SHA256 string `json:"sha256"`
	// Ranges are the bytes that were copied as they are: each an offset and a length.
	Ranges [][2]int64 `json:"ranges"`
	// Anonymized tells that names were replaced.
	Anonymized bool `json:"anonymized"`
}

// Errors of [Record.Changes].
var (
	ErrAnonymized = errors.New("its names were replaced, so it cannot be put back")
	ErrOther      = errors.New("it is not a copy of this image as it is now")
)

// whole gives the ranges that are copied as they are.
func (d *Dump) whole() (out []span) {
	next := 0
	for _, s := range d.spans {
		for next < len(d.parts) && d.parts[next].at.to <= s.from {
			next++
		}
		for i := next; i < len(d.parts) && d.parts[i].at.from < s.to; i++ {
			p := &d.parts[i]
			if from, to := max(s.from, p.at.from), min(s.to, p.at.to); p.as == asIs && from < to {
				out = append(out, span{from, to})
			}
		}
	}
	return merge(out)
}

// Record gives the record of a dump.
func (d *Dump) Record(ctx context.Context) (Record, error) {
	rec := Record{Size: d.Size, Anonymized: d.names != nil}
	for _, s := range d.whole() {
		rec.Ranges = append(rec.Ranges, [2]int64{s.from, s.to - s.from})
	}
	var err error
	rec.SHA256, err = rec.digest(ctx, d.r)
	return rec, err
}

// digest reads the ranges of a file.
func (r *Record) digest(ctx context.Context, f io.ReaderAt) (string, error) {
	h := sha256.New()
	for _, x := range r.Ranges {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := io.Copy(h, io.NewSectionReader(f, x[0], x[1])); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Changes gives what of an image differs from a copy of its metadata that was repaired
// meanwhile. It fails with [ErrOther] unless the image is the one that the copy was made
// of, with not one byte of its metadata changed since, and with [ErrAnonymized].
func (r *Record) Changes(ctx context.Context, image io.ReaderAt, size int64, dump io.ReaderAt, dumpSize int64, yield func(off qcow2.HostOffset, is []byte)) error {
	if r.Anonymized {
		return ErrAnonymized
	}
	if size != r.Size || dumpSize < size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrOther, size, r.Size)
	}
	if is, err := r.digest(ctx, image); err != nil {
		return err
	} else if is != r.SHA256 {
		return fmt.Errorf("%w: its metadata is another one, or something has written to it since", ErrOther)
	}
	now, err := Make(ctx, dump, dumpSize, Options{})
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	all := now.whole()
	for _, x := range r.Ranges {
		all = append(all, span{x[0], x[0] + x[1]})
	}
	for _, s := range merge(all) {
		for s.from < s.to {
			n := min(s.to-s.from, step)
			was, is := make([]byte, n), make([]byte, n)
			if err := errors.Join(readAll(image, was, s.from), readAll(dump, is, s.from)); err != nil {
				return err
			}
			if !bytes.Equal(was, is) {
				eachChange(was, is, func(from, to int) { yield(qcow2.HostOffset(s.from+int64(from)), is[from:to]) })
			}
			s.from += n
		}
	}
	return nil
}

// eachChange gives the ranges of 64 bytes in which two slices differ, joined.
func eachChange(a, b []byte, yield func(from, to int)) {
	const unit = 64
	from := -1
	for i := 0; i < len(a); i += unit {
		end := min(i+unit, len(a))
		switch same := bytes.Equal(a[i:end], b[i:end]); {
		case !same && from < 0:
			from = i
		case same && from >= 0:
			yield(from, i)
			from = -1
		}
	}
	if from >= 0 {
		yield(from, len(a))
	}
}

// readAll fills p; what lies past the end is zeros.
func readAll(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) || errors.Is(err, io.EOF) {
		err = nil
	}
	clear(p[n:])
	return err
}
