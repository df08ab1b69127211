package repair

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// pageSize is the unit in which an overlay keeps what was decided, in bytes.
const pageSize = 4096

// page is what differs from the file in a page: pieces that follow each other, each
// with its place in the page and its length, or the whole page. Where a few refcounts of
// each block are wrong that is a tenth of it.
type page []byte

const (
	pieceHead = 4 // two bytes for the place and two for the length
	// mostPacked is the length from which on a page is kept whole.
	mostPacked = pageSize / 2
)

// packed gives what differs in a page.
func packed(was, will []byte) page {
	if bytes.Equal(was, will) { // a table of zeros past the end can have thousands
		return nil
	}
	var room [mostPacked]byte
	b := room[:0]
	for at := 0; at < pageSize; {
		if at+64 <= pageSize && [64]byte(was[at:]) == [64]byte(will[at:]) {
			at += 64
			continue
		}
		if was[at] == will[at] {
			at++
			continue
		}
		end := at + 1
		for i := end; i < pageSize && i < end+pieceHead; i++ { // less than a new piece would take
			if was[i] != will[i] {
				end = i + 1
			}
		}
		if len(b)+pieceHead+end-at > mostPacked {
			return slices.Clone(will)
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(at))
		b = binary.LittleEndian.AppendUint16(b, uint16(end-at))
		b = append(b, will[at:end]...)
		at = end
	}
	return slices.Clone(b)
}

// over puts what differs over p, which is what the file has of the page from an offset
// on.
func (pg page) over(p []byte, from int) {
	if len(pg) == pageSize {
		copy(p, pg[from:])
		return
	}
	for b := pg; len(b) > 0; {
		at := int(binary.LittleEndian.Uint16(b)) - from
		n := int(binary.LittleEndian.Uint16(b[2:]))
		piece := b[pieceHead : pieceHead+n]
		b = b[pieceHead+n:]
		if at < 0 {
			piece = piece[min(-at, n):]
			at = 0
		}
		if at < len(p) {
			copy(p[at:], piece)
		}
	}
}

// hotPage is the page that is being changed, as it is in the file and as it will be.
type hotPage struct {
	n         int64
	there     bool // there is one
	was, will [pageSize]byte
}

func (h *hotPage) is(n int64) bool { return h.there && h.n == n }
