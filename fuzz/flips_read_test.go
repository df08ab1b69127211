package fuzz_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// reading is all that an image tells its users: the guest's disk, the snapshots, the
// bitmaps.
type reading struct {
	disks   []diskReading // the active one, then the snapshots in the order of their table
	bitmaps []bitmapReading
}

// diskReading is what a disk reads as. Pieces that are all zeros have the digest 0,
// those that cannot be read have pieceFails.
type diskReading struct {
	label  string // of a snapshot: its ID, name and times
	size   int64
	vmSize int64
	pieces []uint64
	vm     []uint64
}

const (
	pieceSize  = 512 // bytes
	pieceFails = 1
	readAtOnce = 128 * pieceSize
	// mostFlipRead is how much of the disk of an image that tells of no other is read.
	mostFlipRead = 64 << 20
)

// bitmapReading is what a bitmap tells a backup program.
type bitmapReading struct {
	name        string
	state       check.BitmapState
	granularity uint8
	dirty       []qcow2.DirtyExtent
	fails       bool // parts of it cannot be read
}

func (b *bitmapReading) usable() bool {
	return b.state == check.BitmapEnabled || b.state == check.BitmapDisabled
}

var pieceSeed = maphash.MakeSeed()

// readImage reads an image with its other files. With another reading, the disks are
// read as far as that has them. The result of a check tells of the bitmaps; nil: of
// none that can be used.
func readImage(s *corpus.Store, siblings map[string]*corpus.Store, like *reading, res *check.Result) *reading {
	r := &reading{}
	img, err := qcow2.Open(s, s.Size())
	if err != nil {
		return r
	}
	open := func(name, _ string) (qcow2.Source, error) {
		if f := siblings[name]; f != nil {
			return f, nil
		}
		return nil, fs.ErrNotExist
	}
	opts := qcow2.DiskOptions{Backing: open, DataFile: open}
	key := keyOf(img)
	add := func(d *qcow2.Disk, err error, label string) {
		n := len(r.disks)
		if err != nil {
			r.disks = append(r.disks, diskReading{label: label})
			return
		}
		x := diskReading{label: label, size: d.Size(), vmSize: d.VMState().Size()}
		most, mostVM := min(x.size, mostFlipRead), min(x.vmSize, mostFlipRead)
		if like != nil {
			if n >= len(like.disks) {
				return
			}
			most, mostVM = min(x.size, like.disks[n].size), min(x.vmSize, like.disks[n].vmSize)
		}
		if img.Header.CryptMethod != qcow2.CryptNone {
			x.pieces = encrypted(d, most, key)
		} else {
			x.pieces = diskPieces(d, most)
		}
		x.vm = pieces(d.VMState(), mostVM)
		r.disks = append(r.disks, x)
	}
	d, err := img.ActiveDisk(opts)
	add(d, err, "")
	if img.GeometryOK {
		for _, sn := range qcow2.ReadSnapshotTable(img).Snapshots {
			if len(r.disks) > 8 || like != nil && len(r.disks) >= len(like.disks) {
				break
			}
			d, err := img.SnapshotDisk(&sn, opts)
			add(d, err, fmt.Sprintf("%q %q %d.%d %d", sn.ID, sn.Name, sn.DateSec, sn.DateNsec, sn.VMClockNsec))
		}
	}
	if res == nil {
		return r
	}
	for i := range res.Bitmaps {
		info := &res.Bitmaps[i]
		b := bitmapReading{name: info.Name, state: info.State, granularity: info.GranularityBits}
		if b.usable() {
			e := info.Entry()
			m, err := img.BitmapUnchecked(&e)
			if err != nil {
				b.fails = true
			} else {
				for x, err := range m.Dirty() {
					if b.fails = b.fails || err != nil; err == nil {
						b.dirty = append(b.dirty, x)
					}
					if len(b.dirty) > 1<<16 {
						break
					}
				}
			}
		}
		r.bitmaps = append(r.bitmaps, b)
	}
	return r
}

// diskPieces reads n bytes of a disk, but not what is not mapped.
func diskPieces(d *qcow2.Disk, n int64) []uint64 {
	if d.Image().Header.HasBackingFile() {
		return pieces(d, n)
	}
	sums := make([]uint64, (n+pieceSize-1)/pieceSize)
	done := int64(0)
	for x, err := range d.Map(0, qcow2.GuestOffset(n)) {
		if err == nil && (x.Kind == qcow2.GuestZero || x.Kind == qcow2.GuestUnallocated) {
			continue
		}
		start := max(done, int64(x.Start)/pieceSize*pieceSize)
		done = max(done, min(n, (int64(x.Start)+int64(x.Length)+pieceSize-1)/pieceSize*pieceSize))
		readPieces(d, sums, start, done)
	}
	return sums
}

