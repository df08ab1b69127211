package proof

import (
	"encoding/binary"

	"github.com/qcheck/qcheck/qcow2"
)

// kind is what an L2 entry says of a cluster, or of a subcluster.
type kind uint8

const (
	nothing kind = iota // it is not in this image
	zeros               // it reads as zeros
	data                // it is stored as it is
	packed              // it is compressed
	twofold             // the entry says both, data and zeros
)

// said is what an entry says of a piece of the disk, whether it can be read or not.
type said struct {
	kind kind
	host qcow2.Extent // of data, in the data file where there is one
}

// entry is an L2 entry.
type entry struct {
	qcow2.L2Entry
	sub qcow2.SubclusterBitmap
}

// entryAt takes an entry from a table; without a table every entry is empty.
func (p *prover) entryAt(table []byte, i uint64) entry {
	if table == nil {
		return entry{}
	}
	b := table[i*p.g.L2EntrySize():]
	e := entry{L2Entry: qcow2.L2Entry(binary.BigEndian.Uint64(b))}
	if p.g.ExtendedL2 {
		e.sub = qcow2.SubclusterBitmap(binary.BigEndian.Uint64(b[8:]))
	}
	return e
}

// pieces is in how many pieces an entry speaks of its cluster.
func (p *prover) pieces() uint64 { return p.g.ClusterSize() / p.g.SubclusterSize() }

// says gives what an entry says of a piece. Reserved bits mean nothing, as they do to
// QEMU.
func (p *prover) says(e entry, piece uint64) said {
	h := &p.was.Header
	if e.Compressed() {
		c := p.g.Compressed(e.L2Entry)
		return said{packed, qcow2.Extent{Offset: c.Offset, Length: c.Length()}}
	}
	size := p.g.SubclusterSize()
	host := qcow2.Extent{Offset: e.Offset() + qcow2.HostOffset(piece*size), Length: size}
	stored, zero := e.Offset() != 0 || h.HasDataFile() && e.Copied(), e.Zero()
	if p.g.ExtendedL2 {
		stored = e.sub.Allocated()>>piece&1 != 0
		zero = e.sub.Zeros()>>piece&1 != 0
	}
	switch {
	case stored && zero && (p.g.ExtendedL2 || h.Version == 2):
		return said{twofold, host}
	case zero:
		return said{kind: zeros}
	case stored:
		return said{data, host}
	}
	return said{}
}

// same tells that two entries say the same of all pieces, in the same words but for
// COPIED, which is about refcounts where there is no data file.
func (p *prover) same(a, b entry) bool {
	const copied = 1 << 63
	if a == b {
		return true
	}
	return uint64(a.L2Entry)&^copied == uint64(b.L2Entry)&^copied && a.sub == b.sub && (!p.was.Header.HasDataFile() || a.Offset() != 0)
}

// inImage tells that what is said to be stored is in the image file.
func (p *prover) inImage(s said) bool {
	switch s.kind {
	case packed:
		return true
	case data, twofold:
		return !p.was.Header.HasDataFile()
	}
	return false
}
