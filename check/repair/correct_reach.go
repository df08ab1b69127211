package repair

import (
	"github.com/qcheck/qcheck/check/problem"
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

	reachHeader  = reachFormat | reachSize | reachL1 | reachRefTable | reachSnapshots | reachBacking | reachExtensions
	reachMapping = reachFormat | reachSize | reachL1 | reachSnapshots | reachL1Entry | reachL2Entry
	reachAll     = ^reach(0)
)

// reachOf tells what a finding may be due to.
func reachOf(f *problem.Finding) reach {
	switch code := f.Code; {
	case code == problem.L1Copied, code == problem.L2Copied, code == problem.MetadataOverlap, code == problem.L2TableShared, code == problem.OrphanL2Table, code == problem.NotAnL2Table, code == problem.TableWiped:
		return reachAll // it takes what clusters are used for, or refcounts
	case code >= problem.L1ReservedBits && code <= problem.MappedPastDisk:
		return reachMapping
	case code >= problem.RefcountEntryReserved && code <= problem.RefcountEntryPastEnd:
		return reachFormat | reachRefTable | reachRefTableEntry
	case code >= problem.SnapshotTableShort && code <= problem.SnapshotL1TooSmall:
		return reachFormat | reachSize | reachSnapshots
	case code == problem.BitmapOverlap, code == problem.BitmapsOrphaned:
		return reachAll
	case code.AboutBitmaps():
		return reachFormat | reachSize | reachExtensions | reachBacking | reachBitmaps | reachBitmapTable
	}
	switch f.Structure {
	case problem.StructHeader, problem.StructExtension, problem.StructCryptoHeader, problem.StructDataFile, problem.StructBackingFile:
		return reachHeader
	}
	return reachAll
}

// within is what all that is wrong may be due to.
func (c *corrector) within() reach {
	r := reachAll
	for i := range c.ev.Findings {
		f := &c.ev.Findings[i]
		if c.mild && f.Severity == problem.Warning || c.severe(f) {
			r &= reachOf(f)
		}
	}
	return r
}
