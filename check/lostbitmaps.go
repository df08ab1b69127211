package check

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Bitmaps that nothing leads to any more are looked for among the clusters that nobody
// owns: where the extension is gone or leads elsewhere a directory that parses exactly
// (BMP008), where an entry of the directory does, the table that it must have (BMD015).
// So a table of a bitmap is not taken for an L2 table that was lost, and a repair can
// lead the pointer back.
//
// A pointer is believed to have led to what is found where nothing else can be meant;
// else the bitmaps come back as in use, so that nobody relies on them. That autoclear
// bit 0 is set vouches for them even where there is no extension: QEMU writes nothing
// to such an image, it marks it corrupt instead (tried with 7.2 and 10.0).

// Mend is a few bytes that lead to bitmaps, as they must be.
type Mend struct {
	At   qcow2.HostOffset
	Put  []byte
	Code problem.Code
	Why  string
	// What it leads to: a directory, as the bitmaps extension must say it, or the table of
	// a bitmap, whose entry of the directory is given. The others are zero.
	Directory    qcow2.BitmapsExtension
	Entry, Table qcow2.HostOffset
}

// Bounds on the search.
const (
	maxDirectories   = 64 // that are found
	maxBitmapsTried  = 1 << 12
	maxNamesInReport = 8
)

// bitmapTraces are what the bitmaps pass leaves behind for the search.
type bitmapTraces struct {
	// astray tells that nothing leads to a bitmap directory.
	astray  bool
	ext     *qcow2.BitmapsExtension // as it was read; nil where there is none
	bitmaps []*bitmap
	// claims are the references that come from bitmaps whose place is open to doubt,
	// sorted.
	claims []bitmapRun
}

// leaveTraces is what the bitmaps pass ends with.
func (p *bitmapsPass) leaveTraces() {
	t := &p.traces
	t.bitmaps = p.bitmaps
	t.astray = !slices.ContainsFunc(p.bitmaps, func(b *bitmap) bool {
		// One entry that makes sense will do, or whose table at least has the right size.
		return !b.partial && (p.format().BitmapEntry(&b.BitmapEntry) || named(&b.BitmapEntry) && b.sized)
	})
	suspect := func(r bitmapRun) bool {
		return t.astray || r.bitmap >= 0 && p.bitmaps[r.bitmap].suspect()
	}
	if p.stale != "" {
		return // they have no references
	}
	for _, r := range p.runs {
		if suspect(r) {
			t.claims = append(t.claims, r)
		}
	}
}

// suspect tells of a bitmap whose table may lie elsewhere than its entry says: it does
// not read as a table, has nothing in it, or is another one's. An empty one that is in
// use is what a repair makes, or QEMU when it is killed.
func (b *bitmap) suspect() bool {
	return b.entries == 0 || b.badContent != "" || b.shared || b.blank && !b.Flags.Has(qcow2.BitmapInUse)
}

// strayClaims is how many references to a cluster come from bitmaps whose place is
// open to doubt.
func (t *bitmapTraces) strayClaims(cl qcow2.HostCluster) (n uint64) {
	i, _ := slices.BinarySearchFunc(t.claims, uint64(cl)+1, func(r bitmapRun, next uint64) int {
		if r.first < next {
			return -1
		}
		return 1
	})
	// Runs that reach the cluster begin just before it, but where bitmaps overlap.
	for k := i - 1; k >= max(0, i-claimsLookedAt); k-- {
		if t.claims[k].end() > uint64(cl) {
			n++
		}
	}
	return n
}

// claimsLookedAt is how many runs are looked at that begin before a cluster.
const claimsLookedAt = 16

// findLostBitmaps looks for the bitmaps that own what nobody owns.
func (c *run) findLostBitmaps(leaks []unowned, cut bool) error {
	if c.h.Version < 3 {
		return nil
	}
	c.sniffer = sniff.New(c.img, c.onDisk, func(cl qcow2.HostCluster) uint64 {
		n := c.counts.Get(cl)
		return n - min(n, c.traces.strayClaims(cl))
	})
	found, err := c.lostDirectories(leaks)
	if err != nil {
		return err
	}
	for i := range found {
		c.sniffer.Learn(found[i].Clusters)
		c.lostBitmapRuns = append(c.lostBitmapRuns, found[i].Clusters...)
	}
	switch {
	case !c.traces.astray:
		return c.findLostBitmapTables(leaks, cut)
	case len(found) > 0:
		c.reportLostDirectory(found, leaks, cut)
	}
	return nil
}

