package refcount

import "github.com/qcheck/qcheck/qcow2"

const (
	// lookupBytes is how much of a refcount block a Lookup reads at a time, and
	// lookupKept how many such pieces it keeps: a megabyte.
	lookupBytes = 4096
	lookupKept  = 256
)

// Lookup is [Table.Get] for many clusters in no particular order: it keeps what
// it has read. It is not safe for concurrent use, and not for a file that changes.
type Lookup struct {
	t    *Table
	kept [lookupKept]*lookedUp
}

type lookedUp struct {
	number uint64 // of the piece, counted through all blocks
	raw    []byte // nil: all zero
	err    error
}

// NewLookup makes a Lookup of what t says.
func NewLookup(t *Table) *Lookup { return &Lookup{t: t} }

// Get is the cluster's refcount, as [Table.Get] gives it.
func (l *Lookup) Get(cluster qcow2.HostCluster) (uint64, error) {
	t := l.t
	if uint64(cluster) >= t.clusters {
		return 0, nil
	}
	// Blocks are a power of two of bytes: a piece is never part of two.
	size := min(lookupBytes, t.g.ClusterSize())
	per := size * 8 / uint64(t.g.RefcountBits())
	number := uint64(cluster) / per
	place := &l.kept[number%lookupKept]
	if *place == nil || (*place).number != number {
		*place = l.read(number, per, size)
	}
	p := *place
	if p.err != nil {
		return t.Get(cluster) // what cannot be read may be its neighbours
	}
	if p.raw == nil {
		return 0, nil
	}
	return t.g.RefcountBlock(p.raw).Get(int(uint64(cluster) % per)), nil
}

// read reads a piece, of so many refcounts and bytes.
func (l *Lookup) read(number, per, size uint64) *lookedUp {
	t, p := l.t, &lookedUp{number: number}
	index := number * per / t.perBlock
	if t.isUnusable(index) {
		p.err = ErrUnknown
		return p
	}
	k := t.find(index)
	if k == len(t.blocks) || t.blocks[k].Index != index {
		return p
	}
	p.raw = make([]byte, size)
	p.err = t.read(p.raw, t.blocks[k], number*per%t.perBlock/per*size)
	return p
}
