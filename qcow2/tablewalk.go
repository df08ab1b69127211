package qcow2

// StopReason tells why the walk of a table with entries of varying length (the
// snapshot table, the bitmap directory) ended where it did.
type StopReason uint8

// The ends that a walk can come to.
const (
	// StopEnd: every entry that was claimed is there, and nothing else.
	StopEnd StopReason = iota
	// StopPastEnd: the next entry lies wholly past the end of the file, where
	// QEMU reads zeros.
	StopPastEnd
	// StopCut: the next entry starts within the file and the table, but runs
	// past the end of one of them.
	StopCut
	// StopTooMany: more entries than QEMU takes.
	StopTooMany
	// StopTableSize: the table is larger than QEMU takes.
	StopTableSize
	// StopExtraData: a snapshot's extra data is larger than QEMU takes, and
	// nothing tells whether its claimed size leads to the next entry.
	StopExtraData
	// StopTrailing: bytes follow the last entry of the bitmap directory that
	// are no entry.
	StopTrailing
	// StopUnreadable: the next entry could not be read.
	StopUnreadable
)

var stopNames = [...]string{
	StopEnd: "end", StopPastEnd: "past-end", StopCut: "cut", StopTooMany: "too-many",
	StopTableSize: "table-size", StopExtraData: "extra-data", StopTrailing: "trailing",
	StopUnreadable: "unreadable",
}

func (r StopReason) String() string {
	if int(r) < len(stopNames) {
		return stopNames[r]
	}
	return "unknown"
}

// TableStop is where and why a walk ended.
type TableStop struct {
	Reason StopReason
	// Index is the entry that the walk ended before: the number of entries it
	// gave.
	Index int
	// Extent is that entry's place: as many of its bytes as are known to
	// belong to it and lie within the table and the file (zero when they start
	// beyond). For StopTrailing it is the bytes that follow.
	Extent Extent
	// Err is the [*ReadError] of StopUnreadable.
	Err error
}

// Early tells that entries may be missing because the walk could not go on.
func (s TableStop) Early() bool { return s.Reason != StopEnd && s.Reason != StopTrailing }

// entryWindow reads small entries one after the other through one buffer.
type entryWindow struct {
	img   *Image
	start HostOffset
	buf   []byte
}

// bytes gives n bytes from offset at on, valid until the next call. They must
// not wrap and should lie in the file but for the last of them.
func (w *entryWindow) bytes(at HostOffset, n uint64) ([]byte, error) {
	if at >= w.start && RangeFits(uint64(at-w.start), n, uint64(len(w.buf))) {
		return w.buf[at-w.start:][:n], nil
	}
	ahead := uint64(0)
	if size := uint64(max(w.img.size, 0)); uint64(at) < size {
		ahead = min(scanChunk, size-uint64(at))
	}
	want := max(n, ahead)
	if uint64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.start, w.buf = at, w.buf[:want]
	err := w.img.ReadAt(w.buf, at)
	if err != nil && want > n {
		// The trouble may lie in what was only read ahead.
		w.buf = w.buf[:n]
		err = w.img.ReadAt(w.buf, at)
	}
	if err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:n], nil
}

// inFile cuts an extent to the file.
func (img *Image) inFile(x Extent) Extent {
	size := uint64(max(img.size, 0))
	if uint64(x.Offset) >= size {
		return Extent{Offset: x.Offset}
	}
	x.Length = min(x.Length, size-uint64(x.Offset))
	return x
}

// reaches tells whether the file holds a range but for a part of its last
// cluster, which may be missing and then reads as zeros.
func (img *Image) reaches(at HostOffset, length uint64) bool {
	return at < HostOffset(max(img.size, 0)) && !img.Geometry.PastEnd(at, length, img.size)
}
