package proof

import (
	"bytes"

	"github.com/qcheck/qcheck/qcow2"
)

// delta is what two L2 tables say differently, the one before and the one afterwards.
type delta struct {
	noted    bool // what the first one led to
	compared bool
	changes  []pieceChange
}

// pieceChange is a part of a cluster of which two entries say different things.
type pieceChange struct {
	entry, piece uint32
	kinds        [2]kind
	// behind tells that it does not matter behind the end of a disk, where no backing
	// file is.
	behind bool
	// nowhere tells that nothing was read there, because it led past the end of the file.
	nowhere bool
	host    qcow2.Extent // of what it comes to, if it is in the image
}

// tables compares two L2 tables for one part of a disk; 0 is none. Without a disk what
// the first one leads to is given up.
func (m *mapping) tables(d *disk, i uint64, a, b qcow2.HostOffset, hung bool) error {
	key := [2]qcow2.HostOffset{a, b}
	t := m.deltas[key]
	if t == nil {
		t = new(delta)
	}
	if !t.noted || d != nil && !t.compared {
		if err := m.compare(t, a, b, d != nil); err != nil {
			return err
		}
		if m.kept+len(t.changes) <= maxKept {
			m.kept += len(t.changes)
			m.deltas[key] = t
		} else {
			delete(m.deltas, key)
		}
	}
	if d == nil {
		return nil
	}
	if err := m.spend(stepsJudge * uint64(len(t.changes))); err != nil {
		return err
	}
	for k := range t.changes {
		c := &t.changes[k]
		at := b + qcow2.HostOffset(uint64(c.entry)*m.p.g.L2EntrySize())
		if b == 0 {
			at = d.l1.slot(i)
		}
		if err := m.judge(d, i*m.p.g.L2Coverage(), at, c, hung); err != nil {
			return err
		}
	}
	return nil
}

// compare finds what two tables say differently, and notes to what they lead. Where the
// first one is given up it is enough to note that.
func (m *mapping) compare(t *delta, a, b qcow2.HostOffset, whole bool) error {
	p := m.p
	was, err := m.read(p.was, a)
	if err != nil {
		return refuse(a, "the L2 table cannot be read and is changed")
	}
	is, err := m.read(p.is, b)
	if err != nil {
		return refuse(b, "the L2 table cannot be read and is changed")
	}
	if err := m.spend(p.g.L2Entries()); err != nil {
		return err
	}
	first := !t.noted
	t.noted, t.compared = true, whole
	if first && a != 0 {
		p.reference(p.g.HostCluster(a), 1, true)
	}
	if b != 0 && p.freed.has(p.g.HostCluster(b)) {
		return refuse(b, "an L2 table that is used is freed")
	}
	for k := range p.g.L2Entries() {
		x, y := p.entryAt(was, k), p.entryAt(is, k)
		if x == (entry{}) && y == (entry{}) {
			continue
		}
		if p.same(x, y) {
			if first {
				if err := m.stays(m.hosts(x)); err != nil {
					return err
				}
			}
			continue
		}
		if first {
			if h := m.hosts(x); h.Length > 0 {
				c, n := p.g.ClusterSpan(h.Offset, h.Length)
				p.reference(c, n, false)
			}
			if h := m.hosts(y); h.Length > 0 && p.freed.any(p.g.ClusterSpan(h.Offset, h.Length)) {
				return refuse(h.Offset, "guest data is freed")
			}
		}
		if !whole {
			continue
		}
		if err := m.differ(t, k, x, y); err != nil {
			return err
		}
	}
	return nil
}

func (m *mapping) read(img *qcow2.Image, o qcow2.HostOffset) ([]byte, error) {
	if o == 0 {
		return nil, nil
	}
	table := make([]byte, m.p.g.ClusterSize())
	return table, img.ReadAt(table, o)
}

// differ notes the pieces of which two entries say different things.
func (m *mapping) differ(t *delta, k uint64, x, y entry) error {
	p := m.p
	for piece := range p.pieces() {
		a, b := p.says(x, piece), p.says(y, piece)
		same, behind, err := m.equal(a, b)
		if err != nil {
			return err
		}
		if same {
			continue
		}
		c := pieceChange{entry: uint32(k), piece: uint32(piece), kinds: [2]kind{a.kind, b.kind}, behind: behind}
		if p.inImage(b) {
			c.host = b.host
		}
		c.nowhere = p.inImage(a) && uint64(a.host.Offset) >= uint64(p.v.baseSize) && b.kind <= zeros
		t.changes = append(t.changes, c)
	}
	return nil
}

// judge tells whether a change is right for a disk; from is where the table's part of it
// begins.
func (m *mapping) judge(d *disk, from uint64, at qcow2.HostOffset, c *pieceChange, hung bool) error {
	p := m.p
	guest := from + uint64(c.entry)<<p.g.ClusterBits + uint64(c.piece)*p.g.SubclusterSize()
	a, b := c.kinds[0], c.kinds[1]
	up := hung && a == nothing
	if up && p.v.touches(c.host) {
		return refuse(c.host.Offset, "guest data that is hung back is written over")
	}
	switch {
	case up, c.behind && guest >= d.size, c.nowhere && d.of == 0 && guest >= d.size, p.declared(d.of, guest, p.g.SubclusterSize()):
		return nil
	case a == nothing || a == zeros:
		return refuse(at, "guest data comes up in %s at 0x%x, and was not declared", d, guest)
	case b == nothing || b == zeros:
		return refuse(at, "guest data of %s at 0x%x is lost, and was not declared", d, guest)
	}
	return refuse(at, "%s reads something else at 0x%x, and that was not declared", d, guest)
}

// equal tells whether two entries say the same of a piece, or lead to the same bytes;
// behind tells that they do so where there is no backing file.
func (m *mapping) equal(a, b said) (same, behind bool, err error) {
	p := m.p
	switch {
	case a == b || a.kind == twofold && b.kind == data && a.host == b.host:
		if p.inImage(b) && p.v.touches(b.host) {
			return false, false, refuse(b.host.Offset, "guest data is written over")
		}
		return true, false, nil
	case a.kind == twofold && b.kind == zeros && p.inImage(a):
		// Which of the two is right cannot be told where there is data.
		zero, err := p.was.IsZero(a.host)
		return zero && err == nil, false, nil
	case a.kind <= zeros && b.kind <= zeros:
		same = !p.was.Header.HasBackingFile() || a.kind == b.kind
		return same, !same, nil
	case a.kind == b.kind && a.kind == data && p.inImage(a), a.kind == packed && b.kind == packed && a.host.Length == b.host.Length:
		same, err = m.copied(a.host, b.host)
		return same, false, err
	}
	return false, false, nil
}

// copied tells whether one extent before has the bytes that another has afterwards.
func (m *mapping) copied(a, b qcow2.Extent) (bool, error) {
	p := m.p
	// What is not there is no data to be copied.
	if !p.inFile(p.was, a) || !p.inFile(p.is, b) {
		return false, nil
	}
	was, is := make([]byte, a.Length), make([]byte, b.Length)
	if p.was.ReadAt(was, a.Offset) != nil || p.is.ReadAt(is, b.Offset) != nil {
		return false, nil
	}
	return bytes.Equal(was, is), nil
}
