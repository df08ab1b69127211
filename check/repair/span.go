package repair

// spanWriter puts small writes that are near each other together, with what stands
// between them in the file. That is written anyway: a file system knows no less than
// a page.
type spanWriter struct {
	f     File
	write func(p []byte, off int64) error // p is valid only until it returns

	at   int64
	buf  []byte
	gaps [][2]int // in buf
	was  []byte
}

const (
	// writeSize is how much is written at once.
	writeSize = 1 << 20
	// maxGap is less than a page.
	maxGap = 2 << 10
)

// add writes, now or later. The offsets of one spanWriter go up.
func (w *spanWriter) add(p []byte, off int64) error {
	for len(p) > 0 {
		end := w.at + int64(len(w.buf))
		if gap := off - end; len(w.buf) > 0 && (gap > maxGap || len(w.buf)+int(gap) >= writeSize) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		if len(w.buf) == 0 {
			w.at, end = off, off
		}
		if gap := int(off - end); gap > 0 {
			w.gaps = append(w.gaps, [2]int{len(w.buf), len(w.buf) + gap})
			w.buf = append(w.buf, make([]byte, gap)...)
		}
		n := min(len(p), writeSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// flush writes what has not been written.
func (w *spanWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	defer func() { w.buf, w.gaps = w.buf[:0], w.gaps[:0] }()
	if len(w.gaps) > 0 {
		w.was = append(w.was[:0], w.buf...)
		if readZeros(w.f, w.was, w.at) != nil {
			return w.apart() // what cannot be read may be between
		}
		for _, g := range w.gaps {
			copy(w.buf[g[0]:g[1]], w.was[g[0]:])
		}
	}
	return w.write(w.buf, w.at)
}

// apart writes without what stands between.
func (w *spanWriter) apart() error {
	from := 0
	for _, g := range append(w.gaps, [2]int{len(w.buf), 0}) {
		if err := w.write(w.buf[from:g[0]], w.at+int64(from)); err != nil {
			return err
		}
		from = g[1]
	}
	return nil
}
