package corpus

import (
	"math"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// fuzzedCases are images that a fuzzer has found a fault of a check or a repair with,
// each with as little damage as shows it.
func fuzzedCases() []Case {
	field := HeaderField
	fuzzed := func(name, story string, spec Spec, damage []Damage, codes ...problem.Code) Case {
		c := hostile(name, story, spec, damage, codes...)
		c.Name = "fuzzed/" + name
		return c
	}
	const c = 64 * kib
	stale := bitmapSpec(16)
	stale.StaleBitmaps = true
	dirty := []Range{{0, 2 * mib}, {5*mib + 512, 512}, {7 * mib, 256 * kib}}
	empty := Spec{ClusterBits: 21, Size: 8 * mib, Bitmaps: []Bitmap{
		{Name: "on", GranularityBits: 9, Auto: true, Dirty: dirty}, {Name: "off", GranularityBits: 12, Dirty: dirty}}}
	long := Spec{ClusterBits: 21, Size: 32 * mib, Ops: []Op{Write{Length: 20 * mib, Noise: true}}}
	single := Spec{Size: 8 * mib, Ops: writes(Spec{Size: 8 * mib})}
	return []Case{
		fuzzed("stale-bitmap-table-is-data", "a bitmap that is not true any more, whose table the guest has as data by now: what is wrong with an entry there is nobody's business",
			stale, []Damage{SetBits(BitmapTableEntry("b0", 0), 1<<63), Point(L2Entry(2*c), BitmapTable("b0")), SetBits(L2Entry(2*c), copied)}, problem.BitmapsStale),
		fuzzed("disk-of-16-eib-with-bitmaps", "a disk so large that no bitmap can be for it, and no L1 table",
			bitmapSpec(9), []Damage{Set(field(qcow2.FieldSize), math.MaxUint64)}, problem.L1TooSmall, problem.BitmapSizeMismatch),
		fuzzed("lost-table-and-dirty", "an L2 table that has come off, or was left behind by what was under way when the image was not closed", single,
			[]Damage{Wipe(L1Entry(0)), SetBits(field(qcow2.FieldIncompatibleFeatures), uint64(qcow2.IncompatDirty))}, problem.OrphanL2Table, problem.MarkedDirty).mild(problem.InDoubt),
		fuzzed("bitmaps-made-version-2", "bitmaps that a change of the version has hidden: a table of theirs lies one bit away from where the L1 table is, and names what lacks a reference, as a lost L1 table would",
			empty, []Damage{Set(field(qcow2.FieldVersion), 2), Set(field(qcow2.FieldBackingFileSize), 1)}, problem.OrphanL2Table, problem.OwnerUnknown).mild(problem.InDoubt),
		fuzzed("size-zero", "the size of the disk is lost, but nothing of its mapping: that is no reason to take the L2 table for something else",
			Spec{Size: 8 * mib, Ops: []Op{Write{Length: 2 * mib, Stamp: true}}}, []Damage{Set(field(qcow2.FieldSize), 0)}, problem.MappedPastDisk).mild(problem.Warning),
		fuzzed("l1-table-over-data", "an L1 table that is said to have two million entries, and takes guest data for them: nearly each is wrong, and a repair must not look at the image again for every hundred thousand of them",
			long, []Damage{Set(field(qcow2.FieldL1Size), 1<<21+1)}, problem.L1ReservedBits, problem.L1Unaligned, problem.L1PastEnd).slow(),
		fuzzed("stale-bitmaps-of-an-impossible-disk", "bitmaps that are not true any more, of a disk that is too large for an L1 table: nobody can say what they should hold, and to mend something else about them must not make them count again",
			stale, []Damage{Set(field(qcow2.FieldSize), 1<<53), Set(ExtensionData(qcow2.ExtBitmaps, qcow2.BitmapsExtReserved, 4), 7)}, problem.L1TooSmall, problem.BitmapsStale, problem.BitmapExtensionReserved),
	}
}
