package check

import (
	"cmp"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// The copied pass tests that COPIED is set in the L1 and L2 entries of the active
// disk where there is exactly one reference to what they name, and nowhere else
// (MAP004, MAP008). Set wrongly, it makes a write of the guest go into a cluster
// that a snapshot shares; clear wrongly, it costs a copy.
//
// It relies on the counts with what the references said, and measures the flags
// by the references that there are. Where the file counts more than those, it is
// the refcount that decides, as with QEMU: a flag that is set is wrong then, and one
// that is clear is right, since an operation that was cut short may have counted
// references that it never made.
//
// It leaves nothing behind.

// checkCopied runs the pass.
func (c *run) checkCopied() error {
	if c.uncounted || len(c.l1s) == 0 {
		return nil
	}
	c.checkL1Copied()
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.overcounted {
		return c.nameContradictions()
	}
	for range c.counts.Contradictions() {
		return c.nameContradictions()
	}
	return nil
}

func (c *run) checkL1Copied() {
	l := &c.l1s[0]
	s := c.prober()
	var run copiedRun
	for i, e := range qcow2.ReadL1(c.img, l.extent.Offset, l.entries).All() {
		if i%(1<<16) == 0 && c.ctx.Err() != nil {
			return
		}
		offset := e.Offset()
		if offset == 0 || !c.g.Aligned(offset) {
			continue
		}
		refs := c.counts.Get(c.g.HostCluster(offset))
		if refs == 0 || !s.copiedIsWrong(c.g.HostCluster(offset), refs, e.Copied()) {
			continue
		}
		f := c.copiedFinding(e.Copied())
		f.Code, f.Extent = problem.L1Copied, l.entry(i)
		if !run.goesOn(i, e.Copied()) {
			f.GuestOffset = ptr(c.windowStart(uint32(i)))
			f.Path, f.Cluster = problem.ToL1Entry(i), ptr(c.g.HostCluster(offset))
			f.Message = problem.Say("%s has COPIED %s, but %s to its L2 table at %v", f.Path, f.Value, s.usersOf(c.g.HostCluster(offset), refs), offset)
		}
		c.report(f)
	}
}

// copiedIsWrong tells whether a COPIED flag is wrong on what names a cluster that has so
// many references.
func (s *scanner) copiedIsWrong(cl qcow2.HostCluster, refs uint64, copied bool) bool {
	switch {
	case copied && refs == 1:
		n, known := s.overcount(cl)
		return known && n > 1
	case copied:
		return true
	case refs != 1:
		return false
	}
	// There may be more references than were found, such as those of a snapshot that
	// could not be read. To set COPIED then would have the guest write into it.
	n, known := s.overcount(cl)
	return known && n <= 1
}

// overcount gives the refcount of a cluster that may be higher than its references; 0
// where it is not. It is not known where no refcount can be read and references may be
// missing.
func (s *scanner) overcount(cl qcow2.HostCluster) (n uint64, known bool) {
	c := s.c
	if !c.overcounted && len(c.doubts) == 0 {
		return 0, true
	}
	if c.table == nil {
		return 0, len(c.doubts) == 0
	}
	if s.lookup == nil {
		s.lookup = refcount.NewLookup(c.table)
	}
	n, err := s.lookup.Get(cl)
	return n, err == nil || len(c.doubts) == 0
}

// users is what a COPIED flag contradicts.
type users struct{ refcount, references uint64 }

func (s *scanner) usersOf(cl qcow2.HostCluster, refs uint64) users {
	n, _ := s.overcount(cl)
	return users{n, refs}
}

func (u users) String() string {
	if u.refcount > u.references {
		return fmt.Sprintf("the refcount is %d, and %s", u.refcount, references(u.references))
	}
	return references(u.references)
}

// copiedRun follows the entries of a table with a wrong flag. What joins the entry
// before it says nothing of its own, and there can be millions.
type copiedRun struct {
	next   uint64 // the entry after the last one
	copied bool
}

// goesOn notes an entry, and tells whether it joins the one before it.
func (r *copiedRun) goesOn(i uint64, copied bool) bool {
	joins := i != 0 && r.next == i && r.copied == copied
	*r = copiedRun{next: i + 1, copied: copied}
	return joins
}

// references words a number of references: "there is 1 reference".
func references(n uint64) string {
	if n == 1 {
		return "there is 1 reference"
	}
	return fmt.Sprintf("there are %d references", n)
}

func (c *run) copiedFinding(copied bool) problem.Finding {
	if copied {
		return problem.Finding{Value: problem.Flag(true), Expected: problem.Flag(false)}
	}
	return problem.Finding{Value: problem.Flag(false), Expected: problem.Flag(true)}
}

// nameContradictions reads the L2 tables of the active disk again and reports
// the entries whose flag is wrong.
func (c *run) nameContradictions() error {
	return inEachTable(c, true, func(s *scanner, _ uint32, ts *tableScan) *problem.Collector {
		found := c.Part()
		var run copiedRun
		s.wrongCopied(ts, func(e int, j *judgement, refs uint64) { s.reportCopied(found, ts.t, e, j, refs, &run) })
		return found
	}, c.Absorb)
}

// wrongCopied gives the entries of a loaded table whose flag is wrong, with the number of
// references to what they name.
func (s *scanner) wrongCopied(ts *tableScan, yield func(entry int, j *judgement, refs uint64)) {
	for e := range ts.entries {
		j, ok := s.again(ts, e)
		if !ok || j.compressed {
			continue
		}
		refs := s.c.counts.Get(j.first)
		if s.copiedIsWrong(j.first, refs, j.entry.Copied()) {
			yield(e, &j, refs)
		}
	}
}

// WrongCopied gives the L2 tables of the active disk that have entries whose COPIED flag
// contradicts the references (MAP008), with all of those, by index: findings list only
// some. Tables that cannot be read any more are left out.
func (e *Evidence) WrongCopied(yield func(table qcow2.HostOffset, entries []uint32) error) error {
	c := e.run
	type wrong struct {
		table   qcow2.HostOffset
		entries []uint32
	}
	var failed error
	err := inEachTable(c, true, func(s *scanner, _ uint32, ts *tableScan) (w wrong) {
		s.wrongCopied(ts, func(entry int, _ *judgement, _ uint64) { w.entries = append(w.entries, uint32(entry)) })
		w.table = ts.t.offset
		return w
	}, func(w wrong) {
		if failed == nil && len(w.entries) > 0 {
			failed = yield(w.table, w.entries)
		}
	})
	return cmp.Or(err, failed)
}

// ShouldBeCopied tells whether an entry of the active disk that names a cluster must have
// COPIED set.
func (e *Evidence) ShouldBeCopied(cl qcow2.HostCluster) bool {
	return e.Counts.Get(cl) == 1 && !e.run.prober().copiedIsWrong(cl, 1, true)
}

// reportCopied reports an L2 entry whose flag is wrong.
func (s *scanner) reportCopied(found *problem.Collector, t *l2table, i int, j *judgement, refs uint64, run *copiedRun) {
	c := s.c
	if found.Unlisted(problem.L2Copied, 0, 1) {
		return
	}
	f := c.copiedFinding(j.entry.Copied())
	f.Code, f.Extent, f.Snapshot, f.Of = problem.L2Copied, c.entryExtent(t, i), c.l1s[t.l1].snapshot, c.l1s[t.l1].of
	// The first words of extended entries do not adjoin, so that they never join.
	if !run.goesOn(uint64(i), j.entry.Copied()) || c.g.ExtendedL2 {
		f.GuestOffset = ptr(c.entryGuest(t, i))
		f.Path, f.Cluster = c.entryPath(t, i), ptr(j.first)
		f.Message = problem.Say("%s has COPIED %s, but %s to its cluster at %v", f.Path, f.Value, s.usersOf(j.first, refs), j.entry.Offset())
	}
	found.Add(f)
}
