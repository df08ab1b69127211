package proof

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// mapping goes through the L2 tables of all disks. A table that stays as it is is read
// once, however many disks name it, by several goroutines; it is enough that nothing is
// written where it leads, and nothing of that freed.
type mapping struct {
	p     *prover
	seen  *set                         // tables that stay, and that were read
	clean map[qcow2.HostOffset]bool    // tables with edits that change nothing of what they say
	pairs map[[2]qcow2.HostOffset]bool // pairs of tables whose clusters have been looked at

	jobs chan qcow2.HostOffset
	wait sync.WaitGroup
	once sync.Once
	mu   sync.Mutex
	err  error
}

func newMapping(p *prover) *mapping {
	m := &mapping{
		p: p, seen: newSet(), clean: make(map[qcow2.HostOffset]bool), pairs: make(map[[2]qcow2.HostOffset]bool),
		jobs: make(chan qcow2.HostOffset, 64),
	}
	for range runtime.GOMAXPROCS(0) {
		m.wait.Go(func() {
			table := make([]byte, p.g.ClusterSize())
			for o := range m.jobs {
				if m.failed() == nil {
					m.fail(m.unchanged(o, table))
				}
			}
		})
	}
	return m
}

func (m *mapping) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *mapping) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}

func (m *mapping) close() {
	m.once.Do(func() {
		close(m.jobs)
		m.wait.Wait()
	})
}

func (m *mapping) finish() error {
	m.close()
	return m.err
}

// isTable tells whether a table can be where an L1 entry says.
func (m *mapping) isTable(img *qcow2.Image, o qcow2.HostOffset) bool {
	return o != 0 && m.p.g.Aligned(o) && m.p.inFile(img, qcow2.Extent{Offset: o, Length: m.p.g.ClusterSize()}) && !m.p.strange[m.p.g.HostCluster(o)]
}

// walkOnly notes what an L1 table led to that is given up.
func (m *mapping) walkOnly(l l1) {
	for i, e := range m.p.pairs(l, l) {
		if i%(1<<12) == 0 && m.p.ctx.Err() != nil {
			return
		}
		o := e[0].Offset()
		if m.noTable(o); m.isTable(m.p.was, o) {
			_ = m.tables(nil, 0, o, 0, false)
		}
	}
}

// disk compares what the L1 tables of a disk lead to.
func (m *mapping) disk(d *disk) error {
	p := m.p
	if p.bad[d.snapshot] && d.l1 == d.then {
		m.walkOnly(d.l1)
		return nil
	}
	needed := p.g.L1EntriesFor(d.size)
	for i, e := range p.pairs(d.l1, d.then) {
		if i%(1<<12) == 0 {
			if err := p.ctx.Err(); err != nil {
				return err
			}
			if err := m.failed(); err != nil {
				return err
			}
		}
		behind := p.plan.Behind && d.snapshot == "" && i >= needed
		if err := m.window(d, i, e[0].Offset(), e[1].Offset(), behind); err != nil {
			return err
		}
	}
	return nil
}

// window compares what one L1 entry led to with what it leads to.
func (m *mapping) window(d *disk, i uint64, a, b qcow2.HostOffset, behind bool) error {
	p := m.p
	was := m.isTable(p.was, a)
	m.noTable(a)
	if a == b && (!was || !p.v.touched.has(p.g.HostCluster(a))) {
		if cl := p.g.HostCluster(a); was && !m.seen.has(cl) {
			m.seen.add(cl, 1)
			m.jobs <- a
		}
		return nil
	}
	if behind {
		if was {
			return m.tables(nil, i, a, 0, false)
		}
		return nil
	}
	slot := d.l1.slot(i)
	hung := d.found || contains(p.plan.Reattached, slot) || contains(p.plan.Reattached, d.then.slot(i))
	if a != b && a != 0 && !was {
		// It led nowhere, or to what is no table.
		switch {
		case b == 0 && p.declared(d.snapshot, i*p.g.L2Coverage(), p.g.L2Coverage()):
			return nil
		case !hung:
			return refuse(slot, "l1[%d] of %s, which leads nowhere, is changed and its part of the disk is not declared lost", i, diskName(d.snapshot))
		}
		a = 0
	}
	if a == 0 && i >= d.l1.entries {
		hung = hung || p.before.Result.Has(check.HDR011) // it was cut off
	}
	if b != 0 && !m.isTable(p.is, b) {
		return refuse(slot, "l1[%d] of %s is changed and leads to no L2 table", i, diskName(d.snapshot))
	}
	return m.tables(d, i, a, b, hung)
}

