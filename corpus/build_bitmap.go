package corpus

import (
	"encoding/binary"
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// bitmap is a persistent bitmap of an image.
type bitmap struct {
	entry qcow2.BitmapEntry
	at    qcow2.Extent // of its entry in the directory
	table qcow2.Extent
	data  []qcow2.HostOffset // by table entry; 0: not stored
}

// placeBitmaps places and writes the bitmaps' data, tables and directory, in the
// order in which QEMU does.
func (b *builder) placeBitmaps() error {
	var dir []byte
	for i := range b.spec.Bitmaps {
		bm, err := b.placeBitmap(&b.spec.Bitmaps[i])
		if err != nil {
			return fmt.Errorf("bitmap %q: %w", b.spec.Bitmaps[i].Name, err)
		}
		e := bm.entry.Encode()
		bm.at = qcow2.Extent{Offset: qcow2.HostOffset(len(dir)), Length: uint64(len(e))}
		dir = append(dir, e...)
		b.img.bitmaps = append(b.img.bitmaps, bm)
	}
	b.img.dir = b.place(uint64(len(dir)))
	for _, bm := range b.img.bitmaps {
		bm.at.Offset += b.img.dir.Offset
		bm.entry.EntryOffset = bm.at.Offset
	}
	if len(dir) > 0 {
		b.img.write(padded(dir, b.g.ClusterSize()), b.img.dir.Offset)
	}
	return nil
}

// padded fills up whole units with zeros, so that a reused cluster keeps nothing
// of what it held before.
func padded(p []byte, unit uint64) []byte {
	if in := uint64(len(p)) % unit; in != 0 {
		p = append(p, make([]byte, unit-in)...)
	}
	return p
}

func (b *builder) placeBitmap(s *Bitmap) (*bitmap, error) {
	gran := uint(s.GranularityBits)
	if gran == 0 {
		gran = 16
	}
	bits := qcow2.BitmapBits(b.img.size, gran)
	entries := b.g.BitmapTableEntries(bits)
	if s.TableSize != 0 {
		entries = uint64(s.TableSize)
	}
	if entries == 0 {
		return nil, fmt.Errorf("a disk of %d bytes has no bits", b.img.size)
	}
	set, err := s.bits(b.img.size, gran, bits)
	if err != nil {
		return nil, err
	}
	bm := &bitmap{data: make([]qcow2.HostOffset, entries)}
	table := make([]byte, entries*8)
	per := b.g.ClusterSize() * 8 // bits a cluster
	for i := range entries {
		buf := make([]byte, b.g.ClusterSize())
		set.read(buf, int64(i*b.g.ClusterSize()))
		here := min(per, bits-min(bits, i*per)) // bits of this cluster
		switch {
		case allZero(buf) && !s.StoreZeros:
			continue
		case s.Ones && here > 0 && allOnes(buf, here):
			putUint64(table[i*8:], uint64(qcow2.AllOnesEntry))
		default:
			x := b.place(b.g.ClusterSize())
			b.img.write(buf, x.Offset)
			bm.data[i] = x.Offset
			putUint64(table[i*8:], uint64(qcow2.NewBitmapTableEntry(x.Offset)))
		}
	}
	bm.table = b.place(entries * 8)
	b.img.write(padded(table, b.g.ClusterSize()), bm.table.Offset)

	bm.entry = qcow2.BitmapEntry{
		TableOffset: bm.table.Offset, TableSize: uint32(entries),
		Flags: s.MoreFlags, Type: qcow2.BitmapDirtyTracking, GranularityBits: uint8(gran),
		ExtraData: s.ExtraData, Name: []byte(s.Name),
	}
	if s.Auto {
		bm.entry.Flags |= qcow2.BitmapAuto
	}
	if s.InUse {
		bm.entry.Flags |= qcow2.BitmapInUse
	}
	return bm, nil
}

// bits gives the bitmap's bytes: bit 0 of byte 0 is the first.
func (s *Bitmap) bits(size uint64, gran uint, n uint64) (*Store, error) {
	set := NewStore(int64((n + 7) / 8))
	for _, r := range s.Dirty {
		if !qcow2.RangeFits(r.Offset, r.Length, size) || r.Length == 0 {
			return nil, fmt.Errorf("%d dirty bytes at %d are not within the disk", r.Length, r.Offset)
		}
		setBits(set, r.Offset>>gran, (r.Offset+r.Length-1)>>gran+1)
	}
	return set, nil
}

func setBits(s *Store, lo, hi uint64) {
	one := func(i uint64) {
		var p [1]byte
		s.read(p[:], int64(i/8))
		p[0] |= 1 << (i % 8)
		s.WriteAt(p[:], int64(i/8))
	}
	for ; lo < hi && lo%8 != 0; lo++ {
		one(lo)
	}
	if n := (hi - lo) / 8; n > 0 {
		s.fill(int64(lo/8), int64(n), 0xff)
		lo += n * 8
	}
	for ; lo < hi; lo++ {
		one(lo)
	}
}

// allOnes tells whether the first n bits are ones.
func allOnes(p []byte, n uint64) bool {
	for i := range n / 8 {
		if p[i] != 0xff {
			return false
		}
	}
	return n%8 == 0 || p[n/8] == 1<<(n%8)-1
}

// bitmapsExtension gives the header extension's data.
func (b *builder) bitmapsExtension() []byte {
	return qcow2.BitmapsExtension{
		NbBitmaps:       uint32(len(b.img.bitmaps)),
		DirectorySize:   b.img.dir.Length,
		DirectoryOffset: b.img.dir.Offset,
	}.Encode()
}

func putUint32(b []byte, v uint32) { binary.BigEndian.PutUint32(b, v) }
