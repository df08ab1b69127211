package corpus

import (
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// overlapSpec is a disk with every structure that can lie where another does. The
// second L1 entry is empty.
func overlapSpec(bits uint32) Spec {
	s := history(bits)
	s.Size = 2 * coverage(bits)
	s.Bitmaps = []Bitmap{{Name: "b0", GranularityBits: 16, Auto: true, Dirty: []Range{{0, 4 << bits}}}}
	return s
}

// mapped is a guest offset of overlapSpec that a table maps, and that is not written.
func mapped(bits uint32) uint64 { return 20 << bits }

// structure is a place that an entry can be made to lead to.
type structure struct {
	name  string
	place Place
	// code is what an overlap with it is called, unless what leads there has a
	// name of its own for it.
	code problem.Code
	// shared clears the flag that says that the cluster has one owner.
	shared []Damage
}

func structures(bits uint32) []structure {
	return []structure{
		{"refcount-table", RefcountTable(), problem.MetadataOverlap, nil},
		{"refcount-block", RefcountBlock(0), problem.RefcountBlockOverlap, nil},
		{"l1-table", L1Table(), problem.MetadataOverlap, nil},
		{"l2-table", L2Table(mapped(bits)), problem.MetadataOverlap, []Damage{ClearBits(L1Entry(0), copied)}},
		{"snapshot-table", SnapshotTable(), problem.MetadataOverlap, nil},
		{"snapshot-l1", SnapshotL1("1"), problem.MetadataOverlap, nil},
		{"snapshot-l2", SnapshotL2Table("1", 0), problem.MetadataOverlap, nil},
		{"bitmap-directory", BitmapDirectory(), problem.BitmapOverlap, nil},
		{"bitmap-table", BitmapTable("b0"), problem.BitmapOverlap, nil},
		{"bitmap-data", BitmapData("b0", 0), problem.BitmapOverlap, nil},
	}
}

// overlapCases are two structures in one cluster, with refcounts that agree with
// it, so that comparing them finds nothing.
func overlapCases() []Case {
	return append(inSizes(dataOverlapsIn, 16, 9, 21), metadataOverlaps()...)
}

// dataOverlapsIn make the guest's data lie in each kind of structure.
func dataOverlapsIn(bits uint32) []Case {
	hole := L2Entry(mapped(bits))
	// No entry can name cluster 0: that means "nothing". A compressed cluster can.
	cases := []Case{one("overlap/compressed-on-header", "compressed data of the guest in the header's cluster", overlapSpec(bits),
		problem.MetadataOverlap, hole, Set(hole, 1<<62|512), AddRefcount(HeaderCluster(), 1))}

	directory := ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtDirectoryOffset, 8)
	leadsTo := map[string]Place{"bitmap-directory": directory, "bitmap-table": BitmapField("b0", 0, 8), "bitmap-data": BitmapTableEntry("b0", 0)}
	for _, x := range structures(bits) {
		code, at := x.code, hole
		if code == problem.RefcountBlockOverlap {
			code = problem.MetadataOverlap // the block is sound, the entry is not
		}
		if p, ok := leadsTo[x.name]; ok {
			at = p
		}
		c := one("overlap/data-on-"+x.name, "data of the guest in the cluster of the "+x.name+": a write destroys it", overlapSpec(bits),
			code, at, append([]Damage{Point(hole, x.place), AddRefcount(x.place.At(0, 1), 1)}, x.shared...)...)
		if x.name == "l2-table" || x.name == "refcount-block" || x.name == "bitmap-table" {
			c = c.inAllSizes()
		}
		cases = append(cases, c)
	}
	return cases
}

// metadataOverlaps make each kind of pointer lead to each kind of structure.
func metadataOverlaps() []Case {
	var cases []Case
	for _, p := range []struct {
		name string
		lead func(to Place) []Damage
		own  string       // the structure that it leads to in a sound image
		code problem.Code // what the overlap is called whatever it is with
		// beyond are structures that only the one found in its own place leads to.
		beyond []string
	}{
		{"l2-table", func(to Place) []Damage { return []Damage{Point(L1Entry(1), to)} }, "l2-table", "", nil},
		{"snapshot-l1", func(to Place) []Damage {
			return []Damage{SetRefcount(SnapshotL1("2"), 0), SetOffset(SnapshotField("2", 0, 8), to, 0)}
		}, "", "", nil},
		{"snapshot-table", func(to Place) []Damage {
			return []Damage{SetRefcount(SnapshotTable(), 0), SetOffset(HeaderField(qcow2.FieldSnapshotsOffset), to, 0)}
		}, "snapshot-table", "", []string{"snapshot-l1", "snapshot-l2"}},
		{"refcount-block", func(to Place) []Damage { return []Damage{SetOffset(RefcountTableEntry(1), to, 0)} }, "", problem.RefcountBlockOverlap, nil},
		{"bitmap-directory", func(to Place) []Damage {
			return []Damage{SetRefcount(BitmapDirectory(), 0), SetOffset(ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtDirectoryOffset, 8), to, 0)}
		}, "bitmap-directory", problem.BitmapOverlap, []string{"bitmap-table", "bitmap-data"}},
		{"bitmap-table", func(to Place) []Damage {
			return []Damage{SetRefcount(BitmapTable("b0"), 0), SetOffset(BitmapField("b0", 0, 8), to, 0)}
		}, "bitmap-table", problem.BitmapOverlap, []string{"bitmap-data"}},
		{"bitmap-data", func(to Place) []Damage {
			return []Damage{SetRefcount(BitmapData("b0", 0), 0), Point(BitmapTableEntry("b0", 0), to)}
		}, "bitmap-data", problem.BitmapOverlap, nil},
	} {
		for _, x := range structures(16) {
			if x.name == p.own || slices.Contains(p.beyond, x.name) {
				continue
			}
			code := x.code
			if p.code != "" && code != problem.RefcountBlockOverlap {
				code = p.code
			}
			if p.name == "l2-table" && x.name == "snapshot-l2" {
				code = problem.L2TableShared // a table it is, but of another part of the disk
			}
			cases = append(cases, Case{Name: "overlap/" + p.name + "-on-" + x.name, Any: true,
				Story: "the cluster of the " + x.name + " is said to be a " + p.name + " as well, and refcounts agree", Spec: overlapSpec(16),
				Damage: append(append(p.lead(x.place), AddRefcount(x.place.At(0, 1), 1)), x.shared...),
				Want:   []Want{{Code: code}}})
		}
	}
	return cases
}
