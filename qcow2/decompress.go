package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Causes of a failed [Decompress].
var (
	// ErrCompressionType means a compression type that the specification does
	// not know.
	ErrCompressionType = errors.New("unknown compression type")
	// ErrCompressedData means that the data does not decompress to a cluster.
	ErrCompressedData = errors.New("compressed data is damaged")
)

// Decompress fills dst, a cluster, from the compressed data in src. Since the
// length of compressed data is only known in sectors, src may go on after it;
// what follows is ignored. Exactly len(dst) bytes are produced or it is an
// error, and no memory is allocated for what the data claims to decompress to.
//
// Zlib data is a raw deflate stream, of which anything beyond the cluster is
// ignored unless it is no deflate stream at all; zstd data is one or several frames that end with the cluster, as
// QEMU demands it.
func Decompress(typ CompressionType, dst, src []byte) error {
	switch typ {
	case CompressionZlib:
		return inflate(dst, src)
	case CompressionZstd:
		return unzstd(dst, src)
	}
	return fmt.Errorf("%w %d", ErrCompressionType, typ)
}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}

func inflate(dst, src []byte) error {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
		return err
	}
	if n, err := io.ReadFull(r, dst); err != nil {
		return fmt.Errorf("%w after %d bytes: %w", ErrCompressedData, n, err)
	}
	// What follows does not matter, unless it makes no sense: then QEMU fails although the
	// cluster is whole, as where a flipped bit says that another block comes.
	var bad flate.CorruptInputError
	var one [1]byte
	if _, err := r.Read(one[:]); errors.As(err, &bad) {
		return fmt.Errorf("%w behind the %d bytes of the cluster: %w", ErrCompressedData, len(dst), err)
	}
	return nil
}

// zstdMaxWindow is the largest window that libzstd, and so QEMU, decodes. It is
// only compared with: no window is allocated, since the cluster is the window.
const zstdMaxWindow = 1 << 27

var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderMaxWindow(zstdMaxWindow),
		zstd.WithDecoderMaxMemory(zstdMaxWindow),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true))
})

func unzstd(dst, src []byte) error {
	dec, err := zstdDecoder()
	if err != nil {
		return err
	}
	out := dst[:0:len(dst)]
	for len(out) < len(dst) {
		// Cut to the frame: another compressed cluster may start right behind
		// it, which the decoder would take for more of the same.
		n, ok := zstdFrame(src)
		if !ok {
			return fmt.Errorf("%w after %d bytes: no whole frame", ErrCompressedData, len(out))
		}
		if out, err = dec.DecodeAll(src[:n], out); err != nil {
			return fmt.Errorf("%w after %d bytes: %w", ErrCompressedData, len(out), err)
		}
		src = src[n:]
	}
	return nil
}

const (
	zstdMagic         = 0xfd2fb528
	zstdSkippable     = 0x184d2a50 // and the 15 above it
	zstdBlockHead     = 3
	zstdChecksumSize  = 4
	zstdBlockRLE      = 1
	zstdBlockReserved = 3
)

// zstdFrame gives the length of the frame at the start of src (RFC 8878,
// section 3.1); ok is false when src does not hold all of it.
func zstdFrame(src []byte) (length int, ok bool) {
	if len(src) < 8 {
		return 0, false
	}
	le := binary.LittleEndian
	if magic := le.Uint32(src); magic&^0xf == zstdSkippable {
		n := 8 + uint64(le.Uint32(src[4:]))
		return int(n), n <= uint64(len(src))
	} else if magic != zstdMagic {
		return 0, false
	}
	descriptor := src[4]
	singleSegment := descriptor&0x20 != 0
	at := 5
	if !singleSegment {
		at++ // window descriptor
	}
	at += [4]int{0, 1, 2, 4}[descriptor&3] // dictionary ID
	switch size := descriptor >> 6; {
	case size != 0:
		at += 1 << size
	case singleSegment:
		at++
	}
	for {
		if at+zstdBlockHead > len(src) {
			return 0, false
		}
		head := int(src[at]) | int(src[at+1])<<8 | int(src[at+2])<<16
		last, typ, size := head&1 != 0, head>>1&3, head>>3
		switch typ {
		case zstdBlockRLE:
			size = 1
		case zstdBlockReserved:
			return 0, false
		}
		at += zstdBlockHead + size
		if last {
			break
		}
	}
	if descriptor&4 != 0 {
		at += zstdChecksumSize
	}
	return at, at <= len(src)
}
