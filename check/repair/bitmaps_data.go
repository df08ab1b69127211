package repair

import (
	"context"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// fixData makes table entries of clusters of zeros or ones, where that was asked for. No
// bit of a bitmap changes by it at any instant. Bits behind the last one (BMX001) are
// left alone: should the granularity be what is damaged, they are dirty bits.
func (f *bitmapFixer) fixData(ctx context.Context) (changed bool, err error) {
	uniform := make(map[qcow2.HostCluster]*problem.Finding)
	for i := range f.ev.Findings {
		x := &f.ev.Findings[i]
		switch {
		case x.Unlisted:
		case x.Code == problem.BitmapDataUniform && f.opts.CompactBitmaps:
			first, n := f.g.ClusterSpan(x.Extent.Offset, x.Extent.Length)
			for k := range qcow2.HostCluster(n) {
				uniform[first+k] = x
			}
		}
	}
	if f.stale || len(uniform) == 0 {
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
			x := uniform[cl]
			if x == nil {
				continue
			}
			if err = f.compact(b, i, x); err != nil {
				return changed, err
			}
			changed = true
		}
	}
	return changed, nil
}

// compact makes a table entry of a cluster of zeros or ones.
func (f *bitmapFixer) compact(b *bitmapFix, entry uint64, x *problem.Finding) error {
	var e [8]byte
	if x.Value == problem.Words(check.DataOnes) {
		putWord(e[:], uint64(qcow2.AllOnesEntry))
	}
	at := b.TableOffset + qcow2.HostOffset(entry*8)
	return f.o.write(at, e[:], intent{reason: b.label() + ": do not store a cluster of " + x.Value.String(), codes: []problem.Code{x.Code}})
}
