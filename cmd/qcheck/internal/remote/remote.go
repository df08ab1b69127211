// Package remote reads images over a network: by HTTP range requests and from NBD exports.
// It never writes, and reads what is asked for and little more: the metadata of an image of
// a TiB takes some hundred requests.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/qcheck/qcheck/qcow2"
)

// Errors of what the other end does.
var (
	// ErrChanged means that the image is not the one any more that was begun with.
	ErrChanged = errors.New("the image was changed while it was read: check it again")
	// ErrNoRanges means an HTTP server that gives files only as a whole.
	ErrNoRanges = errors.New("the server does not answer range requests, so that all of the image would have to be read: download it first")
)

// What is asked for at a time, in bytes. Memory is bounded by cacheSize and what is under
// way.
const (
	block      = 64 << 10
	mostAhead  = 4 << 20
	cacheSize  = 64 << 20
	mostBlocks = cacheSize / block
)

// Is tells whether a name is that of a remote image.
func Is(name string) bool {
	for _, scheme := range []string{"https://", "http://", "nbd://", "nbd+unix://"} {
		if strings.HasPrefix(name, scheme) {
			return true
		}
	}
	return false
}

// Shown gives a name for reports: without what may be a secret, the password and the
// parameters of a URL, of which a presigned one has its signature.
func Shown(name string) string {
	u, err := url.Parse(name)
	if err != nil {
		return "(a URL that cannot be read)"
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	if strings.HasPrefix(u.Scheme, "http") && u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.String()
}

// source is what a protocol has to do: read ranges of the image.
type source interface {
	// read fills each part from its offset; parts are in order and do not touch.
	read(ctx context.Context, parts []part) error
	io.Closer
}

// part is a range to be read.
type part struct {
	off  int64
	data []byte
}

func (p *part) end() int64 { return p.off + int64(len(p.data)) }

// File is a remote image. Its methods may be used from several goroutines at once.
type File struct {
	ctx  context.Context
	src  source
	size int64

	mu     sync.Mutex
	blocks map[int64][]byte // by number
	order  []int64          // in which they came: the oldest goes first
	next   int64            // where the last request ended
	ahead  int64            // how much was read ahead of it
}

// Open opens a remote image. Everything that is read later is read under ctx.
func Open(ctx context.Context, name string) (*File, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("%s: not a URL", Shown(name))
	}
	f := &File{ctx: ctx, blocks: make(map[int64][]byte)}
	if strings.HasPrefix(u.Scheme, "http") {
		f.src, f.size, err = openHTTP(ctx, u)
	} else {
		f.src, f.size, err = openNBD(ctx, u)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Shown(name), err)
	}
	return f, nil
}

// Size is the length of the image in bytes.
func (f *File) Size() int64 { return f.size }

// Close ends the connection.
func (f *File) Close() error { return f.src.Close() }

// ReadAt reads as [io.ReaderAt] says.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	var eof error
	if off >= f.size {
		return 0, io.EOF
	}
	if int64(len(p)) > f.size-off {
		p, eof = p[:f.size-off], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	first, last := off/block, (off+int64(len(p))-1)/block
	have, missing := f.cached(first, last)
	if len(missing) > 0 {
		if len(missing) == int(last-first)+1 {
			missing = f.readAhead(missing)
		}
		got, err := f.fetch(missing)
		if err != nil {
			return 0, err
		}
		for n, b := range got {
			have[n] = b
		}
	}
	for n := first; n <= last; n++ {
		from := max(off, n*block)
		copy(p[from-off:], have[n][from-n*block:])
	}
	return len(p), eof
}

// Prefetch reads what will be asked for next, in as few requests as the protocol allows. An
// error is left to who reads it.
func (f *File) Prefetch(extents []qcow2.Extent) {
	var all []int64
	for _, x := range extents {
		if x.Length == 0 || uint64(x.Offset) >= uint64(f.size) {
			continue
		}
		end := min(uint64(x.Offset)+x.Length, uint64(f.size))
		_, missing := f.cached(int64(x.Offset)/block, int64(end-1)/block)
		all = append(all, missing...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > 1 && len(all) <= mostBlocks/4 {
		_, _ = f.fetch(all)
	}
}

// cached gives the blocks of a range that are there, and the numbers of the others.
func (f *File) cached(first, last int64) (have map[int64][]byte, missing []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have = make(map[int64][]byte)
	for n := first; n <= last; n++ {
		if b := f.blocks[n]; b != nil {
			have[n] = b
		} else {
			missing = append(missing, n)
		}
	}
	return have, missing
}

// readAhead adds to a request that begins where the last one ended: who reads on will go
// on reading.
func (f *File) readAhead(missing []int64) []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	first, last := missing[0], missing[len(missing)-1]
	f.ahead = min(2*f.ahead+1, mostAhead/block)
	if first != f.next {
		f.ahead = 0
	}
	for n := last + 1; n <= last+f.ahead && n*block < f.size && f.blocks[n] == nil; n++ {
		missing = append(missing, n)
	}
	f.next = missing[len(missing)-1] + 1
	return missing
}

// fetch reads blocks, neighbours at once, and keeps them.
func (f *File) fetch(numbers []int64) (map[int64][]byte, error) {
	var parts []part
	for i, n := range numbers {
		length := min(block, f.size-n*block)
		if i > 0 && numbers[i-1] == n-1 {
			last := &parts[len(parts)-1]
			last.data = append(last.data, make([]byte, length)...)
			continue
		}
		parts = append(parts, part{n * block, make([]byte, length)})
	}
	if err := f.src.read(f.ctx, parts); err != nil {
		return nil, err
	}
	got := make(map[int64][]byte, len(numbers))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range parts {
		for n, data := p.off/block, p.data; len(data) > 0; n++ {
			k := min(block, len(data))
			got[n] = slices.Clip(data[:k])
			data = data[k:]
			if f.blocks[n] == nil {
				f.blocks[n] = got[n]
				f.order = append(f.order, n)
			}
		}
	}
	for len(f.order) > mostBlocks {
		delete(f.blocks, f.order[0])
		f.order = f.order[1:]
	}
	return got, nil
}
