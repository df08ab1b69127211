package metadump

import (
	"cmp"
	"io"
	"slices"
	"sync"

	"github.com/qcheck/qcheck/qcow2"
)

// span is a range of the file, in bytes; the end is not part of it.
type span struct{ from, to int64 }

// recorder notes what is read of a file. It may be used from several goroutines.
type recorder struct {
	r io.ReaderAt

	mu    sync.Mutex
	spans []span
	limit int // of spans, beyond which they are merged
}

// record gives a recorder, and the reader through which it must be read: one that finds
// holes where r does.
func record(r io.ReaderAt) (*recorder, io.ReaderAt) {
	rec := &recorder{r: r, limit: 1 << 14}
	if f, ok := r.(qcow2.DataFinder); ok {
		return rec, struct {
			*recorder
			qcow2.DataFinder
		}{rec, f}
	}
	return rec, rec
}

// ReadAt reads, and notes what could be read.
func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	if n > 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.spans = append(r.spans, span{off, off + int64(n)})
		if len(r.spans) > r.limit {
			r.spans = merge(r.spans)
			r.limit = max(r.limit, 2*len(r.spans))
		}
	}
	return n, err
}

// read gives what was read, in the order of the file.
func (r *recorder) read() []span {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = merge(r.spans)
	return r.spans
}

// merge sorts spans and joins those that touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	out := spans[:0]
	for _, s := range spans {
		if k := len(out) - 1; k >= 0 && s.from <= out[k].to {
			out[k].to = max(out[k].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}
