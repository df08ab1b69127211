package proof

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// mapping goes through the L2 tables of all disks. A table that stays as it is is read
// once, however many disks name it, by several goroutines; it is enough that nothing is
// written where it leads, and nothing of that freed. Of two tables it is remembered what
// they say differently, and of two L1 tables which entries lead to such, so that disks
// that share them cost little.
type mapping struct {
	p      *prover
	seen   *set // tables that stay, and that were read
	deltas map[[2]qcow2.HostOffset]*delta
	kept   int // changes that are remembered
	// walked are the L1 tables that are given up, and uneven the entries of pairs of L1
	// tables that have been compared and that say something else to different disks.
	walked map[l1]bool
	uneven map[[2]l1][]slotPair
	later  []hung
	work   int64 // that may still be done, in steps

	jobs chan qcow2.HostOffset
	wait sync.WaitGroup
	once sync.Once
	mu   sync.Mutex
	err  error
}

// hung is a table that is hung back in a disk.
type hung struct {
	disk  disk
	index uint64
	table qcow2.HostOffset
}

// slotPair is what an L1 entry led to, and what it leads to.
type slotPair struct {
	index uint64
	a, b  qcow2.HostOffset
}

// Bounds on what is remembered, and on the work: an image can name one table from
// everywhere. A step is about a nanosecond; what honest images take grows with them.
const (
	maxUneven  = 1 << 16 // of a pair of L1 tables
	maxKept    = 1 << 18
	baseWork   = 1 << 32
	stepsWalk  = 16
	stepsJudge = 64
)

// spend counts work, and refuses to do more than there is in an image of this size.
func (m *mapping) spend(steps uint64) error {
	if m.work -= int64(steps); m.work < 0 {
		return refuse(qcow2.FieldL1TableOffset, "the tables name each other so often that comparing all that they say takes too long")
	}
	return nil
}

func newMapping(p *prover) *mapping {
	m := &mapping{
		p: p, seen: newSet(), deltas: make(map[[2]qcow2.HostOffset]*delta),
		walked: make(map[l1]bool), uneven: make(map[[2]l1][]slotPair),
		work: baseWork + 4*min(p.v.size, 1<<40),
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
func (m *mapping) walkOnly(l l1) error {
	if m.walked[l] {
		return nil
	}
	m.walked[l] = true
	last := qcow2.HostOffset(0)
	for i, e := range m.p.pairs(l, l) {
		if i%(1<<12) == 0 && m.p.ctx.Err() != nil {
			return m.p.ctx.Err()
		}
		if err := m.spend(stepsWalk); err != nil {
			return err
		}
		o := e[0].Offset()
		if o == last {
			continue
		}
		last = o
		if m.noTable(o); m.isTable(m.p.was, o) {
			if err := m.tables(nil, 0, o, 0, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// disk compares what the L1 tables of a disk lead to.
func (m *mapping) disk(d *disk) error {
	p := m.p
	if p.bad[d.of] && d.l1 == d.then {
		return m.walkOnly(d.l1)
	}
	needed := p.g.L1EntriesFor(d.size)
	one := func(i uint64, a, b qcow2.HostOffset) (uneven bool, err error) {
		if i%(1<<12) == 0 {
			if err := p.ctx.Err(); err != nil {
				return false, err
			}
			if err := m.failed(); err != nil {
				return false, err
			}
		}
		if err := m.spend(stepsWalk); err != nil {
			return false, err
		}
		return m.window(d, i, a, b, p.plan.Behind && d.of == 0 && i >= needed)
	}
	key := [2]l1{d.l1, d.then}
	if all, again := m.uneven[key]; again {
		for _, s := range all {
			if _, err := one(s.index, s.a, s.b); err != nil {
				return err
			}
		}
		return nil
	}
	var all []slotPair
	for i, e := range p.pairs(d.l1, d.then) {
		a, b := e[0].Offset(), e[1].Offset()
		uneven, err := one(i, a, b)
		if err != nil {
			return err
		}
		if uneven && len(all) <= maxUneven {
			all = append(all, slotPair{i, a, b})
		}
	}
	if len(all) <= maxUneven {
		m.uneven[key] = all
	}
	return nil
}

// window compares what one L1 entry led to with what it leads to. Uneven tells that it
// depends on the disk whether the change is right.
func (m *mapping) window(d *disk, i uint64, a, b qcow2.HostOffset, behind bool) (uneven bool, err error) {
	p := m.p
	was := m.isTable(p.was, a)
	m.noTable(a)
	if a == b && (!was || !p.v.touched.has(p.g.HostCluster(a))) {
		if cl := p.g.HostCluster(a); was && !m.seen.has(cl) {
			m.seen.add(cl, 1)
			m.jobs <- a
		}
		return false, nil
	}
	if behind {
		if was {
			return true, m.tables(nil, i, a, 0, false)
		}
		return true, nil
	}
	slot := d.l1.slot(i)
	hung := d.found || p.reattached[slot] || p.reattached[d.then.slot(i)]
	if a != b && a != 0 && !was {
		// It led nowhere, or to what is no table.
		switch {
		case b == 0 && p.declaredWindow(d, i):
			return true, nil
		case b == 0 && p.past(slot, 8):
			return true, nil // what the end of the file has left of it leads nowhere
		case !hung:
			return true, refuse(slot, "l1[%d] of %s, which leads nowhere, is changed and its part of the disk is not declared lost", i, d)
		}
		a = 0
	}
	if a == 0 && i >= d.l1.entries {
		hung = hung || p.before.Result.Has(problem.L1TooSmall) // it was cut off
	}
	if b != 0 && !m.isTable(p.is, b) {
		return true, refuse(slot, "l1[%d] of %s is changed and leads to no L2 table", i, d)
	}
	if a == 0 && b != 0 && hung && m.isTable(p.was, b) {
		if !d.found && i < d.l1.entries {
			m.later = append(m.later, hungTable(d, i, b))
			return true, nil
		}
		// What it says is evidence like that of any other.
		return m.window(d, i, b, b, false)
	}
	if err := m.tables(d, i, a, b, hung); err != nil {
		return true, err
	}
	known := m.deltas[[2]qcow2.HostOffset{a, b}]
	return known == nil || len(known.changes) > 0, nil
}

// declaredWindow tells whether all of a disk that one L1 entry is for is declared lost.
func (p *prover) declaredWindow(d *disk, i uint64) bool {
	from, length := i*p.g.L2Coverage(), p.g.L2Coverage()
	if d.of == 0 && from < d.size {
		length = min(length, d.size-from)
	}
	return p.declared(d.of, from, length)
}

func hungTable(d *disk, i uint64, table qcow2.HostOffset) hung { return hung{*d, i, table} }

// noTable notes a cluster that an L1 entry takes for an L2 table and that is none.
func (m *mapping) noTable(o qcow2.HostOffset) {
	if cl := m.p.g.HostCluster(o); m.p.strange[cl] && m.p.g.Aligned(o) {
		m.p.reference(cl, 1, true)
	}
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
