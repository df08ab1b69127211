package check

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Where two structures lie in one cluster, one of the two pointers to it is
// wrong. Which one it is the content may tell: were the wrong structure believed,
// the sound one would not be read, and all that it leads to would seem lost.

// trusts tells whether the content of a structure, which is the likelier one to
// have been misled to, shows that it is what it is said to be, while another one
// lies there too.
func (c *run) trusts(p, other place) bool {
	switch p.kind {
	case placeTable:
		return c.trustsTable(&c.tables[p.index], c.placeStructure(other))
	case placeBlock:
		return other.kind == placeMeta && c.placeStructure(other).OfBitmaps() && c.fitsBlock(&c.blocks[p.index])
	}
	return false
}

// trustsTable tells whether an L2 table reads as one, and could not be taken for
// one if it were the other structure.
func (c *run) trustsTable(t *l2table, other problem.Structure) bool {
	if other == problem.StructL1Table {
		return false // it reads as an L2 table, too, and has been looked into
	}
	s := c.prober()
	if s.isHole(t.offset, c.g.ClusterSize()) {
		return false
	}
	raw := s.cluster()
	if c.img.ReadAt(raw, t.offset) != nil || !c.format().L2Table(raw) {
		return false
	}
	named, copied := false, false
	for i := 0; i < len(raw); i += s.entrySize {
		e := qcow2.L2Entry(be64(raw, i))
		named = named || e.Compressed() || e.Offset() != 0
		copied = copied || e.Copied()
	}
	switch other {
	case problem.StructBitmapTable, problem.StructRefcountTable:
		return copied // their entries are places too, but for this flag
	}
	return named
}

// maxBlocksTried bounds how many blocks are looked at to tell whether they are such.
const maxBlocksTried = 64

// fitsBlock tells whether a refcount block counts something for every cluster
// that it covers and that metadata takes.
func (c *run) fitsBlock(b *refBlock) bool {
	c.blocksTried++
	if c.blocksTried > maxBlocksTried || !c.h.RefcountOrderOK() {
		return false
	}
	raw := c.prober().cluster()
	if c.img.ReadAt(raw, b.offset) != nil {
		return false
	}
	fits, _ := c.format().RefcountBlock(raw, b.index, c.counts.Get)
	return fits
}

// dropStrayL1s looks for L1 tables that lie where an L2 table of another L1
// table is, and leaves out those whose content is not that of an L1 table: were
// an L2 table read as one, every cluster of data would be taken for a table. It
// gives the references that are left.
func (c *run) dropStrayL1s(refs []l2ref) []l2ref {
	looked := 0
	var strays []uint32
	for n := range c.l1s {
		l := &c.l1s[n]
		if l.entries == 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(refs, l.extent.Offset, func(r l2ref, off qcow2.HostOffset) int {
			return cmp.Compare(r.offset, off)
		})
		for ; i < len(refs) && refs[i].offset < l.end(); i++ {
			if refs[i].first != uint32(n) || refs[i].last != uint32(n) {
				break // somebody else's
			}
		}
		if i == len(refs) || refs[i].offset >= l.end() {
			continue
		}
		if looked++; looked > maxClashes || c.leadsToTables(l) {
			continue
		}
		other := &c.l1s[refs[i].first]
		if refs[i].first == uint32(n) {
			other = &c.l1s[refs[i].last]
		}
		where := Owner{Structure: problem.StructL2Table, Snapshot: other.snapshot, Of: other.of}
		c.reportL1Clash(l, where)
		l.cut(0)
		strays = append(strays, uint32(n))
	}
	if len(strays) == 0 {
		return refs
	}
	return withoutL1s(refs, strays)
}

// maxTargets bounds the tables that are looked at to tell whether an L1 table is
// one.
const maxTargets = 16

// leadsToTables tells whether what an L1 table names reads as L2 tables.
func (c *run) leadsToTables(l *l1table) bool {
	tables, others := c.targets(l)
	return tables > others
}

// targets counts, of the first clusters that an L1 table names, those that read as L2 tables
// and the others.
func (c *run) targets(l *l1table) (tables, others int) {
	head := make([]byte, min(c.g.ClusterSize(), scanHead))
	for _, e := range qcow2.ReadL1(c.img, l.extent.Offset, l.entries).All() {
		if e.Offset() == 0 || !c.g.Aligned(e.Offset()) || c.img.ReadAt(head, e.Offset()) != nil {
			continue
		}
		if c.format().L2Table(head) {
			tables++
		} else {
			others++
		}
		if tables+others == maxTargets {
			break
		}
	}
	return tables, others
}

// scanHead is how much of a cluster is read to tell whether it can be a table.
const scanHead = 4 << 10

// withoutL1s leaves L1 tables, in ascending order, out of references.
func withoutL1s(refs []l2ref, strays []uint32) []l2ref {
	var out []l2ref
	for _, r := range refs {
		i, _ := slices.BinarySearch(strays, r.first)
		for ; i < len(strays) && strays[i] <= r.last; i++ {
			if before := r; r.first < strays[i] {
				before.last = strays[i] - 1
				out = append(out, before)
			}
			r.first = strays[i] + 1
		}
		if r.first <= r.last {
			out = append(out, r)
		}
	}
	sortRefs(out) // the parts of a run may change places with others
	return out
}

// prober is a scanner for a look at single clusters.
func (c *run) prober() *scanner {
	if c.probe == nil {
		c.probe = newScanner(c)
	}
	return c.probe
}

// format judges bytes by themselves.
func (c *run) format() *sniff.Format {
	if c.sniffFormat == nil {
		f := sniff.FormatOf(c.img)
		c.sniffFormat = &f
	}
	return c.sniffFormat
}
