package repair

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

func putWord(b []byte, v uint64) { binary.BigEndian.PutUint64(b, v) }
func word64(b []byte) uint64     { return binary.BigEndian.Uint64(b) }
func putHalf(b []byte, v uint32) { binary.BigEndian.PutUint32(b, v) }

// write makes the directory and the extension what was decided.
func (f *bitmapFixer) write() (changed bool, err error) {
	var kept []*bitmapFix
	codes := slices.Clone(f.codes)
	moved := f.stale
	if f.directoryOverData() {
		moved = true
		codes = append(codes, problem.BitmapOverlap)
	}
	offset, size := f.ext.DirectoryOffset, uint64(0)
	for _, b := range f.bitmaps {
		if b.drop != "" {
			codes = append(codes, b.settles()...)
			moved = true
			continue
		}
		// Entries that follow each other as they did can stay.
		moved = moved || b.what != "" || b.raw == nil || b.EntryOffset != offset+qcow2.HostOffset(size)
		if b.what != "" {
			codes = append(codes, b.settles()...)
		}
		size += uint64(len(b.out))
		kept = append(kept, b)
	}
	for _, m := range f.missing {
		codes = append(codes, m.Code)
	}
	slices.Sort(codes)
	codes = slices.Compact(codes)
	if len(kept) == 0 {
		f.nameLost()
		if len(f.bitmaps) == 0 && len(f.missing) == 0 {
			f.lose("every bitmap: the bitmap directory cannot be found")
		}
		f.dropOld()
		return true, f.removeExtension(codes...)
	}
	if size > qcow2.MaxBitmapDirectorySize || moved && !f.ev.Complete {
		return false, nil
	}
	if moved {
		f.dropOld()
		if offset, err = f.newDirectory(kept, codes); err != nil {
			return false, err
		}
	} else if !f.directoryShared() {
		if changed, err = f.tidy(kept); err != nil {
			return changed, err
		}
	}
	ext := qcow2.BitmapsExtension{NbBitmaps: uint32(len(kept)), DirectorySize: size, DirectoryOffset: offset}
	if ext != f.ext {
		f.nameLost()
		changed = true
		why := intent{reason: "say where the bitmap directory is, and how large", codes: codes}
		if err := f.o.write(f.at.DataOffset(), ext.Encode(), why); err != nil {
			return true, err
		}
	}
	if f.stale {
		return true, f.setAutoclear(true, problem.BitmapsStale, "say that the bitmaps are what their entries say")
	}
	return changed, nil
}

// nameLost names the bitmaps that are removed.
func (f *bitmapFixer) nameLost() {
	for _, b := range f.bitmaps {
		if b.drop != "" {
			f.lose("%s: %s", b.label(), b.drop)
			f.said.Bitmaps = append(f.said.Bitmaps, string(b.Name))
		}
	}
	for _, m := range f.missing {
		f.lose("a bitmap: %s", m.Message)
	}
}

// directoryShared tells whether the directory lies where something else is. It
// stays there if it holds its entries: then it is the other one that was led astray.
func (f *bitmapFixer) directoryShared() bool {
	x := qcow2.Extent{Offset: f.ext.DirectoryOffset, Length: min(f.ext.DirectorySize, qcow2.MaxBitmapDirectorySize)}
	first, n := f.g.ClusterSpan(x.Offset, x.Length)
	for cl := first; cl < first+qcow2.HostCluster(n); cl++ {
		if f.ev.Counts.Get(cl) > 1 {
			return true
		}
	}
	return f.shared(x)
}

// directoryOverData tells whether guest data, and nothing else, is said to lie where
// the directory is: then the directory can go elsewhere, before a guest writes over it.
func (f *bitmapFixer) directoryOverData() bool {
	return f.directoryShared() && !f.stale && len(f.ev.Doubts) > 0 && !slices.ContainsFunc(f.ev.Doubts, func(d check.Doubt) bool {
		return d.Owner.Structure != problem.StructDataCluster
	})
}

// newDirectory writes the new tables and the directory to fresh clusters.
func (f *bitmapFixer) newDirectory(kept []*bitmapFix, codes []problem.Code) (qcow2.HostOffset, error) {
	f.alloc = newAllocator(f.session)
	size := uint64(0)
	for _, b := range kept {
		if b.table != tableKept {
			if err := f.newTable(b); err != nil {
				return 0, err
			}
			b.out = b.Encode()
		}
		size += uint64(len(b.out))
	}
	n := f.g.Clusters(size)
	off, err := f.alloc.take(n)
	if err != nil {
		return 0, err
	}
	raw := make([]byte, n*f.g.ClusterSize())
	if err := f.o.write(off, raw, intent{reason: "a new bitmap directory", codes: codes}); err != nil {
		return 0, err
	}
	at := off
	for _, b := range kept {
		why := intent{reason: "keep " + b.label(), codes: codes}
		if b.what != "" {
			why.reason, why.codes = b.label()+": "+b.what, b.settles()
		}
		if err := f.o.write(at, b.out, why); err != nil {
			return 0, err
		}
		at += qcow2.HostOffset(len(b.out))
	}
	return off, nil
}

// tidy clears bits of directory entries that mean nothing.
func (f *bitmapFixer) tidy(kept []*bitmapFix) (changed bool, err error) {
	for _, b := range kept {
		if bytes.Equal(b.out, b.raw) {
			continue
		}
		changed = true
		why := intent{reason: b.label() + ": clear reserved bits", codes: b.tidy}
		if err := f.o.write(b.EntryOffset, b.out, why); err != nil {
			return changed, err
		}
	}
	return changed, nil
}
