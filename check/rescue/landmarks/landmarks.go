// Package landmarks tells from what a guest has stored where on its disk that belongs.
//
// The mapping of a disk is known in pieces: an L2 table maps a range of it in order, and
// only where that range starts is not known when the L1 table is lost. A piece is known by
// a number. Many things that file systems and partition tables store say where they lie,
// or how far from each other, or how long the disk is. The scanner is shown the clusters
// of all pieces, one after the other, in any order, and keeps only what they say of that.
package landmarks

// Place is where a piece belongs.
type Place struct {
	Piece uint64 // its number, as given to [Scanner.Look]
	// Index is the piece's place: it holds the disk from Index times the length of a
	// piece on. It is the index in the L1 table of the L2 table that maps it.
	Index uint64
	// Certain tells that what was found proves it. Otherwise it is likely, no more.
	Certain bool
	Why     string // in words, for a report: "ext4 superblock of group 27"
}

// Size is how long the disk is, as far as it says so itself.
type Size struct {
	Bytes uint64
	// Exact tells that the disk is no longer than that, as the backup of a GPT in its
	// last sector does. Otherwise it is at least that long.
	Exact bool
	Why   string
}

// Scanner collects what the clusters of a disk say.
type Scanner struct {
	length uint64 // of a piece, in bytes
}

// New makes a scanner for a disk in pieces of so many bytes.
func New(length uint64) *Scanner { return &Scanner{length: length} }

// Look looks at the data of a cluster (or of several that follow each other) that stands
// at an offset within a piece, in bytes. The data is not kept.
func (s *Scanner) Look(piece, at uint64, data []byte) {}

// Known tells the place of a piece that is known otherwise, so that what its content says
// of others counts.
func (s *Scanner) Known(piece, index uint64) {}

// Resolve gives the places of those pieces for which something speaks, each once, and no
// two in one place.
func (s *Scanner) Resolve() []Place { return nil }

// DiskSize gives how long the disk is; ok is false where nothing says so.
func (s *Scanner) DiskSize() (size Size, ok bool) { return Size{}, false }
