package corpus

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// hostile makes the case of an image that is there to break its reader. Further
// findings than those wanted may come.
func hostile(name, story string, spec Spec, damage []Damage, codes ...problem.Code) Case {
	c := Case{Name: "hostile/" + name, Story: story, Spec: spec, Damage: damage, Any: true}
	for _, code := range codes {
		c.Want = append(c.Want, Want{Code: code})
	}
	return c
}

// repeat fills a table with one entry.
func repeat(p Place, entry func(*Image) (uint64, error)) Damage {
	return change(p, func(img *Image, b []byte) error {
		e, err := entry(img)
		if err != nil {
			return err
		}
		for ; len(b) >= 8; b = b[8:] {
			binary.BigEndian.PutUint64(b, e)
		}
		return nil
	}, "make every entry of %s the same", p)
}

// entryTo makes an entry that points to a place.
func entryTo(p Place) func(*Image) (uint64, error) {
	return func(img *Image) (uint64, error) {
		x, err := img.Find(p)
		return uint64(x.Offset), err
	}
}

// hostileCases are images that claim much, or lead in circles.
func hostileCases() []Case {
	field := HeaderField
	blank := func(l1 uint32) Spec {
		return Spec{Size: 2 * gib, RefcountBits: 64, MinL1Size: l1, Ops: []Op{Write{Length: 1}, Discard{Length: 64 * kib, Full: true}}}
	}
	full := func() Spec {
		s := snapshotHistory(Spec{Size: 8 * mib}, 0)
		s.Bitmaps = []Bitmap{{Name: "b0", Auto: true, Dirty: []Range{{0, mib}}}}
		return s
	}
	manyBitmaps := func(name func(i int) string) Spec {
		s := Spec{ClusterBits: 9, Size: mib}
		for i := range qcow2.MaxBitmaps {
			s.Bitmaps = append(s.Bitmaps, Bitmap{Name: name(i), GranularityBits: 16})
		}
		return s
	}
	cases := []Case{
		hostile("64-bytes", "a file of 64 bytes that claims all that a header can claim", base(16), []Damage{
			Set(field(qcow2.FieldSize), math.MaxUint64), Set(field(qcow2.FieldL1Size), math.MaxUint32),
			Set(field(qcow2.FieldRefcountTableClusters), math.MaxUint32), Set(field(qcow2.FieldNbSnapshots), math.MaxUint32),
			Set(field(qcow2.FieldBackingFileOffset), math.MaxUint64), Set(field(qcow2.FieldBackingFileSize), math.MaxUint32),
			Set(field(qcow2.FieldCryptMethod), math.MaxUint32), Truncate(HeaderCluster(), 64)},
			problem.HeaderCut, problem.L1TooSmall, problem.RefcountTableMisplaced),
		hostile("64-bytes-largest", "a file of 64 bytes whose claims are the largest that are allowed", base(16), []Damage{
			Set(field(qcow2.FieldL1Size), qcow2.MaxL1Size/8), Set(field(qcow2.FieldRefcountTableClusters), qcow2.MaxRefcountTableSize>>16),
			Set(field(qcow2.FieldNbSnapshots), qcow2.MaxSnapshots), Set(field(qcow2.FieldSnapshotsOffset), 1<<16), Truncate(HeaderCluster(), 64)},
			problem.HeaderCut, problem.L1Misplaced, problem.RefcountTableMisplaced),
		hostile("all-ones", "a header of ones behind magic, version and cluster size", base(16), []Damage{
			Put(Bytes(24, 88), ones(88))}, problem.FeatureUnknown, problem.L1Misplaced, problem.RefcountTableMisplaced),
		hostile("8-eib", "a file of 8 EiB, of which all but the start is a hole", base(16), []Damage{Extend(math.MaxInt64)}),
		hostile("8-eib-mapped", "a file of 8 EiB with data at the end of what an entry can name", base(16), []Damage{
			Extend(math.MaxInt64), Set(L2Entry(unused(16)), offsetBits&^0xffff)}, problem.RefcountMissing),
		hostile("8-eib-tables", "a file of 8 EiB with an L2 table in every corner", base(16), []Damage{
			Extend(math.MaxInt64), Set(L1Entry(1), 1<<55), Set(L1Entry(2), 1<<54), Set(L1Entry(3), offsetBits&^0xffff)}, problem.RefcountMissing),
		hostile("one-l2-table", "two million L1 entries that all name the same L2 table", blank(2<<20), []Damage{
			repeat(L1Table(), entryTo(L2Table(0)))}, problem.L2TableShared, problem.RefcountTooLow),
		hostile("one-l2-table-snapshots", "200 snapshots whose L1 entries all name the same L2 table", func() Spec {
			s := blank(4096)
			s.MinL1Size = 4096
			for i := range 200 {
				s.Ops = append(s.Ops, Snapshot{ID: fmt.Sprint(i), Name: "s"})
			}
			return s
		}(), []Damage{repeat(L1Table(), entryTo(L2Table(0))), repeat(SnapshotL1("0").To(SnapshotL1("199")), entryTo(L2Table(0)))},
			problem.L2TableShared, problem.RefcountTooLow),
		hostile("snapshots-one-l1", "60,000 snapshots, all with the L1 table of the disk, which is long and full", func() Spec {
			s := blank(1 << 20)
			s.Ops = append(s.Ops, Reserve{Name: "snapshots", Clusters: 64})
			return s
		}(), []Damage{repeat(L1Table(), entryTo(L2Table(0))), manySnapshots(60_000)}, problem.MetadataOverlap, problem.L2TableShared),
		hostile("refcount-table-long-file", "a refcount table past the end of a file of 128 GiB: a new one there must have blocks for itself, which a table as long as all else asks for does not name",
			Spec{ClusterBits: 10, Size: 8 * mib, Ops: writes(Spec{Size: 8 * mib})}, []Damage{Extend(int64(128*gib) + 1<<10), Set(field(qcow2.FieldRefcountTableOffset), 128*gib+1<<10)}, problem.RefcountTableMisplaced),
		hostile("l2-tables-in-holes", "four million L2 tables in a file of 32 PiB, all of them holes", blank(qcow2.MaxL1Size/8), []Damage{
			Extend(1 << 55), scatter(L1Table(), 1<<54, 1<<17)}, problem.L1Copied, problem.RefcountMissing),
		hostile("one-cluster", "a full L2 table whose entries all name the same cluster", Spec{Size: gib, RefcountBits: 64, Ops: []Op{Map{Length: 512 * mib}}},
			[]Damage{repeat(L2Table(0), entryTo(Data(0)))}, problem.DataShared, problem.RefcountTooLow),
		{Name: "hostile/65535-bitmaps", Story: "as many bitmaps as there can be, all in order",
			Spec: manyBitmaps(func(i int) string { return fmt.Sprintf("b%d", i) })},
		hostile("65535-bitmaps-one-name", "as many bitmaps as there can be, all of one name", manyBitmaps(func(int) string { return "b" }),
			nil, problem.BitmapNameDuplicate),
		hostile("65535-bitmaps-one-table", "as many bitmaps as there can be, all with the table of the first",
			manyBitmaps(func(i int) string { return fmt.Sprintf("b%05d", i) }),
			[]Damage{sameTables()}, problem.BitmapOverlap),
		hostile("long-bitmap-table", "a bitmap table that claims 2^27 entries", bitmapSpec(12), []Damage{
			Set(BitmapField("b0", qcow2.BitmapFieldTableSize, 4), 1<<27)}, problem.BitmapTableSize),
		hostile("1tib-bitmap-table", "a bitmap of 2^20 table entries in a hole, with 512 MiB of data if one believes it", Spec{ClusterBits: 9, Size: mib, Bitmaps: []Bitmap{{Name: "b0", InUse: true}}},
			[]Damage{Extend(4 * int64(tib)), Set(BitmapField("b0", qcow2.BitmapFieldTableSize, 4), 1<<20),
				SetRefcount(BitmapTable("b0"), 0), Set(BitmapField("b0", qcow2.BitmapFieldTableOffset, 8), tib)}, problem.BitmapInUse),
	}
	for i := range cases {
		cases[i].QEMUSlow = cases[i].Name == "hostile/one-l2-table" || cases[i].Name == "hostile/snapshots-one-l1" || cases[i].Name == "hostile/one-l2-table-snapshots" ||
			strings.HasPrefix(cases[i].Name, "hostile/65535-bitmaps")
		cases[i].Huge = strings.HasPrefix(cases[i].Name, "hostile/8-eib") || cases[i].Name == "hostile/l2-tables-in-holes"
	}

	circle := func(name, story string, codes []problem.Code, d ...Damage) {
		cases = append(cases, hostile("circle-"+name, story, full(), d, codes...))
	}
	both := []problem.Code{problem.MetadataOverlap}
	block := []problem.Code{problem.RefcountBlockOverlap}
	l2, header := L2Entry(100<<16), HeaderCluster()
	circle("l2-data", "an L2 table that is its own data", both, Point(l2, L2Table(0)), AddRefcount(L2Table(0), 1))
	circle("l1-l2", "an L1 table that is its own L2 table", both, Point(L1Entry(0), L1Table()), AddRefcount(L1Table(), 1))
	circle("l1-header", "an L1 table in the header's cluster", []problem.Code{problem.L1Misplaced}, Set(field(qcow2.FieldL1TableOffset), 0))
	circle("l2-header-data", "an L2 table where the refcount table is", both, Point(L1Entry(0), RefcountTable()))
	circle("refcount-block-self", "a refcount table that is its own first block", block, Set(RefcountTableEntry(0), 1<<16))
	circle("refcount-block-second", "a refcount table that is its own second block", block,
		SetOffset(RefcountTableEntry(1), RefcountTable(), 0), AddRefcount(RefcountTable(), 1))
	circle("refcount-table-header", "a refcount table in the header's cluster", []problem.Code{problem.RefcountTableMisplaced}, Set(field(qcow2.FieldRefcountTableOffset), 0))
	circle("refcount-table-l1", "the L1 table is the refcount table too", both, SetOffset(field(qcow2.FieldRefcountTableOffset), L1Table(), 0))
	circle("snapshot-l1-active", "a snapshot with the active disk's L1 table", both,
		SetOffset(SnapshotField("2", 0, 8), L1Table(), 0), SetRefcount(SnapshotL1("2"), 0), AddRefcount(L1Table(), 1))
	circle("snapshot-l1-table", "a snapshot whose L1 table is the snapshot table", both,
		SetOffset(SnapshotField("2", 0, 8), SnapshotTable(), 0), SetRefcount(SnapshotL1("2"), 0), AddRefcount(SnapshotTable(), 1))
	circle("snapshots-l1", "the snapshot table in the L1 table's cluster", both,
		SetOffset(field(qcow2.FieldSnapshotsOffset), L1Table(), 0))
	circle("bitmap-table-directory", "a bitmap whose table is the directory", []problem.Code{problem.BitmapOverlap},
		SetOffset(BitmapField("b0", 0, 8), BitmapDirectory(), 0), SetRefcount(BitmapTable("b0"), 0), AddRefcount(BitmapDirectory(), 1))
	circle("bitmap-data-table", "a bitmap whose data is its table", []problem.Code{problem.BitmapOverlap},
		Point(BitmapTableEntry("b0", 0), BitmapTable("b0")), SetRefcount(BitmapData("b0", 0), 0), AddRefcount(BitmapTable("b0"), 1))
	circle("bitmap-data-header", "a bitmap whose data is the header", []problem.Code{problem.BitmapOverlap},
		SetOffset(BitmapField("b0", 0, 8), RefcountTable(), 0), SetRefcount(BitmapTable("b0"), 0), AddRefcount(header, 1))
	circle("directory-l1", "the bitmap directory in the L1 table's cluster", []problem.Code{problem.BitmapOverlap},
		SetOffset(ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtDirectoryOffset, 8), L1Table(), 0), AddRefcount(L1Table(), 1))
	return cases
}

