package qcow2

import "encoding/binary"

// RefcountBlock reads and writes the entries of a raw refcount block
// (specification: "Refcount block entry"), or of any piece of one that starts
// at a multiple of 8 bytes. It does not own the bytes.
//
// Entries of 1, 2 and 4 bits are packed into bytes from the least significant
// bit up (get_refcount_ro0 to get_refcount_ro2); entries of 16 bits and more
// are big-endian.
type RefcountBlock struct {
	Raw   []byte
	Order uint // RefcountOrder of the image, 0 to 6: entries are 1<<Order bits wide
}

// RefcountBlock makes the codec of a raw block of this image.
func (g Geometry) RefcountBlock(raw []byte) RefcountBlock {
	return RefcountBlock{Raw: raw, Order: g.RefcountOrder}
}

// Len is the number of whole entries in the block.
func (b RefcountBlock) Len() int {
	if b.Order < 3 {
		return len(b.Raw) << (3 - b.Order)
	}
	return len(b.Raw) >> (b.Order - 3)
}

// Max is the largest refcount that an entry can hold.
func (b RefcountBlock) Max() uint64 { return MaxRefcount(b.Order) }

// MaxRefcount is the largest refcount that an entry of 1<<order bits can hold.
func MaxRefcount(order uint) uint64 { return ^uint64(0) >> (64 - 1<<order) }

// Get reads entry i, which must be below Len.
func (b RefcountBlock) Get(i int) uint64 {
	switch b.Order {
	case 4:
		return uint64(binary.BigEndian.Uint16(b.Raw[2*i:]))
	case 3:
		return uint64(b.Raw[i])
	case 5:
		return uint64(binary.BigEndian.Uint32(b.Raw[4*i:]))
	case 6:
		return binary.BigEndian.Uint64(b.Raw[8*i:])
	}
	shift, mask := b.place(i)
	return uint64(b.Raw[i>>(3-b.Order)]>>shift) & mask
}

// Set writes entry i, which must be below Len. Of a value above Max only the
// low bits are stored; that it fits is for the caller to see to.
func (b RefcountBlock) Set(i int, refcount uint64) {
	switch b.Order {
	case 4:
		binary.BigEndian.PutUint16(b.Raw[2*i:], uint16(refcount))
		return
	case 3:
		b.Raw[i] = byte(refcount)
		return
	case 5:
		binary.BigEndian.PutUint32(b.Raw[4*i:], uint32(refcount))
		return
	case 6:
		binary.BigEndian.PutUint64(b.Raw[8*i:], refcount)
		return
	}
	shift, mask := b.place(i)
	p := &b.Raw[i>>(3-b.Order)]
	*p = *p&^(byte(mask)<<shift) | byte(refcount&mask)<<shift
}

// place tells where in its byte an entry narrower than a byte lies.
func (b RefcountBlock) place(i int) (shift uint, mask uint64) {
	perByte := uint(8) >> b.Order
	return uint(i) % perByte << b.Order, MaxRefcount(b.Order)
}
