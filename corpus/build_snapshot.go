package corpus

import (
	"fmt"
	"math"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// snapshot is an internal snapshot of an image.
type snapshot struct {
	id    string
	entry qcow2.Snapshot
	at    qcow2.Extent // of its entry in the table
	l1At  qcow2.Extent
	l1    []*l2table
	// copied holds the COPIED flags of its L1 entries: those of the moment, which
	// nobody keeps up.
	copied []bool
	guest  *Store
}

// Dates that do not change from one build to the next.
const (
	snapshotDate  = 1_600_000_000 // 13 September 2020
	snapshotClock = 1_000_000_000 // ns
)

func (s Snapshot) do(b *builder) error {
	if b.spec.DataFile != nil && b.mapped() {
		return fmt.Errorf("no snapshots of data in a data file")
	}
	vmStart := b.g.L1EntriesFor(b.img.size) * b.g.L2Coverage()
	if s.VMState != 0 {
		Write{Offset: vmStart, Length: s.VMState, Pattern: 0xb5}.fill(b.guest)
		b.span(vmStart, s.VMState, b.writeCluster)
	}

	snap := &snapshot{id: s.ID, l1: append([]*l2table(nil), b.l1...)}
	snap.guest = b.guest.clone()
	snap.guest.Truncate(int64(b.img.size))
	snap.l1At = b.place(uint64(len(b.l1)) * 8)
	for _, t := range b.l1 {
		snap.copied = append(snap.copied, t != nil && b.refcount(t.cluster) == 1)
	}
	b.referAll(snap.l1, 1)
	if len(b.l1) == 0 {
		snap.l1At.Offset = b.g.HostOffset(b.hint) // no clusters: QEMU writes the next free one
	}

	e := qcow2.Snapshot{
		L1TableOffset: snap.l1At.Offset, L1Size: uint32(len(b.l1)),
		ID: []byte(s.ID), Name: []byte(s.Name),
		DateSec: snapshotDate, VMClockNsec: snapshotClock,
		VMStateSize32: uint32(s.VMState),
	}
	switch {
	case s.NoExtraData:
	case s.ExtraData != nil:
		e.ExtraData = s.ExtraData
	default:
		e.ExtraData = make([]byte, qcow2.SnapshotExtraV3+8)
		putUint64(e.ExtraData[qcow2.SnapshotExtraV3:], math.MaxUint64) // no instruction count
		e.SetExtra(s.VMState, b.img.size)
	}
	if s.VMState > math.MaxUint32 {
		e.VMStateSize32 = 0 // only the extra data can hold it
	}
	snap.entry = e
	b.img.snaps = append(b.img.snaps, snap)

	if s.VMState != 0 {
		b.discard(vmStart, b.g.Clusters(s.VMState)<<b.g.ClusterBits, false)
	}
	return nil
}

// mapped tells whether anything is mapped.
func (b *builder) mapped() bool {
	return slices.ContainsFunc(b.l1, func(t *l2table) bool { return t != nil })
}

// referAll adds a reference to every L2 table of an L1 and, for each, to all
// that the table refers to.
func (b *builder) referAll(l1 []*l2table, delta int32) {
	for _, t := range l1 {
		if t == nil {
			continue
		}
		b.addRefs(t.cluster, 1, delta)
		for _, e := range t.e {
			b.refer(e, delta)
		}
	}
}

func (d DropSnapshot) do(b *builder) error {
	for i, s := range b.img.snaps {
		if s.id == d.ID {
			b.referAll(s.l1, -1)
			b.release(s.l1At)
			b.img.snaps = append(b.img.snaps[:i], b.img.snaps[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("no snapshot %q", d.ID)
}

func (r Resize) do(b *builder) error {
	if b.base != nil {
		return fmt.Errorf("no change of size over a backing file")
	}
	old := b.img.size
	b.img.size = r.Size
	b.growL1(b.g.L1EntriesFor(r.Size))
	if r.Size >= old {
		return nil
	}
	if len(b.img.snaps) > 0 {
		return fmt.Errorf("no shrinking with snapshots")
	}
	b.guest.fill(int64(r.Size), int64(old-r.Size), 0)
	b.guest.Truncate(int64(r.Size))
	start := b.g.Clusters(r.Size) << b.g.ClusterBits
	if start < old {
		b.discard(start, old-start, true)
	}
	for i := b.g.L1EntriesFor(r.Size); i < uint64(len(b.l1)); i++ {
		if t := b.l1[i]; t != nil {
			b.addRefs(t.cluster, 1, -1)
			b.l1[i] = nil
		}
	}
	return nil
}

// placeSnapshots places the snapshot table.
func (b *builder) placeSnapshots() {
	var n uint64
	for _, s := range b.img.snaps {
		s.at = qcow2.Extent{Offset: qcow2.HostOffset(n), Length: uint64(len(s.entry.Encode()))}
		n += s.at.Length
	}
	b.img.snapTable = b.place(n)
	for _, s := range b.img.snaps {
		s.at.Offset += b.img.snapTable.Offset
	}
}

// writeTables writes the mapping of the active disk and of the snapshots, and
// the snapshot table. Each L2 table is written once: the active disk's with the
// COPIED flags that the refcounts make, those that only snapshots have without.
func (b *builder) writeTables() {
	written := make(map[*l2table]bool)
	l1 := make([]byte, b.l1At.Length)
	for i, t := range b.l1 {
		if t == nil {
			continue
		}
		putUint64(l1[i*8:], uint64(qcow2.NewL1Entry(b.g.HostOffset(t.cluster), b.refcount(t.cluster) == 1)))
		if !written[t] {
			b.writeTable(t, true)
		}
		written[t] = true
	}
	b.img.write(l1, b.l1At.Offset)
	for _, s := range b.img.snaps {
		l1 := make([]byte, s.l1At.Length)
		for i, t := range s.l1 {
			if t == nil {
				continue
			}
			putUint64(l1[i*8:], uint64(qcow2.NewL1Entry(b.g.HostOffset(t.cluster), s.copied[i])))
			if !written[t] {
				b.writeTable(t, false)
			}
			written[t] = true
		}
		b.img.write(l1, s.l1At.Offset)
		b.img.write(s.entry.Encode(), s.at.Offset)
	}
}

func (b *builder) writeTable(t *l2table, active bool) {
	size := b.g.L2EntrySize()
	p := make([]byte, b.g.ClusterSize())
	for i, e := range t.e {
		if b.spec.DataFile == nil && !e.Compressed() && e.Offset() != 0 {
			e = qcow2.NewL2Entry(e.Offset(), active && b.refcount(b.g.HostCluster(e.Offset())) == 1, e.Zero())
		}
		t.e[i] = e
		putUint64(p[uint64(i)*size:], uint64(e))
		if t.sub != nil {
			putUint64(p[uint64(i)*size+8:], uint64(t.sub[i]))
		}
	}
	b.img.write(p, b.g.HostOffset(t.cluster))
}
