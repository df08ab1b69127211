package proof

import (
	"encoding/binary"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Structures that nothing led to, and that the plan leads back to: snapshots behind the
// last one that is known, a bitmap directory, tables of bitmaps. What they lie in must have
// a refcount and no reference, so references to these clusters are noted, too.

// watch adds to what references are noted of all that becomes free, and what comes up.
func (p *prover) watch() error {
	p.freed.freeze()
	p.concerned.join(p.freed)
	add := func(x qcow2.Extent) {
		if x.Length > 0 && p.inFile(p.was, x) {
			p.concerned.add(p.g.ClusterSpan(x.Offset, x.Length))
		}
	}
	for _, slot := range p.plan.Reattached {
		var b [8]byte
		if p.is.ReadAt(b[:], slot) == nil {
			add(qcow2.Extent{Offset: qcow2.L1Entry(binary.BigEndian.Uint64(b[:])).Offset(), Length: p.g.ClusterSize()})
		}
	}
	if p.is.Header.NbSnapshots > 0 && p.before.Result.Has(problem.SnapshotsOrphaned) {
		for _, s := range qcow2.ReadSnapshotTable(p.is).Snapshots {
			add(qcow2.Extent{Offset: s.EntryOffset, Length: s.EntrySize})
			add(qcow2.Extent{Offset: s.L1TableOffset, Length: min(uint64(s.L1Size)*8, qcow2.MaxL1Size)})
		}
	}
	if d := p.plan.Directory; d.DirectoryOffset != 0 {
		add(directoryExtent(d))
		for _, e := range qcow2.ReadBitmapDirectory(p.was, d).Entries {
			p.bitmapParts(&e, add)
		}
	}
	led := p.led()
	for _, e := range p.before.Bitmaps {
		if to, ok := led[e.EntryOffset]; ok {
			e.TableOffset = to
			p.bitmapParts(&e, add)
		}
	}
	p.concerned.freeze()
	return nil
}

func directoryExtent(d qcow2.BitmapsExtension) qcow2.Extent {
	return qcow2.Extent{Offset: d.DirectoryOffset, Length: min(d.DirectorySize, qcow2.MaxBitmapDirectorySize)}
}

// led gives the tables that entries of the bitmap directory are led back to.
func (p *prover) led() map[qcow2.HostOffset]qcow2.HostOffset {
	led := make(map[qcow2.HostOffset]qcow2.HostOffset)
	for _, t := range p.plan.Tables {
		led[t.Entry] = t.Table
	}
	return led
}

// bitmapParts gives the table of a bitmap and the clusters that it names.
func (p *prover) bitmapParts(e *qcow2.BitmapEntry, f func(qcow2.Extent)) {
	if !p.g.Aligned(e.TableOffset) || e.TableSize > qcow2.MaxBitmapTableEntries {
		return
	}
	f(qcow2.Extent{Offset: e.TableOffset, Length: uint64(e.TableSize) * 8})
	for _, t := range qcow2.ScanTable[qcow2.BitmapTableEntry](p.was, e.TableOffset, uint64(e.TableSize)).All() {
		if o := t.Offset(); o != 0 && p.g.Aligned(o) {
			f(qcow2.Extent{Offset: o, Length: p.g.ClusterSize()})
		}
	}
}

// bitmapsBefore gives the bitmaps of the image before the repair: those to which the plan
// leads back come first, and have the tables that they are led back to.
func (p *prover) bitmapsBefore() ([]bitmap, error) {
	p.owned.freeze()
	var all []bitmap
	if d := p.plan.Directory; d.DirectoryOffset != 0 {
		sure, said := false, false
		for i := range p.before.Result.Findings {
			f := &p.before.Result.Findings[i]
			if f.Code == problem.BitmapsOrphaned && f.Cluster != nil && *f.Cluster == p.g.HostCluster(d.DirectoryOffset) {
				said, sure = true, f.Repair == problem.RepairSafe
			}
		}
		read := qcow2.ReadBitmapDirectory(p.was, d)
		whole := read.Stop.Reason == qcow2.StopEnd && read.Rest.Length == 0 && uint64(len(read.Entries)) == uint64(d.NbBitmaps)
		if !said || !whole || !p.g.Aligned(d.DirectoryOffset) || !p.unownedBefore(directoryExtent(d)) {
			return nil, refuse(d.DirectoryOffset, "a bitmap directory comes up that was not lost")
		}
		for i := range read.Entries {
			b := bitmap{BitmapEntry: read.Entries[i], found: true, unsure: !sure}
			if err := p.comesUp(&b.BitmapEntry); err != nil {
				return nil, err
			}
			all = append(all, b)
		}
		p.referenceExtent(directoryExtent(d), true)
	}
	led := p.led()
	for _, b := range list(p.was) {
		if to, ok := led[b.EntryOffset]; ok {
			delete(led, b.EntryOffset)
			b.TableOffset, b.usable, b.unsure = to, false, !p.saysLost(&b)
			if err := p.comesUp(&b.BitmapEntry); err != nil {
				return nil, err
			}
		}
		all = append(all, b)
	}
	for i := range all { // of a directory that has been found
		b := &all[i]
		if to, ok := led[b.EntryOffset]; ok && b.found {
			b.TableOffset, b.unsure = to, true
		}
	}
	for _, b := range all {
		if b.found {
			p.bitmapParts(&b.BitmapEntry, func(x qcow2.Extent) { p.referenceExtent(x, x.Offset == b.TableOffset) })
		}
	}
	return all, nil
}

// saysLost tells whether the check before the repair says that the table of a bitmap is
// elsewhere.
func (p *prover) saysLost(b *bitmap) bool {
	for i := range p.before.Result.Findings {
		if f := &p.before.Result.Findings[i]; f.Code == problem.BitmapTableElsewhere && f.Extent.Offset == b.EntryOffset+qcow2.BitmapFieldTableOffset {
			return true
		}
	}
	return false
}

// comesUp holds that nothing referred to the table of a bitmap.
func (p *prover) comesUp(e *qcow2.BitmapEntry) error {
	x := qcow2.Extent{Offset: e.TableOffset, Length: uint64(e.TableSize) * 8}
	if !p.g.Aligned(x.Offset) || x.Length > 0 && !p.unownedBefore(x) {
		return refuse(x.Offset, "the table of bitmap %s comes up, and was not lost", check.Escape(e.Name))
	}
	return nil
}

// remains gives the clusters that become free and were a bitmap's that is given up, by what
// they hold: a directory, tables, and what these name. All of that is free afterwards.
func (p *prover) remains() *set {
	r := newSet()
	if len(p.plan.Remains) == 0 {
		return r
	}
	loose := func(c qcow2.HostCluster) bool {
		_, said := p.plan.Remains[c]
		return said && p.freed.has(c) && !p.owned.has(c)
	}
	add := func(x qcow2.Extent) {
		first, n := p.g.ClusterSpan(x.Offset, x.Length)
		for c := first; c < first+qcow2.HostCluster(n); c++ {
			if loose(c) {
				r.add(c, 1)
			}
		}
	}
	format := sniff.FormatOf(p.was)
	raw := make([]byte, p.g.ClusterSize())
	for c := range p.freed.all {
		if p.ctx.Err() != nil {
			break
		}
		if !loose(c) || r.has(c) {
			continue
		}
		at := p.g.HostOffset(c)
		if p.was.ReadAt(raw, at) != nil {
			continue
		}
		if p.looseTable(raw, loose) {
			r.add(c, 1)
			for i := 0; i+8 <= len(raw); i += 8 {
				if o := qcow2.BitmapTableEntry(binary.BigEndian.Uint64(raw[i:])).Offset(); o != 0 {
					r.add(p.g.HostCluster(o), 1)
				}
			}
			continue
		}
		d := qcow2.BitmapsExtension{NbBitmaps: qcow2.MaxBitmaps, DirectorySize: max(2*p.g.ClusterSize(), maxLooseDirectory), DirectoryOffset: at}
		for _, e := range qcow2.ReadBitmapDirectory(p.was, d).Entries {
			if !format.BitmapEntry(&e) || !loose(p.g.HostCluster(e.EntryOffset)) {
				break
			}
			add(qcow2.Extent{Offset: e.EntryOffset, Length: e.EntrySize()})
			p.bitmapParts(&e, add)
		}
	}
	return r.freeze()
}

// maxLooseDirectory bounds how far a cluster is read as a directory.
const maxLooseDirectory = 1 << 16

// looseTable tells whether a cluster is a table of a bitmap of which every cluster becomes
// free, too.
func (p *prover) looseTable(raw []byte, loose func(qcow2.HostCluster) bool) bool {
	some := false
	for i := 0; i+8 <= len(raw); i += 8 {
		e := qcow2.BitmapTableEntry(binary.BigEndian.Uint64(raw[i:]))
		o := e.Offset()
		if e == 0 {
			continue
		}
		some = true
		if e.ReservedLow() != 0 || e.ReservedHigh() != 0 || o != 0 && (e.AllOnes() || !p.g.Aligned(o) || !loose(p.g.HostCluster(o))) {
			return false
		}
	}
	return some
}
