package check

import (
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The size of a bitmap's table tells its granularity, too, where no other granularity
// one bit away from what the entry says makes a table of that size.

// mendGranularity completes the finding about a granularity that cannot be, or that
// does not go with the size of the bitmap's table, by what it was before a bit flipped,
// if that can be told.
func (p *bitmapsPass) mendGranularity(b *bitmap, f *problem.Finding) {
	meant, ok := p.granularityMeant(b)
	if !ok || p.stale != "" || b.partial || b.mended {
		return
	}
	f.Extent = b.field(qcow2.BitmapFieldGranularityBits, 1)
	f.Value, f.Expected, f.Repair = problem.Number(b.GranularityBits), problem.Number(meant), problem.RepairSafe
	f.Message.And("; its table has the size for granularity_bits %d, which is one bit away", meant)
	p.mends = append(p.mends, Mend{At: f.Extent.Offset, Put: []byte{meant}, Code: f.Code,
		Why: fmt.Sprintf("%s: give it the granularity of %d bytes that its table was made for", b.label(), uint64(1)<<meant)})
}

// granularityMeant is the only granularity one bit away that goes with the size of the
// table.
func (p *bitmapsPass) granularityMeant(b *bitmap) (meant uint8, ok bool) {
	size := p.h.SectorAlignedSize()
	if b.TableSize == 0 || p.h.DiskTooLarge(p.g) || b.GranularityBits <= 63 && p.tableEntries(size, b.GranularityBits) == uint64(b.TableSize) {
		return 0, false // the two go together: other software may have made it
	}
	for bit := range 8 {
		g := b.GranularityBits ^ 1<<bit
		if g < qcow2.MinBitmapGranularity || g > qcow2.MaxBitmapGranularity || p.tableEntries(size, g) != uint64(b.TableSize) {
			continue
		}
		if ok {
			return 0, false
		}
		meant, ok = g, true
	}
	ratio := max(meant, b.GranularityBits) - min(meant, b.GranularityBits)
	return meant, ok && (!b.granularityOK() || ratio > maxResize || p.notResized(b, meant))
}

func (p *bitmapsPass) tableEntries(size uint64, granularity uint8) uint64 {
	return p.g.BitmapTableEntries(qcow2.BitmapBits(size, uint(granularity)))
}

// maxResize is by what power of two somebody may resize a disk.
const maxResize = 2

// storesBeyond tells whether a table names data behind the entries that the disk seems
// to take, so that its size is right.
func (p *bitmapsPass) storesBeyond(b *bitmap) bool {
	if b.entries != uint64(b.TableSize) || b.needed >= b.entries {
		return false // what is there is not sound
	}
	for range qcow2.ScanTable[qcow2.BitmapTableEntry](p.img, b.TableOffset, b.entries).From(b.needed) {
		return true
	}
	return false
}

// notResized tells whether another bitmap shows that it is not the disk that has
// changed its size, by a power of two, so that the table has a size that only seems to
// be that of another granularity.
func (p *bitmapsPass) notResized(b *bitmap, meant uint8) bool {
	size := p.h.SectorAlignedSize()
	was := size >> (max(meant, b.GranularityBits) - b.GranularityBits)
	if d := max(meant, b.GranularityBits) - meant; d > 0 {
		if size >= 1<<(63-d) {
			return true // no disk is so large
		}
		was = size << d
	}
	return slices.ContainsFunc(p.bitmaps, func(o *bitmap) bool {
		return o != b && !o.partial && !o.Flags.Has(qcow2.BitmapInUse) && o.granularityOK() &&
			p.tableEntries(size, o.GranularityBits) == uint64(o.TableSize) && p.tableEntries(was, o.GranularityBits) != uint64(o.TableSize)
	})
}