// pieces reads n bytes.
func pieces(r io.ReaderAt, n int64) []uint64 {
	sums := make([]uint64, (n+pieceSize-1)/pieceSize)
	readPieces(r, sums, 0, n)
	return sums
}

// readPieces reads the bytes from at to n.
func readPieces(r io.ReaderAt, sums []uint64, at, n int64) {
	buf := make([]byte, min(readAtOnce, max(n-at, 0)))
	for at < n {
		p := buf[:min(readAtOnce, n-at)]
		if k, err := r.ReadAt(p, at); k < len(p) && err != nil {
			// Piece by piece, since only some of it cannot be read.
			for off := int64(0); off < int64(len(p)); off += pieceSize {
				q := p[off:min(off+pieceSize, int64(len(p)))]
				if k, err := r.ReadAt(q, at+off); k < len(q) && err != nil {
					sums[(at+off)/pieceSize] = pieceFails
				} else {
					sums[(at+off)/pieceSize] = digest(q)
				}
			}
			at += int64(len(p))
			continue
		}
		for off := 0; off < len(p); off += pieceSize {
			sums[(at+int64(off))/pieceSize] = digest(p[off:min(off+pieceSize, len(p))])
		}
		at += int64(len(p))
	}
}

var noBytes [readAtOnce]byte

func digest(p []byte) uint64 {
	if bytes.Equal(p, noBytes[:len(p)]) {
		return 0
	}
	return max(maphash.Bytes(pieceSeed, p), pieceFails+1)
}

// encrypted reads what is stored of an encrypted disk. A piece reads the same where
// its bytes, their place in the file (which takes part in the encryption) and the key
// are the same.
func encrypted(d *qcow2.Disk, n int64, key []byte) []uint64 {
	sums := make([]uint64, (n+pieceSize-1)/pieceSize)
	p := make([]byte, pieceSize)
	for x, err := range d.Map(0, qcow2.GuestOffset(n)) {
		for off := uint64(0); off < x.Length; off += pieceSize {
			sum := &sums[(uint64(x.Start)+off)/pieceSize]
			host := x.Host + qcow2.HostOffset(off)
			switch {
			case err != nil || x.Kind == qcow2.GuestCompressed || key == nil && x.Kind == qcow2.GuestData:
				*sum = pieceFails
			case x.Kind == qcow2.GuestData:
				if d.Image().ReadAt(p, host) != nil {
					*sum = pieceFails
					continue
				}
				var h maphash.Hash
				h.SetSeed(pieceSeed)
				h.Write(p)
				h.Write(binary.BigEndian.AppendUint64(nil, uint64(host)))
				h.Write(key)
				*sum = max(h.Sum64(), pieceFails+1)
			}
		}
	}
	return sums
}

// keyOf gives the bytes that an encrypted image's key depends on: of a LUKS header
// all but what is there for people, and the first key slot, which is the one in use.
func keyOf(img *qcow2.Image) []byte {
	ext := img.Extension(qcow2.ExtCrypto)
	if img.Header.CryptMethod != qcow2.CryptLUKS || ext == nil || len(ext.Data) < qcow2.CryptoExtensionSize {
		return nil
	}
	at := qcow2.HostOffset(binary.BigEndian.Uint64(ext.Data))
	head := make([]byte, qcow2.LUKSHeaderSize)
	if img.ReadAt(head, at) != nil || string(head[:6]) != qcow2.LUKSMagic {
		return nil
	}
	l := qcow2.DecodeLUKSHeader(head)
	if l.Version != 1 || !l.KeySlots[0].Enabled() || l.KeyBytes > 1024 {
		return nil
	}
	off, n := l.KeySlots[0].Material(l.KeyBytes)
	if n > 1<<20 {
		return nil
	}
	material := make([]byte, n)
	if img.ReadAt(material, at+qcow2.HostOffset(off)) != nil {
		return nil
	}
	key := slices.Concat(head[:104], head[108:168], head[qcow2.LUKSFieldKeySlots:][:qcow2.LUKSKeySlotSize], material)
	return binary.BigEndian.AppendUint64(nil, max(maphash.Bytes(pieceSeed, key), 1))
}

// differs gives the parts that differ, in words; nil where all is the same.
func (r *reading) differs(is *reading) (what []string) {
	for i := range r.disks {
		if i >= len(is.disks) {
			what = append(what, diskName(i)+" is gone")
			continue
		}
		a, b := &r.disks[i], &is.disks[i]
		if a.label != b.label {
			what = append(what, fmt.Sprintf("%s is called %s", diskName(i), b.label))
		}
		if a.size != b.size || a.vmSize != b.vmSize {
			what = append(what, diskName(i)+" has another size")
		}
		if n, fails := wrongPieces(a.pieces, b.pieces); n > 0 {
			what = append(what, fmt.Sprintf("%s reads wrongly in %d bytes (%d of them not at all)", diskName(i), n*pieceSize, fails*pieceSize))
		}
		if n, _ := wrongPieces(a.vm, b.vm); n > 0 {
			what = append(what, fmt.Sprintf("the VM state of %s reads wrongly", diskName(i)))
		}
	}
	return what
}

