package repair

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
)

// world is an image and the place of its journal, on a disk that notes every change
// and can fail or lose power at any of them.
type world struct {
	image   []byte
	journal []byte
	exists  bool // the journal, in its place
	fresh   bool // a journal that is not in its place yet
	log     []op // since everything was on the disk
	start   *world

	// fail, if set, is asked before each change: with an error it does not
	// happen, or, if it is a write, only for the first part bytes.
	fail func(n int, o op) (part int, err error)
}

// what an operation concerns. A flush makes durable what concerns the same.
type target uint8

const (
	onImage target = iota
	onJournal
	onDir
)

type change uint8

const (
	opWrite change = iota
	opTruncate
	opCreate
	opPublish
	opRemove
	opSync
)

type op struct {
	on   target
	do   change
	off  int64
	data []byte
	size int64
	err  error // it failed
}

// worldOf is a disk that holds an image.
func worldOf(image []byte) *world {
	w := &world{image: bytes.Clone(image)}
	w.settle()
	return w
}

// settle puts everything on the disk.
func (w *world) settle() {
	w.log = nil
	w.start = &world{image: bytes.Clone(w.image), journal: bytes.Clone(w.journal), exists: w.exists}
}

// change does an operation, or fails.
func (w *world) perform(o op) error {
	if w.fail != nil {
		if part, err := w.fail(len(w.log), o); err != nil {
			if o.do == opWrite && part > 0 {
				o.data = bytes.Clone(o.data[:min(part, len(o.data))])
				w.apply(o)
			} else {
				o.data = nil
			}
			o.err = err
			w.log = append(w.log, o)
			return err
		}
	}
	o.data = bytes.Clone(o.data)
	w.apply(o)
	w.log = append(w.log, o)
	return nil
}

// apply makes a change visible.
func (w *world) apply(o op) {
	file := &w.image
	if o.on == onJournal {
		file = &w.journal
	}
	switch o.do {
	case opWrite:
		if end := int(o.off) + len(o.data); len(o.data) > 0 && end > len(*file) {
			*file = append(*file, make([]byte, end-len(*file))...)
		}
		copy((*file)[min(int(o.off), len(*file)):], o.data)
	case opTruncate:
		if n := int(o.size); n <= len(*file) {
			*file = (*file)[:n]
		} else {
			*file = append(*file, make([]byte, n-len(*file))...)
		}
	case opCreate:
		w.fresh, w.journal = true, nil
	case opPublish:
		w.fresh, w.exists = false, true
	case opRemove:
		w.fresh, w.exists = false, false
	}
}

// killed is the world after the program was killed when it had done n operations:
// what it did is visible, but not all of it on the disk.
func (w *world) killed(n int) *world {
	c := w.start.copy()
	c.start = w.start
	c.log = slices.Clone(w.log[:n])
	for _, o := range c.log {
		c.replay(o)
	}
	return c
}

func (w *world) copy() *world {
	return &world{image: bytes.Clone(w.image), journal: bytes.Clone(w.journal), exists: w.exists}
}

func (w *world) replay(o op) {
	if o.err == nil || (o.do == opWrite && len(o.data) > 0) {
		w.apply(o)
	}
}

// pending gives those of the first n operations that no flush has made durable.
func (w *world) pending(n int) []int {
	var list []int
	for i, o := range w.log[:n] {
		if o.do != opSync {
			if o.err == nil || len(o.data) > 0 {
				list = append(list, i)
			}
			continue
		}
		if o.err == nil {
			list = slices.DeleteFunc(list, func(k int) bool { return w.log[k].on == o.on })
		}
	}
	return list
}

// crashed is the world after a power cut that came when n operations were done. Of
// those that were not flushed, fate says what has reached the disk: all of it (-1),
// nothing (0), or the first bytes of what was written.
func (w *world) crashed(n int, fate func(i int, o op) int) *world {
	pending := w.pending(n)
	c := w.start.copy()
	for i, o := range w.log[:n] {
		if slices.Contains(pending, i) {
			switch part := fate(i, o); {
			case part == 0:
				continue
			case part > 0 && o.do == opWrite:
				o.data = o.data[:min(part, len(o.data))]
			}
		}
		c.replay(o)
	}
	c.settle()
	return c
}

