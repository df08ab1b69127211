package rescue

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/qcheck/qcheck/check/rescue/landmarks"
	"github.com/qcheck/qcheck/qcow2"
)

// placer finds out where L2 tables belong that no L1 table of the disk names.
type placer struct {
	s     *search
	ctx   context.Context
	index map[qcow2.HostOffset]uint64 // places of tables, of the disk and of snapshots
	taken map[uint64]qcow2.HostOffset // places of the disk
	why   map[string]int              // how many tables were placed by what
	open  []qcow2.HostOffset          // tables without a place
	guess int                         // places that are only likely
	// whole tells that every table of a snapshot is known as such.
	whole bool
	// strangers are tables that may be those of snapshots.
	strangers int
	marks     *landmarks.Scanner
}

// placeTables makes an L1 table of the L2 tables that are left. What is known of it
// already is in s.active.
func (s *search) placeTables(ctx context.Context) error {
	p := &placer{s: s, ctx: ctx, index: make(map[qcow2.HostOffset]uint64), taken: make(map[uint64]qcow2.HostOffset), why: make(map[string]int)}
	p.known()
	p.list()
	if len(p.open) == 0 && len(s.active.entries) > 0 {
		s.holes = p.strangers > 0
		return nil // nothing to add
	}
	if err := p.place(); err != nil {
		return err
	}
	if len(p.taken) == 0 {
		return ErrNoMapping
	}
	p.finish()
	return nil
}

// known notes the places that L1 tables tell.
func (p *placer) known() {
	s := p.s
	for i, e := range s.active.entries {
		if e != 0 {
			p.index[e.Offset()], p.taken[uint64(i)] = uint64(i), e.Offset()
		}
	}
	p.whole = s.f.refs != nil && len(s.rescued) == 0 && (s.h0 == nil || uint32(len(s.m.snapshots)) >= s.h0.NbSnapshots) &&
		(s.h0 != nil || len(s.scan.snapshots) == 0 || len(s.m.snapshots) > 0)
	names := make(map[qcow2.HostOffset]uint64) // by how many snapshots
	for i := range s.m.snapshots {
		sn := &s.m.snapshots[i]
		b, err := s.f.readEntries(sn.L1TableOffset, uint64(sn.L1Size))
		if _, is := s.f.l1From(b, sn.L1TableOffset); err != nil || !is {
			p.whole = false
			continue
		}
		for k := 0; k < len(b); k += 8 {
			if e := qcow2.L1Entry(binary.BigEndian.Uint64(b[k:])); e != 0 {
				if _, ok := p.index[e.Offset()]; !ok {
					p.index[e.Offset()] = uint64(k / 8)
				}
				names[e.Offset()]++
			}
		}
	}
	if s.f.refs == nil || len(s.active.entries) > 0 || !p.whole {
		return
	}
	// A table that more refer to than the snapshots is one of the disk's, too.
	for off, n := range names {
		if i := p.index[off]; s.f.refs.get(off) > n && p.taken[i] == 0 {
			p.taken[i] = off
			p.why["a snapshot's L1 table, and the refcount"]++
		}
	}
}

// list collects the tables without a place.
func (p *placer) list() {
	f := p.s.f
	for i := range f.tables {
		t := &f.tables[i]
		if _, ok := p.index[t.off]; ok || f.roots.has(uint64(f.g.HostCluster(t.off))) {
			continue
		}
		if f.refs != nil && (f.refs.get(t.off) == 0 || f.claimed.has(uint64(f.g.HostCluster(t.off)))) {
			continue
		}
		if p.ofSnapshot(t) {
			p.strangers++
			continue
		}
		p.open = append(p.open, t.off)
	}
}

// ofSnapshot tells whether a table may be a snapshot's alone: not all of the snapshots' are
// known, and there are signs of snapshots. What a snapshot was taken of loses its COPIED
// flags.
func (p *placer) ofSnapshot(*l2table) bool {
	s := p.s
	if p.whole || s.f.dataFile {
		return false
	}
	if s.h0 != nil {
		return s.h0.NbSnapshots > 0
	}
	return len(s.m.snapshots) > 0 || len(s.scan.snapshots) > 0 || slices.ContainsFunc(s.f.tables, func(t l2table) bool {
		return t.plain > t.copied && !s.f.roots.has(uint64(s.f.g.HostCluster(t.off))) && (s.f.refs == nil || s.f.refs.get(t.off) > 0)
	})
}

