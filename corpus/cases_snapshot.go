package corpus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// snapshotCases are faults of the snapshot table.
func snapshotCases() []Case {
	return slices.Concat(inSizes(snapshotCasesIn, 16, 9, 21), inSizes(longNameIn, 16, 9))
}

// longNameIn is a name that no file with clusters of this size has room for.
func longNameIn(bits uint32) []Case {
	sizes := SnapshotField("1", qcow2.SnapshotFieldIDSize, 4)
	return []Case{one("snapshot/name-runs-out", "an ID and a name that would reach past the end of the file",
		Spec{ClusterBits: bits, Size: 64 << bits, Ops: []Op{Snapshot{ID: "1", Name: "first"}}},
		problem.SnapshotEntryOversized, sizes, Set(sizes, 0xffffffff)).inAllSizes()}
}

func snapshotCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	size := 64 * c
	of := func(ops ...Op) Spec {
		return Spec{ClusterBits: bits, Size: size, Ops: append(touches(bits), ops...)}
	}
	one1 := of(Snapshot{ID: "1", Name: "first"})
	bare := Spec{ClusterBits: bits, Size: size, Ops: []Op{Snapshot{ID: "1", Name: "first"}}}
	withData := bare
	withData.DataFile = &DataFile{Name: sizedName("snapshots.data", bits)}
	// Thirty snapshots of nothing, 128 bytes each. What those have that the end of the
	// file takes away counts as free.
	many := Spec{ClusterBits: bits, Size: size}
	var lost []Damage
	for i := range 30 {
		id := fmt.Sprint(i + 10)
		many.Ops = append(many.Ops, Snapshot{ID: id, Name: strings.Repeat("x", 62)})
		if i >= 4 {
			lost = append(lost, SetRefcount(SnapshotL1(id), 0))
		}
	}
	if left := max(c, 512); left < 30*128 {
		lost = append(lost, SetRefcount(SnapshotTable().At(left, 30*128-left), 0))
	}
	extraHuge := one("snapshot/extra-huge", "extra data of more than 1,024 bytes", of(Snapshot{ID: "1", Name: "first", ExtraData: extraData(1032, size)}),
		problem.SnapshotEntryOversized, SnapshotField("1", qcow2.SnapshotFieldExtraDataSize, 4)).inAllSizes()
	if c < 1032 { // the table has clusters that are not known to be its own
		extraHuge = extraHuge.and(problem.OwnerUnknown, Place{})
	}
	return []Case{
		one("snapshot/table-cut", "the file ends within the snapshot table", many, problem.SnapshotTableShort, Place{},
			append([]Damage{Truncate(SnapshotTable(), 512)}, lost...)...).inAllSizes(),
		one("snapshot/table-lost", "the snapshot table cannot be found: what it shares with the disk must not seem the disk's own", history(bits),
			problem.SnapshotTableMisplaced, HeaderField(qcow2.FieldSnapshotsOffset), Add(HeaderField(qcow2.FieldSnapshotsOffset), int64(c/2))).
			and(problem.OwnerUnknown, RefcountOf(SnapshotL1("1"))).and(problem.SnapshotsOrphaned, HeaderField(qcow2.FieldSnapshotsOffset)).inAllSizes(),
		one("snapshot/l1-wiped", "a snapshot's L1 table was discarded: what it shared with the disk has a reference too many, which is no leak", one1,
			problem.OwnerUnknown, Place{}, Wipe(SnapshotL1("1"))).inAllSizes(),
		one("snapshot/l1-misaligned", "a snapshot's L1 table is said to start within a cluster", bare,
			problem.SnapshotL1Misplaced, SnapshotField("1", 0, 8), SetRefcount(SnapshotL1("1"), 0), Add(SnapshotField("1", 0, 8), int64(c/2))).inAllSizes(),
		one("snapshot/l1-past-end", "a snapshot's L1 table is said to lie behind the end of the file", bare,
			problem.SnapshotL1Misplaced, SnapshotField("1", 0, 8), SetRefcount(SnapshotL1("1"), 0), Set(SnapshotField("1", 0, 8), tib)).inAllSizes(),
		one("snapshot/l1-huge", "a snapshot's L1 table of more than 32 MiB", bare,
			problem.SnapshotL1Misplaced, SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), SetRefcount(SnapshotL1("1"), 0),
			Set(SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), 0xffffffff)).inAllSizes(),
		one("snapshot/extra-none", "a version 2 entry in a version 3 image: it does not tell the disk's size", of(Snapshot{ID: "1", Name: "first", NoExtraData: true}),
			problem.SnapshotFieldsMissing, SnapshotField("1", qcow2.SnapshotFieldExtraDataSize, 4)).inAllSizes(),
		extraHuge,
		one("snapshot/id-twice", "two snapshots with one ID", of(Snapshot{ID: "1", Name: "first"}, Snapshot{ID: "1", Name: "second"}),
			problem.SnapshotIDAmbiguous, Place{}),
		one("snapshot/id-empty", "a snapshot without an ID", of(Snapshot{ID: "", Name: "first"}), problem.SnapshotIDAmbiguous, Place{}),
		one("snapshot/with-data-file", "a snapshot of a disk whose data is in another file, and so not kept", withData,
			problem.SnapshotWithDataFile, Place{}),
		one("snapshot/l1-too-small", "a snapshot of a disk that its L1 table cannot map", one1,
			problem.SnapshotL1TooSmall, SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), Set(SnapshotField("1", 48, 8), 8*coverage(bits))).inAllSizes(),
	}
}

// extraData is the extra data of a snapshot of a disk of a size, of n bytes.
func extraData(n int, size uint64) []byte {
	b := make([]byte, n)
	putUint64(b[8:], size)
	return b
}