// lostDirectories gives the bitmap directories among the clusters without an owner.
func (c *run) lostDirectories(leaks []unowned) (found []sniff.Directory, err error) {
	probes := 0
	for _, l := range leaks {
		if l.references > 0 {
			continue
		}
		for k := range l.n {
			cl := l.first + qcow2.HostCluster(k)
			if probes++; probes > maxProbes || len(found) == maxDirectories {
				return found, nil
			}
			if probes%256 == 0 && c.ctx.Err() != nil {
				return nil, c.ctx.Err()
			}
			// To read the few bytes of a head takes no longer than to ask for holes.
			if d, ok := c.sniffer.Directory(cl, c.traces.ext); ok {
				found = append(found, d)
			}
		}
	}
	return found, nil
}

// reportLostDirectory reports the bitmap directory to which the extension should lead,
// and notes how it is led back there.
func (c *run) reportLostDirectory(found []sniff.Directory, leaks []unowned, cut bool) {
	best, unique := c.chooseDirectory(found)
	d := &found[best]
	vouched := c.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps)
	sure := vouched && unique && (c.explainsAll(d.Clusters, leaks, cut) || c.pointsNear(d)) && !c.placeHasOwner(d)
	f := problem.Finding{
		Code: problem.BitmapsOrphaned, Cluster: ptr(c.g.HostCluster(d.Offset)), Expected: problem.Hex(d.Offset), Repair: problem.RepairPolicy,
		Message: problem.Say("nothing leads to the bitmap directory of %d bytes at %v, which names %s", d.Size, d.Offset, namesOf(d)),
	}
	if !vouched {
		f.Severity = problem.Warning
		f.Message.And("; autoclear bit 0 is clear, so nothing says that they are up to date")
	}
	if !unique {
		f.Message.And("; %d more directories are there", len(found)-1)
	}
	ext := c.img.Extension(qcow2.ExtBitmaps)
	if ext != nil {
		f.Value = problem.Words(c.traces.where())
	}
	mend, why := c.leadBack(ext, d)
	switch {
	case mend == nil:
		f.Extent = c.h.ExtensionArea(c.g)
		f.Repair = problem.RepairNone
		f.Message.And("; %s", why)
	default:
		f.Extent = at(mend.At, len(mend.Put))
		c.mends = append(c.mends, *mend)
		if sure {
			f.Repair = problem.RepairSafe
		} else if vouched {
			f.Message.And("; whether they are up to date is not certain")
			c.mends = append(c.mends, asInUse(d)...)
		}
	}
	c.report(f)
	c.doubt(Owner{Structure: problem.StructBitmapDirectory}, fmt.Sprintf("it lies at %v, and nothing leads to it", d.Offset))
}

// where words where the extension leads.
func (t *bitmapTraces) where() string {
	if t.ext == nil {
		return "an extension of the wrong length"
	}
	return t.ext.DirectoryOffset.String()
}

// namesOf lists the bitmaps of a directory.
func namesOf(d *sniff.Directory) string {
	var names []string
	for i := range d.Entries[:min(len(d.Entries), maxNamesInReport)] {
		names = append(names, Excerpt(d.Entries[i].Name))
	}
	s := fmt.Sprintf("%d bitmaps (%s", len(d.Entries), strings.Join(names, ", "))
	if len(d.Entries) == 1 {
		s = fmt.Sprintf("bitmap %s", names[0])
	} else if more := len(d.Entries) - len(names); more > 0 {
		s += fmt.Sprintf(" and %d more)", more)
	} else {
		s += ")"
	}
	return s
}

// chooseDirectory chooses among directories: the one that goes with what the extension
// still says, else the last one in the file; unique tells that there is no choice.
func (c *run) chooseDirectory(found []sniff.Directory) (best int, unique bool) {
	best = len(found) - 1
	var said []int
	for i := range found {
		if c.pointsNear(&found[i]) {
			said = append(said, i)
		}
	}
	if len(said) == 1 {
		best = said[0]
	}
	return best, len(found) == 1
}

