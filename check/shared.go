package check

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Clusters that were claimed a second time are looked into by reading the L2
// tables again, which happens only when there are such clusters. Those that only
// compressed data shares, or the versions that snapshots keep of one guest
// cluster, are in order; an image with snapshots can have millions of them. So a
// first reading tells which clusters have owners that exclude each other, and a
// second one names the owners of as many as are listed.

const (
	// sharedAtOnce is how many shared clusters are looked into with one reading
	// of the L2 tables, 8 bytes each.
	sharedAtOnce = 1 << 22
	// usesKept is how many uses of one cluster are remembered.
	usesKept = 8
	// maxSharedData bounds the clusters that are remembered because two guest
	// clusters are in them.
	maxSharedData = 1 << 16
)

// use is one L2 entry that names a cluster.
type use struct {
	table      uint32
	entry      uint32
	compressed bool
}

// checkShared looks into the clusters that were claimed a second time.
func (c *run) checkShared() error {
	var s sharedClusters
	named := make(map[problem.Code]int)
	var name []qcow2.HostCluster
	flush := func() error {
		err := c.findConflicts(&s)
		for cl := range s.conflicts() {
			code := problem.DataShared
			if meta, ok := c.metadataAt(cl); ok {
				if code = problem.MetadataOverlap; meta.isBitmap() {
					code = problem.BitmapOverlap
				}
				c.contested(problem.StructDataCluster, cl, 1)
			} else if len(c.sharedData) < maxSharedData {
				c.sharedData = append(c.sharedData, cl)
			}
			if named[code]++; named[code] <= c.Listed() {
				name = append(name, cl)
			}
		}
		s = sharedClusters{}
		return err
	}
	for first, n := range c.counts.Shared() {
		for n > 0 {
			k := min(n, sharedAtOnce-s.n)
			s.add(first, k)
			first, n = first+qcow2.HostCluster(k), n-k
			if s.n == sharedAtOnce {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if s.n > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	if len(name) == 0 {
		return nil
	}
	uses, err := c.findUses(name)
	if err != nil {
		return err
	}
	for i, cl := range name {
		c.reportShared(cl, uses[i])
	}
	for _, code := range []problem.Code{problem.MetadataOverlap, problem.DataShared, problem.BitmapOverlap} {
		if rest := named[code] - c.Listed(); rest > 0 {
			c.Count(code, 0, uint64(rest))
		}
	}
	return nil
}

// sharedClusters are clusters that were claimed more than once, and what was
// found of who uses them. It can be filled from several goroutines.
type sharedClusters struct {
	runs []sharedRun // in ascending order
	n    uint64      // clusters of all runs
	// user says for each cluster who uses it: 0 is nobody, 1 compressed data,
	// otherwise guest cluster user-2; a cluster with users that exclude each
	// other has the highest bit set.
	user []atomic.Uint64
}

type sharedRun struct {
	first qcow2.HostCluster
	n     uint64
	index uint64 // of the first cluster in user
}

const (
	userConflict   = uint64(1) << 63
	userCompressed = 1
	userGuest      = 2
)

func (s *sharedClusters) add(first qcow2.HostCluster, n uint64) {
	s.runs = append(s.runs, sharedRun{first: first, n: n, index: s.n})
	s.n += n
}

// note tells that a cluster, by its index, has a user.
func (s *sharedClusters) note(index, user uint64) {
	u := &s.user[index]
	if was := u.Load(); was == 0 && u.CompareAndSwap(0, user) {
		return
	}
	if u.Load()&^userConflict != user {
		u.Or(userConflict)
	}
}

// find gives the first run that ends behind a cluster; the search begins with
// the one that was found last.
func (s *sharedClusters) find(cl qcow2.HostCluster, last int) int {
	behind := func(i int) bool { r := &s.runs[i]; return r.first+qcow2.HostCluster(r.n) > cl }
	if last < len(s.runs) && behind(last) && (last == 0 || !behind(last-1)) {
		return last
	}
	i, _ := slices.BinarySearchFunc(s.runs, cl, func(r sharedRun, cl qcow2.HostCluster) int {
		if r.first+qcow2.HostCluster(r.n) <= cl {
			return -1
		}
		return 1
	})
	return i
}

// conflicts gives the clusters with users that exclude each other, in order.
func (s *sharedClusters) conflicts() func(yield func(qcow2.HostCluster) bool) {
	return func(yield func(qcow2.HostCluster) bool) {
		for _, r := range s.runs {
			for k := range r.n {
				if s.user[r.index+k].Load()&userConflict != 0 && !yield(r.first+qcow2.HostCluster(k)) {
					return
				}
			}
		}
	}
}

// findConflicts finds which of the clusters have owners that exclude each other.
func (c *run) findConflicts(s *sharedClusters) error {
	s.user = make([]atomic.Uint64, s.n)
	for _, r := range s.runs {
		c.eachMetadata(r.first, r.n, func(first qcow2.HostCluster, n uint64) {
			for k := range n {
				s.user[r.index+uint64(first-r.first)+k].Store(userConflict)
			}
		})
	}
	return inEachTable(c, false, func(sc *scanner, idx uint32, ts *tableScan) struct{} {
		last := 0
		for e := range ts.entries {
			j, ok := sc.again(ts, e)
			if !ok {
				continue
			}
			user := uint64(userCompressed)
			if !j.compressed {
				user = userGuest + uint64(c.guestOf(use{table: idx, entry: uint32(e)}))
			}
			end := j.first + qcow2.HostCluster(j.n)
			for last = s.find(j.first, last); last < len(s.runs) && s.runs[last].first < end; last++ {
				r := &s.runs[last]
				for cl := max(j.first, r.first); cl < min(end, r.first+qcow2.HostCluster(r.n)); cl++ {
					s.note(r.index+uint64(cl-r.first), user)
				}
			}
			last = max(last-1, 0)
		}
		return struct{}{}
	}, func(struct{}) {})
}

// inEachTable loads the L2 tables that have entries a second time, all or only
// those of the active disk, in several goroutines, and hands what look makes of
// each to merge, in the order of the tables.
func inEachTable[T any](c *run, onlyActive bool, look func(s *scanner, idx uint32, ts *tableScan) T, merge func(T)) error {
	per := max(1, int(batchBytes/c.g.ClusterSize()))
	n := (len(c.tables) + per - 1) / per
	scanners := make([]*scanner, max(1, min(c.opts.Jobs, n)))
	return inOrder(c.ctx, len(scanners), n, func(worker, i int) (results []T) {
		if scanners[worker] == nil {
			scanners[worker] = newScanner(c)
		}
		s := scanners[worker]
		for idx := i * per; idx < min((i+1)*per, len(c.tables)); idx++ {
			if onlyActive && !c.tables[idx].active() {
				continue
			}
			if ts, ok := s.load(uint32(idx)); ok {
				results = append(results, look(s, uint32(idx), ts))
			}
		}
		return results
	}, func(_ int, results []T) {
		for _, r := range results {
			merge(r)
		}
	})
}

// findUses gives, for each of the clusters, which are sorted, entries that name
// it: a few for each, in the order of the tables.
func (c *run) findUses(clusters []qcow2.HostCluster) ([][]use, error) {
	uses := make([][]use, len(clusters))
	lo, hi := clusters[0], clusters[len(clusters)-1]
	err := inEachTable(c, false, func(s *scanner, idx uint32, ts *tableScan) map[int][]use {
		var found map[int][]use
		for e := range ts.entries {
			j, ok := s.again(ts, e)
			if !ok {
				continue
			}
			for cl := max(j.first, lo); cl < j.first+qcow2.HostCluster(j.n) && cl <= hi; cl++ {
				k, ok := slices.BinarySearch(clusters, cl)
				if !ok {
					continue
				}
				if found == nil {
					found = make(map[int][]use)
				}
				found[k] = c.keepUse(found[k], use{idx, uint32(e), j.compressed})
			}
		}
		return found
	}, func(found map[int][]use) {
		for k, more := range found {
			for _, u := range more {
				uses[k] = c.keepUse(uses[k], u)
			}
		}
	})
	return uses, err
}

// keepUse adds a use of a cluster to those that are remembered: the first ones,
// and further ones as long as they add another guest cluster.
func (c *run) keepUse(uses []use, u use) []use {
	same := func(o use) bool { return o.compressed == u.compressed && c.guestOf(o) == c.guestOf(u) }
	if len(uses) < usesKept || len(uses) < 2*usesKept && !slices.ContainsFunc(uses, same) {
		return append(uses, u)
	}
	return uses
}

// guestOf is the guest cluster that a use is for.
func (c *run) guestOf(u use) qcow2.GuestCluster {
	return qcow2.GuestCluster(uint64(c.tables[u.table].window)*c.g.L2Entries() + uint64(u.entry))
}

// useOwner names an L2 entry as the owner of its data.
func (c *run) useOwner(u use) Owner {
	f := c.entryFinding(&c.tables[u.table], int(u.entry))
	return Owner{Structure: problem.StructDataCluster, Path: f.Path, Snapshot: f.Snapshot, Of: f.Of, Ref: f.Extent}
}

// reportShared reports a cluster with owners that exclude each other.
func (c *run) reportShared(cl qcow2.HostCluster, uses []use) {
	if len(uses) == 0 {
		return
	}
	slices.SortFunc(uses, func(a, b use) int {
		return cmp.Or(cmp.Compare(c.tables[a.table].l1, c.tables[b.table].l1), cmp.Compare(c.guestOf(a), c.guestOf(b)), cmp.Compare(a.table, b.table))
	})
	if meta, ok := c.metadataAt(cl); ok {
		c.reportDataInMetadata(cl, uses[0], meta)
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
			f.Code, f.Cluster = problem.DataShared, ptr(cl)
			f.Message = problem.Say("%s and %s both name %s, as guest offsets %v and %v", oa.Path, f.Path, c.clusterRange(cl, 1),
				c.g.GuestOffset(c.guestOf(a)), c.g.GuestOffset(c.guestOf(b)))
			c.report(f)
			return
		}
	}
}

// reportDataInMetadata reports an L2 entry that names a cluster of metadata.
func (c *run) reportDataInMetadata(cl qcow2.HostCluster, u use, meta Owner) {
	f := c.entryFinding(&c.tables[u.table], int(u.entry))
	f.Code, f.Cluster = problem.MetadataOverlap, ptr(cl)
	f.Message = problem.Say("%s names %s, which belongs to %s", f.Path, c.clusterRange(cl, 1), meta)
	if meta.isBitmap() {
		f.Code, f.Structure, f.Bitmap, f.Path = problem.BitmapOverlap, meta.Structure, meta.Bitmap, meta.Path
		f.Message = problem.Say("%s lies in %s, which %s names too", meta, c.clusterRange(cl, 1), c.useOwner(u))
		if meta.Ref.Length > 0 {
			f.Extent = meta.Ref
		}
		c.spoilBitmap(meta)
	}
	c.report(f)
	c.doubt(c.useOwner(u), "its L2 entry names a cluster that belongs to metadata")
}
