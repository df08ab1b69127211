package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

const (
	// sharedAtOnce is how many shared clusters are looked into with one
	// reading of the L2 tables.
	sharedAtOnce = 1 << 20
	// usesKept is how many uses of one cluster are remembered.
	usesKept = 8
)

// use is one L2 entry that names a cluster.
type use struct {
	table      uint32
	entry      uint32
	compressed bool
}

// checkShared looks into the clusters that were claimed a second time. Who
// shares them is found by reading the L2 tables again, which happens only when
// there are such clusters. Clusters that only compressed data shares, or the
// versions that snapshots keep of one guest cluster, are in order.
func (c *run) checkShared() error {
	var batch []qcow2.HostCluster
	for first, n := range c.counts.Shared() {
		for ; n > 0; first, n = first+1, n-1 {
			if batch = append(batch, first); len(batch) < sharedAtOnce {
				continue
			}
			if err := c.explainShared(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return c.explainShared(batch)
}

// explainShared finds and reports the owners of the given clusters, which are
// sorted.
func (c *run) explainShared(clusters []qcow2.HostCluster) error {
	uses, err := c.findUses(clusters)
	if err != nil {
		return err
	}
	for i, cl := range clusters {
		c.reportShared(cl, uses[i])
	}
	return nil
}

// findUses reads every L2 table and gives the entries that name each of the
// clusters, which are sorted: a few for each, in the order of the tables.
func (c *run) findUses(clusters []qcow2.HostCluster) ([][]use, error) {
	uses := make([][]use, len(clusters))
	lo, hi := clusters[0], clusters[len(clusters)-1]
	n := (len(c.tables) + tablesAtOnce - 1) / tablesAtOnce
	scanners := make([]*scanner, max(1, min(c.opts.Jobs, n)))
	type hit struct {
		cluster int
		use
	}
	err := inOrder(c.ctx, len(scanners), n, func(worker, i int) []hit {
		if scanners[worker] == nil {
			scanners[worker] = newScanner(c)
		}
		s := scanners[worker]
		var hits []hit
		for idx := i * tablesAtOnce; idx < min((i+1)*tablesAtOnce, len(c.tables)); idx++ {
			ts, ok := s.load(uint32(idx))
			if !ok {
				continue
			}
			for e := range ts.entries {
				j, ok := s.again(ts, e)
				if !ok {
					continue
				}
				for cl := max(j.first, lo); cl < j.first+qcow2.HostCluster(j.n) && cl <= hi; cl++ {
					if k, found := slices.BinarySearch(clusters, cl); found {
						hits = append(hits, hit{k, use{uint32(idx), uint32(e), j.compressed}})
					}
				}
			}
		}
		return hits
	}, func(_ int, hits []hit) {
		for _, h := range hits {
			if len(uses[h.cluster]) < usesKept || c.addsGuest(uses[h.cluster], h.use) {
				uses[h.cluster] = append(uses[h.cluster], h.use)
			}
		}
	})
	return uses, err
}

// tablesAtOnce is how many tables a worker takes when they are read again.
const tablesAtOnce = 16

// addsGuest tells whether a use is the second guest cluster of a cluster that
// has been seen with one only.
func (c *run) addsGuest(uses []use, u use) bool {
	return len(uses) < 2*usesKept && !slices.ContainsFunc(uses, func(o use) bool { return c.guestOf(o) == c.guestOf(u) })
}

// guestOf is the guest cluster that a use is for.
func (c *run) guestOf(u use) qcow2.GuestCluster {
	return qcow2.GuestCluster(uint64(c.tables[u.table].window)*c.g.L2Entries() + uint64(u.entry))
}

// useOwner names an L2 entry as the owner of its data.
func (c *run) useOwner(u use) Owner {
	f := c.entryFinding(&c.tables[u.table], int(u.entry))
	return Owner{Structure: StructDataCluster, Path: f.Path, Snapshot: f.Snapshot, Ref: f.Extent}
}

// reportShared reports a cluster with owners that exclude each other.
func (c *run) reportShared(cl qcow2.HostCluster, uses []use) {
	if len(uses) == 0 {
		return
	}
	slices.SortFunc(uses, func(a, b use) int {
		return cmp.Or(cmp.Compare(c.tables[a.table].l1, c.tables[b.table].l1), cmp.Compare(c.guestOf(a), c.guestOf(b)))
	})
	f := c.entryFinding(&c.tables[uses[0].table], int(uses[0].entry))
	f.Cluster = ptr(cl)
	if meta, ok := c.metadataAt(cl); ok {
		f.Code = MAP016
		f.Message = fmt.Sprintf("%s names %s, which belongs to %s", f.Path, c.clusterRange(cl, 1), meta)
		if meta.isBitmap() {
			f.Code, f.Structure, f.Bitmap, f.Path = BMT006, meta.Structure, meta.Bitmap, meta.Path
			f.Message = fmt.Sprintf("%s lies in %s, which %s names too", meta, c.clusterRange(cl, 1), c.useOwner(uses[0]))
			if meta.Ref.Length > 0 {
				f.Extent = meta.Ref
			}
			c.spoilBitmap(meta)
		}
		c.report(f)
		c.doubt(c.useOwner(uses[0]), "its L2 entry names a cluster that belongs to metadata")
		return
	}
	// Two uses are in order when they are both compressed, or versions of one
	// guest cluster.
	for i, a := range uses {
		for _, b := range uses[i+1:] {
			if a.compressed && b.compressed || a.compressed == b.compressed && c.guestOf(a) == c.guestOf(b) {
				continue
			}
			oa := c.useOwner(a)
			f := c.entryFinding(&c.tables[b.table], int(b.entry))
			f.Code, f.Cluster = MAP017, ptr(cl)
			f.Message = fmt.Sprintf("%s and %s both name %s, as guest offsets %v and %v", oa.Path, f.Path, c.clusterRange(cl, 1),
				c.g.GuestOffset(c.guestOf(a)), c.g.GuestOffset(c.guestOf(b)))
			c.report(f)
			if len(c.sharedData) < maxDoubts {
				c.sharedData = append(c.sharedData, cl)
			}
			return
		}
	}
}
