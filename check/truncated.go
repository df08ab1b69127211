package check

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// A file whose end is missing (FIL001) is told from one with a wrong pointer by witnesses
// that do not know of each other:
//
//   - an entry leads past the end of the file, and the refcount in the file says that
//     the cluster is in use; or
//   - several entries lead past the end of the file to where no refcount can be read
//     (the block is gone as well, or the image is dirty), and the clusters from the end of
//     the file up to there are, for the most part, all named; or
//   - several entries lead to the very clusters behind the end of the file, without a gap,
//     though no refcount counts them: of the last writes before a host crash some reached
//     the disk, some did not.
//
// Refcounts alone are no witness: QEMU leaves some past the end of the file when it is
// killed. Nor is a last cluster that is not whole.

// claimsNeeded is how many entries must agree where refcounts do not.
const (
	claimsNeeded = 2
	tornNeeded   = 4
)

// pastRefs are runs of clusters past the end of the file with a refcount, in order.
type pastRefs struct {
	runs []unowned
	rest uint64
}

func (p *pastRefs) add(u unowned) {
	if len(p.runs) < maxPastClaims {
		p.runs = append(p.runs, u)
		return
	}
	p.rest += u.n
}

// clusters is the number of clusters of the file, the last one perhaps in part.
func (c *run) fileClusters() qcow2.HostCluster {
	return qcow2.HostCluster(c.g.Clusters(uint64(c.img.Size())))
}

// checkTruncated tells whether the end of the file is missing, and reports it. It relies
// on what all passes before have noted in c.past and c.pastRefs.
func (c *run) checkTruncated() {
	if c.opts.Live || c.Met(problem.HeaderCut) {
		return // the file grows while it is read, or has no header to go by (HDR020)
	}
	c.claimHeaderPointers()
	tornL1 := c.l1CutShort()
	claims := c.past.sortedClaims()
	if len(claims) == 0 && !tornL1 {
		return
	}
	end, how := c.claimedEnd(claims)
	if how == notCut && !tornL1 {
		return
	}
	if how != notCut {
		end = max(end, c.refcountedEnd())
	}
	c.truncated = true
	for _, r := range c.past.tails {
		c.past.lose(r)
	}
	former := max(uint64(c.g.HostOffset(end)), c.l1End())
	f := problem.Finding{
		Code: problem.FileTruncated, Extent: at(qcow2.HostOffset(c.img.Size()), former-uint64(c.img.Size())), Repair: c.truncatedRepair(),
		Value: problem.Number(c.img.Size()), Expected: problem.AtLeast(former),
	}
	say := []string{fmt.Sprintf("the file is cut off: it ends at 0x%x (%s), but its metadata leads to 0x%x (%s)",
		c.img.Size(), ReadableSize(uint64(c.img.Size())), former, ReadableSize(former))}
	if how == cutTorn {
		say[0] = fmt.Sprintf("the last writes never reached the disk: the file ends at 0x%x (%s), but entries lead on to 0x%x (%s), which no refcount counts",
			c.img.Size(), ReadableSize(uint64(c.img.Size())), former, ReadableSize(former))
	}
	if m := c.missingStructures(); m != "" {
		say = append(say, "missing: "+m)
	}
	gone, unmapped := c.mergedLoss(0)
	c.res.Truncation = &Truncation{Size: uint64(c.img.Size()), Former: former, Readable: c.readableBytes(), Gone: gone, Unmapped: unmapped}
	f.Message = problem.Say("%s", strings.Join(append(say, c.diskLoss()...), "; "))
	c.report(f)
}

// l1CutShort tells whether the end of the file cuts the L1 table that the disk needs.
func (c *run) l1CutShort() bool {
	size := uint64(c.img.Size())
	return c.l1End() > size && uint64(c.h.L1TableOffset) < size
}

// l1End is the end of the L1 table as far as the disk needs it, 0 where there is none.
func (c *run) l1End() uint64 {
	n := min(uint64(c.h.L1Size), c.h.L1Needed(c.g))
	if n == 0 || n > qcow2.MaxL1Entries || c.h.L1TableOffset == 0 || !c.g.Aligned(c.h.L1TableOffset) || !c.wasInFile(c.h.L1TableOffset, n*8) {
		return 0
	}
	return uint64(c.h.L1TableOffset) + n*8
}

// cutKind tells how claims past the end are to be understood.
type cutKind uint8

const (
	notCut cutKind = iota
	cutOff
	cutTorn // refcounts know nothing of them
)

