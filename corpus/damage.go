package corpus

import (
	"encoding/binary"
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// Damage is one exact change of an image's bytes.
type Damage struct {
	text  string
	apply func(*Image) (qcow2.Extent, error)
}

// String says what the damage does.
func (d Damage) String() string { return d.text }

// Apply damages the image and gives the bytes that it has touched.
func (d Damage) Apply(img *Image) (qcow2.Extent, error) { return d.apply(img) }

func damage(apply func(*Image) (qcow2.Extent, error), format string, args ...any) Damage {
	return Damage{fmt.Sprintf(format, args...), apply}
}

// change makes a damage of what f does with the bytes of a place.
func change(p Place, f func(img *Image, b []byte) error, format string, args ...any) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		if err != nil {
			return x, err
		}
		b := make([]byte, x.Length)
		img.read(b, int64(x.Offset))
		if err := f(img, b); err != nil {
			return x, err
		}
		img.write(b, x.Offset)
		return x, nil
	}, format, args...)
}

// number changes a place of at most 8 bytes, taken as a big-endian number.
func number(p Place, f func(uint64) uint64, format string, args ...any) Damage {
	return change(p, func(_ *Image, b []byte) error {
		var word [8]byte
		if len(b) > len(word) {
			return fmt.Errorf("%d bytes are not one number", len(b))
		}
		at := len(word) - len(b)
		copy(word[at:], b)
		putUint64(word[:], f(binary.BigEndian.Uint64(word[:])))
		copy(b, word[at:])
		return nil
	}, format, args...)
}

// Set writes a number to a field.
func Set(p Place, v uint64) Damage {
	return number(p, func(uint64) uint64 { return v }, "set %s to %#x", p, v)
}

// Add adds to the number in a field; it may wrap.
func Add(p Place, delta int64) Damage {
	return number(p, func(old uint64) uint64 { return old + uint64(delta) }, "add %d to %s", delta, p)
}

// SetBits sets bits of a field.
func SetBits(p Place, mask uint64) Damage {
	return number(p, func(old uint64) uint64 { return old | mask }, "set bits %#x in %s", mask, p)
}

// ClearBits clears bits of a field.
func ClearBits(p Place, mask uint64) Damage {
	return number(p, func(old uint64) uint64 { return old &^ mask }, "clear bits %#x in %s", mask, p)
}

// FlipBits inverts bits of a field.
func FlipBits(p Place, mask uint64) Damage {
	return number(p, func(old uint64) uint64 { return old ^ mask }, "flip bits %#x in %s", mask, p)
}

// Wipe fills a place with zeros.
func Wipe(p Place) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		if err == nil {
			img.fill(int64(x.Offset), int64(x.Length), 0)
		}
		return x, err
	}, "fill %s with zeros", p)
}

// Put writes bytes to the start of a place.
func Put(p Place, data []byte) Damage {
	what := fmt.Sprintf("%q", data)
	if len(data) > 32 {
		what = fmt.Sprintf("%d bytes", len(data))
	}
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		x.Length = uint64(len(data))
		if err == nil {
			img.write(data, x.Offset)
		}
		return x, err
	}, "write %s to %s", what, p)
}

// Copy copies the bytes of one place to the start of another.
func Copy(to, from Place) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		src, err := img.Find(from)
		if err != nil {
			return src, err
		}
		dst, err := img.Find(to)
		if err != nil {
			return dst, err
		}
		b := make([]byte, src.Length)
		img.read(b, int64(src.Offset))
		img.write(b, dst.Offset)
		return qcow2.Extent{Offset: dst.Offset, Length: src.Length}, nil
	}, "copy %s to %s", from, to)
}

// Swap exchanges the bytes of two places of one length. The touched bytes that
// it tells are those of the first.
func Swap(p, q Place) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		if err != nil {
			return x, err
		}
		y, err := img.Find(q)
		if err != nil || x.Length != y.Length {
			return y, fmt.Errorf("%s and %s cannot be exchanged (%w)", p, q, err)
		}
		a, b := make([]byte, x.Length), make([]byte, y.Length)
		img.read(a, int64(x.Offset))
		img.read(b, int64(y.Offset))
		img.write(b, x.Offset)
		img.write(a, y.Offset)
		return x, nil
	}, "exchange %s and %s", p, q)
}

