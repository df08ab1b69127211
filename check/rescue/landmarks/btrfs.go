package landmarks

import (
	"cmp"
	"hash/crc32"
	"slices"
)

// btrfs writes into each block of its trees the logical address; the tree of chunks, part
// of which stands in the superblock, says where that is on the disk. Superblocks carry
// their place on the disk.
const (
	btrfsMagic     = 0x5f42485266535f4d // "_BHRfS_M"
	btrfsSuperSize = 4096
	btrfsHead      = 101
	btrfsNode      = 16384 // the usual size
	btrfsArray     = 811
	btrfsChunkKey  = 228
	btrfsChunkTree = 3
	btrfsSumTree   = 7
	btrfsSums      = 7 // as the count of a landmark: a block of checksums
	btrfsItem      = 25
	btrfsUUIDFlag  = 0x400

	btrfsStriped = 0x8 | 0x40 | 0x80 | 0x100 // RAID levels that cut chunks into stripes
	maxChunks    = 1 << 14
)

// btrfsLayout is where things lie in a file system on one device.
type btrfsLayout struct {
	device     uint64 // its number; 0 where no superblock was seen
	node       uint64 // bytes of a tree block
	generation uint64
	chunkRoot  uint64
	root       uint64
	chunks     []btrfsChunk // by logical address
}

// btrfsChunk is a range of logical addresses, and where its copies are.
type btrfsChunk struct {
	logical, length uint64
	generation      uint64
	stripes         []btrfsStripe
}

type btrfsStripe struct{ device, at uint64 }

// merge takes over what another block says; room bounds what is kept.
func (l *btrfsLayout) merge(more *btrfsLayout, room *int) {
	if more.device != 0 && more.generation >= l.generation {
		l.device, l.node, l.generation, l.chunkRoot, l.root = more.device, more.node, more.generation, more.chunkRoot, more.root
	}
	for _, c := range more.chunks {
		i, ok := slices.BinarySearchFunc(l.chunks, c.logical, func(c btrfsChunk, at uint64) int { return cmp.Compare(c.logical, at) })
		switch {
		case ok && l.chunks[i].generation < c.generation:
			l.chunks[i] = c
		case !ok && len(l.chunks) < maxChunks && *room > 0:
			*room--
			l.chunks = slices.Insert(l.chunks, i, c)
		}
	}
}

// physical gives where a logical address is on the disk, once for each copy.
func (l *btrfsLayout) physical(logical uint64) (at []uint64) {
	i, exact := slices.BinarySearchFunc(l.chunks, logical, func(c btrfsChunk, at uint64) int { return cmp.Compare(c.logical, at) })
	if !exact {
		i--
	}
	if i < 0 || logical-l.chunks[i].logical >= l.chunks[i].length {
		return nil
	}
	for _, s := range l.chunks[i].stripes {
		if s.device == l.device {
			at = append(at, s.at+logical-l.chunks[i].logical)
		}
	}
	return at
}

func (f *finder) btrfsSuper(o int, b []byte) {
	if len(b) < btrfsSuperSize {
		f.later(o, btrfsSuperSize)
		return
	}
	b = b[:btrfsSuperSize]
	if le.Uint16(b[196:]) != 0 || crc(b[32:]) != le.Uint32(b) {
		return
	}
	uuid := b[32:48]
	if le.Uint64(b[188:])&btrfsUUIDFlag != 0 {
		uuid = b[571:587]
	}
	l := &btrfsLayout{device: le.Uint64(b[201:]), node: uint64(le.Uint32(b[148:])), generation: le.Uint64(b[72:]), chunkRoot: le.Uint64(b[88:]), root: le.Uint64(b[80:])}
	n := min(uint64(le.Uint32(b[160:])), 2048)
	array := b[btrfsArray:][:n]
	for len(array) >= 17 {
		c, used := decodeChunk(le.Uint64(array[9:]), array[17:])
		if array[8] != btrfsChunkKey || used == 0 {
			break
		}
		c.generation = le.Uint64(b[164:])
		l.chunks = append(l.chunks, c)
		array = array[17+used:]
	}
	f.add(o, foundMark{mark: mark{kind: btrfsSuper, address: le.Uint64(b[48:]), count: 1}, id: id16("btrfs", uuid), size: le.Uint64(b[209:]), btrfs: l})
}

// decodeChunk reads a chunk; used is how many bytes it takes, 0 where it is none that
// maps its addresses one to one.
func decodeChunk(logical uint64, b []byte) (c btrfsChunk, used int) {
	if len(b) < 48 {
		return c, 0
	}
	n := int(le.Uint16(b[44:]))
	used = 48 + 32*n
	if n == 0 || n > 4 || len(b) < used || le.Uint64(b[24:])&btrfsStriped != 0 {
		return c, 0
	}
	c = btrfsChunk{logical: logical, length: le.Uint64(b)}
	for i := range n {
		s := b[48+32*i:]
		c.stripes = append(c.stripes, btrfsStripe{device: le.Uint64(s), at: le.Uint64(s[8:])})
	}
	return c, used
}

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// btrfsBlock looks for a block of a tree. It gives how many bytes it has seen.
func (f *finder) btrfsBlock(o int, b []byte) int {
	// The flags: written, and references of the kind that all have since 2009.
	if b[63] != 1 || b[56]&1 == 0 || !zero(b[57:63]) || b[100] > 7 || !zero(b[4:32]) {
		return 0
	}
	for _, n := range []int{btrfsNode, 4096, 8192, 32768, 65536} {
		if len(b) < n {
			if n == btrfsNode {
				f.later(o, n)
			}
			continue
		}
		if crc(b[32:n]) != le.Uint32(b) {
			continue
		}
		m := foundMark{mark: mark{kind: btrfsBlock, address: le.Uint64(b[48:]), count: 1}, id: id16("btrfs", b[32:48])}
		if le.Uint64(b[88:]) == btrfsSumTree && b[100] == 0 {
			m.count = btrfsSums
		}
		if le.Uint64(b[88:]) == btrfsChunkTree && b[100] == 0 {
			m.btrfs = &btrfsLayout{}
			for _, it := range btrfsItems(b[:n]) {
				if c, used := decodeChunk(it.offset, it.data); it.kind == btrfsChunkKey && used > 0 {
					c.generation = le.Uint64(b[80:])
					m.btrfs.chunks = append(m.btrfs.chunks, c)
				}
			}
		}
		f.add(o, m)
		return n
	}
	return 0
}

type btrfsLeafItem struct {
	object, offset uint64
	kind           byte
	data           []byte
}

// btrfsItems gives the items of a leaf.
func btrfsItems(b []byte) (items []btrfsLeafItem) {
	for i := range int(le.Uint32(b[96:])) {
		if btrfsHead+btrfsItem*(i+1) > len(b) {
			break
		}
		h := b[btrfsHead+btrfsItem*i:]
		at, n := uint64(le.Uint32(h[17:]))+btrfsHead, uint64(le.Uint32(h[21:]))
		if at+n > uint64(len(b)) {
			break
		}
		items = append(items, btrfsLeafItem{object: le.Uint64(h), kind: h[8], offset: le.Uint64(h[9:]), data: b[at : at+n]})
	}
	return items
}