// everyCrash calls do with worlds after a power cut at any time: for every number of
// operations done, every choice of those not flushed where these are few, some
// choices where they are many, and each also with a write torn at a sector or
// anywhere.
func (w *world) everyCrash(r *rand.Rand, do func(n int, c *world)) {
	for n := range len(w.log) + 1 {
		pending := w.pending(n)
		for _, choice := range choices(r, len(pending)) {
			kept := make(map[int]bool)
			for k, i := range pending {
				kept[i] = choice[k]
			}
			whole := func(i int, _ op) int {
				if kept[i] {
					return -1
				}
				return 0
			}
			do(n, w.crashed(n, whole))
			if len(pending) == 0 {
				continue
			}
			// One torn, most often the last.
			torn := pending[len(pending)-1]
			if r.IntN(3) == 0 {
				torn = pending[r.IntN(len(pending))]
			}
			sectors := r.IntN(2) == 0
			do(n, w.crashed(n, func(i int, o op) int {
				if i != torn || len(o.data) < 2 {
					return whole(i, o)
				}
				if at := 1 + r.IntN(len(o.data)-1); !sectors {
					return at
				}
				// The bytes up to an edge of a sector.
				edge := (512 - int(o.off%512)) + 512*r.IntN(1+len(o.data)/512)
				return min(edge, len(o.data))
			}))
		}
	}
}

// choices gives every subset of n things, or some of them.
func choices(r *rand.Rand, n int) [][]bool {
	const few = 4
	var all [][]bool
	if n <= few {
		for bits := range 1 << n {
			c := make([]bool, n)
			for i := range c {
				c[i] = bits>>i&1 != 0
			}
			all = append(all, c)
		}
		return all
	}
	for k := range 1<<few + 2 {
		c := make([]bool, n)
		for i := range c {
			c[i] = k == 0 || (k > 1 && r.IntN(2) == 0)
		}
		all = append(all, c)
	}
	return all
}

// file is the image as a [File].
type file struct{ w *world }

func (f file) ReadAt(p []byte, off int64) (int, error)  { return readSlice(f.w.image, p, off) }
func (f file) WriteAt(p []byte, off int64) (int, error) { return f.w.write(onImage, p, off) }
func (f file) Sync() error                              { return f.w.perform(op{on: onImage, do: opSync}) }
func (f file) CurrentSize() (int64, error)              { return int64(len(f.w.image)), nil }
func (f file) Truncate(n int64) error {
	return f.w.perform(op{on: onImage, do: opTruncate, size: n})
}

func (w *world) write(on target, p []byte, off int64) (int, error) {
	if err := w.perform(op{on: on, do: opWrite, off: off, data: p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func readSlice(b, p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// place is the world as [Journals].
type place struct{ w *world }

func (j place) Create() (JournalFile, error) {
	if j.w.exists {
		return nil, fs.ErrExist
	}
	if err := j.w.perform(op{on: onDir, do: opCreate}); err != nil {
		return nil, err
	}
	return journalFile(j), nil
}

func (j place) Open() (JournalFile, error) {
	if !j.w.exists {
		return nil, fs.ErrNotExist
	}
	return journalFile(j), nil
}

func (j place) Publish() error {
	if err := j.w.perform(op{on: onDir, do: opPublish}); err != nil {
		return err
	}
	return j.SyncDir()
}

func (j place) Remove() error  { return j.w.perform(op{on: onDir, do: opRemove}) }
func (j place) SyncDir() error { return j.w.perform(op{on: onDir, do: opSync}) }

type journalFile struct{ w *world }

func (f journalFile) ReadAt(p []byte, off int64) (int, error)  { return readSlice(f.w.journal, p, off) }
func (f journalFile) WriteAt(p []byte, off int64) (int, error) { return f.w.write(onJournal, p, off) }
func (f journalFile) Sync() error                              { return f.w.perform(op{on: onJournal, do: opSync}) }
func (f journalFile) Close() error                             { return nil }