// place finds a place for each table that something proves one for.
func (p *placer) place() error {
	s := p.s
	if s.f.dataFile {
		p.identical()
		return nil
	}
	p.shared()
	if len(p.open) == 0 || s.m.h.CryptMethod != qcow2.CryptNone {
		return nil
	}
	if err := p.look(); err != nil {
		return err
	}
	for _, x := range p.marks.Resolve() {
		off := qcow2.HostOffset(x.Piece)
		if i := slices.Index(p.open, off); i < 0 {
			continue
		}
		if !x.Certain {
			p.guess++
			if !s.opts.AcceptGuesses {
				continue
			}
		}
		p.put(off, x.Index, "landmarks in what they map")
	}
	return nil
}

// put gives a table its place, if nothing else has it.
func (p *placer) put(off qcow2.HostOffset, index uint64, why string) {
	if index >= qcow2.MaxL1Entries || p.taken[index] != 0 {
		return
	}
	if _, ok := p.index[off]; ok {
		return
	}
	p.taken[index], p.index[off] = off, index
	p.why[why]++
	p.open = slices.DeleteFunc(p.open, func(o qcow2.HostOffset) bool { return o == off })
}

// identical places the tables of an external data file.
func (p *placer) identical() {
	for _, off := range slices.Clone(p.open) {
		if t, ok := p.s.f.table(off); ok {
			p.put(off, t.index, "the data file's offsets, which are those of the disk")
		}
	}
}

// shared places tables that have data in common with a snapshot's table, each cluster in
// the same place: the disk's table is a copy of it, made when it was written to.
func (p *placer) shared() {
	f := p.s.f
	at := make(map[qcow2.HostOffset][2]uint64) // by host offset: place of the table, number of the entry
	for off, index := range p.index {
		f.eachTarget(off, func(i uint64, e qcow2.L2Entry, x qcow2.Extent) {
			if !e.Compressed() && len(at) < 1<<20 {
				at[x.Offset] = [2]uint64{index, i}
			}
		})
	}
	if len(at) == 0 {
		return
	}
	for _, off := range slices.Clone(p.open) {
		agree, against, index := 0, 0, uint64(0)
		f.eachTarget(off, func(i uint64, e qcow2.L2Entry, x qcow2.Extent) {
			a, ok := at[x.Offset]
			switch {
			case !ok || e.Compressed():
			case a[1] != i || agree > 0 && a[0] != index:
				against++
			default:
				agree, index = agree+1, a[0]
			}
		})
		if agree > 0 && against == 0 {
			p.put(off, index, "data that they share with a snapshot")
		}
	}
}

