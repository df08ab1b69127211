package corpus

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/qcheck/qcheck/qcow2"
)

// fill writes what the guest writes.
func (w Write) fill(s *Store) {
	if w.Noise {
		p := make([]byte, w.Length)
		rand.NewChaCha8([32]byte{w.Pattern}).Read(p)
		s.WriteAt(p, int64(w.Offset))
	} else {
		s.fill(int64(w.Offset), int64(w.Length), w.Pattern)
	}
	if !w.Stamp {
		return
	}
	var stamp [8]byte
	for at := (w.Offset + qcow2.SectorSize - 1) &^ (qcow2.SectorSize - 1); at+8 <= w.Offset+w.Length; at += qcow2.SectorSize {
		binary.BigEndian.PutUint64(stamp[:], at)
		s.WriteAt(stamp[:], int64(at))
	}
}

// writeCompressed stores what the guest sees of a cluster compressed; done is
// false when that is no smaller than the cluster.
func (b *builder) writeCompressed(gc uint64) (done bool, err error) {
	size := b.g.ClusterSize()
	p, err := compress(b.spec.Compression, b.guestBytes(gc*size, size))
	if err != nil || uint64(len(p)) >= size {
		return false, err
	}
	t, i := b.table(gc)
	b.free(t.e[i])
	off := b.allocBytes(uint64(len(p)))
	b.img.write(p, off)
	t.e[i] = b.g.NewCompressedEntry(off, uint64(len(p)))
	if t.sub != nil {
		t.sub[i] = 0
	}
	// One reference for each cluster that the sectors touch.
	d := b.g.Compressed(t.e[i])
	first, n := b.g.ClusterSpan(d.Offset, d.Length())
	b.addRefs(first, n, 1)
	return true, nil
}

// allocBytes finds room for n bytes, at most a cluster, of compressed data: behind
// the compressed data before it where that goes on in the next cluster, else in
// a new cluster. It adds no reference.
func (b *builder) allocBytes(n uint64) qcow2.HostOffset {
	off, size := b.compressedEnd, b.g.ClusterSize()
	in := uint64(off) % size
	// Space behind data that was given up meanwhile may belong to others.
	live := in != 0 && b.refcount(b.g.HostCluster(off)) != 0
	if !live || in+n > size {
		c := b.alloc(1)
		b.addRefs(c, 1, -1) // the reference comes with the entry
		if !live || c != b.g.HostCluster(off)+1 {
			off = b.g.HostOffset(c)
		}
		b.img.fill(int64(b.g.HostOffset(c)), int64(size), 0)
	}
	b.compressedEnd = off + qcow2.HostOffset(n)
	return off
}

// compress compresses a cluster as QEMU does: zlib is bare deflate with a window
// of 4 KiB, since QEMU's reader has no larger one.
func compress(typ qcow2.CompressionType, p []byte) ([]byte, error) {
	if typ == qcow2.CompressionZstd {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, err
		}
		defer w.Close()
		return w.EncodeAll(p, nil), nil
	}
	var buf bytes.Buffer
	w, err := flate.NewWriterWindow(&buf, 4096)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(p); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
