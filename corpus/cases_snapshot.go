package corpus

import (
	"fmt"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// snapshotCases are faults of the snapshot table.
func snapshotCases() []Case {
	of := func(ops ...Op) Spec {
		return Spec{Size: 8 * mib, Ops: append(writes(Spec{Size: 8 * mib}), ops...)}
	}
	one1 := of(Snapshot{ID: "1", Name: "first"})
	bare := Spec{Size: 8 * mib, Ops: []Op{Snapshot{ID: "1", Name: "first"}}}
	withData := bare
	withData.DataFile = &DataFile{Name: "snapshots.data"}
	// Thirty snapshots of nothing, four to a cluster of their table. What those have
	// that the end of the file takes away counts as free.
	many := Spec{ClusterBits: 9, Size: mib}
	var lost []Damage
	for i := range 30 {
		id := fmt.Sprint(i + 10)
		many.Ops = append(many.Ops, Snapshot{ID: id, Name: strings.Repeat("x", 62)})
		if i >= 4 {
			lost = append(lost, SetRefcount(SnapshotL1(id), 0))
		}
	}
	lost = append(lost, SetRefcount(SnapshotTable().At(512, 26*128), 0))
	return []Case{
		one("snapshot/name-runs-out", "an ID and a name that would reach past the end of the file", bare,
			check.SNP004, SnapshotField("1", qcow2.SnapshotFieldIDSize, 4), Set(SnapshotField("1", qcow2.SnapshotFieldIDSize, 4), 0xffffffff)),
		one("snapshot/table-cut", "the file ends within the snapshot table", many, check.SNP001, Place{},
			append([]Damage{Truncate(SnapshotTable(), 512)}, lost...)...),
		one("snapshot/table-lost", "the snapshot table cannot be found: what it shares with the disk must not seem the disk's own", snapshotHistory(Spec{Size: 8 * mib}, 0),
			check.HDR014, HeaderField(qcow2.FieldSnapshotsOffset), Add(HeaderField(qcow2.FieldSnapshotsOffset), 512)).
			and(check.REF009, RefcountOf(SnapshotL1("1"))),
		one("snapshot/l1-wiped", "a snapshot's L1 table was discarded: what it shared with the disk has a reference too many, which is no leak", one1,
			check.REF009, Place{}, Wipe(SnapshotL1("1"))),
		one("snapshot/l1-misaligned", "a snapshot's L1 table is said to start within a cluster", bare,
			check.SNP002, SnapshotField("1", 0, 8), SetRefcount(SnapshotL1("1"), 0), Add(SnapshotField("1", 0, 8), 512)),
		one("snapshot/l1-past-end", "a snapshot's L1 table is said to lie behind the end of the file", bare,
			check.SNP002, SnapshotField("1", 0, 8), SetRefcount(SnapshotL1("1"), 0), Set(SnapshotField("1", 0, 8), tib)),
		one("snapshot/l1-huge", "a snapshot's L1 table of more than 32 MiB", bare,
			check.SNP002, SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), SetRefcount(SnapshotL1("1"), 0),
			Set(SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), 0xffffffff)),
		one("snapshot/extra-none", "a version 2 entry in a version 3 image: it does not tell the disk's size", of(Snapshot{ID: "1", Name: "first", NoExtraData: true}),
			check.SNP003, SnapshotField("1", qcow2.SnapshotFieldExtraDataSize, 4)),
		one("snapshot/extra-huge", "extra data of more than 1,024 bytes", of(Snapshot{ID: "1", Name: "first", ExtraData: extraData(1032)}),
			check.SNP004, SnapshotField("1", qcow2.SnapshotFieldExtraDataSize, 4)),
		one("snapshot/id-twice", "two snapshots with one ID", of(Snapshot{ID: "1", Name: "first"}, Snapshot{ID: "1", Name: "second"}),
			check.SNP005, Place{}),
		one("snapshot/id-empty", "a snapshot without an ID", of(Snapshot{ID: "", Name: "first"}), check.SNP005, Place{}),
		one("snapshot/with-data-file", "a snapshot of a disk whose data is in another file, and so not kept", withData,
			check.SNP006, Place{}),
		one("snapshot/l1-too-small", "a snapshot of a disk that its L1 table cannot map", one1,
			check.SNP007, SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), Set(SnapshotField("1", 48, 8), tib)),
	}
}

// extraData is the extra data of a snapshot of an 8 MiB disk, of n bytes.
func extraData(n int) []byte {
	b := make([]byte, n)
	putUint64(b[8:], 8*mib)
	return b
}