// look shows what the tables map to the scanner.
func (p *placer) look() error {
	s := p.s
	p.marks = landmarks.New(s.f.g.L2Coverage())
	if s.h0 != nil {
		p.marks.VirtualSize = s.h0.Size
	} else {
		p.marks.VirtualSize = s.opts.VirtualSize
	}
	p.marks.Read = p.read
	var all []qcow2.HostOffset
	for index, off := range p.taken {
		p.marks.Known(uint64(off), index)
		all = append(all, off)
	}
	all = append(all, p.open...)
	slices.Sort(all)
	jobs := s.opts.Jobs
	if jobs <= 0 {
		jobs = runtime.GOMAXPROCS(0)
	}
	work := make(chan lookAt, 4*jobs)
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			data := make([]byte, s.f.g.ClusterSize())
			for w := range work {
				if s.clusterData(w.e, w.sub, data) {
					p.marks.Look(uint64(w.table), w.at, data)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(work)
	for i, off := range all {
		s.progress("landmarks", uint64(i), uint64(len(all)))
		if err := p.ctx.Err(); err != nil {
			return err
		}
		var list []lookAt
		s.f.eachEntry(off, func(k uint64, e qcow2.L2Entry, sub qcow2.SubclusterBitmap) {
			list = append(list, lookAt{off, k << s.f.g.ClusterBits, e, sub})
		})
		slices.SortFunc(list, func(a, b lookAt) int { return cmp.Compare(a.e.Offset(), b.e.Offset()) })
		for _, w := range list {
			work <- w
		}
	}
	return nil
}

// lookAt is a cluster that a table maps.
type lookAt struct {
	table qcow2.HostOffset
	at    uint64 // within the table's part of the disk
	e     qcow2.L2Entry
	sub   qcow2.SubclusterBitmap // with extended L2 entries
}

// read gives bytes of what a table maps.
func (p *placer) read(piece, at uint64, b []byte) error {
	g := p.s.f.g
	data := make([]byte, g.ClusterSize())
	for len(b) > 0 {
		i, within := at>>g.ClusterBits, at&(g.ClusterSize()-1)
		if i >= g.L2Entries() {
			return io.EOF
		}
		var entry [16]byte
		if err := p.s.r.readBase(entry[:g.L2EntrySize()], int64(piece+i*g.L2EntrySize())); err != nil {
			return err
		}
		e, sub := qcow2.L2Entry(binary.BigEndian.Uint64(entry[:])), qcow2.SubclusterBitmap(binary.BigEndian.Uint64(entry[8:]))
		if !p.s.clusterData(e, sub, data) {
			clear(data)
		}
		n := copy(b, data[within:])
		b, at = b[n:], at+uint64(n)
	}
	return nil
}

// finish makes the table, and says what is not in it.
func (p *placer) finish() {
	s := p.s
	p.byOrder()
	s.unplaced = p.open
	s.holes = len(p.open)+p.strangers > 0 || s.f.refs == nil
	if len(p.why) == 0 && len(s.active.entries) > 0 {
		p.tell()
		return
	}
	last := uint64(0)
	for i := range p.taken {
		last = max(last, i+1)
	}
	entries := make([]qcow2.L1Entry, last)
	for i, off := range p.taken {
		entries[i] = qcow2.NewL1Entry(off, true) // the repair takes flags off that are wrong
	}
	s.m.l1 = entries
	s.active = l1table{entries: entries, room: last, start: true, named: len(p.taken)}
	for _, why := range slices.Sorted(maps.Keys(p.why)) {
		s.m.fact("L1 table", SourceFound, why, "%d L2 tables placed", p.why[why])
	}
	p.tell()
}

// tell says what the landmarks say of the disk, and what is not in the table.
func (p *placer) tell() {
	s := p.s
	if p.marks != nil {
		s.said, s.saysSize = p.marks.DiskSize()
		if d := p.marks.Doubt(); d != "" && len(p.open) > 0 {
			s.m.fact("landmarks", SourceAssumed, d, "")
		}
	}
	if n := len(p.open); n > 0 {
		s.m.fact("L2 tables", SourceFound, fmt.Sprintf("nothing proves where they belong (%d places are likely)", p.guess), "%d left out", n)
	}
}

// byOrder places tables that lie in the file between two whose places are known, where
// just as many places are free between those. That is a guess.
func (p *placer) byOrder() {
	s := p.s
	if !s.opts.AcceptGuesses {
		return
	}
	type placed struct {
		off   qcow2.HostOffset
		index uint64
	}
	var known []placed
	for i, off := range p.taken {
		known = append(known, placed{off, i})
	}
	slices.SortFunc(known, func(a, b placed) int { return cmp.Compare(a.off, b.off) })
	for k := 0; k+1 < len(known); k++ {
		a, b := known[k], known[k+1]
		var between []qcow2.HostOffset
		for _, off := range p.open {
			if a.off < off && off < b.off {
				between = append(between, off)
			}
		}
		if len(between) == 0 || b.index != a.index+uint64(len(between))+1 {
			continue
		}
		for i, off := range between {
			p.put(off, a.index+1+uint64(i), "their order in the file (a guess)")
			s.m.facts = append(s.m.facts, Fact{What: "L2 table", Value: off.String(), Source: SourceGuess, Why: fmt.Sprintf("by its order in the file it is number %d", a.index+1+uint64(i))})
		}
	}
}
