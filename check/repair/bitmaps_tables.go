package repair

import (
	"cmp"
	"context"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// judgeTables finds the bitmaps whose table or data cannot be relied on. It is
// asked only where a check has found such a thing. Findings name one of two
// bitmaps that share a cluster; the references tell both.
func (f *bitmapFixer) judgeTables(ctx context.Context) error {
	f.judgeTablePlaces()
	broken := make(map[qcow2.HostCluster]struct{})
	for i := range f.ev.Findings {
		if x := &f.ev.Findings[i]; x.Code == problem.BitmapDataUnreadable && !x.Unlisted {
			first, n := f.g.ClusterSpan(x.Extent.Offset, x.Extent.Length)
			for k := range qcow2.HostCluster(n) {
				broken[first+k] = struct{}{}
			}
		}
	}
	for _, b := range f.bitmaps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if b.tableLost || b.TableSize == 0 {
			continue
		}
		f.judgeTable(b, broken)
	}
	return nil
}

// judgeTablePlaces finds tables that lie where something else is.
func (f *bitmapFixer) judgeTablePlaces() {
	first, n := f.g.ClusterSpan(f.ext.DirectoryOffset, f.ext.DirectorySize)
	inDirectory := func(cl qcow2.HostCluster) bool { return cl >= first && uint64(cl-first) < n }
	var placed []*bitmapFix
	for _, b := range f.bitmaps {
		if b.tableLost {
			continue
		}
		placed = append(placed, b)
		first, n := f.tableSpan(b)
		for cl := first; cl < first+qcow2.HostCluster(n); cl++ {
			if f.ev.Counts.Get(cl) > 1 || inDirectory(cl) {
				b.tableIsLost()
				break
			}
		}
	}
	slices.SortFunc(placed, func(a, b *bitmapFix) int { return cmp.Compare(a.TableOffset, b.TableOffset) })
	var end qcow2.HostCluster
	var widest *bitmapFix
	for _, b := range placed {
		first, n := f.tableSpan(b)
		if widest != nil && first < end {
			b.tableIsLost()
			widest.tableIsLost()
		}
		if last := first + qcow2.HostCluster(n); last > end {
			end, widest = last, b
		}
	}
}

func (b *bitmapFix) tableIsLost() {
	if !b.tableLost {
		b.tableLost = true
		b.bad = append(b.bad, problem.BitmapOverlap)
	}
}

// tableSpan gives the clusters of a bitmap's table.
func (f *bitmapFixer) tableSpan(b *bitmapFix) (first qcow2.HostCluster, n uint64) {
	return f.g.ClusterSpan(b.TableOffset, uint64(b.TableSize)*8)
}

// A table of which so many entries, and most, are no table entries holds
// something else.
const foreignEntries = 8

func (f *bitmapFixer) judgeTable(b *bitmapFix, broken map[qcow2.HostCluster]struct{}) {
	var stored, faulty uint64
	var codes []problem.Code
	scan := qcow2.ScanTable[qcow2.BitmapTableEntry](f.img, b.TableOffset, uint64(b.TableSize))
	for _, e := range scan.All() {
		code := f.entryFault(e)
		if code == "" {
			if _, bad := broken[f.g.HostCluster(e.Offset())]; bad && e.Offset() != 0 && !b.inUse {
				code = problem.BitmapDataUnreadable
			}
		}
		if code == "" && e.Offset() == 0 {
			continue
		}
		stored++
		cut := code == problem.BitmapEntryPastEnd && f.ev.WasInFile(e.Offset(), f.g.ClusterSize())
		if code == "" || cut || !code.Is(problem.NoEntry) && code != problem.BitmapLowReserved {
			if code != "" {
				codes = append(codes, code)
			}
			continue
		}
		faulty++
		if code != problem.BitmapLowReserved {
			codes = append(codes, code)
		}
	}
	if faulty >= foreignEntries && faulty*2 > stored {
		b.tableLost = true
		if len(codes) == 0 {
			codes = append(codes, problem.BitmapLowReserved)
		}
	}
	if len(codes) > 0 {
		slices.Sort(codes)
		b.badEntries = true
		b.bad = append(b.bad, slices.Compact(codes)...)
	}
}

