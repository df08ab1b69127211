package repair

import (
	"context"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// maxCompressedTried is how many compressed clusters are decompressed to tell which
// compression they have.
const maxCompressedTried = 64

// fixCompression makes the compression type and its feature bit agree. What the
// compressed clusters are tells their content: all of those that are tried must
// decompress in one way and not in the other. Without any it is zlib, which every
// reader knows.
func (s *session) fixCompression(ctx context.Context) (bool, error) {
	if !s.opts.everything() || s.headerShared() || s.h.Version < 3 {
		return false, nil
	}
	var f *problem.Finding
	for i := range s.ev.Findings {
		if x := &s.ev.Findings[i]; x.Code == problem.CompressionTypeContradiction && x.Repair == problem.RepairSafe {
			f = x
		}
	}
	if f == nil {
		return false, nil
	}
	zlib, zstd, err := s.tryCompressed(ctx)
	if err != nil || !zlib && !zstd {
		return false, err
	}
	codes := []problem.Code{f.Code}
	features, typ := s.h.IncompatibleFeatures&^qcow2.IncompatCompression, qcow2.CompressionZlib
	if !zlib {
		features |= qcow2.IncompatCompression
		typ = qcow2.CompressionZstd
		if s.h.HeaderLength <= qcow2.FieldCompressionType {
			return false, nil // there is no room for the type
		}
	}
	if err := s.setField64(qcow2.FieldIncompatibleFeatures, uint64(features), f, "say whether the compression is not zlib"); err != nil {
		return false, err
	}
	if s.h.HeaderLength > qcow2.FieldCompressionType {
		return true, s.o.write(qcow2.FieldCompressionType, []byte{byte(typ)}, intent{reason: "say which compression it is", codes: codes})
	}
	return true, nil
}

// tryCompressed tells which of the two compressions the compressed clusters can have:
// both where there are none.
func (s *session) tryCompressed(ctx context.Context) (zlib, zstd bool, err error) {
	tried := 0
	zlibs, zstds := 0, 0
	dst := make([]byte, s.g.ClusterSize())
	for l := range s.l1Tables() {
		for _, e := range qcow2.ReadL1(s.img, l.offset, l.entries).All() {
			if ctx.Err() != nil {
				return false, false, ctx.Err()
			}
			if e.Offset() == 0 || !s.g.Aligned(e.Offset()) || s.g.PastEnd(e.Offset(), s.g.ClusterSize(), s.img.Size()) {
				continue
			}
			raw, err := s.bytes(qcow2.Extent{Offset: e.Offset(), Length: s.g.ClusterSize()})
			if err != nil {
				continue
			}
			for i := uint64(0); i < uint64(len(raw)) && tried < maxCompressedTried; i += s.g.L2EntrySize() {
				entry := qcow2.L2Entry(word64(raw[i:]))
				if !entry.Compressed() {
					continue
				}
				d := s.g.Compressed(entry)
				if s.g.PastEnd(d.Offset, d.Length(), s.img.Size()) {
					continue
				}
				src, err := s.bytes(qcow2.Extent{Offset: d.Offset, Length: d.Length()})
				if err != nil {
					continue
				}
				tried++
				if qcow2.Decompress(qcow2.CompressionZlib, dst, src) == nil {
					zlibs++
				}
				if qcow2.Decompress(qcow2.CompressionZstd, dst, src) == nil {
					zstds++
				}
			}
		}
		if tried == maxCompressedTried {
			break
		}
	}
	if tried == 0 {
		return true, true, nil
	}
	return zlibs == tried && zstds == 0, zstds == tried && zlibs == 0, nil
}
