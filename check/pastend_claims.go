package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// pastClaims is what leads past the end of the file, as far as it could have led into
// it before its end was lost. Lists are bounded, sums are not.
type pastClaims struct {
	claims  []pastClaim
	lost    []lostRange
	data    uint64                       // pointers past the end that should lead to data
	entries map[problem.Structure]uint64 // the same for other structures
	gone    map[uint32]*loss             // all of lost, by number of the L1 table
	last    *loss                        // of gone, the one that was added to last
	lastL1  uint32
	shared  bool // some of what is gone belongs to several disks
	// tails are the parts of clusters that the end of the file cuts. QEMU leaves such, so
	// only in a file that is known to be cut they are lost.
	tails []lostRange
}

// pastClaim is a run of clusters past the end that pointers lead to.
type pastClaim struct {
	first    qcow2.HostCluster
	n        uint64
	pointers uint64
}

// lostRange is a part of a disk that the end of the file has taken with it.
type lostRange struct {
	l1           uint32 // number of the L1 table
	from, length uint64 // guest bytes
	table        bool   // its L2 table is gone: how much of it was in use is not known
}

// loss sums up what is gone of a disk, in bytes: what was in use, and what the tables were for
// that are gone.
type loss struct{ data, unmapped uint64 }

// maxPastClaims bounds each list. Neighbours are one.
const maxPastClaims = 1 << 16

// claim notes that a pointer leads to n clusters past the end.
func (p *pastClaims) claim(s problem.Structure, first qcow2.HostCluster, n uint64) {
	p.countEntries(s, 1)
	p.addClaim(pastClaim{first, n, 1})
}

func (p *pastClaims) countEntries(s problem.Structure, n uint64) {
	if s == problem.StructDataCluster { // there can be many
		p.data += n
		return
	}
	if p.entries == nil {
		p.entries = make(map[problem.Structure]uint64)
	}
	p.entries[s] += n
}

// pointers is the number of pointers past the end to a kind of structure.
func (p *pastClaims) pointers(s problem.Structure) uint64 {
	if s == problem.StructDataCluster {
		return p.data
	}
	return p.entries[s]
}

// of gives the sums of an L1 table.
func (p *pastClaims) of(l1 uint32) *loss {
	if p.last != nil && p.lastL1 == l1 {
		return p.last
	}
	if p.gone == nil {
		p.gone = make(map[uint32]*loss)
	}
	l := p.gone[l1]
	if l == nil {
		l = &loss{}
		p.gone[l1] = l
	}
	p.last, p.lastL1 = l, l1
	return l
}

func (p *pastClaims) addClaim(c pastClaim) {
	if k := len(p.claims) - 1; k >= 0 && p.claims[k].first+qcow2.HostCluster(p.claims[k].n) == c.first {
		p.claims[k].n += c.n
		p.claims[k].pointers += c.pointers
		return
	}
	if len(p.claims) < maxPastClaims {
		p.claims = append(p.claims, c)
	}
}

// lose notes that a part of a disk is gone.
func (p *pastClaims) lose(r lostRange) {
	if r.length == 0 {
		return
	}
	if l := p.of(r.l1); r.table {
		l.unmapped += r.length
	} else {
		l.data += r.length
	}
	p.addLost(r)
}

func (p *pastClaims) addLost(r lostRange) {
	if k := len(p.lost) - 1; k >= 0 && p.lost[k].l1 == r.l1 && p.lost[k].table == r.table && p.lost[k].from+p.lost[k].length == r.from {
		p.lost[k].length += r.length
		return
	}
	if len(p.lost) < maxPastClaims {
		p.lost = append(p.lost, r)
	}
}

// absorb adds what another one has, in its order.
func (p *pastClaims) absorb(q *pastClaims) {
	for _, c := range q.claims {
		p.addClaim(c)
	}
	for _, r := range q.lost {
		p.addLost(r)
	}
	p.shared = p.shared || q.shared
	if len(p.tails)+len(q.tails) <= maxPastClaims {
		p.tails = append(p.tails, q.tails...)
	}
	for s, n := range q.entries {
		p.countEntries(s, n)
	}
	p.data += q.data
	for l1, n := range q.gone {
		l := p.of(l1)
		l.data += n.data
		l.unmapped += n.unmapped
	}
}

