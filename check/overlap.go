package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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

// listPlaces gives every run of clusters that metadata takes, in the order of
// the file.
func (c *run) listPlaces() []place {
	places := make([]place, 0, len(c.meta)+len(c.tables)+len(c.blocks))
	for i, m := range c.meta {
		places = append(places, place{first: m.first, n: uint32(m.n), kind: placeMeta, index: uint32(i)})
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
// keeps the list of places for later look-ups.
func (c *run) checkMetadataOverlaps() {
	c.places = c.listPlaces()
	var widest place // the one that reaches furthest so far
	for i, p := range c.places {
		if i > 0 && p.first < widest.end() {
			c.reportMetadataOverlap(widest, p, p.first, min(p.end(), widest.end()))
		}
		if i == 0 || p.end() > widest.end() {
			widest = p
		}
	}
}

// isBitmap tells whether a structure belongs to the bitmaps.
func (o Owner) isBitmap() bool { return strings.HasPrefix(string(o.Structure), "bitmap-") }

func (c *run) reportMetadataOverlap(a, b place, first, end qcow2.HostCluster) {
	oa, ob := c.placeOwner(a), c.placeOwner(b)
	if oa.isBitmap() && ob.isBitmap() {
		return // the bitmaps pass has told it
	}
	// The one that is easier to have been misled to is taken for the culprit:
	// its content is not what it should be, and it is not read.
	culprit, other := ob, oa
	if c.misleading(a) > c.misleading(b) {
		culprit, other = oa, ob
	}
	for _, p := range []place{a, b} {
		switch p.kind {
		case placeTable:
			c.tables[p.index].skip = true
		case placeBlock:
			if a.kind != placeTable && b.kind != placeTable && (a.kind != b.kind || p == b) {
				c.blocks[p.index].bad = true
			}
		}
	}
	code := MAP016
	switch {
	case a.kind == placeBlock || b.kind == placeBlock:
		code = REF004
	case oa.isBitmap() || ob.isBitmap():
		code = BMT006
	}
	c.spoilBitmap(oa)
	c.spoilBitmap(ob)
	f := Finding{
		Code: code, Structure: culprit.Structure, Path: culprit.Path, Snapshot: culprit.Snapshot, Bitmap: culprit.Bitmap,
		Extent: culprit.Ref, Cluster: ptr(first), Count: uint64(end - first),
		Message: fmt.Sprintf("%s lies where %s is: %s", culprit, other, c.clusterRange(first, uint64(end-first))),
	}
	if code == BMT006 && (oa.Structure == StructBitmapDirectory || ob.Structure == StructBitmapDirectory) {
		// Were the directory in the wrong place it would not read as one, which
		// is reported by itself: it is the other structure that has to be given up.
		f.Repair = RepairLossy
	}
	if f.Extent.Length == 0 {
		f.Extent = at(c.g.HostOffset(first), uint64(end-first)*c.g.ClusterSize())
	}
	c.report(f)
	if code != REF004 {
		c.doubt(culprit, "it lies where other metadata is")
	}
}

// spoilBitmap notes that a bitmap cannot be used, since something else lies where
// its table or its data is. That is found out long after the bitmaps were listed.
func (c *run) spoilBitmap(o Owner) {
	if o.Structure != StructBitmapTable && o.Structure != StructBitmapData {
		return
	}
	for i := range c.res.Bitmaps {
		b := &c.res.Bitmaps[i]
		if (b.State == BitmapEnabled || b.State == BitmapDisabled) && Escape(b.Name) == o.Bitmap {
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
	switch o := c.placeOwner(p); {
	case o.isBitmap():
		return 2
	case o.Snapshot != "":
		return 1
	}
	return 0
}

// clusterRange words a run of clusters for a message.
func (c *run) clusterRange(first qcow2.HostCluster, n uint64) string {
	if n == 1 {
		return fmt.Sprintf("cluster %d at %v", first, c.g.HostOffset(first))
	}
	return fmt.Sprintf("clusters %d to %d at %v", first, uint64(first)+n-1, c.g.HostOffset(first))
}

// metadataAt gives the metadata structure that takes a cluster.
func (c *run) metadataAt(cl qcow2.HostCluster) (Owner, bool) {
	i, ok := slices.BinarySearchFunc(c.places, cl, func(p place, cl qcow2.HostCluster) int {
		switch {
		case p.end() <= cl:
			return -1
		case p.first > cl:
			return 1
		}
		return 0
	})
	if !ok {
		return Owner{}, false
	}
	return c.placeOwner(c.places[i]), true
}
