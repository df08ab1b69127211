package check

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// Remains are structures of a qcow2 image in a file that does not begin as one.
type Remains struct {
	ClusterBits uint
	L1Table     qcow2.HostOffset // the first table that leads to L2 tables
	L2Tables    uint64           // that it leads to
}

// String says what was found.
func (r *Remains) String() string {
	tables := fmt.Sprintf("%d L2 tables", r.L2Tables)
	if r.L2Tables == 1 {
		tables = "1 L2 table"
	}
	return fmt.Sprintf("qcow2 structures follow: L1 table at %v, %s, clusters of %s", r.L1Table, tables, ReadableSize(1<<r.ClusterBits))
}

// maxLook is how much of a file is read at most in search of an L1 table, in bytes; it
// lies near the start of most images. maxTried bounds the L2 tables that are looked at.
const (
	maxLook  = 8 << 20
	maxLooks = 1 << 8
)

// FirstLook looks for the structures of a qcow2 image in a file whose header is gone: a
// cluster whose entries lead to clusters that read as L2 tables. It reads no more than some
// MiB, so that it takes no time with a raw disk. The result is nil where there are none.
func FirstLook(r io.ReaderAt, size int64) *Remains {
	l := look{r: r, size: size}
	const chunk = 1 << 20
	finder, _ := r.(qcow2.DataFinder)
	buf := make([]byte, chunk)
	for at, read := int64(0), 0; at < size && read < maxLook; {
		if finder != nil {
			start, _, err := finder.NextData(at)
			if err != nil {
				return nil
			}
			if start = start &^ (chunk - 1); start > at {
				at = start
				continue
			}
		}
		n, err := r.ReadAt(buf[:min(chunk, size-at)], at)
		if n == 0 && err != nil {
			return nil
		}
		read += n
		for off := 0; off+qcow2.SectorSize <= n; off += qcow2.SectorSize {
			if found := l.l1Table(buf[off:off+qcow2.SectorSize], at+int64(off)); found != nil {
				return found
			}
		}
		at += chunk
	}
	return nil
}

// look is the state of a search.
type look struct {
	r     io.ReaderAt
	size  int64
	tried int
}

// entries reads a sector as one of a table: each word is zero or leads to a cluster of the
// file. The result is the offsets, and all of them or-ed together; nil where it is none.
func (l *look) entries(sector []byte, l2 bool) (offsets []int64, ored uint64) {
	copied := false
	for ; len(sector) >= 8; sector = sector[8:] {
		w := binary.BigEndian.Uint64(sector)
		if w == 0 {
			continue
		}
		e := qcow2.L2Entry(w)
		off := uint64(e.Offset())
		reserved := qcow2.L1Entry(w).Reserved()
		if l2 {
			reserved = e.Reserved(true)
		}
		if reserved != 0 || e.Compressed() || off >= uint64(l.size) || off == 0 && !l2 {
			return nil, 0
		}
		copied = copied || e.Copied()
		if off != 0 {
			offsets, ored = append(offsets, int64(off)), ored|off
		}
	}
	if !copied {
		return nil, 0
	}
	return offsets, ored
}

// repeats tells whether something is there twice: an L1 table names each L2 table once.
func repeats(offsets []int64) bool {
	sorted := slices.Sorted(slices.Values(offsets))
	return len(slices.Compact(sorted)) < len(offsets)
}

// l1Table tells whether a sector begins an L1 table.
func (l *look) l1Table(sector []byte, at int64) *Remains {
	if sector[0] != 0x80 && sector[0] != 0 || l.tried >= maxLooks {
		return nil
	}
	offsets, ored := l.entries(sector, false)
	if len(offsets) == 0 || slices.Contains(offsets, at) || repeats(offsets) {
		return nil
	}
	// Clusters begin where all these do.
	size := ored | uint64(at)
	buf := make([]byte, qcow2.SectorSize)
	for _, off := range offsets[:min(len(offsets), 16)] {
		l.tried++
		if n, err := l.r.ReadAt(buf, off); n < len(buf) && err != nil {
			return nil
		}
		data, ored := l.entries(buf, true)
		if len(data) == 0 {
			return nil
		}
		size |= ored
	}
	tables := uint64(len(offsets))
	for more := at + qcow2.SectorSize; tables == uint64(qcow2.SectorSize/8) || more%(1<<16) != 0; more += qcow2.SectorSize {
		if n, err := l.r.ReadAt(buf, more); n < len(buf) && err != nil || more-at >= qcow2.MaxL1Size {
			break
		}
		next, ored := l.entries(buf, false)
		if len(next) == 0 {
			break
		}
		tables, size = tables+uint64(len(next)), size|ored
	}
	return &Remains{ClusterBits: uint(min(bits.TrailingZeros64(size), qcow2.MaxClusterBits)), L1Table: qcow2.HostOffset(at), L2Tables: tables}
}