// formerLimit bounds how long the file can have been: what its refcount table has blocks
// for, or room for where it cannot be read. What an entry names beyond that it has never
// led to.
func (c *run) formerLimit() uint64 {
	c.limitOnce.Do(func() {
		per := c.g.RefcountBlockEntries()
		entries := uint64(0)
		switch {
		case !c.refTableUsable():
			entries = min(uint64(c.h.RefcountTableClusters)*c.g.ClusterSize(), qcow2.MaxRefcountTableSize) / 8
		default:
			x := c.refTableExtent()
			for i, e := range qcow2.ScanTable[qcow2.RefTableEntry](c.img, x.Offset, x.Length/8).All() {
				if e.Offset() != 0 {
					entries = i + 1
				}
			}
		}
		c.limit = min(entries*per, (1<<56)>>c.g.ClusterBits) << c.g.ClusterBits
	})
	return c.limit
}

// wasInFile tells whether a place past the end of the file is one that the file can have
// had before it was cut.
func (c *run) wasInFile(offset qcow2.HostOffset, length uint64) bool {
	return qcow2.RangeFits(uint64(offset), length, c.formerLimit())
}

// pastEndOfFile gives the clusters of a range that begin at or behind the end of the file.
func (c *run) pastEndOfFile(offset qcow2.HostOffset, length uint64) (first qcow2.HostCluster, n uint64) {
	first, n = c.g.ClusterSpan(offset, length)
	end := qcow2.HostCluster(c.g.Clusters(uint64(c.img.Size())))
	if last := first + qcow2.HostCluster(n); last > end {
		first = max(first, end)
		return first, uint64(last - first)
	}
	return end, 0
}

// claimPastEnd notes a pointer to a range of which a part lies past the end.
func (c *run) claimPastEnd(s problem.Structure, offset qcow2.HostOffset, length uint64) {
	if !c.g.Aligned(offset) || offset == 0 || !c.wasInFile(offset, max(length, 1)) {
		return
	}
	if first, n := c.pastEndOfFile(offset, max(length, 1)); n > 0 {
		c.past.claim(s, first, n)
	}
}

// claimHeaderPointers notes the structures that header, snapshots and bitmaps say to lie
// past the end of the file.
func (c *run) claimHeaderPointers() {
	h := c.h
	if h.L1Size <= qcow2.MaxL1Entries {
		// Were the table longer than the disk needs, that could be what is wrong.
		c.claimPastEnd(problem.StructL1Table, h.L1TableOffset, min(uint64(h.L1Size), max(1, h.L1Needed(c.g)))*8)
	}
	if n := uint64(h.RefcountTableClusters) * c.g.ClusterSize(); n <= qcow2.MaxRefcountTableSize {
		c.claimPastEnd(problem.StructRefcountTable, h.RefcountTableOffset, n)
	}
	if h.NbSnapshots > 0 {
		c.claimPastEnd(problem.StructSnapshotTable, h.SnapshotsOffset, 1)
	}
	for i := range c.snapshots {
		if s := &c.snapshots[i]; s.L1Size > 0 && s.L1Size <= qcow2.MaxL1Entries {
			c.claimPastEnd(problem.StructL1Table, s.L1TableOffset, l1Bytes(s))
		}
	}
	if !h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps) {
		return // nobody vouches for what bitmaps name
	}
	if ext := c.img.Extension(qcow2.ExtBitmaps); ext != nil && len(ext.Data) >= qcow2.BitmapsExtensionSize {
		d := qcow2.DecodeBitmapsExtension(ext.Data)
		c.claimPastEnd(problem.StructBitmapDirectory, d.DirectoryOffset, min(d.DirectorySize, qcow2.MaxBitmapDirectorySize))
	}
	for i := range c.bitmaps {
		if b := &c.bitmaps[i]; b.TableSize <= qcow2.MaxBitmapTableEntries {
			c.claimPastEnd(problem.StructBitmapTable, b.TableOffset, uint64(b.TableSize)*8)
		}
	}
}

// sortedClaims gives the claims by cluster, those that overlap or adjoin as one.
func (p *pastClaims) sortedClaims() []pastClaim {
	all := slices.Clone(p.claims)
	slices.SortFunc(all, func(a, b pastClaim) int { return cmp.Compare(a.first, b.first) })
	out := all[:0]
	for _, c := range all {
		if k := len(out) - 1; k >= 0 && c.first <= out[k].first+qcow2.HostCluster(out[k].n) {
			end := max(out[k].first+qcow2.HostCluster(out[k].n), c.first+qcow2.HostCluster(c.n))
			out[k].n = uint64(end - out[k].first)
			out[k].pointers += c.pointers
			continue
		}
		out = append(out, c)
	}
	return out
}