// noTable notes a cluster that an L1 entry takes for an L2 table and that is none.
func (m *mapping) noTable(o qcow2.HostOffset) {
	if cl := m.p.g.HostCluster(o); m.p.strange[cl] && m.p.g.Aligned(o) {
		m.p.reference(cl, 1, true)
	}
}

func contains(all []qcow2.HostOffset, o qcow2.HostOffset) bool {
	for _, x := range all {
		if x == o {
			return true
		}
	}
	return false
}

// unchanged holds that nothing is written over, or freed, to which a table leads that
// stays as it is.
func (m *mapping) unchanged(o qcow2.HostOffset, table []byte) error {
	p := m.p
	p.reference(p.g.HostCluster(o), 1, true)
	if p.freed.has(p.g.HostCluster(o)) {
		return refuse(o, "an L2 table that is used is freed")
	}
	if err := p.was.ReadAt(table, o); err != nil {
		return nil // it could not be read before, and stays
	}
	size := qcow2.HostOffset(p.g.ClusterSize())
	var run qcow2.Extent
	next := uint64(0) // an entry that plainly continues the run, as most do
	for i, step := uint64(0), p.g.L2EntrySize(); i < p.g.L2Entries(); i++ {
		word := binary.BigEndian.Uint64(table[i*step:])
		if word == next && next != 0 {
			run.Length += uint64(size)
			next += uint64(size)
			continue
		}
		if word == 0 {
			continue
		}
		e := p.entryAt(table, i)
		if next = 0; !e.Compressed() && e.Offset() != 0 {
			next = word + uint64(size)
		}
		if h := e.Offset(); !e.Compressed() && h != 0 && run.Length > 0 && h == run.Offset+qcow2.HostOffset(run.Length) {
			run.Length += uint64(size)
			continue
		}
		if err := m.stays(run); err != nil {
			return err
		}
		if run = m.hosts(e); run.Length == 0 {
			next = 0
		}
	}
	return m.stays(run)
}

// hosts gives the bytes of the image file that an entry names, read or not.
func (m *mapping) hosts(e entry) qcow2.Extent {
	p := m.p
	var x qcow2.Extent
	switch {
	case e.Compressed():
		x = m.p.says(e, 0).host
	case e.Offset() == 0 || p.was.Header.HasDataFile():
		return x
	default:
		x = qcow2.Extent{Offset: e.Offset(), Length: p.g.ClusterSize()}
	}
	if uint64(x.Offset) >= uint64(p.v.size) {
		return qcow2.Extent{}
	}
	return x
}

// stays holds that guest data is neither written over nor freed.
func (m *mapping) stays(x qcow2.Extent) error {
	p := m.p
	if x.Length == 0 {
		return nil
	}
	first, n := p.g.ClusterSpan(x.Offset, x.Length)
	if !p.concerned.any(first, n) && !p.allowed.Device {
		return nil
	}
	p.reference(first, n, false)
	if p.freed.any(first, n) {
		return refuse(x.Offset, "guest data is freed")
	}
	if p.v.touches(x) {
		return refuse(x.Offset, "guest data is written over")
	}
	return nil
}

