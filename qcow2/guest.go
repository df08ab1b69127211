package qcow2

import (
	"errors"
	"io"
	"math"
	"sync"
)

// Source is a disk or a file that guest data is read from: a backing file, an
// external data file. A Source that is an [io.Closer] is closed with the
// [Disk] that it was opened for. What lies past its size reads as zeros.
type Source interface {
	io.ReaderAt
	Size() int64 // bytes
}

// Opener opens the file that an image names. For a backing file format is the
// recorded format, "" where none is; for an external data file it is "raw" and
// the name is "" where the image does not record it. A backing file of format
// qcow2 is to be given as the disk that it holds; see [Files.DiskOptions] for
// one who does that.
type Opener func(name, format string) (Source, error)

// DiskOptions are options for reading guest data.
type DiskOptions struct {
	// Backing opens the backing file, when something is read that is only
	// there. The default is none: such reads fail with ProblemBackingFile,
	// all else can be read.
	Backing Opener
	// DataFile opens the external data file, when something is read that is
	// there. The default is none: such reads fail with ProblemDataFile.
	DataFile Opener
	// TableCache bounds the memory for L1 and L2 tables in bytes; two tables
	// are always kept. The default is 8 MiB.
	TableCache int
}

const defaultTableCache = 8 << 20

// Disk is a virtual disk in an image as the guest sees it: the active one or
// that of a snapshot. Nothing is read before it is needed, and of the tables
// only a bounded part is kept. It is safe for concurrent use.
type Disk struct {
	img     *Image
	opts    DiskOptions
	size    int64
	l1      HostOffset
	l1Size  uint64 // entries
	vmState uint64 // bytes

	tables tableCache

	backing  lazySource
	dataFile lazySource

	mu           sync.Mutex
	decompressed []byte // the cluster that was decompressed last
	decompressOf L2Entry
}

// ErrGeometry means that the image's cluster size is not known, so that no
// guest data can be found: cluster_bits is out of range, or too small for
// extended L2 entries.
var ErrGeometry = errors.New("cluster size out of range")

// ActiveDisk gives the active disk of the image. Its size is the virtual size
// rounded down to whole sectors, as QEMU does. The error is [ErrGeometry].
func (img *Image) ActiveDisk(opts DiskOptions) (*Disk, error) {
	h := &img.Header
	return img.disk(h.L1TableOffset, h.L1Size, h.Size, 0, opts)
}

// SnapshotDisk gives the disk of a snapshot. Its size is the snapshot's own, or
// the image's where the snapshot does not record it. The error is [ErrGeometry].
func (img *Image) SnapshotDisk(s *Snapshot, opts DiskOptions) (*Disk, error) {
	size, ok := s.DiskSize()
	if !ok {
		size = img.Header.Size
	}
	return img.disk(s.L1TableOffset, s.L1Size, size, s.VMState(), opts)
}

func (img *Image) disk(l1 HostOffset, l1Size uint32, size, vmState uint64, opts DiskOptions) (*Disk, error) {
	if !img.GeometryOK || img.Geometry.ExtendedL2 && img.Geometry.ClusterBits < MinClusterBitsExtL2 {
		return nil, ErrGeometry
	}
	d := &Disk{
		img:     img,
		opts:    opts,
		size:    int64(min(size, math.MaxInt64)) &^ (SectorSize - 1),
		l1:      l1,
		l1Size:  min(uint64(l1Size), MaxL1Entries),
		vmState: vmState,
	}
	d.tables.limit = opts.TableCache
	if d.tables.limit == 0 {
		d.tables.limit = defaultTableCache
	}
	d.backing.open = d.openBacking
	d.dataFile.open = d.openDataFile
	return d, nil
}

// Size is the size of the disk in bytes, a multiple of the sector size.
func (d *Disk) Size() int64 { return d.size }

// Image is the image that holds the disk.
func (d *Disk) Image() *Image { return d.img }

// ReadAt reads guest data at offset off of the disk. An error that is not
// [io.EOF] is a [*GuestError]; the bytes before it have been read.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("qcow2: negative offset")
	}
	if off >= d.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > d.size-off {
		p, eof = p[:d.size-off], io.EOF
	}
	if n, err := d.read(p, GuestOffset(off)); err != nil {
		return n, err
	}
	return len(p), eof
}

// VMStateOffset is the guest offset at which snapshots keep the state of the
// virtual machine: the first that an L1 entry covers which does not describe
// the disk. ok is false for a disk so large that there is no such offset.
func (d *Disk) VMStateOffset() (off GuestOffset, ok bool) {
	g := d.img.Geometry
	index := g.L1EntriesFor(uint64(d.size))
	if index > math.MaxInt64/g.L2Coverage() {
		return 0, false
	}
	return GuestOffset(index * g.L2Coverage()), true
}

