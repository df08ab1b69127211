package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// place is a run of clusters that a metadata structure takes, for finding
// overlaps. kind tells in which list of run the structure stands.
type place struct {
	first qcow2.HostCluster
	n     uint32
	kind  placeKind
	index uint32
}

type placeKind uint8

const (
	placeMeta  placeKind = iota // run.meta
	placeTable                  // run.tables
	placeBlock                  // run.blocks
)

func (p place) end() qcow2.HostCluster { return p.first + qcow2.HostCluster(p.n) }

// placeOwner names the structure at a place.
func (c *run) placeOwner(p place) Owner {
	switch p.kind {
	case placeTable:
		return c.tableOwner(&c.tables[p.index])
	case placeBlock:
		return c.blockOwner(&c.blocks[p.index])
	}
	return c.owners[c.meta[p.index].owner]
}

// placeStructure is the structure that placeOwner names.
func (c *run) placeStructure(p place) problem.Structure {
	switch p.kind {
	case placeTable:
		return problem.StructL2Table
	case placeBlock:
		return problem.StructRefcountBlock
	}
	return c.owners[c.meta[p.index].owner].Structure
}

// listPlaces gives every run of clusters that metadata takes, in the order of
// the file.
func (c *run) listPlaces() []place {
	places := make([]place, 0, len(c.meta)+len(c.tables)+len(c.blocks))
	for i, m := range c.meta {
		for n := m.n; n > 0; {
			k := min(n, 1<<31) // no structure of a sound image is that long
			places = append(places, place{first: m.first + qcow2.HostCluster(m.n-n), n: uint32(k), kind: placeMeta, index: uint32(i)})
			n -= k
		}
	}
	for i := range c.tables {
		places = append(places, place{first: c.g.HostCluster(c.tables[i].offset), n: 1, kind: placeTable, index: uint32(i)})
	}
	for i := range c.blocks {
		places = append(places, place{first: c.g.HostCluster(c.blocks[i].offset), n: 1, kind: placeBlock, index: uint32(i)})
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.kind, b.kind), cmp.Compare(a.index, b.index))
	})
	return places
}

// checkMetadataOverlaps finds clusters that two metadata structures take. It
// keeps a list of who has which clusters for later look-ups.
func (c *run) checkMetadataOverlaps() error {
	places := c.listPlaces()
	var widest place // the one that reaches furthest so far
	apart := places[:0]
	for i, p := range places {
		if i%ctxStride == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if i == 0 || p.first >= widest.end() {
			widest = p
			apart = append(apart, p)
			continue
		}
		c.checkOverlap(widest, p)
		if p.end() > widest.end() {
			rest := p
			rest.first, rest.n = widest.end(), uint32(p.end()-widest.end())
			apart = append(apart, rest)
			widest = p
		}
	}
	c.places = apart
	return nil
}

func (o Owner) isBitmap() bool { return o.Structure.OfBitmaps() }

// checkOverlap reports two structures that share clusters. One of them is taken
// for the culprit: its content is not what it should be, and it is not read.
func (c *run) checkOverlap(a, b place) {
	if c.placeStructure(a).OfBitmaps() && c.placeStructure(b).OfBitmaps() {
		return // the bitmaps pass has told it
	}
	culprit, other := b, a
	if c.misleading(a) > c.misleading(b) {
		culprit, other = a, b
	}
	if c.trusts(culprit, other) {
		culprit, other = other, culprit
	}
	switch culprit.kind {
	case placeTable:
		c.tables[culprit.index].skip = true
	case placeBlock:
		c.blocks[culprit.index].bad = true
	}
	c.reportOverlap(culprit, other)
}

