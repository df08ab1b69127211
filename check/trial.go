package check

import (
	"cmp"
	"errors"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// A repair tries out what an image would be with a bit turned. Most of what it tries
// is soon seen to be wrong, and need not be checked to its end; and it has to know
// which bytes lead to a cluster.

// ErrRejected means that a check was ended early by [Options.Reject]. It is raised as a
// panic where the finding is reported, in the middle of a pass, and caught where those of
// a faulty pass are: garbage gives thousands of findings, of which the first is enough.
var ErrRejected = errors.New("the check was ended by a finding that is not wanted")

// hopeless ends a check that somebody will reject: for a structure that makes no sense
// there will be findings, or a doubt, once it has been found out what to make of it.
func (c *run) hopeless() {
	if c.opts.Reject != nil {
		panic(ErrRejected)
	}
}

// Use is bytes of the file that lead to a cluster.
type Use struct {
	Owner   Owner        // what it says to lie there
	Ref     qcow2.Extent // a header field, or an entry of a table
	Cluster qcow2.HostCluster
	// Table is the L2 table that has the entry, and Index the entry's, where it
	// is one.
	Table qcow2.HostOffset
	Index uint32
	Data  bool // it is an L2 entry
}

// maxUses bounds the uses that are given.
const maxUses = 1 << 12

// Uses gives what leads to the given clusters, which are sorted: a few L2 entries for
// each, and all other metadata up to a bound; cut tells that there is more.
func (e *Evidence) Uses(clusters []qcow2.HostCluster) (uses []Use, cut bool, err error) {
	c := e.run
	if len(clusters) == 0 {
		return nil, false, nil
	}
	add := func(first qcow2.HostCluster, n uint64, owner func() Owner) {
		i, _ := slices.BinarySearch(clusters, first)
		if i == len(clusters) || clusters[i] >= first+qcow2.HostCluster(n) {
			return
		}
		if len(uses) == maxUses {
			cut = true
			return
		}
		o := owner()
		if o.Structure == problem.StructBitmapData && o.Ref.Length == 8*n { // an entry for each cluster
			o.Ref = at(o.Ref.Offset+qcow2.HostOffset(clusters[i]-first)*8, 8)
		}
		if o.Ref.Length > 0 {
			uses = append(uses, Use{Owner: o, Ref: o.Ref, Cluster: clusters[i]})
		}
	}
	for _, m := range c.meta {
		add(m.first, m.n, func() Owner { return c.owners[m.owner] })
	}
	for i := range c.blocks {
		add(c.g.HostCluster(c.blocks[i].offset), 1, func() Owner { return c.blockOwner(&c.blocks[i]) })
	}
	for n := range c.l1s {
		l := &c.l1s[n]
		for i, entry := range qcow2.ReadL1(c.img, l.extent.Offset, l.entries).All() {
			if off := entry.Offset(); off != 0 && c.g.Aligned(off) {
				add(c.g.HostCluster(off), 1, func() Owner {
					return c.tableOwner(&l2table{offset: off, window: uint32(i), l1: uint32(n)})
				})
			}
		}
		if c.ctx.Err() != nil {
			return nil, false, c.ctx.Err()
		}
	}
	found, err := c.findUses(clusters)
	if err != nil {
		return nil, false, err
	}
	for i, list := range found {
		cut = cut || len(list) >= usesKept
		for _, u := range list {
			t := &c.tables[u.table]
			uses = append(uses, Use{Owner: c.useOwner(u), Ref: c.entryExtent(t, int(u.entry)), Cluster: clusters[i],
				Table: t.offset, Index: u.entry, Data: true})
		}
	}
	return uses, cut, nil
}

// Tables is how many L2 tables there are.
func (e *Evidence) Tables() uint64 { return uint64(len(e.run.tables)) }

// nearUnowned tells whether a cluster with a reference too many is a bit away from one
// that nothing refers to: what leads to it has most likely a flipped bit, and while
// nobody knows which entry it is the refcount stays.
func (c *run) nearUnowned(f *problem.Finding) bool {
	if f.Cluster == nil || f.Count > usesKept {
		return false
	}
	for cl := *f.Cluster; cl < *f.Cluster+qcow2.HostCluster(f.Count); cl++ {
		for bit := range 56 - c.g.ClusterBits {
			other := cl ^ 1<<bit
			i, found := slices.BinarySearchFunc(c.unowned, other, func(u unowned, at qcow2.HostCluster) int { return cmp.Compare(u.first, at) })
			if found || i > 0 && other < c.unowned[i-1].first+qcow2.HostCluster(c.unowned[i-1].n) {
				return true
			}
		}
	}
	return false
}
