package repair

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// ErrNoSpace means that a repair needs clusters that are not to be had: on a block
// device, which cannot grow.
var ErrNoSpace = errors.New("there is no room for the new structures")

// allocator finds clusters that nothing uses. Within the file it takes only those
// that have neither a reference nor a refcount, and only where no structure is in
// doubt; else those past the end, so that the file grows by no more than the new
// structures need.
type allocator struct {
	o *overlay
	e *check.Evidence
	// first is the evidence of the first round: what the repair itself gives up stays
	// as it is until the header leads elsewhere.
	first *check.Evidence
	g     qcow2.Geometry
	next  qcow2.HostCluster // where the search goes on
	end   qcow2.HostCluster // the first cluster past the end of the file
	// named are the clusters past the end that something names although they are not
	// there: they must not come to hold anything, lest it be found there.
	named []check.ClusterRun
	// inside tells that clusters within the file may be taken.
	inside bool
}

func newAllocator(s *session) *allocator {
	e := s.ev
	return &allocator{o: s.o, e: e, first: s.first, g: s.g, next: 1, end: qcow2.HostCluster(s.g.Clusters(uint64(s.o.size))), named: e.NamedPastEnd(),
		inside: e.Complete && e.Table != nil && len(e.Doubts) == 0}
}

// take gives n clusters in a row.
func (a *allocator) take(n uint64) (qcow2.HostOffset, error) {
	if a.inside || a.o.device {
		if first, ok := a.find(n); ok {
			a.next = first + qcow2.HostCluster(n)
			return a.claim(first, n), nil
		}
	}
	if a.o.device {
		return 0, fmt.Errorf("%w: %d clusters of %d bytes in a row", ErrNoSpace, n, a.g.ClusterSize())
	}
	first := a.pastNamed(a.end, n)
	a.end = first + qcow2.HostCluster(n)
	return a.claim(first, n), nil
}

// pastNamed gives the first of n clusters in a row, from one past the end on, that no
// wrong pointer names.
func (a *allocator) pastNamed(first qcow2.HostCluster, n uint64) qcow2.HostCluster {
	// They are in order, and can be millions.
	i := sort.Search(len(a.named), func(i int) bool { return a.named[i].First+qcow2.HostCluster(a.named[i].N) > first })
	for ; i < len(a.named) && a.named[i].First < first+qcow2.HostCluster(n); i++ {
		first = a.named[i].First + qcow2.HostCluster(a.named[i].N)
	}
	return first
}

func (a *allocator) claim(first qcow2.HostCluster, n uint64) qcow2.HostOffset {
	for i := range n {
		a.o.fresh[first+qcow2.HostCluster(i)] = struct{}{}
	}
	return a.g.HostOffset(first)
}

// find looks for n free clusters in a row within the file. On a device with a
// structure in doubt only what lies behind everything that is used is taken.
func (a *allocator) find(n uint64) (qcow2.HostCluster, bool) {
	if !a.inside {
		highest, _ := a.e.Counts.Highest()
		a.next = max(a.next, highest+1)
	}
	run := uint64(0)
	for cl := a.next; cl < a.end; cl++ {
		if !a.free(cl) {
			run = 0
			continue
		}
		if run++; run == n {
			return cl - qcow2.HostCluster(n-1), true
		}
	}
	return 0, false
}

func (a *allocator) free(cl qcow2.HostCluster) bool {
	if _, taken := a.o.fresh[cl]; taken || a.e.Counts.Get(cl) > 0 || a.e.Reserved(cl) {
		return false
	}
	if a.e.Table == nil {
		return true // only asked behind everything that is used
	}
	n, err := a.e.Table.Get(cl)
	return err == nil && n == 0 && a.wasFree(cl)
}

// wasFree tells whether a cluster was free before the repair.
func (a *allocator) wasFree(cl qcow2.HostCluster) bool {
	if a.first.Table == nil || a.first.Counts.Get(cl) > 0 {
		return false
	}
	per := a.g.RefcountBlockEntries()
	i, found := slices.BinarySearchFunc(a.first.Blocks, uint64(cl)/per, func(b refcount.Block, index uint64) int { return cmp.Compare(b.Index, index) })
	if !found {
		return true
	}
	var b [8]byte
	bit := uint64(cl) % per << a.g.RefcountOrder
	at := int64(bit / 64 * 8)
	err := a.o.readBase(b[:], int64(a.first.Blocks[i].Offset)+at)
	return err == nil && a.g.RefcountBlock(b[:]).Get(int((bit-uint64(at)*8)>>a.g.RefcountOrder)) == 0
}
