package landmarks

import "math/bits"

// The superblock of ext2, ext3 and ext4 lies 1024 bytes behind the start of the file
// system; copies lie at the start of the groups whose number is 1 or a power of 3, 5 or
// 7, and carry that number. Inodes have a checksum over their number.
const (
	extMagic      = 0xef53
	extSuperSize  = 1024
	extInodeSize  = 256
	extPerBlock   = block / extInodeSize
	extRootInode  = 2
	extJournalIno = 8

	extCompatJournal = 0x4
	extIncompatKnown = 0x2 | 0x4 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000 // no meta_bg
	extIncompat64    = 0x80
	extIncompatSeed  = 0x2000
	extSparse        = 0x1
	extSums          = 0x400

	journalMagic = 0xc03b3998
)

// extLayout is where things lie in a file system.
type extLayout struct {
	block     uint64 // bytes
	blocks    uint64
	first     uint64 // block of group 0
	perGroup  uint64 // blocks
	inodes    uint64
	inodesPG  uint64 // per group
	inodeSize uint64 // bytes; only those of 256 are looked at
	seed      uint32 // of checksums
	sums      bool
	sparse    bool
	desc      uint64 // bytes of a group descriptor
	// tables gives the block at which a group's inodes lie, where a group descriptor
	// said so whose checksum is right.
	tables map[uint32]uint64
	// journal gives the blocks of the journal, from the copy that superblocks keep.
	journal []blockRun
}

// blockRun is a run of blocks of a file system.
type blockRun struct{ first, n uint64 }

// maxGroups bounds what is kept of groups in one file system, of 128 MiB each as a rule.
const maxGroups = 1 << 16

// merge takes over what another copy says; room bounds what is kept.
func (l *extLayout) merge(more *extLayout, room *int) {
	for g, t := range more.tables {
		if _, ok := l.tables[g]; !ok && len(l.tables) < maxGroups && *room > 0 {
			l.tables[g] = t
			*room--
		}
	}
	if len(l.journal) == 0 {
		l.journal = more.journal
	}
}

func (l *extLayout) groups() uint64 { return (l.blocks - l.first + l.perGroup - 1) / l.perGroup }

// superAt is where the copy of a group lies.
func (l *extLayout) superAt(group uint64) uint64 {
	if group == 0 {
		return extSuperSize
	}
	return (l.first + group*l.perGroup) * l.block
}

// hasSuper tells whether a group has a copy.
func (l *extLayout) hasSuper(group uint64) bool {
	if !l.sparse || group <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		p := base
		for p < group {
			p *= base
		}
		if p == group {
			return true
		}
	}
	return false
}

// inodeAt is where an inode lies.
func (l *extLayout) inodeAt(ino uint64) (uint64, bool) {
	if ino == 0 || ino > l.inodes || l.inodeSize != extInodeSize {
		return 0, false
	}
	t, ok := l.tables[uint32((ino-1)/l.inodesPG)]
	return t*l.block + (ino-1)%l.inodesPG*extInodeSize, ok
}

// inodeMark gives where a block of inodes lies by what its landmark says; ok is false
// where it is none of this file system.
func (l *extLayout) inodeMark(address uint64) (at uint64, ok bool) {
	ino := uint64(uint32(address) ^ l.seed)
	if !l.sums || ino%extPerBlock != address>>32 {
		return 0, false
	}
	return l.inodeAt(ino)
}

// inJournal tells whether a byte of the file system lies in its journal.
func (l *extLayout) inJournal(at uint64) bool {
	for _, r := range l.journal {
		if b := at / l.block; b >= r.first && b-r.first < r.n {
			return true
		}
	}
	return false
}

func (f *finder) extSuper(o int, b []byte) {
	if len(b) < extSuperSize {
		f.later(o, extSuperSize)
		return
	}
	l, group, ok := decodeExtSuper(b[:extSuperSize])
	if !ok {
		return
	}
	m := foundMark{mark: mark{kind: extSuper, address: group, count: 1}, id: id16("ext4", b[0x68:0x78]), size: l.blocks * l.block, primary: group == 0, ext: l}
	if l.sums {
		m.count = 2
	}
	// The group descriptors follow the block that holds the superblock.
	at := o + int(l.block)
	if group == 0 && l.block > extSuperSize {
		at -= extSuperSize
	}
	l.tables = make(map[uint32]uint64)
	if at < len(f.data) {
		l.learnGroups(0, f.data[at:])
	}
	f.add(o, m)
}