// entryFault gives the worst fault of a table entry, or "". Reserved bits are the
// mildest: those are cleared where they are, see entryFixes.
func (f *bitmapFixer) entryFault(e qcow2.BitmapTableEntry) problem.Code {
	switch o := e.Offset(); {
	case o != 0 && e.AllOnes():
		return problem.BitmapEntryContradiction
	case o != 0 && !f.g.Aligned(o):
		return problem.BitmapEntryUnaligned
	case o != 0 && f.g.PastEnd(o, f.g.ClusterSize(), f.img.Size()):
		return problem.BitmapEntryPastEnd
	case o != 0 && f.ev.Counts.Get(f.g.HostCluster(o)) > 1:
		return problem.BitmapOverlap
	case e.ReservedLow()|e.ReservedHigh() != 0:
		return problem.BitmapLowReserved
	}
	return ""
}

// newTable makes a bitmap's new table, in fresh clusters.
func (f *bitmapFixer) newTable(b *bitmapFix) error {
	n := f.g.Clusters(b.needed * 8)
	raw := make([]byte, n*f.g.ClusterSize())
	switch b.table {
	case tableOnes:
		for i := range b.needed {
			putWord(raw[i*8:], uint64(qcow2.AllOnesEntry))
		}
		last, err := f.lastOnes(b)
		if err != nil {
			return err
		}
		putWord(raw[(b.needed-1)*8:], uint64(last))
	case tableSound:
		scan := qcow2.ScanTable[qcow2.BitmapTableEntry](f.img, b.TableOffset, min(b.needed, uint64(b.TableSize)))
		for i, e := range scan.All() {
			if f.entryFault(e) == "" {
				putWord(raw[i*8:], uint64(e))
			}
		}
	}
	off, err := f.alloc.take(n)
	if err != nil {
		return err
	}
	b.TableOffset, b.TableSize = off, uint32(b.needed)
	return f.o.write(off, raw, intent{reason: "a new table for " + b.label(), codes: b.settles()})
}

// lastOnes makes the last entry of a table of ones. Where the bitmap does not fill
// its last word the cluster is stored: QEMU takes the whole word of an entry of
// ones for set, and would leave bits behind the last one when it stores the bitmap.
func (f *bitmapFixer) lastOnes(b *bitmapFix) (qcow2.BitmapTableEntry, error) {
	const wordBits = 64
	perCluster := f.g.ClusterSize() * 8
	if qcow2.BitmapBits(f.h.SectorAlignedSize(), uint(b.GranularityBits))%wordBits == 0 {
		return qcow2.AllOnesEntry, nil
	}
	// The bit of a sector that the end of the disk cuts counts, too.
	n := min(qcow2.BitmapBits(f.h.Size, uint(b.GranularityBits))-(b.needed-1)*perCluster, perCluster)
	raw := make([]byte, f.g.ClusterSize())
	for i := range raw[:n/8] {
		raw[i] = 0xff
	}
	if n%8 != 0 {
		raw[n/8] = 1<<(n%8) - 1
	}
	off, err := f.alloc.take(1)
	if err != nil {
		return 0, err
	}
	return qcow2.NewBitmapTableEntry(off), f.o.write(off, raw, intent{reason: "the last bits of " + b.label(), codes: b.settles()})
}

// dropOld notes the clusters of what is replaced or removed: those to which every
// reference is known will be given back, whatever else is in doubt.
func (f *bitmapFixer) dropOld() {
	if f.ev.Table == nil {
		return
	}
	first, n := f.g.ClusterSpan(f.ext.DirectoryOffset, min(f.ext.DirectorySize, qcow2.MaxBitmapDirectorySize))
	f.dropRun(first, n)
	for _, b := range f.bitmaps {
		if b.drop == "" && b.table == tableKept {
			continue
		}
		f.o.bitmapsGone = true
		first, n := f.tableSpan(b)
		f.dropRun(first, n)
		scan := qcow2.ScanTable[qcow2.BitmapTableEntry](f.img, b.BitmapEntry.TableOffset, uint64(b.TableSize))
		for _, e := range scan.All() {
			if e.Offset() != 0 && f.g.Aligned(e.Offset()) {
				f.dropRun(f.g.HostCluster(e.Offset()), 1)
			}
		}
	}
}

func (f *bitmapFixer) dropRun(first qcow2.HostCluster, n uint64) {
	end := qcow2.HostCluster(f.g.Clusters(uint64(f.img.Size())))
	for cl := first; cl < first+qcow2.HostCluster(n) && cl < end; cl++ {
		had, err := f.ev.Table.Get(cl)
		if err != nil || had == 0 {
			continue
		}
		// References from stale bitmaps were not counted.
		refs := f.ev.Counts.Get(cl)
		if had <= refs || f.stale && had == 1 && len(f.ev.Doubts) == 0 {
			f.o.dropped[cl] = struct{}{}
		}
	}
}
