package corpus

import "github.com/qcheck/qcheck/check"

// Demo gives the images of `make demo`: what a newcomer should have seen.
func Demo() []Case { return demoCases() }

// demoDisk is a small virtual machine's disk with a snapshot and the bitmaps of two backups.
func demoDisk() Spec {
	return Spec{
		Size: 64 * mib,
		Lazy: true,
		Ops: []Op{
			Write{Offset: 0, Length: 3 * mib, Pattern: 0x11, Stamp: true},
			Write{Offset: 8 * mib, Length: mib, Pattern: 0x22, Compressed: true},
			Snapshot{ID: "1", Name: "before-upgrade"},
			Write{Offset: 2 * mib, Length: 2 * mib, Pattern: 0x33, Stamp: true},
			Write{Offset: 40 * mib, Length: mib, Pattern: 0x44, Stamp: true},
		},
		Bitmaps: []Bitmap{
			{Name: "backup-monday", Dirty: []Range{{0, 4 * mib}, {40 * mib, mib}}},
			{Name: "backup-tuesday", Auto: true, Dirty: []Range{{40 * mib, mib}}},
		},
	}
}

func demoCases() []Case {
	killed := demoDisk()
	killed.Dirty = true
	for i := range killed.Bitmaps {
		killed.Bitmaps[i].InUse = true
	}
	// What was written last had been mapped, but its refcounts were still in the memory of the process.
	var lost []Damage
	for off := uint64(0); off < mib; off += 64 * kib {
		lost = append(lost, SetRefcount(Data(40*mib+off), 0))
	}

	leaking := demoDisk()
	leaking.Ops = append(leaking.Ops, Reserve{Name: "lost", Clusters: 5})

	const granularityBits = 17 // its place in a directory entry
	granularity := BitmapField("backup-tuesday", granularityBits, 1)

	return []Case{
		{
			Name:  "demo/1-healthy",
			Story: "a disk with a snapshot and the dirty bitmaps of two backups: nothing is wrong with it",
			Spec:  demoDisk(),
			QEMU:  sound,
		},
		{
			Name:   "demo/2-broken-bitmap-directory",
			Story:  "one bit of the bitmap directory is flipped: no QEMU opens this disk any more",
			Spec:   demoDisk(),
			Damage: []Damage{FlipBits(granularity, 0x40)},
			Want:   []Want{{Code: check.BMD007, At: granularity, Bitmap: "backup-tuesday"}},
			QEMU:   QEMU{Checked: true, Check: 1, ReadOnly: check.OpenRefused, ReadWrite: check.OpenRefused},
		},
		{
			Name:  "demo/3-wrong-refcounts",
			Story: "a cluster in use is counted as free, so that the next write may destroy it; five free ones are counted as in use",
			Spec:  leaking,
			Damage: []Damage{
				SetRefcount(Data(40*mib), 0),
				SetRefcount(Reserved("lost"), 1),
			},
			Want: []Want{
				{Code: check.REF005, At: RefcountOf(Data(40 * mib)), Count: 1},
				{Code: check.REF006, At: RefcountOf(Reserved("lost")), Count: 5},
			},
			QEMU: QEMU{Checked: true, Check: 2, ReadOnly: check.OpenOK, ReadWrite: check.OpenOK},
		},
		{
			Name:   "demo/4-killed-hypervisor",
			Story:  "QEMU was killed while the virtual machine ran: bitmaps still in use, and refcounts that were not written yet",
			Spec:   killed,
			Damage: lost,
			Want: []Want{
				{Code: check.HDR006},
				{Code: check.BMD012, Bitmap: "backup-monday"},
				{Code: check.BMD012, Bitmap: "backup-tuesday"},
				{Code: check.REF005, At: RefcountOf(Data(40 * mib)), Count: 16},
			},
			QEMU: QEMU{Checked: true, Check: 2, ReadOnly: check.OpenOK, ReadWrite: check.OpenOK},
		},
	}
}