// tables compares two L2 tables for one part of a disk; 0 is none. Without a disk what
// the first one leads to is given up.
func (m *mapping) tables(d *disk, i uint64, a, b qcow2.HostOffset, hung bool) error {
	p := m.p
	if a == b && m.clean[a] {
		return nil
	}
	was, err := m.read(p.was, a)
	if err != nil {
		return refuse(a, "the L2 table cannot be read and is changed")
	}
	is, err := m.read(p.is, b)
	if err != nil {
		return refuse(b, "the L2 table cannot be read and is changed")
	}
	first := !m.pairs[[2]qcow2.HostOffset{a, b}]
	m.pairs[[2]qcow2.HostOffset{a, b}] = true
	if first && a != 0 {
		p.reference(p.g.HostCluster(a), 1, true)
	}
	if b != 0 && p.freed.has(p.g.HostCluster(b)) {
		return refuse(b, "an L2 table that is used is freed")
	}
	clean := a == b
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
		clean = false
		if first {
			if h := m.hosts(x); h.Length > 0 {
				c, n := p.g.ClusterSpan(h.Offset, h.Length)
				p.reference(c, n, false)
			}
			if h := m.hosts(y); h.Length > 0 && p.freed.any(p.g.ClusterSpan(h.Offset, h.Length)) {
				return refuse(h.Offset, "guest data is freed")
			}
		}
		if d == nil {
			continue
		}
		at := b + qcow2.HostOffset(k*p.g.L2EntrySize())
		if b == 0 {
			at = d.l1.slot(i)
		}
		if err := m.judge(d, i*p.g.L2Coverage()+k<<p.g.ClusterBits, at, x, y, hung); err != nil {
			return err
		}
	}
	if clean {
		m.clean[a] = true
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

// judge compares what two entries say of a cluster of the disk.
func (m *mapping) judge(d *disk, off uint64, at qcow2.HostOffset, x, y entry, hung bool) error {
	p := m.p
	for piece := range p.pieces() {
		a, b := p.says(x, piece), p.says(y, piece)
		guest := off + piece*p.g.SubclusterSize()
		same, err := m.equal(d, guest, a, b)
		if err != nil {
			return err
		}
		if same || p.declared(d.snapshot, guest, p.g.SubclusterSize()) || hung && a.kind == nothing {
			if hung && a.kind == nothing && p.inImage(b) && p.v.touches(b.host) {
				return refuse(b.host.Offset, "guest data that is hung back is written over")
			}
			continue
		}
		switch {
		case a.kind == nothing || a.kind == zeros:
			return refuse(at, "guest data comes up in %s at 0x%x, and was not declared", diskName(d.snapshot), guest)
		case b.kind == nothing || b.kind == zeros:
			return refuse(at, "guest data of %s at 0x%x is lost, and was not declared", diskName(d.snapshot), guest)
		}
		return refuse(at, "%s reads something else at 0x%x, and that was not declared", diskName(d.snapshot), guest)
	}
	return nil
}

// equal tells whether two entries say the same of a piece, or lead to the same bytes.
func (m *mapping) equal(d *disk, guest uint64, a, b said) (bool, error) {
	p := m.p
	backing := p.was.Header.HasBackingFile() && guest < d.size
	switch {
	case a == b || a.kind == twofold && b.kind == data && a.host == b.host:
		if p.inImage(b) && p.v.touches(b.host) {
			return false, refuse(b.host.Offset, "guest data is written over")
		}
		return true, nil
	case a.kind == twofold && b.kind == zeros && p.inImage(a):
		// Which of the two is right cannot be told where there is data.
		zero, err := p.was.IsZero(a.host)
		return zero && err == nil, nil
	case a.kind <= zeros && b.kind <= zeros:
		return !backing || a.kind == b.kind, nil
	case a.kind == b.kind && a.kind == data && p.inImage(a), a.kind == packed && b.kind == packed && a.host.Length == b.host.Length:
		return m.copied(a.host, b.host)
	}
	return false, nil
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
