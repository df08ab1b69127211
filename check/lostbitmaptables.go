package check

import (
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// foundTable is a table that a bitmap may have had.
type foundTable struct {
	bitmap *bitmap
	offset qcow2.HostOffset
	runs   []sniff.Run
	why    string
}

// findLostBitmapTables looks for the tables of bitmaps whose entries lead elsewhere.
func (c *run) findLostBitmapTables(leaks []unowned, cut bool) error {
	if c.StaleBitmaps() {
		return nil // nobody relies on what they hold
	}
	var found []foundTable
	tried := 0
	said := make(map[qcow2.HostOffset]uint32) // the size of the table that is said to be there; 0: of several
	for _, b := range c.traces.bitmaps {
		if size, again := said[b.TableOffset]; again && size == b.TableSize {
			said[b.TableOffset] = 0
		} else if !again {
			said[b.TableOffset] = b.TableSize
		}
	}
	for _, b := range c.traces.bitmaps {
		if said[b.TableOffset] == 0 {
			continue // of which of them the table is nobody can tell
		}
		if b.partial || b.mended || !b.suspect() || b.TableSize == 0 || !(b.sized || b.Flags.Has(qcow2.BitmapInUse)) {
			continue
		}
		if c.keepsTable(b) {
			continue
		}
		if tried++; tried > maxBitmapsTried {
			break
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if t, ok := c.tableFor(b, leaks, cut); ok && !c.tableHasPlace(b, t.runs) {
			if _, others := said[t.offset]; others {
				continue
			}
			found = append(found, t)
		}
	}
	for i := range found {
		t := &found[i]
		if slices.ContainsFunc(found, func(o foundTable) bool { return o.bitmap != t.bitmap && o.offset == t.offset }) {
			continue // the same
		}
		b := t.bitmap
		put := make([]byte, 8)
		for k := range put {
			put[k] = byte(uint64(t.offset) >> (8 * (7 - k)))
		}
		f := b.entryFinding(problem.BitmapTableElsewhere, qcow2.BitmapFieldTableOffset, 8, problem.Hex(b.TableOffset), problem.Hex(t.offset),
			"its table is said to be at %v, but a table of %d entries that nothing leads to lies at %v, %s", b.TableOffset, b.TableSize, t.offset, t.why)
		c.report(f)
		c.spoilTable(b)
		c.mends = append(c.mends, Mend{At: f.Extent.Offset, Put: put, Code: problem.BitmapTableElsewhere, Entry: b.EntryOffset, Table: t.offset, Why: fmt.Sprintf("%s: lead its entry back to the table at %v", b.label(), t.offset)})
		c.sniffer.Learn(t.runs)
		c.lostBitmapRuns = append(c.lostBitmapRuns, t.runs...)
		c.doubt(b.tableOwner(), fmt.Sprintf("it lies at %v, and its entry leads to %v", t.offset, b.TableOffset))
	}
	return nil
}

// keepsTable tells whether a table that several bitmaps are said to have is plainly this
// one's: it names clusters behind the last entry that another one's has.
func (c *run) keepsTable(b *bitmap) bool {
	if !b.shared {
		return false
	}
	least := b.TableSize
	for _, o := range c.traces.bitmaps {
		if o.TableOffset == b.TableOffset {
			least = min(least, o.TableSize)
		}
	}
	if least == b.TableSize {
		return false
	}
	for range qcow2.ScanTable[qcow2.BitmapTableEntry](c.img, b.TableOffset, uint64(b.TableSize)).From(uint64(least)) {
		return true
	}
	return false
}

// spoilTable notes that what a bitmap says is not read from its table.
func (c *run) spoilTable(b *bitmap) {
	for i := range c.res.Bitmaps {
		if info := &c.res.Bitmaps[i]; info.EntryOffset == b.EntryOffset && info.State != BitmapUnusable {
			info.State, info.Why = BitmapUnusable, "its table is not where its directory entry says"
		}
	}
}

// tableFor looks for the table of a bitmap: one bit away from where its entry says, or
// the only one there is, if it explains all that nobody owns.
func (c *run) tableFor(b *bitmap, leaks []unowned, cut bool) (t foundTable, ok bool) {
	t.bitmap = b
	n := 0
	for bit := range 56 {
		off := b.TableOffset ^ 1<<bit
		if runs, stored, ok := c.sniffer.Table(off, uint64(b.TableSize)); ok && stored > 0 {
			t.offset, t.runs, t.why = off, runs, "one bit away"
			n++
		}
	}
	if n > 0 {
		return t, n == 1
	}
	if cut {
		return t, false
	}
	probes := 0
	for _, l := range leaks {
		for k := range l.n {
			if probes++; probes > maxContent || l.references > 0 {
				return t, false
			}
			off := c.g.HostOffset(l.first + qcow2.HostCluster(k))
			if runs, stored, ok := c.sniffer.Table(off, uint64(b.TableSize)); ok && stored > 0 {
				t.offset, t.runs, t.why = off, runs, "and nothing else in the file lacks an owner"
				n++
			}
		}
	}
	return t, n == 1 && c.explainsAll(t.runs, leaks, cut)
}

// tableHasPlace tells whether the clusters where a bitmap's entry says that its table is
// have a refcount that nothing else explains: then the table may be there, and what was
// found is an older one.
func (c *run) tableHasPlace(b *bitmap, found []sniff.Run) bool {
	o := b.TableOffset
	if o == 0 || !c.g.Aligned(o) || uint64(o) >= uint64(c.img.Size()) || b.shared {
		return false
	}
	cl := c.g.HostCluster(o)
	return c.sniffer.Unowned(cl) && !covered(found, cl)
}
