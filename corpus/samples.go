package corpus

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Samples are four images that show what a check says: a healthy one, one with a
// broken bitmap directory, one with wrong refcounts, and one that a hypervisor
// left behind when it was killed. They are not among [Cases].
func Samples() []Case {
	killed := sampleDisk()
	killed.Dirty = true
	killed.Bitmaps[1].InUse = true
	room := Reserved("room")
	// What was written last had been mapped, but its refcounts were still in the
	// memory of the process; and a cluster was taken that nothing leads to yet.
	lost := []Damage{SetRefcount(room.At(0, 1), 1)}
	for off := uint64(0); off < 512*kib; off += 64 * kib {
		lost = append(lost, SetRefcount(Data(40*mib+off), 0))
	}
	granularity := BitmapField("backup-tuesday", qcow2.BitmapFieldGranularityBits, 1)
	samples := []Case{
		{Name: "healthy", Story: "a disk with a snapshot, compressed data and the dirty bitmaps of two backups: nothing is wrong with it",
			Spec: sampleDisk()},
		{Name: "broken-bitmap-directory", Story: "one bit of the bitmap directory is flipped: no QEMU opens this disk any more",
			Spec: sampleDisk(), Damage: []Damage{FlipBits(granularity, 0x40)},
			Want: []Want{{Code: problem.BitmapGranularity, At: granularity, Bitmap: "backup-tuesday"}}},
		{Name: "wrong-refcounts", Story: "a cluster in use is counted as free, so that the next write may destroy it; free ones are counted as in use",
			Spec: sampleDisk(), Damage: []Damage{SetRefcount(Data(40*mib), 0), SetRefcount(room, 1)},
			Want: []Want{{Code: problem.RefcountTooLow, At: RefcountOf(Data(40 * mib)), Count: 1}, {Code: problem.RefcountTooHigh, At: RefcountOf(room), Count: 5}}},
		{Name: "killed-hypervisor", Story: "QEMU was killed while the virtual machine ran: a bitmap still in use, refcounts that were not written yet, a lost cluster",
			Spec: killed, Damage: lost,
			Want: []Want{{Code: problem.MarkedDirty}, {Code: problem.BitmapInUse, Bitmap: "backup-tuesday"},
				{Code: problem.RefcountTooLow, At: RefcountOf(Data(40 * mib)), Count: 8}, {Code: problem.RefcountTooHigh, At: RefcountOf(room.At(0, 1)), Count: 1}}},
	}
	verdicts := qemuVerdicts()
	for i := range samples {
		samples[i].QEMU = verdicts[samples[i].Name]
	}
	return samples
}

// sampleDisk is a small virtual machine's disk with a snapshot and the bitmaps of
// two backups.
func sampleDisk() Spec {
	return Spec{
		Size: 64 * mib,
		Lazy: true,
		Ops: []Op{
			Write{Offset: 0, Length: 3 * mib, Pattern: 0x11, Stamp: true},
			Write{Offset: 8 * mib, Length: mib, Pattern: 0x22, Compressed: true},
			Snapshot{ID: "1", Name: "before-upgrade"},
			Write{Offset: 2 * mib, Length: 2 * mib, Pattern: 0x33, Stamp: true},
			Write{Offset: 40 * mib, Length: mib, Pattern: 0x44, Stamp: true},
			Reserve{Name: "room", Clusters: 5},
		},
		Bitmaps: []Bitmap{
			{Name: "backup-monday", Dirty: []Range{{0, 4 * mib}, {40 * mib, mib}}},
			{Name: "backup-tuesday", Auto: true, Dirty: []Range{{40 * mib, mib}}},
		},
	}
}
