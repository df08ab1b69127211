package check

import (
	"bytes"
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// checkData tests the data of bitmaps. What a bitmap that is in use holds is not
// judged, since nobody goes by it. No cluster is read twice.
func (p *bitmapsPass) checkData() error {
	for i, b := range p.bitmaps {
		if i%ctxStride == 0 && p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		if b.judged() && !b.shared {
			p.checkTail(b)
		}
	}
	if p.opts.BitmapData {
		return p.checkAllData()
	}
	return nil
}

// judged tells that the bitmap's data means something.
func (b *bitmap) judged() bool {
	return b.entries > 0 && !b.partial && !b.Flags.Has(qcow2.BitmapInUse)
}

// bitsInLast is how many bits of the bitmap lie in its last cluster. The
// specification counts a last sector that is cut, QEMU does not; a bit for it
// is no tail bit.
func (p *bitmapsPass) bitsInLast(b *bitmap) uint64 {
	perCluster := p.g.ClusterSize() * 8
	bits := qcow2.BitmapBits(p.h.Size, uint(b.GranularityBits))
	return min(bits-(b.needed-1)*perCluster, perCluster)
}

// checkTail tests that the bits after the last one, up to the end of its
// cluster, are zero. A cluster of ones that is not stored has no tail.
func (p *bitmapsPass) checkTail(b *bitmap) {
	offset := b.last.Offset()
	if !b.sized || offset == 0 || p.entryFaults(b.last)&^(badLow|badHigh) != 0 {
		return
	}
	used := p.bitsInLast(b)
	skip := used / 8 // whole bytes in use
	x := at(offset+qcow2.HostOffset(skip), p.g.ClusterSize()-skip)
	if x.Length == 0 || p.img.IsHole(x.Offset, x.Length) {
		return
	}
	tail, err := p.readData(x)
	if err != nil {
		p.unreadable(b, b.needed-1, x, err)
		return
	}
	tail[0] &^= 1<<(used%8) - 1
	first := len(tail) - len(bytes.TrimLeft(tail, "\x00"))
	if first == len(tail) {
		return
	}
	last := len(bytes.TrimRight(tail, "\x00"))
	p.report(problem.Finding{
		Code: problem.BitmapTrailingBits, Extent: at(x.Offset+qcow2.HostOffset(first), last-first), Bitmap: b.name, Path: problem.ToBitmapTableEntry(b.needed - 1),
		Value: problem.Words(fmt.Sprintf("0x%02x", tail[first])), Expected: problem.Words("0x00"),
		Message: problem.Say("%s: bits are set after its last one, number %d, at the end of the cluster at %v", b.label(), (b.needed-1)*p.g.ClusterSize()*8+used-1, offset),
	})
}

// dataChunk is how many bytes of data are read at a time.
const dataChunk = 1 << 20

// readData reads data into a buffer that is used over and over.
func (p *bitmapsPass) readData(x qcow2.Extent) ([]byte, error) {
	if uint64(cap(p.buf)) < x.Length {
		p.buf = make([]byte, x.Length)
	}
	b := p.buf[:x.Length]
	return b, p.img.ReadAt(b, x.Offset)
}

// unreadable reports data that could not be read.
func (p *bitmapsPass) unreadable(b *bitmap, entry uint64, x qcow2.Extent, err error) {
	t := troubleFinding(b.dataOwner(qcow2.Extent{}), x, err)
	t.Code, t.Path = problem.BitmapDataUnreadable, problem.ToBitmapTableEntry(entry)
	p.report(t)
	b.spoil("some of its data cannot be read")
}

// checkAllData reads all data that is stored and points out clusters that could
// be table entries, and such that cannot be read. The runs are in the order of
// the file; what an earlier one has of a run is left out.
func (p *bitmapsPass) checkAllData() error {
	var done, total uint64
	for i := range p.runs {
		if p.runs[i].kind == runData {
			total += uint64(p.runs[i].n) << p.g.ClusterBits
		}
	}
	perChunk := max(dataChunk>>p.g.ClusterBits, 1)
	read := uint64(0) // clusters before it have been looked at
	for i := range p.runs {
		r := &p.runs[i]
		if r.kind != runData {
			continue
		}
		b := p.bitmaps[r.bitmap]
		for cl := max(r.first, read); cl < r.end() && b.judged(); {
			if err := p.ctx.Err(); err != nil {
				return err
			}
			n := min(r.end()-cl, uint64(perChunk))
			p.checkClusters(b, uint64(r.entry)+cl-r.first, cl, n)
			cl += n
		}
		read = max(read, r.end())
		done += uint64(r.n) << p.g.ClusterBits
		p.progress("bitmaps", done, total)
	}
	return nil
}

// checkClusters looks into n clusters of a bitmap's data, which the table
// entries from entry on name.
func (p *bitmapsPass) checkClusters(b *bitmap, entry, first, n uint64) {
	size := p.g.ClusterSize()
	x := at(p.g.HostOffset(qcow2.HostCluster(first)), n*size)
	if p.img.IsHole(x.Offset, x.Length) {
		for i := range n {
			p.reportUniform(b, entry+i, x.Offset+qcow2.HostOffset(i*size), "zeros")
		}
		return
	}
	data, err := p.readData(x)
	if err != nil && n > 1 {
		for i := range n { // only some of them are at fault
			p.checkClusters(b, entry+i, first+i, 1)
		}
		return
	}
	if err != nil {
		p.unreadable(b, entry, x, err)
		return
	}
	for i := range n {
		if kind := p.uniform(b, entry+i, data[i*size:(i+1)*size]); kind != "" {
			p.reportUniform(b, entry+i, x.Offset+qcow2.HostOffset(i*size), kind)
		}
	}
}

// uniform tells whether all bits of a cluster are the same: "zeros", "ones", or
// empty. In the last cluster of a bitmap only its bits count; ones that do not
// fill the last word are not to be an entry, since QEMU takes the whole word of
// such an entry for set, and stores bits behind the bitmap's last one.
func (p *bitmapsPass) uniform(b *bitmap, entry uint64, data []byte) string {
	bits := uint64(len(data)) * 8
	if b.sized && entry == b.needed-1 {
		bits = p.bitsInLast(b)
	}
	whole, rest := data[:bits/8], data[bits/8:]
	last := byte(0)
	if len(rest) > 0 {
		last = rest[0] & (1<<(bits%8) - 1)
	}
	switch {
	case last == 0 && sniff.Zero(whole):
		return DataZeros
	case bits%64 == 0 && len(bytes.TrimLeft(whole, "\xff")) == 0:
		return DataOnes
	}
	return ""
}

// What a cluster of bitmap data that need not be stored holds ([problem.BitmapDataUniform]).
const (
	DataZeros = "zeros"
	DataOnes  = "ones"
)

func (p *bitmapsPass) reportUniform(b *bitmap, entry uint64, o qcow2.HostOffset, kind string) {
	if p.Unlisted(problem.BitmapDataUniform, 0, 1) {
		return
	}
	p.report(problem.Finding{
		Code: problem.BitmapDataUniform, Extent: at(o, p.g.ClusterSize()), Bitmap: b.name, Path: problem.ToBitmapTableEntry(entry), Value: problem.Words(kind),
		Message: problem.Say("%s: the data cluster at %v holds only %s and could be a table entry instead", b.label(), o, kind),
	})
}
