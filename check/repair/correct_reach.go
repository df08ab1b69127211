package repair

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// reach is a set of kinds of bytes. A bit can be the cause of a finding only where the
// part of the check that made the finding goes by it; and the one bit that is wrong is the
// cause of all of them.
type reach uint16

const (
	reachFormat     reach = 1 << iota // how everything is to be read: version, cluster size, features
	reachSize                         // the size of the disk
	reachL1                           // where the L1 table is, and how long
	reachRefTable                     // where the refcount table is, and how long
	reachSnapshots                    // the snapshot table
	reachBacking                      // the name of the backing file
	reachExtensions                   // heads of header extensions, autoclear features
	reachBitmaps                      // the extension and the directory of bitmaps
	reachL1Entry
	reachL2Entry
	reachBitmapTable
	reachRefTableEntry
	reachRefcount

	reachHeader = reachFormat | reachSize | reachL1 | reachRefTable | reachSnapshots | reachBacking | reachExtensions
	reachAll    = ^reach(0)
)

// reachOf tells what a finding may be due to.
func (c *corrector) reachOf(f *problem.Finding) reach {
	switch f.Code {
	case problem.OrphanL2Table, problem.NotAnL2Table, problem.TableWiped, problem.BitmapsOrphaned, problem.SnapshotsOrphaned:
		return reachAll
	}
	if f.Code.Is(problem.Overlap) || copiedCode(f.Code) && !c.balanced() {
		return reachAll // it takes what clusters are used for
	}
	switch subject := f.Code.About(); {
	case subject == problem.AboutHeader, subject == problem.AboutExtension, subject == problem.AboutCrypto, subject == problem.AboutSibling:
		return reachHeader
	case subject == problem.AboutL1Entry:
		return reachFormat | reachSize | reachL1 | reachSnapshots | reachL1Entry
	case subject == problem.AboutL2Entry:
		return reachFormat | reachSize | reachL1 | reachSnapshots | reachL1Entry | reachL2Entry
	case subject == problem.AboutRefcountEntry:
		return reachFormat | reachRefTable | reachRefTableEntry
	case subject == problem.AboutSnapshot:
		return reachFormat | reachSize | reachSnapshots
	case f.Code.AboutBitmaps():
		return reachFormat | reachSize | reachExtensions | reachBacking | reachBitmaps | reachBitmapTable
	}
	return reachAll
}

// copiedCode tells of a COPIED flag that contradicts the refcount.
func copiedCode(code problem.Code) bool { return code == problem.L1Copied || code == problem.L2Copied }

// balanced tells that every refcount is the number of references.
func (c *corrector) balanced() bool {
	return c.before.known && len(c.before.low)+len(c.before.high) == 0
}

// narrow finds out what all that is wrong may be due to, and where.
func (c *corrector) narrow() {
	c.reach = reachAll
	for i := range c.ev.Findings {
		f := &c.ev.Findings[i]
		if !c.severe(f) && !(c.mild && f.Severity == problem.Warning) {
			continue
		}
		c.reach &= c.reachOf(f)
		if x, ok := c.ownPlace(f); ok {
			c.own = append(c.own, x)
		}
	}
	// A table that is looked for in the wrong place has more entries that make no sense.
	if l2 := func(x ownPlace) bool { return x.l2 }; len(c.own) <= fewOwn && slices.ContainsFunc(c.own, l2) {
		c.reach &^= reachSize | reachL1 | reachSnapshots
	}
}

// fewOwn is up to how many entries can be wrong by themselves, rather than by what leads to
// their table.
const fewOwn = 2

// ownPlace is an entry of a table that is wrong whatever anything else is: a bit of it has
// flipped, or it is no entry.
type ownPlace struct {
	qcow2.Extent
	l2 bool // of an L2 table
}

func (c *corrector) ownPlace(f *problem.Finding) (x ownPlace, ok bool) {
	subject := f.Code.About()
	x.l2 = subject == problem.AboutL2Entry
	switch {
	case f.Unlisted, f.Extent.Length == 0, f.Code == problem.MappedPastDisk, f.Code.Is(problem.Overlap), copiedCode(f.Code) && !c.balanced():
		return x, false
	case x.l2, subject == problem.AboutL1Entry, subject == problem.AboutRefcountEntry, subject == problem.AboutBitmapEntry:
	default:
		return x, false
	}
	size := qcow2.HostOffset(8)
	if x.l2 && c.g.ExtendedL2 {
		size = 16
	}
	first := f.Extent.Offset &^ (size - 1)
	end := (f.Extent.Offset + qcow2.HostOffset(f.Extent.Length) + size - 1) &^ (size - 1)
	x.Extent = qcow2.Extent{Offset: first, Length: uint64(end - first)}
	return x, true
}

// explains tells whether what all entries at fault have in common may be the entry at an
// offset: it is the only one of them, or leads to the table of all.
func (c *corrector) explains(at qcow2.HostOffset, e uint64, kind placeKind) bool {
	for _, x := range c.own {
		here := at >= x.Offset && at < x.Offset+qcow2.HostOffset(x.Length)
		leads := kind == placeL1 && x.l2 && qcow2.L1Entry(e).Offset() == x.Offset&^qcow2.HostOffset(c.g.ClusterSize()-1)
		if !here && !leads {
			return false
		}
	}
	return true
}
