package landmarks

// The log of NTFS carries no address that would place it, but its record says where it
// begins and ends, and each of its pages is told by itself: it has a signature and sectors
// that belong together, or was never used since the file system was made.

// logPage tells whether a block may be a page of the log.
func logPage(b []byte) bool {
	switch string(b[:4]) {
	case "RSTR", "RCRD":
		_, ok := fixup(b)
		return ok
	}
	for _, c := range b {
		if c != 0xff {
			return false
		}
	}
	return true
}

const (
	minLog     = 256  // pages; a shorter one could be something else
	maxLogSeen = 4096 // pieces that are looked at
	logSamples = 64
)

// placeLog finds the piece in which the log of a file system lies, and only there: one
// that has pages of a log from its first on to its last, and not in front or behind.
func (r *resolver) placeLog(v *volume, c *root) {
	for _, run := range v.log {
		from, n := v.start+run.first*v.ntfs.cluster, run.n*v.ntfs.cluster
		index := from / r.length
		if n < minLog*block || (from+n-1)/r.length != index {
			continue
		}
		var found []uint64
		for i, piece := range sortedKeys(r.Scanner.pieces) {
			_, placed := c.at[piece]
			_, known := r.known[piece]
			if i < maxLogSeen && !placed && !known && r.isLog(piece, from%r.length, n) {
				found = append(found, piece)
			}
		}
		if len(found) != 1 {
			continue
		}
		c.placed = append(c.placed, Place{Piece: found[0], Index: index, Certain: true, Marks: int(n / block), Why: "the log of NTFS begins and ends there"})
		c.at[found[0]] = index
	}
}

// isLog tells whether a log begins at an offset in a piece, and has a length.
func (r *resolver) isLog(piece, at, n uint64) bool {
	var b [block]byte
	page := func(at uint64) bool { return r.Read(piece, at, b[:]) == nil && logPage(b[:]) }
	if !page(at) || !page(at+n-block) || at >= block && page(at-block) || at+n+block <= r.length && page(at+n) {
		return false
	}
	for i := range uint64(logSamples) {
		if !page(at + n/block*i/logSamples*block) {
			return false
		}
	}
	return true
}