// claimedEnd judges the claims, which are in order, and gives the end of the last one to
// be believed.
func (c *run) claimedEnd(claims []pastClaim) (end qcow2.HostCluster, how cutKind) {
	agreed := false
	var open, named, pointers uint64
	var openEnd, gapless qcow2.HostCluster
	gapless = c.fileClusters()
	tornPointers := uint64(0)
	for _, cl := range claims {
		last := cl.first + qcow2.HostCluster(cl.n)
		if cl.first <= gapless && last > gapless {
			gapless = last
			tornPointers += cl.pointers
		}
		if k := c.refcountsAgree(cl); k > 0 {
			agreed = true
			end = max(end, cl.first+qcow2.HostCluster(k))
			continue
		}
		named += cl.n
		if c.refcountOpen(cl.first) {
			open += cl.n
			pointers += cl.pointers
			openEnd = last
		}
	}
	if len(c.past.claims) == maxPastClaims {
		// There are more. Those that are known stand for them.
		kept := uint64(0)
		for _, cl := range c.past.claims {
			kept += cl.pointers
		}
		all := c.past.data
		for _, n := range c.past.entries {
			all += n
		}
		open = uint64(float64(open) * float64(all) / float64(kept))
	}
	dense := openEnd > 0 && (open+c.refcountedBefore(openEnd))*2 >= uint64(openEnd-c.fileClusters())
	switch {
	case agreed:
		if dense {
			end = max(end, openEnd)
		}
		return end, cutOff
	case pointers >= claimsNeeded && dense:
		return openEnd, cutOff
	case tornPointers >= tornNeeded && uint64(gapless-c.fileClusters()) >= tornNeeded:
		return gapless, cutTorn
	}
	return 0, notCut
}

// refcountsAgree tells up to where in a claim the file's refcounts say that a cluster is
// in use: the number of clusters up to the last such one.
func (c *run) refcountsAgree(cl pastClaim) (n uint64) {
	end := cl.first + qcow2.HostCluster(cl.n)
	runs := c.pastRefs.runs
	k := sort.Search(len(runs), func(i int) bool { return runs[i].first >= end }) - 1
	if k < 0 {
		return 0
	}
	if last := min(end, runs[k].first+qcow2.HostCluster(runs[k].n)); last > cl.first {
		return uint64(last - cl.first)
	}
	return 0
}

// refcountOpen tells that no refcount can be read of a cluster past the end, or that it
// need not be up to date.
func (c *run) refcountOpen(cl qcow2.HostCluster) bool {
	if c.table == nil || c.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) {
		return true
	}
	_, err := c.table.Get(cl)
	return err != nil
}

// refcountedBefore counts the clusters past the end, before one, that have a refcount.
func (c *run) refcountedBefore(end qcow2.HostCluster) (n uint64) {
	for _, r := range c.pastRefs.runs {
		if r.first < end {
			n += uint64(min(end, r.first+qcow2.HostCluster(r.n)) - r.first)
		}
	}
	return n
}

// refcountedEnd is the end of the last cluster past the end of the file that has a
// refcount, as long as those up to there are not too few: a single wrong one does not
// make the file longer.
func (c *run) refcountedEnd() (end qcow2.HostCluster) {
	const few = 16
	n := uint64(0)
	for _, r := range c.pastRefs.runs {
		n += r.n
		if last := r.first + qcow2.HostCluster(r.n); n*few >= uint64(last-c.fileClusters()) {
			end = last
		}
	}
	return end
}

// truncatedRepair is what a repair can do about what is missing.
func (c *run) truncatedRepair() problem.Repair {
	switch {
	case c.h.L1Size > 0 && !c.l1Usable() && c.l1Readable() == 0:
		return problem.RepairNone // there is no way to the disk any more
	case len(c.past.gone) > 0, c.past.pointers(problem.StructL1Table) > 0, c.past.pointers(problem.StructSnapshotTable) > 0, c.l1CutShort():
		return problem.RepairLossy
	case c.past.pointers(problem.StructBitmapDirectory)+c.past.pointers(problem.StructBitmapTable)+c.past.pointers(problem.StructBitmapData) > 0:
		return problem.RepairPolicy
	}
	return problem.RepairSafe
}

// missingStructures names what lies past the end, by kind.
func (c *run) missingStructures() string {
	var parts []string
	for _, s := range problem.Structures() {
		n := c.past.pointers(s)
		switch {
		case n == 0:
		case s == problem.StructSnapshotTable, s == problem.StructRefcountTable, s == problem.StructBitmapDirectory, s == problem.StructL1Table && n == 1:
			parts = append(parts, "the "+ownerNames[s])
		case n == 1:
			parts = append(parts, "1 "+ownerNames[s])
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", n, ownerNames[s]))
		}
	}
	return strings.Join(parts, ", ")
}

