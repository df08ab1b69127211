package landmarks

import (
	"encoding/binary"
	"hash/crc32"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	sector = 512
	block  = 4096 // of most file systems
)

// foundMark is a landmark with what it says of its space.
type foundMark struct {
	mark
	id      spaceID
	size    uint64 // of the space in bytes
	primary bool   // what it says of the space is more up to date than what copies say

	ext   *extLayout
	xfs   *xfsLayout
	btrfs *btrfsLayout
	ntfs  *ntfsLayout
}

// finder looks for landmarks in bytes that follow each other.
type finder struct {
	piece       uint64
	at          uint64 // of data within the piece
	data        []byte
	found       []foundMark
	labels      []*label
	mfts        []mftRuns
	pending     []pending
	sums, tails []print
}

// find looks at each sector. What begins there takes a few comparisons to rule out.
func (f *finder) find() {
	for o := 0; o+sector <= len(f.data); {
		o += max(f.sector(o), sector)
	}
	for o := 0; o+block <= len(f.data); o += block {
		f.print(o, f.data[o:][:block])
	}
}

// sector looks for what begins at an offset; it gives how many bytes need not be looked
// at again.
func (f *finder) sector(o int) int {
	b := f.data[o:]
	first := be.Uint32(b)
	if first == 0 {
		f.quiet(o, b)
		return 0
	}
	switch first {
	case 'X'<<24 | 'F'<<16 | 'S'<<8 | 'B':
		f.xfsSuper(o, b)
	case 'X'<<24 | 'A'<<16 | 'G'<<8 | 'F':
		f.xfsHeader(o, b, xfsAGF)
	case 'X'<<24 | 'A'<<16 | 'G'<<8 | 'I':
		f.xfsHeader(o, b, xfsAGI)
	case 'X'<<24 | 'A'<<16 | 'F'<<8 | 'L':
		f.xfsHeader(o, b, xfsAGFL)
	case 'E'<<24 | 'F'<<16 | 'I'<<8 | ' ':
		f.gpt(o, b)
	case 'F'<<24 | 'I'<<16 | 'L'<<8 | 'E':
		f.ntfsRecord(o, b)
	case 'L'<<24 | 'A'<<16 | 'B'<<8 | 'E':
		f.lvm(o, b)
	case 'L'<<24 | 'U'<<16 | 'K'<<8 | 'S', 'S'<<24 | 'K'<<16 | 'U'<<8 | 'L':
		f.luks(o, b)
	case journalMagic:
		f.journal(o, b)
	default:
		if l, ok := xfsBlocks[first]; ok {
			f.xfsBlock(o, b, l)
			break
		}
		if first>>16 == 'I'<<8|'N' {
			return f.xfsInodes(o, b)
		}
	}
	f.quiet(o, b)
	if n := f.extInodes(o, b); n > 0 {
		return n
	}
	return f.btrfsBlock(o, b)
}

// quiet looks for what may begin with zeros, or with anything.
func (f *finder) quiet(o int, b []byte) {
	if le.Uint16(b[0x38:]) == extMagic {
		f.extSuper(o, b)
	}
	if b[510] == 0x55 && b[511] == 0xaa {
		f.boot(o, b)
	}
	if be.Uint64(b[64:]) == btrfsMagic {
		f.btrfsSuper(o, b)
	}
	if len(b) >= block && be.Uint64(b[block-10:]) == swapMagic {
		f.swap(o, b)
	}
	if le.Uint16(b[8:]) != 0 || be.Uint16(b[8:]) != 0 {
		f.xfsLeaf(o, b)
	}
}

// add keeps a landmark that begins at an offset.
func (f *finder) add(o int, m foundMark) {
	m.piece, m.at = f.piece, f.at+uint64(o)
	f.found = append(f.found, m)
}

// crcHole is the CRC32C of bytes with zeros in place of n bytes from an offset on.
func crcHole(b []byte, hole, n int) uint32 {
	var zeros [4]byte
	crc := crc32.Update(0, castagnoli, b[:hole])
	crc = crc32.Update(crc, castagnoli, zeros[:n])
	return crc32.Update(crc, castagnoli, b[hole+n:])
}

// crcRaw is CRC32C without the inversions at the start and the end.
func crcRaw(crc uint32, b []byte) uint32 { return ^crc32.Update(^crc, castagnoli, b) }

// crcTop gives for the top byte of an entry of the table its index.
var crcTop = func() (top [256]byte) {
	for i, v := range castagnoli {
		top[v>>24] = byte(i)
	}
	return top
}()

// crcBack gives what the raw CRC was before the bytes.
func crcBack(crc uint32, b []byte) uint32 {
	for i := len(b) - 1; i >= 0; i-- {
		k := crcTop[crc>>24]
		crc = (crc^castagnoli[k])<<8 | uint32(k^b[i])
	}
	return crc
}

// id16 takes the bytes of a UUID.
func id16(fs string, b []byte) spaceID {
	id := spaceID{fs: fs}
	copy(id.id[:], b)
	return id
}

// zero tells whether all bytes are zeros.
func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
