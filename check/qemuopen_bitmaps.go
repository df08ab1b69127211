package check

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// loadBitmaps is qcow2_load_dirty_bitmaps up to where it writes: it gives the
// reason for which QEMU refuses, or crashes.
func (p *opener) loadBitmaps() (why string, crash bool) {
	var sound []qcow2.BitmapEntry // those whose table QEMU reads
	loaded := make(map[string]bool, len(p.list))
	defer func() {
		// Whatever comes of a bitmap, the tables of those before it are read.
		if bad := p.badTable(sound); bad != "" {
			why, crash, p.crash = bad, false, nil
		}
	}()
	for i := range p.list {
		e := &p.list[i]
		inUse := e.Flags.Has(qcow2.BitmapInUse)
		name := string(e.Name)
		if loaded[name] {
			if inUse {
				continue // QEMU takes it for the one that is loaded already
			}
			return fmt.Sprintf("there are two bitmaps \"%s\"", Excerpt(name)), false
		}
		loaded[name] = true
		size := p.h.SectorAlignedSize()
		n := qcow2.BitmapBits(size, uint(e.GranularityBits))
		if n > qcow2.MaxHBitmapBits {
			p.crash = e
			p.crashNeeds = uint(bits.Len64(size-1)) - uint(bits.Len64(qcow2.MaxHBitmapBits)-1)
			return fmt.Sprintf("an assertion fails on bitmap \"%s\" of %d bits, more than 2^41", Excerpt(name), n), true
		}
		if inUse {
			if n > qcow2.MaxBitmapPhysicalSize*8 {
				p.note("takes %d bytes of memory for in-use bitmap \"%s\", and aborts where it does not get them", n/8, Excerpt(name))
			}
			continue
		}
		sound = append(sound, *e)
		if want := p.bitmapTableEntries(n); uint64(e.TableSize) != want {
			return fmt.Sprintf("bitmap \"%s\" has a table of %d entries instead of %d", Excerpt(name), e.TableSize, want), false
		}
	}
	return "", false
}

// bitmapTableEntries is the length of the table that QEMU wants for a bitmap of
// n bits: it counts in words of 64 bits.
func (p *opener) bitmapTableEntries(n uint64) uint64 {
	words := (n + 63) / 64
	return p.g.Clusters(words * 8)
}

// badTable is bitmap_table_load for each of the bitmaps: the reason for which
// QEMU refuses the first table that has a bad entry. Tables that lie on each
// other are read once.
func (p *opener) badTable(list []qcow2.BitmapEntry) string {
	tables := slices.Clone(list)
	slices.SortFunc(tables, func(a, b qcow2.BitmapEntry) int { return cmp.Compare(a.TableOffset, b.TableOffset) })
	var done uint64 // offset up to which all tables so far were read
	for i := range tables {
		e := &tables[i]
		if p.c.ctx.Err() != nil {
			return ""
		}
		name := Excerpt(e.Name)
		start, length := uint64(e.TableOffset), uint64(e.TableSize)*8
		if !readable(e.TableOffset, length) {
			return fmt.Sprintf("the table of bitmap \"%s\" cannot be read", name)
		}
		end := start + length
		if end <= done {
			continue
		}
		start = max(start, done)
		scan := qcow2.ScanTable[qcow2.BitmapTableEntry](p.img, qcow2.HostOffset(start), (end-start)/8)
		for j, entry := range scan.All() {
			if j%(1<<16) == 0 && p.c.ctx.Err() != nil {
				return ""
			}
			if !p.bitmapTableEntryOK(entry) {
				return fmt.Sprintf("entry %d of the table of bitmap \"%s\" is 0x%016x", (start-uint64(e.TableOffset))/8+j, name, uint64(entry))
			}
			if !readable(entry.Offset(), p.g.ClusterSize()) {
				return fmt.Sprintf("the data of bitmap \"%s\" at %v cannot be read", name, entry.Offset())
			}
		}
		if scan.Err() != nil {
			return fmt.Sprintf("the table of bitmap \"%s\" cannot be read: %v", name, scan.Err())
		}
		done = end
	}
	return ""
}

// bitmapTableEntryOK is check_table_entry.
func (p *opener) bitmapTableEntryOK(e qcow2.BitmapTableEntry) bool {
	return e.ReservedLow() == 0 && e.ReservedHigh() == 0 &&
		(e.Offset() == 0 || !e.AllOnes() && p.g.Aligned(e.Offset()))
}
