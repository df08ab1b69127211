package corpus

import (
	"encoding/binary"
	"fmt"
	"maps"

	"github.com/qcheck/qcheck/qcow2"
)

// Image is a built image: the file's bytes, what its guest must see, and where
// everything stands (see [Place]). Its files may be read from several
// goroutines.
type Image struct {
	*Store // the image file
	layout
	// Siblings are the other files that belong to the image, by name: the
	// external data file and the backing files.
	Siblings map[string]*Store

	guest *Store
	size  uint64
}

// Guest is what the guest must see: the virtual disk, byte for byte.
func (img *Image) Guest() *Store { return img.guest }

// SnapshotGuest is what the guest must see of a snapshot, nil where there is
// none of this ID.
func (img *Image) SnapshotGuest(id string) *Store {
	for _, s := range img.snaps {
		if s.id == id {
			return s.guest
		}
	}
	return nil
}

// Clone gives a copy of the image file, to be damaged apart from the original;
// what neither changes takes memory once. The other files and what the guest must
// see are shared, and so is where everything stands.
func (img *Image) Clone() *Image {
	c := &Image{Store: img.Store.clone(), layout: img.layout, Siblings: maps.Clone(img.Siblings), guest: img.guest, size: img.size}
	return c
}

// Open opens the image for reading.
func (img *Image) Open() (*qcow2.Image, error) { return qcow2.Open(img, img.Size()) }

func (img *Image) write(p []byte, off qcow2.HostOffset) { img.WriteAt(p, int64(off)) }

// builder is an image in the making: the tables as they will be written.
type builder struct {
	spec *Spec
	g    qcow2.Geometry
	img  *Image
	h    qcow2.Header

	refs   []uint32            // references by host cluster
	hint   qcow2.HostCluster   // no cluster below it is free
	blocks []qcow2.HostCluster // refcount blocks by index; 0: none

	refTableClusters uint32

	l1    []*l2table // nil: nothing mapped
	l1At  qcow2.Extent
	guest *Store // what the guest sees; past the disk's end, the VM state
	base  *Store // what the backing file holds, nil without one
	data  *Store // where guest data goes: the image itself or the data file

	compressedEnd qcow2.HostOffset // the end of the last compressed data
	crypt         *crypter
}

// l2table is an L2 table. Snapshots share it: the refcount of its cluster tells
// how often.
type l2table struct {
	cluster qcow2.HostCluster
	e       []qcow2.L2Entry
	sub     []qcow2.SubclusterBitmap // nil without extended L2 entries
}

// Build makes the image that a description describes. The same description
// always gives the same bytes. The image is sound, unless the description asks
// for what is not; the error tells what in the description cannot be done.
func Build(spec Spec) (*Image, error) {
	clusters := max(spec.RefcountTableClusters, 1)
	for {
		b, err := build(&spec, clusters)
		if err != nil {
			return nil, err
		}
		need := b.g.Clusters(uint64(len(b.blocks)) * 8)
		if need <= uint64(clusters) {
			return b.img, nil
		}
		// The table turned out too short for the file: once more with one that
		// is long enough.
		clusters = uint32(need)
	}
}

func build(spec *Spec, refTableClusters uint32) (*builder, error) {
	b := &builder{spec: spec, refTableClusters: refTableClusters}
	if err := b.init(); err != nil {
		return nil, err
	}
	for i, op := range spec.Ops {
		if err := op.do(b); err != nil {
			return nil, fmt.Errorf("operation %d (%T): %w", i, op, err)
		}
	}
	if err := b.placeBitmaps(); err != nil {
		return nil, err
	}
	b.placeSnapshots()
	for _, x := range b.img.reserved {
		b.release(x) // nothing is placed from now on
	}
	b.writeTables()
	if uint64(len(b.blocks))*8 <= uint64(refTableClusters)<<b.g.ClusterBits {
		if err := b.writeRefcounts(); err != nil {
			return nil, err
		}
	}
	if err := b.writeHeader(); err != nil {
		return nil, err
	}
	b.finish()
	return b, nil
}

