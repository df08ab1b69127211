package repair

import (
	"context"
	"fmt"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// Clusters that nothing refers to, while a damaged structure may own them, are all that is left
// of what it led to. Giving the structure up, or mending it, does not make leaks of them: they
// are freed only where that was asked for by name, and then it is a loss like any other.

// givingUp is a fixer that gives something up, which is remembered.
func givingUp(f fixer) fixer {
	return func(s *session, ctx context.Context) (bool, error) {
		changed, err := f(s, ctx)
		s.o.gaveUp = s.o.gaveUp || changed
		return changed, err
	}
}

// unownedBefore tells whether a cluster with a refcount lacked a reference before the repair
// began, and a part of a disk may have owned it. What bitmaps may have owned is not meant:
// that goes with them.
func (r *refcounter) unownedBefore(cl qcow2.HostCluster, refcount uint64) bool {
	return r.doubtBefore && refcount > r.first.Counts.Get(cl)
}

// spared tells whether such a cluster is kept although nothing is in doubt any more: it is all
// that is left of what the repair has given up.
func (r *refcounter) spared(cl qcow2.HostCluster, d refcount.Diff) bool {
	return r.o.gaveUp && d.References == 0 && r.unownedBefore(cl, d.Refcount)
}

// ofDisk tells whether a doubt is about what maps a disk.
func ofDisk(d check.Doubt) bool {
	switch d.Owner.Structure {
	case problem.StructL1Table, problem.StructL2Table, problem.StructDataCluster, problem.StructSnapshotTable:
		return true
	}
	return false
}

// freedClusters are clusters that are freed although something may own them.
type freedClusters struct {
	n    uint64
	runs []check.ClusterRun // the first of them
	more bool
}

// maxFreedRuns is how many runs of clusters a loss names.
const maxFreedRuns = 16

func (f *freedClusters) add(cl qcow2.HostCluster) {
	f.n++
	if k := len(f.runs); k > 0 && !f.more && f.runs[k-1].First+qcow2.HostCluster(f.runs[k-1].N) == cl {
		f.runs[k-1].N++
		return
	}
	if len(f.runs) == maxFreedRuns {
		f.more = true
		return
	}
	f.runs = append(f.runs, check.ClusterRun{First: cl, N: 1})
}

// noteFreed notes a cluster of which references are taken that nobody could find, and that
// is free when the last of the others goes.
func (r *refcounter) noteFreed(cl qcow2.HostCluster, d refcount.Diff) {
	_, sunk := r.o.sunk[cl]
	switch {
	case d.References == 0 && (sunk || r.unownedBefore(cl, d.Refcount)):
		r.freed.add(cl)
	case d.References > 0 && r.unownedBefore(cl, d.Refcount):
		r.o.sunk[cl] = struct{}{}
	}
}

// declareFreed says what is freed although something may own it.
func (r *refcounter) declareFreed() {
	f := &r.freed
	if f.n == 0 {
		return
	}
	var where []string
	for _, run := range f.runs {
		from := r.g.HostOffset(run.First)
		where = append(where, fmt.Sprintf("%v to %v", from, from+qcow2.HostOffset(run.N*r.g.ClusterSize())))
	}
	if f.more {
		where = append(where, "and others")
	}
	r.lose("what %d clusters (%d bytes) that nothing refers to hold, at %s of the file: a damaged structure may own them", f.n, f.n*r.g.ClusterSize(), strings.Join(where, ", "))
	r.said.Unowned += f.n
	*f = freedClusters{}
}
