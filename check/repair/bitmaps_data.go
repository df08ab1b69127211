package repair

import (
	"context"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// fixData mends the data of bitmaps in place: bits behind the last one, and,
// where that was asked for, clusters that can be table entries. No bit of a
// bitmap changes by it at any instant.
func (f *bitmapFixer) fixData(ctx context.Context) (changed bool, err error) {
	tails := make(map[qcow2.HostCluster]*check.Finding)
	uniform := make(map[qcow2.HostCluster]*check.Finding)
	for i := range f.res.Findings {
		x := &f.res.Findings[i]
		switch {
		case x.Rest:
		case x.Code == check.BMX001:
			tails[f.g.HostCluster(x.Extent.Offset)] = x
		case x.Code == check.BMX002 && f.opts.CompactBitmaps:
			first, n := f.g.ClusterSpan(x.Extent.Offset, x.Extent.Length)
			for k := range qcow2.HostCluster(n) {
				uniform[first+k] = x
			}
		}
	}
	if f.stale || len(tails)+len(uniform) == 0 {
		return false, nil
	}
	for _, b := range f.bitmaps {
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		if b.inUse {
			continue
		}
		scan := qcow2.ScanTable[qcow2.BitmapTableEntry](f.img, b.TableOffset, uint64(b.TableSize))
		for i, e := range scan.All() {
			cl := f.g.HostCluster(e.Offset())
			if e.Offset() == 0 || f.ev.Counts.Get(cl) != 1 {
				continue
			}
			if x := uniform[cl]; x != nil {
				err = f.compact(b, i, x)
			} else if x := tails[cl]; x != nil {
				err = f.clearTail(b, i, x)
			} else {
				continue
			}
			if err != nil {
				return changed, err
			}
			changed = true
		}
	}
	return changed, nil
}

// clearTail clears the bits behind the last one, in the last cluster.
func (f *bitmapFixer) clearTail(b *bitmapFix, entry uint64, x *check.Finding) error {
	raw, err := f.bytes(x.Extent)
	if err != nil {
		return err
	}
	// The first of these bytes may hold bits of the bitmap. As the
	// specification does, and unlike QEMU, a part of a sector at the end of the
	// disk has one.
	used := qcow2.BitmapBits(f.h.Size, uint(b.GranularityBits)) - entry*f.g.ClusterSize()*8
	first := raw[0]
	clear(raw)
	if uint64(x.Extent.Offset)&(f.g.ClusterSize()-1) == used/8 {
		raw[0] = first & (1<<(used%8) - 1)
	}
	return f.o.write(x.Extent.Offset, raw, intent{reason: b.label() + ": clear bits behind its last one", codes: []check.Code{x.Code}})
}

// compact makes a table entry of a cluster of zeros or ones.
func (f *bitmapFixer) compact(b *bitmapFix, entry uint64, x *check.Finding) error {
	var e [8]byte
	if x.Value == "ones" {
		putWord(e[:], uint64(qcow2.AllOnesEntry))
	}
	at := b.TableOffset + qcow2.HostOffset(entry*8)
	return f.o.write(at, e[:], intent{reason: b.label() + ": do not store a cluster of " + x.Value, codes: []check.Code{x.Code}})
}