func ones(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

// scatter fills a table with entries for places that lie apart, from an offset on.
func scatter(p Place, from, apart uint64) Damage {
	return change(p, func(_ *Image, b []byte) error {
		for i := range len(b) / 8 {
			putUint64(b[i*8:], from+uint64(i)*apart)
		}
		return nil
	}, "point the entries of %s to places %d bytes apart", p, apart)
}

// manySnapshots writes a snapshot table with n entries to the clusters reserved as
// "snapshots". All have the disk's L1 table.
func manySnapshots(n int) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(Reserved("snapshots"))
		if err != nil {
			return x, err
		}
		e := qcow2.Snapshot{L1TableOffset: img.l1.Offset, L1Size: uint32(img.l1.Length / 8), Name: []byte("s")}
		e.SetExtra(0, img.size)
		var table []byte
		for i := range n {
			e.ID = fmt.Append(nil, i)
			table = append(table, e.Encode()...)
		}
		if uint64(len(table)) > x.Length {
			return x, fmt.Errorf("%d bytes do not fit", len(table))
		}
		img.write(table, x.Offset)
		if _, err := Set(HeaderField(qcow2.FieldNbSnapshots), uint64(n)).Apply(img); err != nil {
			return x, err
		}
		return SetOffset(HeaderField(qcow2.FieldSnapshotsOffset), Reserved("snapshots"), 0).Apply(img)
	}, "write %d snapshots with the L1 table of the disk", n)
}

// sameTables gives every bitmap the table of the first.
func sameTables() Damage {
	return change(BitmapDirectory(), func(img *Image, b []byte) error {
		for _, bm := range img.bitmaps {
			at := bm.at.Offset - img.dir.Offset
			copy(b[at:at+8], b[:8])
		}
		return nil
	}, "give every bitmap the table of the first")
}
