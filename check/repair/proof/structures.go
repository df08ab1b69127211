package proof

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// structures notes where metadata was, but for L2 tables, and holds that none that is
// there afterwards is freed.
func (p *prover) structures() error {
	known := p.before.Bitmaps
	if len(known) == 0 && p.before.Result.Has(problem.ExtensionLength) {
		// The check could not go by an extension whose length is wrong.
		for _, b := range list(p.was) {
			known = append(known, b.BitmapEntry)
		}
	}
	p.metadata(p.was, &p.refs, p.before.Snapshots, known, func(x qcow2.Extent, metadata bool) {
		first, n := p.g.ClusterSpan(x.Offset, x.Length)
		p.reference(first, n, metadata)
	})
	is := p.readRefcounts(p.is)
	var freed error
	var bitmaps []qcow2.BitmapEntry
	for _, b := range list(p.is) {
		bitmaps = append(bitmaps, b.BitmapEntry)
	}
	p.metadata(p.is, &is, qcow2.ReadSnapshotTable(p.is).Snapshots, bitmaps, func(x qcow2.Extent, _ bool) {
		if first, n := p.g.ClusterSpan(x.Offset, x.Length); freed == nil && p.freed.any(first, n) {
			freed = refuse(x.Offset, "a structure is freed that is used afterwards")
		}
	})
	return freed
}

// metadata gives the places of an image's structures, those that lie in the file. What
// bitmaps hold is given, too, although it is not metadata.
func (p *prover) metadata(img *qcow2.Image, refs *refcounts, snapshots []qcow2.Snapshot, bitmaps []qcow2.BitmapEntry, f func(x qcow2.Extent, metadata bool)) {
	h := &img.Header
	give := func(o qcow2.HostOffset, length uint64, metadata bool) {
		if x := (qcow2.Extent{Offset: o, Length: length}); o != 0 && length > 0 && p.inFile(img, x) {
			f(x, metadata)
		}
	}
	f(qcow2.Extent{Length: p.g.ClusterSize()}, true)
	give(h.RefcountTableOffset, min(uint64(h.RefcountTableClusters)*p.g.ClusterSize(), qcow2.MaxRefcountTableSize), true)
	for _, o := range refs.blocks {
		give(o, p.g.ClusterSize(), true)
	}
	// An L1 table that does not start with a cluster is none to anybody.
	giveL1 := func(o qcow2.HostOffset, entries uint32) {
		if p.g.Aligned(o) {
			give(o, min(uint64(entries)*8, qcow2.MaxL1Size), true)
		}
	}
	giveL1(h.L1TableOffset, h.L1Size)
	for i := range snapshots {
		s := &snapshots[i]
		if !p.g.Aligned(h.SnapshotsOffset) {
			break // nor is a snapshot table
		}
		give(s.EntryOffset, max(s.EntrySize, qcow2.SnapshotHeadSize), true)
		giveL1(s.L1TableOffset, s.L1Size)
	}
	if e := img.Extension(qcow2.ExtCrypto); e != nil {
		x := qcow2.DecodeCryptoExtension(e.Data)
		give(x.Offset, x.Length, true)
	}
	dir, ok := directory(img)
	led := p.led()
	if !ok || img == p.was && p.plan.Directory.DirectoryOffset != 0 {
		return // what it leads to is elsewhere
	}
	if p.g.Aligned(dir.DirectoryOffset) {
		give(dir.DirectoryOffset, min(dir.DirectorySize, qcow2.MaxBitmapDirectorySize), true)
	}
	for i := range bitmaps {
		b := &bitmaps[i]
		give(b.EntryOffset, b.EntrySize(), true)
		if p.ctx.Err() != nil {
			return
		}
		if _, elsewhere := led[b.EntryOffset]; elsewhere && img == p.was {
			continue
		}
		if !p.g.Aligned(b.TableOffset) || b.TableSize > qcow2.MaxBitmapTableEntries {
			continue
		}
		give(b.TableOffset, uint64(b.TableSize)*8, true)
		for _, e := range qcow2.ScanTable[qcow2.BitmapTableEntry](img, b.TableOffset, uint64(b.TableSize)).All() {
			if p.g.Aligned(e.Offset()) {
				give(e.Offset(), p.g.ClusterSize(), false)
			}
		}
	}
}
