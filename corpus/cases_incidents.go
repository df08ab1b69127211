package corpus

import (
	"encoding/binary"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// incidentCases are what has happened to real images, as public threads tell of it, each
// in the smallest image that shows it. docs/incidents.md has them one by one.
func incidentCases() []Case {
	const (
		c      = 64 * kib
		small  = 4 * kib // clusters of cases that take many tables
		window = small * small / 8
	)
	incident := func(name, story string, spec Spec, damage []Damage, want ...Want) Case {
		return Case{Name: "incident/" + name, Story: story, Spec: spec, Damage: damage, Want: want}
	}
	disk := Spec{Size: 64 * mib, Ops: []Op{
		Write{Length: 2 * mib, Pattern: 1, Stamp: true}, Write{Offset: 32 * mib, Length: mib, Pattern: 2, Stamp: true}}}
	tables := Spec{ClusterBits: 12, Size: 16 * window}
	for i := range uint64(16) {
		tables.Ops = append(tables.Ops, Write{Offset: i * window, Length: 40 * small, Pattern: byte(i + 1), Stamp: true})
	}
	var reused []Damage
	for i := range uint64(9) {
		t := L2Table(i * window)
		if i%3 == 2 {
			reused = append(reused, Put(t, noise(small)))
			continue
		}
		reused = append(reused, Copy(t, RefcountBlock(0)))
	}
	// One of the refcount blocks is in use as such.
	reused = append(reused, Point(RefcountTableEntry(1), L2Table(0)))
	reused = append(reused, Point(L2Entry(10*window), L2Table(11*window)), SetBits(L2Entry(10*window), copied))

	overlay := func(base string) Spec {
		return Spec{Size: 64 * mib, Backing: &Backing{Name: base, Format: "raw", Size: 64 * mib, Writes: []Write{{Length: 8 * mib, Pattern: 0xbb, Stamp: true}}},
			Ops: []Op{Write{Length: mib, Pattern: 1, Stamp: true}, Write{Offset: 4 * mib, Length: mib, Pattern: 2, Stamp: true}}}
	}
	torn := []Damage{SetRefcount(Data(4*mib+8*c).To(Data(5*mib-1)), 0), Truncate(Data(4*mib+8*c), 0)}
	halfTorn := []Damage{Truncate(Data(4*mib+8*c), 0)}

	killed := Spec{Size: 64 * mib, Ops: disk.Ops, Bitmaps: []Bitmap{
		{Name: "backup-monday", Auto: true, InUse: true, Dirty: []Range{{0, mib}}}, {Name: "backup-tuesday", Auto: true, InUse: true}}}
	far := Spec{Size: 64 * mib, Ops: append([]Op{Reserve{Name: "room", Clusters: 18}}, Write{Length: 10 * mib, Pattern: 3, Stamp: true})}
	farOff := []Damage{SetRefcount(Reserved("room"), 1)}
	for _, r := range []Range{{0, 100}, {104, 56}} {
		farOff = append(farOff, SetRefcount(Data(r.Offset*c).At(0, 1).To(Data((r.Offset+r.Length-1)*c)), 0))
	}
	deleted := incident("backing-deleted", "the backing file of a sound overlay was deleted, or moved (blogs and mailing lists)",
		overlay("deleted.raw"), nil, Want{Code: problem.BackingUnreadable, At: BackingName()})
	deleted.Missing = []string{"deleted.raw"}
	return []Case{
		incident("wiped-l2-table", "a hole was punched for a cluster that was given back, when it was an L2 table already: half of the disk reads as zeros (cloud-hypervisor 8624)",
			Spec{Size: gib, Ops: []Op{Write{Length: 3 * mib, Pattern: 1, Stamp: true}, Write{Offset: 600 * mib, Length: mib, Pattern: 2, Stamp: true}}},
			[]Damage{Wipe(L2Table(0))}, Want{Code: problem.TableWiped, At: L2Table(0)}, Want{Code: problem.OwnerUnknown, Count: 48}),
		incident("l2-tables-reused", "the allocator handed out clusters in which L2 tables are: nine of sixteen hold refcount blocks and guest data, one is table and data at once (cloud-hypervisor 8606)",
			tables, reused, Want{Code: problem.NotAnL2Table, At: L2Table(window)}, Want{Code: problem.NotAnL2Table, At: L2Table(2 * window)}, Want{Code: problem.MetadataOverlap, At: L2Entry(10 * window)},
			Want{Code: problem.RefcountBlockOverlap, At: L1Entry(0)}, Want{Code: problem.L1Copied}, Want{Code: problem.L2Copied}, Want{Code: problem.RefcountTooLow}, Want{Code: problem.OwnerUnknown, Count: 40}),
		incident("header-overwritten", "the guest's writes landed on the first cluster: the header is gone, and all that it named is still there (cloud-hypervisor 8358)",
			disk, []Damage{Put(HeaderCluster(), noise(c))}, Want{Code: problem.NotQcow2}),
		incident("copied-never-set", "a writer that never sets the COPIED flag (cloud-hypervisor 7526, zchee/go-qcow2 2)",
			disk, []Damage{clearCopied(L1Table()), clearCopied(L2Table(0))}, Want{Code: problem.L1Copied, At: L1Entry(0)}, Want{Code: problem.L2Copied, At: L2Entry(0), Count: 32}),
		incident("counted-past-the-end", "a writer that counts clusters past the end of the file (cloud-hypervisor 7526)",
			disk, []Damage{SetRefcount(End(16*c), 1)}, Want{Code: problem.RefcountTooHigh, Count: 16, Severity: problem.Note}),
		deleted,
		incident("torn-overlay", "an overlay after a host crash: of the last writes the L2 table reached the disk, data and refcounts did not (boxlite 866)",
			overlay("torn.raw"), torn, Want{Code: problem.FileTruncated}, Want{Code: problem.L2PastEnd, At: L2Entry(4*mib + 8*c), Count: 8}),
		incident("torn-overlay-counted", "the same, but that the refcounts were written (boxlite 866)",
			overlay("torn-counted.raw"), halfTorn, Want{Code: problem.FileTruncated}, Want{Code: problem.L2PastEnd, At: L2Entry(4*mib + 8*c), Count: 8}),
		incident("killed-hypervisor", "the hypervisor was killed: the bitmaps are in use, and the next incremental backup fails (qmpbackup 25, virtnbdbackup 10, 17, 91)",
			killed, nil, Want{Code: problem.BitmapInUse, Bitmap: "backup-monday"}, Want{Code: problem.BitmapInUse, Bitmap: "backup-tuesday"}),
		incident("cut-short", "a copy that was cut short, as by a full disk (hyperkit 221)",
			disk, []Damage{Truncate(Data(mib), 0)}, Want{Code: problem.FileTruncated}, Want{Code: problem.L2PastEnd, At: L2Entry(mib), Count: 16}),
		incident("cut-in-a-table", "a copy that was cut short in the middle of an L2 table: half of it can be read (hyperkit 221)",
			tables, []Damage{Truncate(L2Table(8*window), 256)}, Want{Code: problem.FileTruncated}, Want{Code: problem.L1PastEnd, At: L1Entry(8), Count: 8}, Want{Code: problem.L2PastEnd, Count: 32}),
		incident("refcounts-far-off", "refcounts after a host crash: 156 clusters are said to be free, and 18 are nobody's (multipass 3003)",
			far, farOff, Want{Code: problem.RefcountTooLow, Count: 100}, Want{Code: problem.RefcountTooHigh, Count: 18}),
	}
}

// clearCopied clears the COPIED flag of every entry of a table.
func clearCopied(p Place) Damage {
	return change(p, func(_ *Image, b []byte) error {
		for ; len(b) >= 8; b = b[8:] {
			putUint64(b, uint64(qcow2.L2Entry(binary.BigEndian.Uint64(b)))&^copied)
		}
		return nil
	}, "clear COPIED in every entry of %s", p)
}
