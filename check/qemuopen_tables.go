package check

import (
	"fmt"
	"strings"

	"github.com/qcheck/qcheck/qcow2"
)

// qemuDrivers are the names of QEMU 10's block drivers: the formats that a backing
// file can be said to have.
var qemuDrivers = strings.Fields(`
	blkdebug blklogwrites blkverify bochs cloop compress copy-before-write copy-on-read dmg file ftp ftps gluster
	host_cdrom host_device http https io_uring iscsi iser luks nbd nfs null-aio null-co nvme nvme-io_uring parallels
	preallocate qcow qcow2 qed quorum raw rbd replication snapshot-access ssh throttle vdi vhdx
	virtio-blk-vfio-pci virtio-blk-vhost-user virtio-blk-vhost-vdpa vmdk vpc vvfat`)

// peek reads small pieces of the image one after the other, as QEMU reads: zeros
// past the end.
type peek struct {
	img   *qcow2.Image
	start qcow2.HostOffset
	buf   []byte
}

// peekBytes is how much is read at once.
const peekBytes = 64 << 10

// at gives n bytes, at most peekBytes, valid until the next call.
func (k *peek) at(offset qcow2.HostOffset, n uint64) ([]byte, error) {
	if offset < k.start || !qcow2.RangeFits(uint64(offset-k.start), n, uint64(len(k.buf))) {
		if k.buf == nil {
			k.buf = make([]byte, peekBytes)
		}
		k.start = offset
		if err := k.img.ReadAt(k.buf, offset); err != nil {
			k.buf = nil
			// What cannot be read may be what follows.
			b := make([]byte, n)
			return b, k.img.ReadAt(b, offset)
		}
	}
	return k.buf[offset-k.start:][:n], nil
}

// snapshotEntries is qcow2_read_snapshots.
func (p *opener) snapshotEntries() string {
	k := peek{img: p.img}
	base := uint64(p.h.SnapshotsOffset)
	length := uint64(0)
	for i := range p.h.NbSnapshots {
		length = (length + 7) &^ 7
		if i%ctxStride == 0 && p.c.ctx.Err() != nil {
			return ""
		}
		offset := qcow2.HostOffset(base + length)
		if !readable(offset, qcow2.SnapshotHeadSize) {
			return "the snapshot table cannot be read"
		}
		if uint64(offset) >= uint64(p.img.Size()) {
			// Zeros from here on: entries that hold nothing.
			p.snapshotsSize = length + uint64(p.h.NbSnapshots-i)*qcow2.SnapshotHeadSize
			if p.snapshotsSize > qcow2.MaxSnapshotsTableSize {
				return "the snapshot table is too large"
			}
			return ""
		}
		b, err := k.at(offset, qcow2.SnapshotHeadSize)
		if err != nil {
			return fmt.Sprintf("the snapshot table cannot be read: %v", err)
		}
		s, _ := qcow2.DecodeSnapshot(b, offset)
		if s.ExtraDataSize > qcow2.MaxSnapshotExtraData {
			return fmt.Sprintf("snapshot %d has %d bytes of extra data, more than %d", i, s.ExtraDataSize, qcow2.MaxSnapshotExtraData)
		}
		p.snapshotL1s = append(p.snapshotL1s, qcow2.Extent{Offset: s.L1TableOffset, Length: uint64(s.L1Size) * 8})
		length += qcow2.SnapshotHeadSize + uint64(s.ExtraDataSize) + uint64(s.IDSize) + uint64(s.NmSize)
		if length > qcow2.MaxSnapshotsTableSize {
			return "the snapshot table is too large"
		}
		p.snapshotsSize = length
	}
	return ""
}

// bitmapList is bitmap_list_load: the whole directory is read and tested before
// the first bitmap is loaded.
func (p *opener) bitmapList() string {
	if p.bitmaps == nil {
		return ""
	}
	base, size := p.bitmaps.DirectoryOffset, p.bitmaps.DirectorySize
	switch {
	case size == 0:
		return "the bitmap directory has a size of zero"
	case !readable(base, size):
		return "the bitmap directory cannot be read"
	}
	const broken = "the bitmap directory is broken: an entry does not end with it"
	k := peek{img: p.img}
	for pos := uint64(0); pos < size; {
		if len(p.list)%ctxStride == 0 && p.c.ctx.Err() != nil {
			return ""
		}
		if size-pos < qcow2.BitmapHeadSize {
			return broken
		}
		if len(p.list) >= int(p.bitmaps.NbBitmaps) {
			return fmt.Sprintf("the bitmap directory has more than the %d bitmaps of the header extension", p.bitmaps.NbBitmaps)
		}
		offset := base + qcow2.HostOffset(pos)
		b, err := k.at(offset, qcow2.BitmapHeadSize)
		if err != nil {
			return fmt.Sprintf("the bitmap directory cannot be read: %v", err)
		}
		e, _ := qcow2.DecodeBitmapEntry(b, offset)
		// QEMU calculates the size of an entry as a signed 32-bit number.
		entrySize := int64(int32(e.EntrySize()))
		if entrySize > int64(size-pos) {
			return broken
		}
		if e.ExtraDataSize != 0 {
			return fmt.Sprintf("bitmap %d of the directory has extra data", len(p.list))
		}
		if why := p.bitmapEntry(&e); why != "" {
			return fmt.Sprintf("bitmap %d of the directory does not satisfy the constraints: %s", len(p.list), why)
		}
		if b, err = k.at(offset+qcow2.BitmapHeadSize, uint64(e.NameSize)); err != nil {
			return fmt.Sprintf("the bitmap directory cannot be read: %v", err)
		}
		e.Name, e.ExtraData = []byte(cString(b)), nil
		p.list = append(p.list, e)
		pos += uint64(entrySize)
	}
	if len(p.list) != int(p.bitmaps.NbBitmaps) {
		return fmt.Sprintf("the bitmap directory has %d bitmaps, fewer than the %d of the header extension", len(p.list), p.bitmaps.NbBitmaps)
	}
	return ""
}

// bitmapEntry is check_dir_entry.
func (p *opener) bitmapEntry(e *qcow2.BitmapEntry) string {
	bytes := uint64(e.TableSize) << p.g.ClusterBits
	switch {
	case e.TableSize == 0 || e.TableSize > qcow2.MaxBitmapTableEntries:
		return fmt.Sprintf("a table of %d entries", e.TableSize)
	case e.TableOffset == 0 || !p.g.Aligned(e.TableOffset):
		return fmt.Sprintf("a table at %v", e.TableOffset)
	case e.GranularityBits < qcow2.MinBitmapGranularity || e.GranularityBits > qcow2.MaxBitmapGranularity:
		return fmt.Sprintf("a granularity of 2^%d bytes", e.GranularityBits)
	case e.Flags&^(qcow2.BitmapInUse|qcow2.BitmapAuto) != 0:
		return fmt.Sprintf("flags 0x%x", uint32(e.Flags))
	case e.NameSize > qcow2.MaxBitmapName:
		return fmt.Sprintf("a name of %d bytes", e.NameSize)
	case e.Type != qcow2.BitmapDirtyTracking:
		return fmt.Sprintf("type %d", e.Type)
	case bytes > qcow2.MaxBitmapPhysicalSize:
		return fmt.Sprintf("%d bytes of bitmap data", bytes)
	case !e.Flags.Has(qcow2.BitmapInUse) && p.h.SectorAlignedSize() > bytes*8<<e.GranularityBits:
		return fmt.Sprintf("a table of %d entries, too small for the disk", e.TableSize)
	}
	return ""
}