func decodeExtSuper(b []byte) (l *extLayout, group uint64, ok bool) {
	logBlock, incompat, ro := le.Uint32(b[0x18:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	group = uint64(le.Uint16(b[0x5a:]))
	l = &extLayout{
		blocks: uint64(le.Uint32(b[4:])), inodes: uint64(le.Uint32(b)), first: uint64(le.Uint32(b[0x14:])),
		perGroup: uint64(le.Uint32(b[0x20:])), inodesPG: uint64(le.Uint32(b[0x28:])),
		sums: ro&extSums != 0, sparse: ro&extSparse != 0, desc: 32,
	}
	if incompat&extIncompat64 != 0 {
		l.blocks |= uint64(le.Uint32(b[0x150:])) << 32
		l.desc = uint64(le.Uint16(b[0xfe:]))
	}
	switch {
	case logBlock > 6, incompat&^uint32(extIncompatKnown) != 0, l.sums && crcRaw(^uint32(0), b[:0x3fc]) != le.Uint32(b[0x3fc:]):
		return nil, 0, false
	case l.blocks == 0, l.blocks >= 1<<44, l.first > 1, l.inodes == 0, l.desc < 32, l.desc > 1024, l.desc%32 != 0:
		return nil, 0, false
	}
	l.block = 1024 << logBlock
	if l.perGroup < 256 || l.perGroup > 8*l.block || l.inodesPG == 0 || l.inodesPG > 8*l.block || group >= l.groups() || l.first >= l.blocks ||
		l.inodes != l.inodesPG*l.groups() || (l.first == 1) != (l.block == 1024) || zero(b[0x68:0x78]) {
		return nil, 0, false
	}
	l.seed = crcRaw(^uint32(0), b[0x68:0x78])
	if incompat&extIncompatSeed != 0 {
		l.seed = le.Uint32(b[0x270:])
	}
	if le.Uint32(b[0x4c:]) > 0 {
		l.inodeSize = uint64(le.Uint16(b[0x58:]))
	}
	if le.Uint32(b[0x5c:])&extCompatJournal != 0 && b[0xfd] == 1 {
		l.journal = extentRuns(b[0x10c : 0x10c+60])
	}
	return l, group, true
}

// extentRuns gives the blocks that the root of an extent tree without further levels
// names.
func extentRuns(b []byte) (runs []blockRun) {
	if le.Uint16(b) != 0xf30a || le.Uint16(b[6:]) != 0 || le.Uint16(b[2:]) > 4 {
		return nil
	}
	for i := range int(le.Uint16(b[2:])) {
		e := b[12+12*i:]
		n := uint64(le.Uint16(e[4:]))
		if n > 1<<15 {
			n -= 1 << 15 // not written yet
		}
		runs = append(runs, blockRun{uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:])), n})
	}
	return runs
}

// learnGroups reads group descriptors from that of a group on, and stops at the first
// that is not one.
func (l *extLayout) learnGroups(group uint64, b []byte) {
	for ; group < l.groups() && uint64(len(b)) >= l.desc && len(l.tables) < maxGroups; group++ {
		d := b[:l.desc]
		t := uint64(le.Uint32(d[8:]))
		if l.desc >= 64 {
			t |= uint64(le.Uint32(d[0x28:])) << 32
		}
		var n [4]byte
		le.PutUint32(n[:], uint32(group))
		crc := crcRaw(crcRaw(l.seed, n[:]), d[:0x1e])
		crc = crcRaw(crcRaw(crc, []byte{0, 0}), d[0x20:])
		if t == 0 || t >= l.blocks || l.sums && uint16(crc) != le.Uint16(d[0x1e:]) {
			return
		}
		l.tables[uint32(group)] = t
		b = b[l.desc:]
	}
}

// extInodes looks for a block of inodes. The checksum of each is made from the seed of
// its file system, its number, and the rest: so it tells number xor seed, and the
// numbers in a block follow each other. It gives how many bytes it has seen.
func (f *finder) extInodes(o int, b []byte) int {
	if len(b) < 2*extInodeSize || !isExtInode(b) && !isExtInode(b[extInodeSize:]) {
		return 0
	}
	n := min(len(b), block) / extInodeSize
	if (f.at+uint64(o))%block != 0 {
		n = min(n, int(block-(f.at+uint64(o))%block)/extInodeSize)
	}
	var used []int
	var values [extPerBlock]uint32
	for k := range n {
		if i := b[k*extInodeSize:][:extInodeSize]; isExtInode(i) {
			values[k] = extInodeValue(i)
			used = append(used, k)
		}
	}
	if len(used) < 2 {
		return 0
	}
	agree, from := 0, 0
	for low := 1; low < extPerBlock; low += 2 {
		if a := extAgree(values[:], used, low); a > agree {
			agree, from = a, low
		}
	}
	if agree < 2 {
		return 0
	}
	low := uint64(from+used[0]) % extPerBlock
	f.add(o+used[0]*extInodeSize, foundMark{mark: mark{kind: extInode, address: low<<32 | uint64(values[used[0]]), count: uint8(agree)}})
	return n * extInodeSize
}

// extAgree tells how many inodes have numbers that follow that of the first in use, the
// block's first number having the low bits that are given.
func extAgree(values []uint32, used []int, low int) int {
	agree := 1
	for _, k := range used[1:] {
		x := uint32(low+k) ^ uint32(low+used[0])
		got := values[k] ^ values[used[0]]
		// A carry into the bits above changes some that are next to each other.
		carry := got>>4 != 0
		if got&15 != x&15 || carry != (x>>4 != 0) || carry && bits.OnesCount32(got>>4+1) != 1 {
			return 0
		}
		agree++
	}
	return agree
}

// isExtInode tells whether bytes may be an inode that is in use, with a checksum of 32
// bits.
func isExtInode(b []byte) bool {
	mode := le.Uint16(b)
	extra := le.Uint16(b[0x80:])
	if mode == 0 || extra < 4 || extra > 128 || extra%4 != 0 || le.Uint16(b[0x1a:]) == 0 {
		return false
	}
	switch mode >> 12 {
	case 1, 2, 4, 6, 8, 10, 12:
		return true
	}
	return false
}

// extInodeValue gives the number of an inode xor the seed of its file system.
func extInodeValue(b []byte) uint32 {
	crc := uint32(le.Uint16(b[0x7c:])) | uint32(le.Uint16(b[0x82:]))<<16
	var i [extInodeSize]byte
	copy(i[:], b)
	i[0x7c], i[0x7d], i[0x82], i[0x83] = 0, 0, 0, 0
	crc = crcBack(crc, i[:])
	crc = crcBack(crc, b[0x64:0x68]) // generation
	return crcBack(crc, []byte{0, 0, 0, 0})
}

// journal takes note of a block that only journals have. Copies of other blocks lie
// beside it.
func (f *finder) journal(o int, b []byte) {
	if t := be.Uint32(b[4:]); t >= 1 && t <= 5 {
		f.add(o, foundMark{mark: mark{kind: extJournal, count: 1}})
	}
}