// Truncate cuts the file at the start of a place, or that many bytes behind it.
func Truncate(p Place, behind uint64) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		if err != nil {
			return x, err
		}
		cut := x.Offset + qcow2.HostOffset(behind)
		x = qcow2.Extent{Offset: cut, Length: uint64(img.Size()) - uint64(cut)}
		img.Truncate(int64(cut))
		return x, nil
	}, "cut the file %d bytes behind the start of %s", behind, p)
}

// Extend makes the file longer, to size bytes, with a hole.
func Extend(size int64) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x := qcow2.Extent{Offset: qcow2.HostOffset(img.Size()), Length: uint64(size - img.Size())}
		if size < img.Size() {
			return x, fmt.Errorf("the file is longer")
		}
		img.Truncate(size)
		return x, nil
	}, "make the file %d bytes long", size)
}

// SetRefcount sets the refcount of every cluster of a place.
func SetRefcount(p Place, v uint64) Damage {
	return refcounts(p, func(uint64) uint64 { return v }, "set the refcount of %s to %d", p, v)
}

// AddRefcount adds to the refcount of every cluster of a place.
func AddRefcount(p Place, delta int64) Damage {
	return refcounts(p, func(old uint64) uint64 { return old + uint64(delta) }, "add %d to the refcount of %s", delta, p)
}

func refcounts(p Place, f func(uint64) uint64, format string, args ...any) Damage {
	return damage(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		if err != nil {
			return x, err
		}
		first, n := img.g.ClusterSpan(x.Offset, x.Length)
		for c := first; c < first+qcow2.HostCluster(n); c++ {
			if err := img.changeRefcount(c, f); err != nil {
				return x, err
			}
		}
		return img.Find(RefcountOf(p))
	}, format, args...)
}

func (img *Image) changeRefcount(c qcow2.HostCluster, f func(uint64) uint64) error {
	x, err := img.refcountAt(c)
	if err != nil {
		return err
	}
	b := make([]byte, x.Length)
	img.read(b, int64(x.Offset))
	// The entry's place among those that share the byte.
	in := uint64(c) % (8 / min(8, uint64(img.g.RefcountBits())))
	v := f(getRefcount(b, img.g.RefcountOrder, in))
	if bits := img.g.RefcountBits(); bits < 64 && v>>bits != 0 {
		return fmt.Errorf("a refcount of %d bits cannot be %d", bits, v)
	}
	putRefcount(b, img.g.RefcountOrder, in, v)
	img.write(b, x.Offset)
	return nil
}

// getRefcount reads entry i of a refcount block.
func getRefcount(block []byte, order uint, i uint64) (v uint64) {
	if order >= 3 {
		n := uint64(1) << (order - 3)
		for _, b := range block[i*n : i*n+n] {
			v = v<<8 | uint64(b)
		}
		return v
	}
	width := uint64(1) << order
	return uint64(block[i*width/8]) >> (i * width % 8) & (1<<width - 1)
}

const offsetBits = 0x00ff_ffff_ffff_fe00 // bits 9-55: the offset in most entries

// Point makes an entry (of an L1, L2 or bitmap table) point to a place; its
// other bits stay.
func Point(entry, to Place) Damage { return PointAt(entry, to, 0) }

// PointAt is [Point] to off bytes behind the start of a place.
func PointAt(entry, to Place, off uint64) Damage {
	return change(entry, func(img *Image, b []byte) error {
		x, err := img.Find(to)
		if err != nil {
			return err
		}
		old := binary.BigEndian.Uint64(b)
		putUint64(b, old&^offsetBits|(uint64(x.Offset)+off)&offsetBits)
		return nil
	}, "point %s to %d bytes behind the start of %s", entry, off, to)
}

// SetOffset makes a field hold the offset of a place, plus off bytes.
func SetOffset(field, to Place, off uint64) Damage {
	return change(field, func(img *Image, b []byte) error {
		x, err := img.Find(to)
		if err != nil {
			return err
		}
		putUint64(b, uint64(x.Offset)+off)
		return nil
	}, "set %s to the offset of %s plus %d", field, to, off)
}
