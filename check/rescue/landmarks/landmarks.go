package landmarks

import (
	"cmp"
	"slices"
	"sync"
)

// Place is where a piece belongs.
type Place struct {
	Piece uint64 // its number, as given to [Scanner.Look]
	// Index is the piece's place: it holds the disk from Index times the length of a
	// piece on. It is the index in the L1 table of the L2 table that maps it.
	Index uint64
	// Certain tells that what was found proves it. Otherwise it is likely, no more.
	Certain bool
	Why     string // in words, for a report: "ext4 superblock of group 27"
	// Marks is how many landmarks say so, each in a block of its own.
	Marks int
}

// Size is how long the disk is, as far as it says so itself.
type Size struct {
	Bytes uint64
	// Exact tells that the disk is no longer than that, as the backup of a GPT in its
	// last sector does. Otherwise it is at least that long.
	Exact bool
	Why   string
}

// Volume is a partition or a file system that lies on the disk itself, not in a file.
type Volume struct {
	Kind   string // as "ext4"; "" where nothing was recognized
	ID     string // the UUID of the file system
	Start  uint64 // bytes
	Length uint64 // bytes
}

// Scanner collects what the clusters of a disk say.
type Scanner struct {
	// Read gives bytes of a piece again, from an offset within it on. Structures that
	// do not fit into one cluster are only verified with it, and file systems are only
	// asked what they say of pieces without landmarks. An error stands for bytes that
	// are not there. It is called by Resolve only. The default is nil: nothing can be
	// read again.
	Read func(piece, at uint64, b []byte) error
	// ReadStray gives bytes of a cluster that was given to Stray again, from its offset in
	// the file on. The default is nil, as for Read.
	ReadStray func(host uint64, b []byte) error
	// VirtualSize is the length of the disk in bytes where it is known otherwise. The
	// default is 0: it is not.
	VirtualSize uint64

	length  uint64 // of a piece, in bytes
	cluster uint64 // of a stray one, in bytes

	mu      sync.Mutex
	marks   []mark
	room    int    // for what is kept of file systems
	kept    uint32 // marks of blocks are kept where their hash ends in zeros like that
	spaces  map[spaceID]*space
	labels  []*label
	mfts    []mftRuns
	pending []pending
	known   map[uint64]uint64
	pieces  map[uint64]struct{}
	sums    prints
	tails   prints
	strays  prints // the checksums of blocks of stray clusters

	result *resolved
}

// New makes a scanner for a disk in pieces of so many bytes. It takes at most about
// 100 MiB of memory, whatever the length of the disk.
func New(length uint64) *Scanner {
	return &Scanner{length: length, room: maxRoom, spaces: make(map[spaceID]*space), known: make(map[uint64]uint64), pieces: make(map[uint64]struct{})}
}

// Look looks at the data of a cluster (or of several that follow each other) that stands
// at an offset within a piece, in bytes. The data is not kept. It is safe for concurrent
// use.
func (s *Scanner) Look(piece, at uint64, data []byte) {
	f := finder{piece: piece, at: at, data: data}
	f.find()
	s.take(&f)
}

// Stray looks at a cluster of the file that no piece maps: one that has an owner by the
// refcounts, and none is left. host is its offset in the file, which is below 2^63. All
// such clusters have the same length. It is safe for concurrent use.
func (s *Scanner) Stray(host uint64, data []byte) {
	f := finder{piece: host | stray, data: data}
	f.find()
	s.mu.Lock()
	s.cluster = uint64(len(data))
	s.mu.Unlock()
	s.take(&f)
}

// Known tells the place of a piece that is known otherwise, so that what its content says
// of others counts.
func (s *Scanner) Known(piece, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[piece] = index
	s.result = nil
}

// Resolve gives the places of those pieces for which something speaks, each once, and no
// two in one place: where several claim one, as they do where there are snapshots, none
// of them is given. [Scanner.Claims] gives those, too.
func (s *Scanner) Resolve() []Place {
	claims := s.Claims()
	taken, likely := make(map[uint64]int), make(map[uint64]int)
	for _, p := range claims {
		if p.Certain {
			taken[p.Index]++
		} else {
			likely[p.Index]++
		}
	}
	return slices.DeleteFunc(claims, func(p Place) bool {
		return taken[p.Index] > 1 || !p.Certain && taken[p.Index]+likely[p.Index] > 1
	})
}

// Claims gives what Resolve gives, and the places that several pieces claim, by rising
// index. It is for callers who can tell the pieces of snapshots from those of the disk.
func (s *Scanner) Claims() []Place {
	claims := slices.Clone(s.resolve().places)
	slices.SortFunc(claims, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Piece, b.Piece))
	})
	return claims
}

// Strays gives the places of clusters that were given to Stray. Piece is the offset in the
// file, and Index the number of the cluster on the disk. It is for the caller to see that
// nothing else is mapped there.
func (s *Scanner) Strays() []Place { return slices.Clone(s.resolve().strays) }

// DiskSize gives how long the disk is; ok is false where nothing says so.
func (s *Scanner) DiskSize() (size Size, ok bool) {
	r := s.resolve()
	return r.size, r.size.Bytes > 0
}

// Volumes gives the partitions and file systems that lie on the disk itself, by rising
// start.
func (s *Scanner) Volumes() []Volume { return s.resolve().volumes }

// Doubt says why no place is certain, "" where one is.
func (s *Scanner) Doubt() string { return s.resolve().doubt }

func (s *Scanner) resolve() *resolved {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.result == nil {
		s.result = resolve(s)
	}
	return s.result
}
