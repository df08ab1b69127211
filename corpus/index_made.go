package corpus

import (
	"github.com/qcheck/qcheck/qcow2"
)

// Made tells how an image was made, before it was damaged: what to choose images by.
type Made struct {
	Version     uint32 `json:"version"`
	ClusterSize uint64 `json:"cluster-size"` // in bytes
	// VirtualSize is the disk's, in bytes; nil in a list that builds no images.
	VirtualSize  *uint64 `json:"virtual-size,omitempty"`
	RefcountBits uint    `json:"refcount-bits"`
	// Features are those of "zlib", "zstd" (there are clusters compressed so),
	// "extended-l2", "lazy-refcounts", "dirty", "corrupt", "data-file",
	// "raw-data-file", "backing-file", "snapshots", "bitmaps", "luks" and "aes" that
	// the image has.
	Features []string `json:"features"`
	// BackingFile and DataFile are the files' names as they stand in the image.
	BackingFile   string `json:"backing-file,omitempty"`
	BackingFormat string `json:"backing-format,omitempty"` // empty: none is recorded
	DataFile      string `json:"data-file,omitempty"`
	// GuestSHA256 is the digest of what a guest reads, all bytes of the virtual disk,
	// in hex. Only sound images of disks of at most 64 MiB have one; those of larger
	// disks have GuestSamples.
	GuestSHA256  string   `json:"guest-sha256,omitempty"`
	GuestSamples []Sample `json:"guest-samples,omitempty"`
}

func (s *Spec) made() Made {
	m := Made{Version: s.Version, ClusterSize: 1 << s.clusterBitsOf(), RefcountBits: s.RefcountBits, Features: []string{}}
	if m.Version == 0 {
		m.Version = 3
	}
	if m.RefcountBits == 0 {
		m.RefcountBits = 16
	}
	compressed, snapshots := false, false
	for _, op := range s.Ops {
		switch op := op.(type) {
		case Write:
			compressed = compressed || op.Compressed
		case Snapshot:
			snapshots = true
		}
	}
	add := func(name string, has bool) {
		if has {
			m.Features = append(m.Features, name)
		}
	}
	add("zlib", compressed && s.Compression == qcow2.CompressionZlib)
	add("zstd", s.Compression == qcow2.CompressionZstd)
	add("extended-l2", s.ExtendedL2)
	add("lazy-refcounts", s.Lazy)
	add("dirty", s.Dirty)
	add("corrupt", s.Corrupt)
	if d := s.DataFile; d != nil {
		m.DataFile = d.Name
		add("data-file", true)
		add("raw-data-file", d.Raw)
	}
	if b := s.Backing; b != nil {
		m.BackingFile, m.BackingFormat = b.Name, b.Format
		add("backing-file", true)
	}
	add("snapshots", snapshots)
	add("bitmaps", len(s.Bitmaps) > 0)
	add("luks", s.Crypt == qcow2.CryptLUKS)
	add("aes", s.Crypt == qcow2.CryptAES)
	return m
}