// VMState reads the state of the virtual machine that was saved with the
// snapshot; it is empty for the active disk and for snapshots without one. The
// size is the snapshot's claim: what no table maps reads as zeros.
func (d *Disk) VMState() *io.SectionReader {
	off, ok := d.VMStateOffset()
	size := min(d.vmState, uint64(math.MaxInt64)-uint64(off))
	if !ok {
		size = 0
	}
	return io.NewSectionReader(vmStateReader{d}, int64(off), int64(size))
}

// vmStateReader reads guest offsets beyond the size of the disk.
type vmStateReader struct{ d *Disk }

func (r vmStateReader) ReadAt(p []byte, off int64) (int, error) {
	return r.d.read(p, GuestOffset(off))
}

// Close closes the backing file and the data file, if they were opened and can
// be closed. The image itself stays open.
func (d *Disk) Close() error {
	return errors.Join(d.backing.close(), d.dataFile.close())
}

// read fills p from guest offset off, which may lie beyond the disk's size.
func (d *Disk) read(p []byte, off GuestOffset) (int, error) {
	for done := 0; done < len(p); {
		at := off + GuestOffset(done)
		x, err := d.lookup(at, uint64(len(p)-done))
		if err == nil {
			part := p[done:][:min(uint64(len(p)-done), x.Length)]
			err = d.readExtent(part, x)
			done += len(part)
			if err == nil {
				continue
			}
			done -= len(part)
		}
		return done, err
	}
	return len(p), nil
}

// readExtent fills p from the start of a guest extent that is at least as long.
func (d *Disk) readExtent(p []byte, x GuestExtent) error {
	switch x.Kind {
	case GuestData:
		return d.readData(p, x)
	case GuestCompressed:
		return d.readCompressed(p, x)
	case GuestUnallocated:
		return d.readBacking(p, x)
	default:
		clear(p)
		return nil
	}
}

func (d *Disk) readData(p []byte, x GuestExtent) error {
	h := &d.img.Header
	if h.CryptMethod != CryptNone {
		return x.fail(ProblemEncrypted, nil)
	}
	if !h.HasDataFile() {
		if err := d.img.ReadAt(p, x.Host); err != nil {
			return x.fail(ProblemUnreadable, err)
		}
		return nil
	}
	src, err := d.dataFile.get()
	if err == nil {
		err = readSource(src, p, uint64(x.Host))
	}
	if err != nil {
		return x.fail(ProblemDataFile, err)
	}
	return nil
}

func (d *Disk) readBacking(p []byte, x GuestExtent) error {
	// The VM state is none of the backing file's: it has a disk of its own
	// where this image has VM state.
	if !d.img.Header.HasBackingFile() || uint64(x.Start) >= uint64(d.size) {
		clear(p)
		return nil
	}
	src, err := d.backing.get()
	if err == nil {
		err = readSource(src, p, uint64(x.Start))
	}
	if err != nil {
		return x.fail(ProblemBackingFile, err)
	}
	return nil
}

// readCompressed reads a part of a compressed cluster, of which all is
// decompressed. The cluster is remembered, since a large one is seldom read in
// one go.
func (d *Disk) readCompressed(p []byte, x GuestExtent) error {
	inCluster := uint64(x.Start) & (d.img.Geometry.ClusterSize() - 1)
	d.mu.Lock()
	cluster := d.decompressed
	known := cluster != nil && d.decompressOf == x.entry
	d.mu.Unlock()
	if !known {
		// Zeros beyond the end of the file are no part of a compressed
		// stream, so that only what is there needs to be held.
		src, err := d.img.ReadExtent(Extent{x.Host, x.HostLength}, x.HostLength)
		if err != nil {
			return x.fail(ProblemUnreadable, err)
		}
		cluster = make([]byte, d.img.Geometry.ClusterSize())
		if err := Decompress(d.img.Header.CompressionType, cluster, src); err != nil {
			return x.fail(ProblemDecompress, err)
		}
		d.mu.Lock()
		d.decompressed, d.decompressOf = cluster, x.entry
		d.mu.Unlock()
	}
	copy(p, cluster[inCluster:])
	return nil
}

// readSource fills p from a source; what lies past its end is zero.
func readSource(src Source, p []byte, off uint64) error {
	size := uint64(max(src.Size(), 0))
	n := uint64(0)
	if off < size {
		n = min(uint64(len(p)), size-off)
		got, err := src.ReadAt(p[:n], int64(off))
		if uint64(got) < n {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			if !errors.Is(err, io.EOF) {
				return err
			}
			n = uint64(got)
		}
	}
	clear(p[n:])
	return nil
}