func diskName(i int) string {
	if i == 0 {
		return "the disk"
	}
	return fmt.Sprintf("snapshot %d", i)
}

func wrongPieces(want, is []uint64) (n, fails int) {
	for k, sum := range want {
		if k >= len(is) {
			n++
		} else if is[k] != sum {
			n++
			if is[k] == pieceFails {
				fails++
			}
		}
	}
	return n, fails
}

// worse tells what one reading has as it should be, and a later one has not.
func (want *reading) worse(before, after *reading) (what []string) {
	piecesWorse := func(want, b, a []uint64) (n int) {
		for k, sum := range want {
			if k < len(b) && b[k] == sum && (k >= len(a) || a[k] != sum) {
				n++
			}
		}
		return n
	}
	for i := range want.disks {
		w := &want.disks[i]
		var b, a diskReading
		if i < len(before.disks) {
			b = before.disks[i]
		}
		if i < len(after.disks) {
			a = after.disks[i]
		}
		if n := piecesWorse(w.pieces, b.pieces, a.pieces) + piecesWorse(w.vm, b.vm, a.vm); n > 0 {
			what = append(what, fmt.Sprintf("%s: %d bytes could be read rightly before the repair", diskName(i), n*pieceSize))
		}
		if b.size == w.size && a.size != w.size || b.vmSize == w.vmSize && a.vmSize != w.vmSize {
			what = append(what, diskName(i)+" had the right size")
		}
		if b.label == w.label && a.label != w.label {
			what = append(what, diskName(i)+" had its name")
		}
	}
	for i := range want.bitmaps {
		w := &want.bitmaps[i]
		if b := before.bitmap(i, w.name); w.usable() && b != nil && w.same(b) {
			if a := after.bitmap(i, w.name); a == nil || !w.same(a) {
				what = append(what, fmt.Sprintf("bitmap %q could be used", w.name))
			}
		}
	}
	return what
}

// bitmap finds a bitmap by its name, or its place in the directory.
func (r *reading) bitmap(i int, name string) *bitmapReading {
	for k := range r.bitmaps {
		if r.bitmaps[k].name == name {
			return &r.bitmaps[k]
		}
	}
	if i < len(r.bitmaps) {
		return &r.bitmaps[i]
	}
	return nil
}

// same tells whether two bitmaps tell the same.
func (b *bitmapReading) same(c *bitmapReading) bool {
	return b.name == c.name && b.state == c.state && b.granularity == c.granularity && b.fails == c.fails && slices.Equal(b.dirty, c.dirty)
}

// otherBitmaps tells which bitmaps are not as they were.
func (want *reading) otherBitmaps(is *reading) (what []string) {
	for i := range want.bitmaps {
		w := &want.bitmaps[i]
		if b := is.bitmap(i, w.name); b == nil {
			what = append(what, fmt.Sprintf("bitmap %q is gone", w.name))
		} else if !w.same(b) {
			what = append(what, fmt.Sprintf("bitmap %q is another: %s, not %s", w.name, b.state, w.state))
		}
	}
	return what
}

// lostBits tells which bitmaps can be used although they miss dirty bits, or could
// not be used before.
func (want *reading) lostBits(is *reading) (what []string) {
	for i := range want.bitmaps {
		w := &want.bitmaps[i]
		switch b := is.bitmap(i, w.name); {
		case b == nil || !b.usable():
		case !w.usable():
			what = append(what, fmt.Sprintf("bitmap %q can be used, and could not", w.name))
		case !covers(b.dirty, w.dirty):
			what = append(what, fmt.Sprintf("bitmap %q misses dirty bits", w.name))
		}
	}
	return what
}

// covers tells whether ranges, in order, hold all of others.
func covers(all, some []qcow2.DirtyExtent) bool {
	for _, s := range some {
		i, ok := slices.BinarySearchFunc(all, s.Start, func(x qcow2.DirtyExtent, at qcow2.GuestOffset) int {
			return cmp.Compare(x.Start, at)
		})
		if !ok {
			i--
		}
		if i < 0 || uint64(all[i].Start)+all[i].Length < uint64(s.Start)+s.Length {
			return false
		}
	}
	return true
}

// checkStore checks an image in memory. The error is why it could not be.
func checkStore(ctx context.Context, s *corpus.Store, opts check.Options) (*check.Result, error) {
	img, err := qcow2.Open(s, s.Size())
	if err != nil {
		return nil, err
	}
	return check.Run(ctx, img, opts)
}
