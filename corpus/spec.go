package corpus

import "github.com/qcheck/qcheck/qcow2"

// Spec describes an image. The zero value of each field is what `qemu-img
// create` would do; only Size has no default.
type Spec struct {
	// Version is 2 or 3. The default is 3.
	Version uint32
	// ClusterBits is from 9 to 21. The default is 16 (64 KiB).
	ClusterBits uint32
	// Size is the size of the virtual disk in bytes, before any [Resize].
	Size uint64
	// RefcountBits is the width of a refcount: 1, 2, 4, … 64. The default is
	// 16, the only width of version 2.
	RefcountBits uint
	// ExtendedL2 gives L2 entries of 128 bits with 32 subclusters.
	ExtendedL2 bool
	// Compression is how compressed clusters are compressed.
	Compression qcow2.CompressionType
	// HeaderLength of a version 3 image, in bytes. The default is 112.
	HeaderLength uint32

	// Lazy sets the lazy-refcounts bit, Dirty and Corrupt the bits that a
	// running or a failed QEMU leaves.
	Lazy, Dirty, Corrupt bool

	Backing  *Backing  // the default is none
	DataFile *DataFile // the default is none
	Crypt    qcow2.CryptMethod

	// FeatureNames is the feature name table. The default is QEMU's, where it
	// fits into the first cluster; NoFeatureNames leaves it out.
	FeatureNames   []qcow2.FeatureName
	NoFeatureNames bool
	// MoreCompatible and MoreAutoclear are feature bits that are set besides those that
	// the image has. The default is none.
	MoreCompatible, MoreAutoclear qcow2.Features
	// TrimEnd ends the file with the last byte of compressed data, as QEMU leaves it
	// that wrote nothing behind it. The default is a file of whole clusters.
	TrimEnd bool
	// Extensions are further header extensions, written as they are. The
	// default is none.
	Extensions []RawExtension

	// MinL1Size makes the L1 table longer than needed, in entries. The default
	// is what the disk takes.
	MinL1Size uint32
	// RefcountTableClusters makes the refcount table longer than needed. The
	// default is what the file takes.
	RefcountTableClusters uint32

	// Ops is what is done to the new image, in order.
	Ops []Op
	// Bitmaps are the persistent bitmaps. The default is none.
	Bitmaps []Bitmap
	// StaleBitmaps leaves the autoclear bit of the bitmaps extension clear.
	StaleBitmaps bool
}

// RawExtension is a header extension, given by its bytes.
type RawExtension struct {
	Type qcow2.ExtensionType
	Data []byte
}

// Backing describes the backing file.
type Backing struct {
	Name string // as it stands in the image; a file beside the image
	// Format is the recorded format. The default is none recorded.
	Format string
	// Image makes the backing file a qcow2 image, built along. The default is a
	// raw file.
	Image *Spec
	// Size and Writes describe a raw backing file, in bytes.
	Size   uint64
	Writes []Write
}

// DataFile describes the external data file.
type DataFile struct {
	Name string // a file beside the image; empty leaves the extension out
	Raw  bool   // the data file is a raw image by itself
}

// Bitmap describes a persistent bitmap.
type Bitmap struct {
	Name string
	// GranularityBits is log2 of the granularity in bytes. The default is 16.
	GranularityBits uint8
	Auto, InUse     bool
	// Dirty are the ranges of the virtual disk that are dirty, in bytes.
	Dirty []Range
	// Ones makes clusters of ones a table entry without data, which QEMU reads
	// and never writes; StoreZeros stores clusters of zeros too. The default is
	// what QEMU does: store all but zeros.
	Ones, StoreZeros bool

	// What follows makes bitmaps that QEMU does not make.

	ExtraData []byte
	MoreFlags qcow2.BitmapFlags // set besides Auto and InUse
	// TableSize overrides the number of table entries, in entries; those that
	// are more than needed are 0.
	TableSize uint32
	// RawName makes an empty Name mean what it says.
	RawName bool
}

// Range is a range of bytes of the virtual disk.
type Range struct{ Offset, Length uint64 }

// Op is something that is done to an image, as a guest or an administrator
// would: see [Write], [Zero], [Discard], [Map], [Snapshot], [DropSnapshot],
// [Resize], [Reserve].
type Op interface{ do(*builder) error }

// Write writes Length bytes at Offset, which read as Pattern.
type Write struct {
	Offset, Length uint64
	Pattern        byte
	// Stamp makes the first 8 bytes of each sector hold its own offset, so that
	// data in the wrong place is found out.
	Stamp bool
	// Noise makes the bytes ones that cannot be compressed; Pattern is the seed.
	Noise bool
	// Compressed stores each cluster compressed, where that makes it smaller.
	// The range must be whole clusters, or end with the disk.
	Compressed bool
}

// Zero makes a range of whole clusters (of subclusters, with extended L2
// entries) read as zeros.
type Zero struct {
	Offset, Length uint64
	// Keep allocates the clusters, or keeps them allocated.
	Keep bool
}

// Discard throws a range of whole clusters away. They read as zeros; with Full
// nothing is left of the mapping, so that the backing file shows through.
type Discard struct {
	Offset, Length uint64
	Full           bool
}

// Map allocates clusters without writing to them, as preallocation does. It
// takes little memory: 1 TiB of it takes a second or two.
type Map struct {
	Offset, Length uint64
	// Shuffle mixes the order of the host clusters, by this seed. The default
	// is 0: in order.
	Shuffle uint64
}

// Snapshot takes an internal snapshot.
type Snapshot struct {
	ID, Name string
	// VMState is the size of the state of the virtual machine that is kept with
	// it, in bytes. The default is 0: none.
	VMState uint64
	// ExtraData overrides the extra data of the entry. The default is QEMU's 24
	// bytes; NoExtraData makes it 0 bytes.
	ExtraData   []byte
	NoExtraData bool
}

// DropSnapshot deletes a snapshot.
type DropSnapshot struct{ ID string }

// Resize changes the size of the virtual disk, in bytes.
type Resize struct{ Size uint64 }

// Reserve takes clusters that nothing refers to and whose refcount is 0: room
// for what a damage puts there. See [Reserved].
type Reserve struct {
	Name     string
	Clusters uint64
}
