package qcow2

import (
	"container/list"
	"encoding/binary"
	"errors"
	"sync"
)

// l1Page is how much of an L1 table is read at a time.
const l1Page = 64 << 10

// errL1Unaligned is the one thing that is wrong with an L1 table as a whole.
var errL1Unaligned = errors.New("unaligned")

// l1Entry gives the L1 entry at index, which must be below l1Size, and how many
// entries from it on are the same as far as one page of the table tells: 1, or
// for an entry without L2 table a run of such entries. An error holds for the
// run as well.
func (d *Disk) l1Entry(index uint64) (e L1Entry, run uint64, err error) {
	switch {
	case !d.img.Geometry.Aligned(d.l1):
		return 0, d.l1Size - index, errL1Unaligned
	case d.l1 >= HostOffset(max(d.img.size, 0)):
		return 0, d.l1Size - index, nil
	}
	const perPage = l1Page / tableEntrySize
	first := index &^ (perPage - 1)
	last := min(first+perPage, d.l1Size)
	page, err := d.table(d.l1+HostOffset(first*tableEntrySize), (last-first)*tableEntrySize)
	if err != nil || page == nil {
		return 0, last - index, err
	}
	at := func(i uint64) L1Entry {
		return L1Entry(binary.BigEndian.Uint64(page[(i-first)*tableEntrySize:]))
	}
	if e = at(index); e.Offset() != 0 {
		return e, 1, nil
	}
	for run = 1; index+run < last && at(index+run).Offset() == 0; run++ {
	}
	return e, run, nil
}

// table gives length bytes of the image file that are a table or a part of
// one, from the cache if they are there. It is nil when all of them are zero,
// so that an image cannot make a hole or the void past its end take memory.
func (d *Disk) table(off HostOffset, length uint64) ([]byte, error) {
	key := tableKey{off, length}
	if b, ok := d.tables.get(key); ok {
		return b, nil
	}
	var b []byte
	if !d.img.IsHole(off, length) {
		b = make([]byte, length)
		if err := d.img.ReadAt(b, off); err != nil {
			return nil, err
		}
		if allZero(b) {
			b = nil
		}
	}
	d.tables.put(key, b)
	return b, nil
}

// tableCache keeps the tables that were used last: up to limit bytes, but two
// in any case, which are an L1 page and an L2 table.
type tableCache struct {
	mu      sync.Mutex
	limit   int
	used    int
	entries map[tableKey]*list.Element
	recent  list.List // of *cachedTable, the last used first
}

type tableKey struct {
	off    HostOffset
	length uint64
}

type cachedTable struct {
	key   tableKey
	bytes []byte
}

// cost is about what the entry takes, the bookkeeping included.
func (t *cachedTable) cost() int { return len(t.bytes) + 200 }

func (c *tableCache) get(k tableKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cachedTable).bytes, true
}

func (c *tableCache) put(k tableKey, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[k]; ok {
		return // another reader was faster
	}
	t := &cachedTable{key: k, bytes: b}
	for len(c.entries) >= 2 && c.used+t.cost() > c.limit {
		last := c.recent.Remove(c.recent.Back()).(*cachedTable)
		c.used -= last.cost()
		delete(c.entries, last.key)
	}
	if c.entries == nil {
		c.entries = make(map[tableKey]*list.Element)
	}
	c.entries[k] = c.recent.PushFront(t)
	c.used += t.cost()
}
