package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// bitmapRun is a run of clusters that the bitmaps take. There can be one for
// each table entry of the image, so it is kept small.
type bitmapRun struct {
	first  uint64
	n      uint32
	entry  uint32 // the table entry that names the first cluster, for data
	bitmap int32  // index into bitmapsPass.bitmaps; -1 for the directory
	kind   runKind
}

type runKind uint8

const (
	runDirectory runKind = iota
	runTable
	runData
)

func (r *bitmapRun) end() uint64 { return r.first + uint64(r.n) }

// addExtent takes up the clusters of the directory or a table.
func (p *bitmapsPass) addExtent(x qcow2.Extent, bitmap int, kind runKind) {
	if first, n := p.g.ClusterSpan(x.Offset, x.Length); n > 0 {
		p.runs = append(p.runs, bitmapRun{first: uint64(first), n: uint32(n), bitmap: int32(bitmap), kind: kind})
	}
}

// addTable takes up the clusters of a bitmap's table.
func (p *bitmapsPass) addTable(b *bitmap) {
	p.addExtent(at(b.TableOffset, b.entries*8), b.index, runTable)
}

// addData takes up a cluster of data; it is joined to the one before it where
// both the clusters and the entries that name them follow each other.
func (p *bitmapsPass) addData(b *bitmap, entry uint64, o qcow2.HostOffset) {
	cl := uint64(p.g.HostCluster(o))
	if len(p.runs) > 0 {
		r := &p.runs[len(p.runs)-1]
		if r.kind == runData && r.bitmap == int32(b.index) && r.end() == cl && uint64(r.entry)+uint64(r.n) == entry {
			r.n++
			return
		}
	}
	p.runs = append(p.runs, bitmapRun{first: cl, n: 1, entry: uint32(entry), bitmap: int32(b.index), kind: runData})
}

// taken tells whether a run of clusters meets one that was taken up already.
func (p *bitmapsPass) taken(first, n uint64) bool {
	return slices.ContainsFunc(p.runs, func(r bitmapRun) bool { return r.first < first+n && first < r.end() })
}

// checkOverlaps puts the runs in the order of the file and finds clusters that
// two of them have (BMT006). What tables share with each other and with the
// directory has been reported. Overlaps with structures other than the bitmaps'
// are found with those of all metadata, when all of it has been claimed.
func (p *bitmapsPass) checkOverlaps() {
	slices.SortFunc(p.runs, func(a, b bitmapRun) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.kind, b.kind), cmp.Compare(a.bitmap, b.bitmap), cmp.Compare(a.entry, b.entry))
	})
	if len(p.runs) == 0 {
		return
	}
	widest := p.runs[0]
	for _, r := range p.runs[1:] {
		if r.first < widest.end() {
			p.reportOverlap(widest, r, r.first, min(r.end(), widest.end())-r.first)
		}
		if r.end() > widest.end() {
			widest = r
		}
	}
}

// reportOverlap reports n clusters that two runs have, of which at least one is
// data: it is taken for the wrong one, or else the later bitmap's.
func (p *bitmapsPass) reportOverlap(a, b bitmapRun, first, n uint64) {
	wrong, other := b, a
	if cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.bitmap, b.bitmap), cmp.Compare(a.entry, b.entry)) > 0 {
		wrong, other = a, b
	}
	bm := p.bitmaps[wrong.bitmap]
	bm.spoil("some of its clusters are another structure's, too")
	bm.shared = true
	if other.kind == runData {
		p.bitmaps[other.bitmap].spoil("some of its clusters are another bitmap's, too")
		p.bitmaps[other.bitmap].shared = true
	}
	if p.Unlisted(problem.BitmapOverlap, 0, n) {
		return
	}
	entry := uint64(wrong.entry) + first - wrong.first
	x := at(bm.tableEntry(entry), n*8)
	f := problem.Finding{
		Code: problem.BitmapOverlap, Extent: x, Bitmap: bm.name, Path: problem.ToBitmapTableEntry(entry), Cluster: ptr(qcow2.HostCluster(first)), Count: n,
		Value: problem.Hex(p.g.HostOffset(qcow2.HostCluster(first))),
	}
	what := ""
	switch {
	case other.kind == runDirectory:
		what = "belongs to the bitmap directory"
	case other.kind == runTable && other.bitmap == wrong.bitmap:
		what = "belongs to the table itself"
	case other.kind == runTable:
		what = "belongs to the table of " + p.bitmaps[other.bitmap].label()
	case other.bitmap == wrong.bitmap:
		what = fmt.Sprintf("entry %d names already", uint64(other.entry)+first-other.first)
	default:
		what = fmt.Sprintf("entry %d of the table of %s names, too", uint64(other.entry)+first-other.first, p.bitmaps[other.bitmap].label())
	}
	f.Message = problem.Say("%s: table entry %d names %s, which %s", bm.label(), entry, p.clusterRange(qcow2.HostCluster(first), n), what)
	p.report(f)
}

// namedRuns is how many runs of data get an owner that knows the table entries
// which name it; beyond, a bitmap's runs have one owner.
const namedRuns = 1 << 16

// claimRuns claims the clusters of all runs. Those of stale bitmaps are only
// reserved: they may have become somebody else's by now.
func (p *bitmapsPass) claimRuns() {
	owners := make(map[int32]uint32) // of the data of bitmaps, beyond namedRuns
	for i := range p.runs {
		r := &p.runs[i]
		first, n := qcow2.HostCluster(r.first), uint64(r.n)
		if p.stale != "" {
			p.reserve(at(p.g.HostOffset(first), n<<p.g.ClusterBits))
			continue
		}
		var owner uint32
		switch {
		case r.kind == runDirectory:
			owner = p.addOwner(p.directoryOwner())
		case r.kind == runTable:
			owner = p.addOwner(p.bitmaps[r.bitmap].tableOwner())
		case i < namedRuns:
			b := p.bitmaps[r.bitmap]
			owner = p.addOwner(b.dataOwner(at(b.tableEntry(uint64(r.entry)), n*8)))
		default:
			var ok bool
			if owner, ok = owners[r.bitmap]; !ok {
				owner = p.addOwner(p.bitmaps[r.bitmap].dataOwner(qcow2.Extent{}))
				owners[r.bitmap] = owner
			}
		}
		p.claimClusters(owner, first, n)
		// Other bitmaps with the same table refer to the same clusters.
		if r.kind != runDirectory && p.bitmaps[r.bitmap].copies > 1 {
			p.count(first, n, p.bitmaps[r.bitmap].copies-1)
		}
	}
}