func (c *run) reportOverlap(culprit, other place) {
	first, end := max(culprit.first, other.first), min(culprit.end(), other.end())
	c.contested(c.placeStructure(culprit), first, uint64(end-first))
	code := problem.MetadataOverlap
	switch {
	case culprit.kind == placeBlock || other.kind == placeBlock:
		code = problem.RefcountBlockOverlap
	case c.placeStructure(culprit).OfBitmaps() || c.placeStructure(other).OfBitmaps():
		code = problem.BitmapOverlap
	}
	// A block tells what is free, and owns nothing.
	if culprit.kind != placeBlock && len(c.doubts) < maxDoubts {
		c.doubt(c.placeOwner(culprit), "it lies where other metadata is")
	}
	if code == problem.RefcountBlockOverlap && culprit.kind != placeBlock {
		c.spoilBitmap(c.placeOwner(culprit))
	}
	if code == problem.BitmapOverlap {
		c.spoilBitmap(c.placeOwner(culprit))
		c.spoilBitmap(c.placeOwner(other))
	}
	if c.Unlisted(code, 0, uint64(end-first)) {
		return
	}
	o, oo := c.placeOwner(culprit), c.placeOwner(other)
	f := problem.Finding{
		Code: code, Structure: o.Structure, Path: o.Path, Snapshot: o.Snapshot, Of: o.Of, Bitmap: o.Bitmap,
		Extent: o.Ref, Cluster: ptr(first), Count: uint64(end - first),
		Message: problem.Say("%s lies where %s is: %s", o, oo, c.clusterRange(first, uint64(end-first))),
	}
	if culprit.kind == placeTable {
		t := &c.tables[culprit.index]
		f.Message.And("; gone: guest %s", c.windowRange(t))
	}
	if code == problem.RefcountBlockOverlap && culprit.kind != placeBlock {
		// The block is the right one: it is the other structure that has to go.
		f.Repair = problem.RepairLossy
		if o.isBitmap() {
			f.Repair = problem.RepairPolicy
		}
	}
	if code == problem.MetadataOverlap && !c.canGiveUp(o) {
		f.Repair = problem.RepairNone
	}
	if code == problem.BitmapOverlap && (o.Structure == problem.StructBitmapDirectory || oo.Structure == problem.StructBitmapDirectory) {
		// Were the directory in the wrong place it would not read as one, which
		// is reported by itself: it is the other structure that has to be given up.
		f.Repair = problem.RepairLossy
	}
	if f.Extent.Length == 0 {
		f.Extent = at(c.g.HostOffset(first), uint64(end-first)*c.g.ClusterSize())
	}
	c.report(f)
}

// canGiveUp tells whether there is something left of an image without a structure.
func (c *run) canGiveUp(o Owner) bool {
	switch o.Structure {
	case problem.StructL2Table, problem.StructDataCluster, problem.StructSnapshotTable:
		return true
	case problem.StructL1Table:
		return o.Of != 0
	}
	return o.isBitmap()
}

// spoilBitmap notes that a bitmap cannot be used, since something else lies where
// its table or its data is. That is found out long after the bitmaps were listed.
func (c *run) spoilBitmap(o Owner) {
	if o.Structure != problem.StructBitmapTable && o.Structure != problem.StructBitmapData {
		return
	}
	if c.spoilt == nil {
		c.spoilt = make(map[string]struct{})
	}
	c.spoilt[o.Bitmap] = struct{}{}
}

// markSpoiltBitmaps gives the bitmaps that spoilBitmap was told of their state.
func (c *run) markSpoiltBitmaps() {
	if len(c.spoilt) == 0 {
		return
	}
	for i := range c.res.Bitmaps {
		b := &c.res.Bitmaps[i]
		if _, bad := c.spoilt[ownerName(b.Name)]; bad && (b.State == BitmapEnabled || b.State == BitmapDisabled) {
			b.State, b.Why = BitmapUnusable, "another structure lies where its table or its data is"
		}
	}
}

// misleading orders structures by how many entries lead to one of their kind:
// the more there are, the likelier one of them is wrong.
func (c *run) misleading(p place) int {
	switch p.kind {
	case placeTable:
		return 4
	case placeBlock:
		return 3
	}
	switch o := c.owners[c.meta[p.index].owner]; {
	case o.isBitmap():
		return 2
	case o.Of != 0:
		return 1
	}
	return 0
}

// clusterRange words a run of clusters for a message.
func (c *run) clusterRange(first qcow2.HostCluster, n uint64) problem.Clusters {
	return problem.Clusters{First: first, N: n, Offset: c.g.HostOffset(first)}
}

// placeAt gives the number of the first place that ends behind a cluster.
func (c *run) placeAt(cl qcow2.HostCluster) int {
	i, _ := slices.BinarySearchFunc(c.places, cl, func(p place, cl qcow2.HostCluster) int {
		if p.end() <= cl {
			return -1
		}
		return 1
	})
	return i
}

// metadataAt gives the metadata structure that takes a cluster.
func (c *run) metadataAt(cl qcow2.HostCluster) (Owner, bool) {
	i := c.placeAt(cl)
	if i == len(c.places) || c.places[i].first > cl {
		return Owner{}, false
	}
	return c.placeOwner(c.places[i]), true
}

// eachMetadata gives the clusters of a run that metadata takes.
func (c *run) eachMetadata(first qcow2.HostCluster, n uint64, yield func(first qcow2.HostCluster, n uint64)) {
	end := first + qcow2.HostCluster(n)
	for i := c.placeAt(first); i < len(c.places) && c.places[i].first < end; i++ {
		lo, hi := max(first, c.places[i].first), min(end, c.places[i].end())
		yield(lo, uint64(hi-lo))
	}
}