// maxLostNamed is how many ranges of a disk are named one by one.
const maxLostNamed = 3

// diskLoss says what is gone of the disk and of snapshots, and what is left.
func (c *run) diskLoss() (say []string) {
	if c.h.L1Size > 0 && !c.l1Usable() && c.l1Readable() == 0 {
		return []string{"the L1 table is gone, and with it the way to all of the disk"}
	}
	readable := ReadableSize(c.readableBytes())
	gone, unmapped := c.res.Truncation.Gone, c.res.Truncation.Unmapped
	if len(gone)+len(unmapped) == 0 {
		say = append(say, fmt.Sprintf("nothing of the disk is gone: all of its data (%s) can be read", readable))
	} else {
		if len(gone) > 0 {
			say = append(say, "gone: "+c.nameRanges(gone, c.past.of(0).data))
		}
		if len(unmapped) > 0 {
			say = append(say, "gone as far as it was in use, with the tables that mapped it: "+c.nameRanges(unmapped, c.past.of(0).unmapped))
		}
		say = append(say, fmt.Sprintf("%s of the disk's data can still be read", readable))
	}
	if c.past.shared || len(c.past.gone) > 1 || len(c.past.gone) == 1 && c.past.gone[0] == nil {
		say = append(say, "snapshots have lost data, too")
	}
	return say
}

// readableBytes is how much data of the active disk can be read.
func (c *run) readableBytes() uint64 { return min(c.readable<<c.g.ClusterBits, c.h.Size) }

// nameRanges names the first of some parts of the disk, and says how much all are.
func (c *run) nameRanges(ranges []GuestRange, total uint64) string {
	var names []string
	for _, r := range ranges[:min(len(ranges), maxLostNamed)] {
		names = append(names, guestRange(r.Offset, r.Length))
	}
	s := "guest " + strings.Join(names, ", ")
	switch n := len(ranges) - maxLostNamed; {
	case len(c.past.lost) >= maxPastClaims:
		s += " and many more ranges"
	case n > 0:
		s += fmt.Sprintf(" and %s", number(n, "more range", "more ranges"))
	}
	if len(ranges) > 1 {
		s += fmt.Sprintf(", %s in all", ReadableSize(total))
	}
	return s
}

// number counts things.
func number(n int, one, many string) string {
	return fmt.Sprintf("%d %s", n, plural(uint64(n), one, many))
}

// guestRange names a part of a disk.
func guestRange(from, length uint64) string {
	return fmt.Sprintf("0x%x to 0x%x (%s)", from, from+length, ReadableSize(length))
}

// mergedLoss gives the lost ranges of an L1 table in the order of the disk: those that
// were in use, and those of which that is not known any more.
func (c *run) mergedLoss(l1 uint32) (gone, unmapped []GuestRange) {
	for _, r := range c.past.lost {
		switch x := (GuestRange{r.from, r.length}); {
		case r.l1 != l1:
		case r.table:
			unmapped = append(unmapped, x)
		default:
			gone = append(gone, x)
		}
	}
	return mergeRanges(gone), mergeRanges(unmapped)
}

// mergeRanges sorts ranges, and makes one of those that adjoin.
func mergeRanges(all []GuestRange) []GuestRange {
	slices.SortFunc(all, func(a, b GuestRange) int { return cmp.Compare(a.Offset, b.Offset) })
	merged := all[:0]
	for _, r := range all {
		if k := len(merged) - 1; k >= 0 && merged[k].Offset+merged[k].Length == r.Offset {
			merged[k].Length += r.Length
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// takePastRef keeps a refcount above 0 of a cluster past the end until it is known what
// that means.
func (c *run) takePastRef(d refcount.Diff) bool {
	if d.First < c.fileClusters() || d.Coverage == refcount.Unknown || d.Refcount <= d.References {
		return false
	}
	c.pastRefs.add(unowned{first: d.First, n: d.N, refcount: d.Refcount, references: d.References})
	return true
}

// truncatedFirst puts the finding that the end of the file is missing before the others:
// most of them follow from it.
func truncatedFirst(all []problem.Finding) []problem.Finding {
	i := slices.IndexFunc(all, func(f problem.Finding) bool { return f.Code == problem.FileTruncated })
	if i > 0 {
		f := all[i]
		copy(all[1:i+1], all[:i])
		all[0] = f
	}
	return all
}