// init lays out what every image has: header, refcount table, L1 table.
func (b *builder) init() error {
	s := b.spec
	b.h = qcow2.Header{Version: s.Version, ClusterBits: s.ClusterBits, HeaderLength: s.HeaderLength, RefcountOrder: 4}
	if b.h.Version == 0 {
		b.h.Version = 3
	}
	if b.h.ClusterBits == 0 {
		b.h.ClusterBits = 16
	}
	if s.RefcountBits != 0 {
		for b.h.RefcountOrder = 0; b.h.RefcountOrder < 6 && 1<<b.h.RefcountOrder != s.RefcountBits; {
			b.h.RefcountOrder++
		}
		if 1<<b.h.RefcountOrder != s.RefcountBits {
			return fmt.Errorf("no refcount is %d bits wide", s.RefcountBits)
		}
	}
	if err := b.setFeatures(); err != nil {
		return err
	}
	var ok bool
	if b.g, ok = b.h.Geometry(); !ok {
		return fmt.Errorf("cluster_bits %d is out of range", b.h.ClusterBits)
	}
	if b.g.ExtendedL2 && b.g.ClusterBits < qcow2.MinClusterBitsExtL2 {
		return fmt.Errorf("extended L2 entries need clusters of 16 KiB")
	}

	b.img = &Image{Store: NewStore(0), Siblings: make(map[string]*Store)}
	b.img.g = b.g
	b.img.reserved = make(map[string]qcow2.Extent)
	b.guest = NewStore(0)
	b.data = b.img.Store
	if s.DataFile != nil {
		b.data = NewStore(0)
	}
	if err := b.initBacking(); err != nil {
		return err
	}

	// The header's cluster and the refcount table are there before there is a
	// refcount block. Those that count them, and themselves, come right after.
	b.addRefs(0, 1+uint64(b.refTableClusters), 1)
	b.hint = qcow2.HostCluster(1 + b.refTableClusters)
	for i := uint64(0); i*b.g.RefcountBlockEntries() < uint64(b.hint); i++ {
		b.placeBlock(i)
		b.hint++
	}
	b.img.refTable = qcow2.Extent{Offset: b.g.HostOffset(1), Length: uint64(b.refTableClusters) << b.g.ClusterBits}
	b.img.size = s.Size
	b.growL1(b.g.L1EntriesFor(s.Size))
	b.growL1(uint64(s.MinL1Size))
	return b.initCrypt()
}

// initBacking builds the backing file; what the guest sees starts as what it
// holds.
func (b *builder) initBacking() error {
	k := b.spec.Backing
	if k == nil {
		return nil
	}
	if k.Image != nil {
		img, err := Build(*k.Image)
		if err != nil {
			return fmt.Errorf("backing file: %w", err)
		}
		b.img.Siblings[k.Name] = img.Store
		for name, s := range img.Siblings {
			b.img.Siblings[name] = s
		}
		b.base = img.guest.clone()
	} else {
		raw := NewStore(int64(k.Size))
		for _, w := range k.Writes {
			w.fill(raw)
		}
		b.img.Siblings[k.Name] = raw
		b.base = raw.clone()
	}
	b.guest = b.base.clone()
	b.guest.Truncate(int64(b.spec.Size))
	return nil
}

// finish completes what is told about the image.
func (b *builder) finish() {
	b.img.blocks = b.blocks
	b.img.l1 = b.l1At
	b.img.l2 = b.l1
	b.img.guest = b.guest
	b.guest.Truncate(int64(b.img.size))
	if b.spec.TrimEnd && b.compressedEnd > b.g.HostOffset(qcow2.HostCluster(len(b.refs)-1)) {
		b.img.Truncate(int64(b.compressedEnd))
		return
	}
	// Every cluster is there to its end.
	b.img.Truncate(max(b.img.Store.size, int64(len(b.refs))<<b.g.ClusterBits))
	if d := b.spec.DataFile; d != nil {
		b.data.Truncate(int64(b.img.size))
		if d.Raw {
			b.data = b.guest.clone()
		}
		if d.Name != "" {
			b.img.Siblings[d.Name] = b.data
		}
	}
}

func putUint64(b []byte, v uint64) { binary.BigEndian.PutUint64(b, v) }