// pointsNear tells whether the extension leads to a directory but for one bit, or gives
// its size and number of entries.
func (c *run) pointsNear(d *sniff.Directory) bool {
	e := c.traces.ext
	if e == nil {
		return false
	}
	want := d.Extension()
	return oneBit(uint64(e.DirectoryOffset), uint64(d.Offset)) || e.NbBitmaps == want.NbBitmaps && e.DirectorySize == want.DirectorySize
}

func oneBit(a, b uint64) bool { return bits.OnesCount64(a^b) == 1 }

// placeHasOwner tells whether the cluster to which the extension leads instead has a
// refcount that nothing else explains: then the directory may have been there, and what
// was found is an older one.
func (c *run) placeHasOwner(d *sniff.Directory) bool {
	e := c.traces.ext
	if e == nil || e.DirectoryOffset == 0 || uint64(e.DirectoryOffset) >= uint64(c.img.Size()) {
		return false
	}
	cl := c.g.HostCluster(e.DirectoryOffset)
	return c.sniffer.Unowned(cl) && !covered(d.Clusters, cl)
}

func covered(runs []sniff.Run, cl qcow2.HostCluster) bool {
	return slices.ContainsFunc(runs, func(r sniff.Run) bool { return cl >= r.First && uint64(cl-r.First) < r.N })
}

// explainsAll tells whether the clusters of what was found are all that nobody owns:
// then nothing else can have been meant.
func (c *run) explainsAll(runs []sniff.Run, leaks []unowned, cut bool) bool {
	if cut {
		return false
	}
	own, without := uint64(0), uint64(0)
	for _, r := range runs {
		for i := range r.N {
			// Those to which a stray pointer leads are not among the leaks.
			if c.counts.Get(r.First+qcow2.HostCluster(i)) == 0 {
				own++
			}
		}
	}
	for _, l := range leaks {
		if l.references == 0 {
			without += l.n
		}
	}
	return own == without
}

// asInUse marks the bitmaps of a directory as such that must not be relied on.
func asInUse(d *sniff.Directory) (ms []Mend) {
	for i := range d.Entries {
		e := &d.Entries[i]
		if e.Flags.Has(qcow2.BitmapInUse) {
			continue
		}
		ms = append(ms, Mend{
			At: e.EntryOffset + qcow2.BitmapFieldFlags, Put: be32(uint32(e.Flags | qcow2.BitmapInUse)), Code: problem.BitmapsOrphaned,
			Why: fmt.Sprintf("bitmap %s: mark it in use, since it may be out of date", Excerpt(e.Name)),
		})
	}
	return ms
}

func be32(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }

// LeftOfBitmaps gives the clusters without an owner that belonged to bitmaps: the
// structures that were found, and tables that nothing but a bitmap can have. Without
// snapshots an L2 table has COPIED set for clusters of refcount 1, where the image's
// other tables do.
func (e *Evidence) LeftOfBitmaps() []sniff.Run {
	c := e.run
	runs := slices.Clone(c.lostBitmapRuns)
	if c.sniffer == nil || c.h.NbSnapshots > 0 || c.lostSnapshots != nil || !c.setsCopied() {
		return runs
	}
	probes := 0
	for _, l := range c.unowned {
		if l.references > 0 {
			continue
		}
		for k := range l.n {
			cl := l.first + qcow2.HostCluster(k)
			off := c.g.HostOffset(cl)
			if _, known := c.sniffer.Known(cl); known || c.img.IsHole(off, c.g.ClusterSize()) {
				continue
			}
			if probes++; probes > maxContent || c.ctx.Err() != nil {
				return runs
			}
			if c.sniffer.Classify(cl) != sniff.BitmapTable {
				continue
			}
			if of, _, ok := c.sniffer.Table(off, c.g.ClusterSize()/8); ok {
				c.sniffer.Learn(of)
				runs = append(runs, of...)
			}
		}
	}
	return runs
}

// setsCopied tells whether the software that wrote the image sets COPIED.
func (c *run) setsCopied() bool {
	missing := uint64(0)
	for i := range c.kept {
		if f := &c.kept[i]; f.Code == problem.L2Copied {
			missing += f.Count
		}
	}
	return c.res.AllocatedClusters > 2*missing
}
