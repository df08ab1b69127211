package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// clusterRun is a run of host clusters.
type clusterRun struct {
	first qcow2.HostCluster
	n     uint64
}

func (r clusterRun) end() qcow2.HostCluster { return r.first + qcow2.HostCluster(r.n) }

// reserve notes that the clusters that x touches may belong to a structure that
// nobody reads any more, or whose fault leaves open whether they do. No
// reference is counted for them; but those that nobody else refers to are not
// leaks either.
func (c *run) reserve(x qcow2.Extent) {
	if x.Length == 0 || c.g.PastEnd(x.Offset, x.Length, c.img.Size()) {
		return
	}
	first, n := c.g.ClusterSpan(x.Offset, x.Length)
	if k := len(c.reserved); k > 0 && c.reserved[k-1].end() == first {
		c.reserved[k-1].n += n
		return
	}
	c.reserved = append(c.reserved, clusterRun{first: first, n: n})
}

// mergeReserved puts the reserved clusters in the order of the file, each once.
func (c *run) mergeReserved() {
	slices.SortFunc(c.reserved, func(a, b clusterRun) int { return cmp.Compare(a.first, b.first) })
	merged := c.reserved[:0]
	for _, r := range c.reserved {
		if k := len(merged); k > 0 && r.first <= merged[k-1].end() {
			merged[k-1].n = uint64(max(merged[k-1].end(), r.end()) - merged[k-1].first)
			continue
		}
		merged = append(merged, r)
	}
	c.reserved = merged
}

// unreserved gives the parts of a run of clusters without an owner, and whether each is
// reserved. A reservation explains one reference and no more.
func (c *run) unreserved(u unowned, yield func(part unowned, reserved bool)) {
	if u.references > 0 || u.refcount > 1 {
		yield(u, false)
		return
	}
	end := u.first + qcow2.HostCluster(u.n)
	i, _ := slices.BinarySearchFunc(c.reserved, u.first, func(r clusterRun, cl qcow2.HostCluster) int {
		if r.end() <= cl {
			return -1
		}
		return 1
	})
	for ; i < len(c.reserved) && c.reserved[i].first < end; i++ {
		r := c.reserved[i]
		if u.first < r.first {
			part := u
			part.n = uint64(r.first - u.first)
			yield(part, false)
		}
		part := u
		part.first = max(u.first, r.first)
		part.n = uint64(min(r.end(), end) - part.first)
		yield(part, true)
		u.first = min(r.end(), end)
	}
	if u.first < end {
		u.n = uint64(end - u.first)
		yield(u, false)
	}
}

// isReserved tells whether a cluster is reserved. mergeReserved must have run.
func (c *run) isReserved(cl qcow2.HostCluster) bool {
	_, found := slices.BinarySearchFunc(c.reserved, cl, func(r clusterRun, cl qcow2.HostCluster) int {
		switch {
		case r.end() <= cl:
			return -1
		case r.first > cl:
			return 1
		}
		return 0
	})
	return found
}
