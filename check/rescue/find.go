package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/rescue/landmarks"
	"github.com/qcheck/qcheck/qcow2"
)

// search is a search for what is left of an image.
type search struct {
	opts *Options
	r    *patched
	scan *scan
	f    *finder
	h0   *qcow2.Header // of the file, where it makes sense
	m    model
	// active is the L1 table of the disk.
	active l1table
	// rescued has, for each snapshot that was made of an L1 table, how many entries that
	// can have.
	rescued []uint64
	bitmaps *bitmapDirectory // where the header did not lead to it
	edits   []Change         // of structures where they stand
	// unplaced are L2 tables that nothing proves a place for. holes tells that what the L1
	// table does not map may have been mapped.
	unplaced []qcow2.HostOffset
	holes    bool
	missing  []Missing
	// zeroTables are the places of L2 tables of zeros.
	zeroTables []uint64
	// said is what the disk says of its size, where it was asked already.
	said     landmarks.Size
	saysSize bool
	// guessed tells that something was needed that is only likely.
	guessed bool
}

// find finds what there is, and makes a model of the image.
func find(ctx context.Context, r io.ReaderAt, size int64, opts *Options) (*search, error) {
	s := &search{opts: opts, r: newPatched(r, size)}
	var err error
	s.scan, err = look(ctx, r, size, func(done, total uint64) { s.progress("look", done, total) })
	if err != nil {
		return nil, err
	}
	s.progress("find", 0, 0)
	s.readHeader()
	a, err := s.geometry()
	if err != nil {
		return nil, err
	}
	s.f = a.f
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s, s.compose(ctx, a)
}

func (s *search) progress(pass string, done, total uint64) {
	if s.opts.Progress != nil {
		s.opts.Progress(check.Progress{Pass: pass, Done: done, Total: total})
	}
}

// readHeader takes the header as it is if it makes sense.
func (s *search) readHeader() {
	sector := make([]byte, qcow2.SectorSize)
	if s.r.readBase(sector, 0) != nil {
		return
	}
	h, err := qcow2.DecodeHeader(sector)
	if err != nil || !h.Known() || !h.RefcountOrderOK() {
		return
	}
	g, ok := h.Geometry()
	if !ok || h.DiskTooLarge(g) || s.opts.ClusterSize != 0 && s.opts.ClusterSize != g.ClusterSize() {
		return
	}
	s.h0 = &h
}

// geometry finds the cluster size, the width of L2 entries, and whether the data is in
// another file.
func (s *search) geometry() (*fit, error) {
	if h := s.header(); h != nil {
		g, ok := h.Geometry()
		if !ok {
			return nil, errors.New("the header to go by has no usable cluster size")
		}
		f := newFinder(s.r, s.scan, g, h.HasDataFile())
		f.findTables()
		if s.h0 != nil && h == s.h0 {
			f.findRefcounts(h.RefcountTableOffset, int(h.RefcountOrder))
		}
		if f.refs == nil {
			f.findRefcounts(0, int(h.RefcountOrder))
		}
		f.dropRefcounts()
		f.claim()
		a := &fit{f: f, l1s: f.findL1s()}
		if len(f.tables) == 0 && s.h0 == nil {
			return nil, ErrNothing
		}
		return a, nil
	}
	only := 0
	if c := s.opts.ClusterSize; c != 0 {
		only = bits.TrailingZeros64(c)
		if c&(c-1) != 0 || only < qcow2.MinClusterBits || only > qcow2.MaxClusterBits {
			return nil, fmt.Errorf("%d is no size that clusters can have: a power of two from 512 to 2097152", c)
		}
	}
	var best *fit
	if s.opts.DataFile == "" {
		best = findGeometry(s.r, s.scan, only, false)
	}
	if d := findGeometry(s.r, s.scan, only, true); s.isDataFile(d, best) {
		best = d
	}
	if best == nil {
		return nil, ErrNothing
	}
	if only == 0 && !best.proven() {
		s.guess("cluster size", "few entries of tables tell of it")
	}
	return best, nil
}

// isDataFile tells whether a file makes more sense as an image whose data is in another one.
func (s *search) isDataFile(d, plain *fit) bool {
	switch {
	case d == nil || len(d.f.tables) == 0:
		return false
	case plain == nil:
		return true
	case plain.f.refs != nil && d.f.refs == nil:
		return false
	}
	return plain.f.likeDataFile() || (d.named > 0 || plain.named == 0) && d.mapped > plain.mapped
}

// header gives the header to go by: the file's own, or that of a sibling.
func (s *search) header() *qcow2.Header {
	switch {
	case s.h0 != nil:
		return s.h0
	case s.opts.Sibling != nil:
		return &s.opts.Sibling.Header
	}
	return nil
}

// GuessError means that what the rescue needs is only likely. Nothing comes of it unless
// guesses are accepted.
type GuessError struct{ Facts []Fact }

func (e *GuessError) Error() string {
	text := ""
	for _, f := range e.Facts {
		if f.Source == SourceGuess {
			text += fmt.Sprintf("; %s: %s", f.What, f.Why)
		}
	}
	return "it takes a guess to go on" + text
}

func (s *search) refuse() error { return &GuessError{Facts: s.m.facts} }

// guess notes that something is taken that is only likely.
func (s *search) guess(what, why string) {
	s.guessed = true
	s.m.facts = append(s.m.facts, Fact{What: what, Source: SourceGuess, Why: why})
}
