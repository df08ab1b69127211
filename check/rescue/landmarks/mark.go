package landmarks

import (
	"fmt"
)

// kind is what a landmark is.
type kind uint8

const (
	gptPrimary kind = iota
	gptBackup
	diskMBR
	extSuper   // address: the group
	extInode   // address: the number of the first inode of the block, xor the seed of the file system's checksums; above, its low bits
	extJournal // a block of a journal: it carries no address, but copies of blocks that do lie beside it
	xfsSuper   // no address: the copies are all the same
	xfsAG      // address: the group, and the sector within it in the high byte
	xfsBlock   // address: in sectors
	xfsInode   // address: the number of the inode
	btrfsSuper // address: in bytes
	btrfsBlock // address: logical
	ntfsBoot   // at the start or behind the end
	ntfsRecord // address: the number of the record in the MFT
	lvmLabel
	luksHeader
	luksBackup // address: in bytes
	swapHeader
)

var kindNames = [...]string{
	gptPrimary: "GPT header", gptBackup: "backup GPT header", diskMBR: "partition table", extSuper: "ext4 superblock", extInode: "ext4 inodes",
	extJournal: "ext4 journal block", xfsSuper: "XFS superblock", xfsAG: "XFS allocation group header", xfsBlock: "XFS block",
	xfsInode: "XFS inodes", btrfsSuper: "btrfs superblock", btrfsBlock: "btrfs tree block", ntfsBoot: "NTFS boot sector",
	ntfsRecord: "NTFS file record", lvmLabel: "LVM label", luksHeader: "LUKS header", luksBackup: "second LUKS header",
	swapHeader: "swap header",
}

func (k kind) String() string { return kindNames[k] }

// fixed tells of kinds that stand at places which the layout of the file system alone
// decides, and of which there are few.
func (k kind) fixed() bool {
	switch k {
	case extInode, extJournal, xfsBlock, xfsInode, btrfsBlock, ntfsRecord:
		return false
	}
	return true
}

// mark is a landmark.
type mark struct {
	piece   uint64
	at      uint64 // within the piece, in bytes
	address uint64 // as its kind has it
	space   *space // nil where the mark does not name it
	kind    kind
	count   uint8 // of the structures in the block that agree
}

// stray is set in the number of a piece that is a cluster of which nothing else is known.
const stray = 1 << 63

// lengthOf is how long a piece is, in bytes.
func (s *Scanner) lengthOf(piece uint64) uint64 {
	if piece&stray != 0 {
		return s.cluster
	}
	return s.length
}

// spaceID names a space of addresses.
type spaceID struct {
	fs string
	id [16]byte
}

func (id spaceID) String() string {
	b := id.id
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// space is what addresses count in: a disk with a label, or a file system. Where it
// starts on our disk is what has to be found out; it may lie in a file.
type space struct {
	id   spaceID
	size uint64 // bytes; 0 where unknown

	ext   *extLayout
	xfs   *xfsLayout
	btrfs *btrfsLayout
	ntfs  *ntfsLayout
}

// Bounds on what is kept.
const (
	maxMarks  = 1 << 19 // about 20 MiB
	maxRoom   = 1 << 19 // of what is kept of where things lie in file systems, about 50 MiB
	maxSpaces = 1 << 12
	maxLabels = 1 << 10
)

// take adds what was found in one look.
func (s *Scanner) take(f *finder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.piece&stray == 0 {
		s.pieces[f.piece] = struct{}{}
	}
	s.result = nil
	s.keep(f)
	if f.piece&stray != 0 {
		for _, p := range f.sums {
			s.strays.add(p)
		}
	} else {
		for _, p := range f.sums {
			s.sums.add(p)
		}
		for _, p := range f.tails {
			s.tails.add(p)
		}
	}
}

func (s *Scanner) keep(f *finder) {
	if len(s.pending)+len(f.pending) <= maxPending {
		s.pending = append(s.pending, f.pending...)
	}
	if len(s.labels)+len(f.labels) <= maxLabels {
		s.labels = append(s.labels, f.labels...)
	}
	if len(s.mfts)+len(f.mfts) <= maxLabels {
		s.mfts = append(s.mfts, f.mfts...)
	}
	for _, m := range f.found {
		if m.id.fs != "" {
			sp := s.spaces[m.id]
			if sp == nil {
				if len(s.spaces) >= maxSpaces {
					continue
				}
				sp = &space{id: m.id}
				s.spaces[m.id] = sp
			}
			sp.learn(&m, &s.room)
			m.mark.space = sp
		}
		if m.kind.fixed() || s.keeps(&m.mark) {
			s.add(m.mark)
		}
	}
}

// learn takes over what a landmark says of its file system as a whole. The first who
// says it counts: all copies of a superblock say the same.
func (sp *space) learn(m *foundMark, room *int) {
	if m.size > 0 && (sp.size == 0 || m.primary) {
		sp.size = m.size
	}
	if m.ext != nil {
		if sp.ext == nil {
			l := *m.ext
			l.tables = make(map[uint32]uint64)
			sp.ext = &l
		}
		sp.ext.merge(m.ext, room)
	}
	if m.xfs != nil && sp.xfs == nil {
		sp.xfs = m.xfs
	}
	if m.btrfs != nil {
		if sp.btrfs == nil {
			sp.btrfs = &btrfsLayout{}
		}
		sp.btrfs.merge(m.btrfs, room)
	}
	if m.ntfs != nil {
		if sp.ntfs == nil {
			sp.ntfs = &ntfsLayout{}
		}
		sp.ntfs.merge(m.ntfs)
	}
}

// keeps thins out the marks of blocks where there are too many: those stay whose place
// has a hash that ends in so many zeros, which is fair to all pieces.
func (s *Scanner) keeps(m *mark) bool { return hash(m.piece, m.at)&(1<<s.kept-1) == 0 }

func hash(piece, at uint64) uint64 {
	h := (piece*0x9e3779b97f4a7c15 ^ at>>12) * 0xff51afd7ed558ccd
	return h >> 24
}

func (s *Scanner) add(m mark) {
	if len(s.marks) >= maxMarks {
		if s.kept > 32 {
			return
		}
		s.kept++
		kept := s.marks[:0]
		for _, old := range s.marks {
			if old.kind.fixed() || s.keeps(&old) {
				kept = append(kept, old)
			}
		}
		s.marks = kept
		if len(s.marks) >= maxMarks || !m.kind.fixed() && !s.keeps(&m) {
			return // nothing but fixed ones: somebody made them up
		}
	}
	s.marks = append(s.marks, m)
}
