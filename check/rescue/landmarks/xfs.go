package landmarks

// XFS of version 5 writes into each block of metadata where it lies, the UUID of the file
// system, and a CRC32C. Inodes carry their number, which is where they lie.
const (
	xfsAGF  = 1 // sector of an allocation group
	xfsAGI  = 2
	xfsAGFL = 3

	xfsMinBlock     = 1024
	xfsMaxBlock     = 65536
	xfsMaxInode     = 2048
	xfsIncompatUUID = 0x4
)

// xfsLayout is where things lie in a file system.
type xfsLayout struct {
	block     uint64 // bytes
	sector    uint64 // bytes
	blocks    uint64
	agBlocks  uint64
	ags       uint64
	inodeSize uint64
	// Bits of an inode's number: in a block, and of a block in a group.
	inodeBits, agBits uint
}

// headerAt is where a sector of an allocation group lies.
func (l *xfsLayout) headerAt(ag, sect uint64) (uint64, bool) {
	return ag*l.agBlocks*l.block + sect*l.sector, ag < l.ags
}

// inodeAt is where an inode lies.
func (l *xfsLayout) inodeAt(ino uint64) (uint64, bool) {
	ag := ino >> (l.agBits + l.inodeBits)
	b := ino >> l.inodeBits & (1<<l.agBits - 1)
	i := ino & (1<<l.inodeBits - 1)
	return (ag*l.agBlocks+b)*l.block + i*l.inodeSize, ag < l.ags && b < l.agBlocks
}

func (f *finder) xfsSuper(o int, b []byte) {
	sect := int(be.Uint16(b[102:]))
	l := &xfsLayout{
		block: uint64(be.Uint32(b[4:])), blocks: be.Uint64(b[8:]), agBlocks: uint64(be.Uint32(b[84:])), ags: uint64(be.Uint32(b[88:])),
		sector: uint64(sect), inodeSize: uint64(be.Uint16(b[104:])), inodeBits: uint(b[123]), agBits: uint(b[124]),
	}
	switch {
	case sect == 4096 && len(b) < sect:
		f.later(o, sect)
		return
	case sect != 512 && sect != 4096, be.Uint16(b[100:])&15 != 5:
		return
	case crcHole(b[:sect], 224, 4) != le.Uint32(b[224:]):
		return
	case l.block < xfsMinBlock, l.block > xfsMaxBlock, l.block&(l.block-1) != 0, l.blocks == 0, l.blocks >= 1<<48, l.agBlocks < 64,
		l.ags == 0, l.inodeBits > 16, l.agBits > 32, l.inodeSize<<l.inodeBits != l.block, l.agBlocks > 1<<l.agBits:
		return
	}
	uuid := b[32:48]
	if be.Uint32(b[216:])&xfsIncompatUUID != 0 {
		uuid = b[248:264]
	}
	f.add(o, foundMark{mark: mark{kind: xfsSuper, count: 1}, id: id16("xfs", uuid), size: l.blocks * l.block, xfs: l})
}

func (f *finder) xfsHeader(o int, b []byte, sect uint64) {
	type place struct{ number, uuid, crc int }
	p := [...]place{xfsAGF: {8, 64, 216}, xfsAGI: {8, 296, 312}, xfsAGFL: {4, 8, 32}}[sect]
	for _, n := range []int{512, 4096} {
		if len(b) >= n && crcHole(b[:n], p.crc, 4) == le.Uint32(b[p.crc:]) {
			ag := uint64(be.Uint32(b[p.number:]))
			f.add(o, foundMark{mark: mark{kind: xfsAG, address: ag | sect<<56, count: 1}, id: id16("xfs", b[p.uuid:])})
			return
		}
	}
}

// xfsPlaces tells where a kind of block keeps its address, UUID and checksum.
type xfsPlaces struct{ address, uuid, crc int }

var (
	xfsShort  = xfsPlaces{16, 32, 52}
	xfsLong   = xfsPlaces{24, 40, 64}
	xfsDir    = xfsPlaces{8, 24, 4}
	xfsDA     = xfsPlaces{16, 32, 12}
	xfsRemote = xfsPlaces{40, 16, 12}
)

// xfsBlocks are the kinds of blocks that begin with a magic number.
var xfsBlocks = map[uint32]xfsPlaces{
	0x41423342: xfsShort, 0x41423343: xfsShort, 0x49414233: xfsShort, 0x46494233: xfsShort, 0x524d4233: xfsShort, 0x52334643: xfsShort,
	0x424d4133: xfsLong,
	0x58444233: xfsDir, 0x58444433: xfsDir, 0x58444633: xfsDir,
	0x58534c4d: xfsRemote, 0x5841524d: xfsRemote,
}

// xfsLeaf looks for blocks whose magic number is not at the start.
func (f *finder) xfsLeaf(o int, b []byte) {
	switch be.Uint16(b[8:]) {
	case 0x3df1, 0x3dff, 0x3ebe, 0x3bee:
		f.xfsBlock(o, b, xfsDA)
	}
}

func (f *finder) xfsBlock(o int, b []byte, p xfsPlaces) {
	want := le.Uint32(b[p.crc:])
	for _, n := range []int{4096, 1024, 2048, 8192, 16384, 32768, 65536} {
		if len(b) < n {
			if n == block {
				f.later(o, n)
			}
			continue
		}
		if crcHole(b[:n], p.crc, 4) == want {
			f.add(o, foundMark{mark: mark{kind: xfsBlock, address: be.Uint64(b[p.address:]), count: 1}, id: id16("xfs", b[p.uuid:])})
			return
		}
	}
}

// xfsInodes looks for inodes that follow each other. It gives how many bytes it has seen.
func (f *finder) xfsInodes(o int, b []byte) int {
	size := 0
	for n := 256; n <= xfsMaxInode && n <= len(b); n *= 2 {
		if b[4] == 3 && crcHole(b[:n], 100, 4) == le.Uint32(b[100:]) {
			size = n
			break
		}
	}
	if size == 0 {
		return 0
	}
	ino, count, seen := be.Uint64(b[152:]), 1, size
	for end := min(len(b), block); seen+size <= end; seen += size {
		i := b[seen:][:size]
		if be.Uint16(i) != 'I'<<8|'N' || be.Uint64(i[152:]) != ino+uint64(seen/size) || crcHole(i, 100, 4) != le.Uint32(i[100:]) {
			break
		}
		count++
	}
	f.add(o, foundMark{mark: mark{kind: xfsInode, address: ino, count: uint8(count)}, id: id16("xfs", b[160:])})
	return seen
}
