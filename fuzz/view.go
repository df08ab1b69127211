package fuzz

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// view is an image as a mutation finds it: whatever of its structures can still be
// found from the bytes.
type view struct {
	rnd  *rand.Rand
	s    *corpus.Store
	img  *qcow2.Image
	h    *qcow2.Header
	g    qcow2.Geometry
	size uint64 // of the file

	snapshots []qcow2.Snapshot
	ext       *qcow2.Extension // the bitmaps extension
	bitmaps   []qcow2.BitmapEntry
}

// field is bytes with a meaning.
type field struct {
	name string
	at   uint64
	n    uint64 // bytes, 1 to 8
	mask uint64 // the bits of an offset in it; 0 where it holds none
}

// offsetMask are the bits of the offset in most entries.
const offsetMask = 0x00ff_ffff_ffff_fe00

// look reads what there is of an image; ok is false where it is none any more.
func look(rnd *rand.Rand, s *corpus.Store) (v *view, ok bool) {
	img, err := qcow2.Open(s, s.Size())
	if err != nil {
		return nil, false
	}
	v = &view{rnd: rnd, s: s, img: img, h: &img.Header, g: img.Geometry, size: uint64(s.Size())}
	if !img.GeometryOK {
		// A header can still be changed.
		return v, true
	}
	const most = 16 // snapshots and bitmaps that are told apart
	if h := *v.h; h.NbSnapshots > 0 {
		t := qcow2.ReadSnapshotTable(img)
		v.snapshots = t.Snapshots[:min(most, len(t.Snapshots))]
	}
	if v.ext = img.Extension(qcow2.ExtBitmaps); v.ext != nil && len(v.ext.Data) >= qcow2.BitmapsExtensionSize {
		d := qcow2.ReadBitmapDirectory(img, qcow2.DecodeBitmapsExtension(v.ext.Data))
		v.bitmaps = d.Entries[:min(most, len(d.Entries))]
	}
	return v, true
}

// number reads a field.
func (v *view) number(f field) uint64 {
	var word [8]byte
	copy(word[8-f.n:], read(v.s, f.at, f.n))
	return binary.BigEndian.Uint64(word[:])
}

// inside tells whether a field lies in the file.
func (v *view) inside(f field) bool { return qcow2.RangeFits(f.at, f.n, v.size) }

var headerFields = []struct {
	name  string
	at, n uint64
	mask  uint64
}{
	{"version", qcow2.FieldVersion, 4, 0},
	{"backing_file_offset", qcow2.FieldBackingFileOffset, 8, ^uint64(0)},
	{"backing_file_size", qcow2.FieldBackingFileSize, 4, 0},
	{"cluster_bits", qcow2.FieldClusterBits, 4, 0},
	{"size", qcow2.FieldSize, 8, 0},
	{"crypt_method", qcow2.FieldCryptMethod, 4, 0},
	{"l1_size", qcow2.FieldL1Size, 4, 0},
	{"l1_table_offset", qcow2.FieldL1TableOffset, 8, ^uint64(0)},
	{"refcount_table_offset", qcow2.FieldRefcountTableOffset, 8, ^uint64(0)},
	{"refcount_table_clusters", qcow2.FieldRefcountTableClusters, 4, 0},
	{"nb_snapshots", qcow2.FieldNbSnapshots, 4, 0},
	{"snapshots_offset", qcow2.FieldSnapshotsOffset, 8, ^uint64(0)},
	{"incompatible_features", qcow2.FieldIncompatibleFeatures, 8, 0},
	{"compatible_features", qcow2.FieldCompatibleFeatures, 8, 0},
	{"autoclear_features", qcow2.FieldAutoclearFeatures, 8, 0},
	{"refcount_order", qcow2.FieldRefcountOrder, 4, 0},
	{"header_length", qcow2.FieldHeaderLength, 4, 0},
	{"compression_type", qcow2.FieldCompressionType, 1, 0},
}

func (v *view) headerField() (field, bool) {
	f := headerFields[v.rnd.IntN(len(headerFields))]
	if v.h.Version == 2 && f.at >= qcow2.FieldIncompatibleFeatures {
		return field{}, false // extensions stand there
	}
	return field{"header field " + f.name, f.at, f.n, f.mask}, true
}

func (v *view) extensionField() (field, bool) {
	if len(v.img.Extensions) == 0 {
		return field{}, false
	}
	i := v.rnd.IntN(len(v.img.Extensions))
	e := &v.img.Extensions[i]
	at, data := uint64(e.Offset), uint64(e.DataOffset())
	name := fmt.Sprintf("header extension %d (%#x)", i, uint32(e.Type))
	switch v.rnd.IntN(5) {
	case 0:
		return field{"the type of " + name, at, 4, 0}, true
	case 1:
		return field{"the length of " + name, at + 4, 4, 0}, true
	}
	if len(e.Data) == 0 {
		return field{}, false
	}
	n := min(uint64(len(e.Data)), []uint64{1, 4, 8}[v.rnd.IntN(3)])
	k := v.rnd.Uint64N(uint64(len(e.Data))/n) * n
	return field{fmt.Sprintf("byte %d of %s", k, name), data + k, n, ^uint64(0)}, true
}

// table is a table of 64-bit entries.
type table struct {
	name    string
	at      uint64
	entries uint64
	mask    uint64
	step    uint64 // bytes of an entry
}

func (v *view) l1Table() (table, bool) {
	if n := len(v.snapshots); n > 0 && v.rnd.IntN(3) == 0 {
		s := &v.snapshots[v.rnd.IntN(n)]
		return v.fit(table{"the L1 table of snapshot " + fmt.Sprintf("%q", s.ID), uint64(s.L1TableOffset), uint64(s.L1Size), offsetMask, 8})
	}
	return v.fit(table{"the L1 table", uint64(v.h.L1TableOffset), uint64(v.h.L1Size), offsetMask, 8})
}

// fit cuts a table to the file.
func (v *view) fit(t table) (table, bool) {
	if t.at >= v.size {
		return t, false
	}
	t.entries = min(t.entries, (v.size-t.at)/t.step)
	return t, t.entries > 0
}

func (v *view) l2Table() (table, bool) {
	l1, ok := v.l1Table()
	if !ok {
		return table{}, false
	}
	_, e, ok := v.entry(l1)
	if !ok {
		return table{}, false
	}
	off := v.number(e) & offsetMask
	if off == 0 {
		return table{}, false
	}
	return v.fit(table{"the L2 table of " + e.name, off, v.g.L2Entries(), offsetMask, v.g.L2EntrySize()})
}

func (v *view) refcountTable() (table, bool) {
	n := uint64(v.h.RefcountTableClusters) * v.g.ClusterSize() / 8
	return v.fit(table{"the refcount table", uint64(v.h.RefcountTableOffset), n, ^uint64(511), 8})
}

func (v *view) bitmapTable() (table, bool) {
	if len(v.bitmaps) == 0 {
		return table{}, false
	}
	b := &v.bitmaps[v.rnd.IntN(len(v.bitmaps))]
	return v.fit(table{fmt.Sprintf("the table of bitmap %q", b.Name), uint64(b.TableOffset), uint64(b.TableSize), offsetMask, 8})
}

func (v *view) anyTable() (table, bool) {
	return []func() (table, bool){v.l1Table, v.l2Table, v.l2Table, v.refcountTable, v.bitmapTable}[v.rnd.IntN(5)]()
}

// entry chooses an entry: mostly one of those in use, if some can be found quickly.
func (v *view) entry(t table) (i uint64, f field, ok bool) {
	i = v.rnd.Uint64N(t.entries)
	if v.rnd.IntN(4) > 0 {
		const far = 1024
		var used []uint64
		b := read(v.s, t.at, min(t.entries, far)*t.step)
		for k := uint64(0); k+8 <= uint64(len(b)); k += t.step {
			if binary.BigEndian.Uint64(b[k:]) != 0 {
				used = append(used, k/t.step)
			}
		}
		if len(used) > 0 {
			i = used[v.rnd.IntN(len(used))]
		}
	}
	f = field{fmt.Sprintf("entry %d of %s", i, t.name), t.at + i*t.step, 8, t.mask}
	return i, f, v.inside(f)
}

func (v *view) entryField() (field, bool) {
	t, ok := v.anyTable()
	if !ok {
		return field{}, false
	}
	_, f, ok := v.entry(t)
	if ok && t.step == 16 && v.rnd.IntN(3) == 0 {
		f = field{"the subcluster bitmap of " + f.name, f.at + 8, 8, 0}
	}
	return f, ok
}

func (v *view) refcountField() (field, bool) {
	t, ok := v.refcountTable()
	if !ok || !v.h.RefcountOrderOK() {
		return field{}, false
	}
	i, e, ok := v.entry(t)
	if !ok {
		return field{}, false
	}
	off := v.number(e) &^ 511
	n := max(1, uint64(v.g.RefcountBits())/8)
	// Of the clusters that the file has.
	k := v.rnd.Uint64N(v.g.ClusterSize() / n)
	if v.rnd.IntN(4) > 0 {
		clusters := max(1, v.g.Clusters(v.size))
		k = v.rnd.Uint64N(clusters) * uint64(v.g.RefcountBits()) / 8 / n % (v.g.ClusterSize() / n)
	}
	if off == 0 || off > v.size {
		return field{}, false
	}
	f := field{fmt.Sprintf("bytes %d to %d of refcount block %d", k*n, k*n+n-1, i), off + k*n, n, 0}
	return f, v.inside(f)
}

func (v *view) snapshotField() (field, bool) {
	if len(v.snapshots) == 0 {
		return field{}, false
	}
	s := &v.snapshots[v.rnd.IntN(len(v.snapshots))]
	fields := []field{
		{"L1 table offset", qcow2.SnapshotFieldL1TableOffset, 8, ^uint64(0)}, {"L1 size", qcow2.SnapshotFieldL1Size, 4, 0},
		{"ID size", qcow2.SnapshotFieldIDSize, 2, 0}, {"name size", qcow2.SnapshotFieldNameSize, 2, 0},
		{"VM state size", 32, 4, 0}, {"size of extra data", qcow2.SnapshotFieldExtraDataSize, 4, 0},
		{"VM state size in extra data", qcow2.SnapshotHeadSize, 8, 0}, {"disk size in extra data", qcow2.SnapshotHeadSize + 8, 8, 0},
		{"first byte of the ID", qcow2.SnapshotHeadSize + uint64(s.ExtraDataSize), 1, 0},
	}
	f := fields[v.rnd.IntN(len(fields))]
	f.name = fmt.Sprintf("the %s of snapshot %q", f.name, s.ID)
	f.at += uint64(s.EntryOffset)
	return f, v.inside(f)
}

func (v *view) bitmapField() (field, bool) {
	if v.ext == nil || len(v.ext.Data) < qcow2.BitmapsExtensionSize {
		return field{}, false
	}
	if len(v.bitmaps) == 0 || v.rnd.IntN(4) == 0 {
		at := uint64(v.ext.DataOffset())
		return []field{
			{"nb_bitmaps", at + qcow2.BitmapsExtNbBitmaps, 4, 0}, {"reserved field of the bitmaps extension", at + qcow2.BitmapsExtReserved, 4, 0},
			{"bitmap_directory_size", at + qcow2.BitmapsExtDirectorySize, 8, 0}, {"bitmap_directory_offset", at + qcow2.BitmapsExtDirectoryOffset, 8, ^uint64(0)},
		}[v.rnd.IntN(4)], true
	}
	b := &v.bitmaps[v.rnd.IntN(len(v.bitmaps))]
	fields := []field{
		{"table offset", qcow2.BitmapFieldTableOffset, 8, ^uint64(0)}, {"table size", qcow2.BitmapFieldTableSize, 4, 0},
		{"flags", qcow2.BitmapFieldFlags, 4, 0}, {"type", qcow2.BitmapFieldType, 1, 0}, {"granularity", qcow2.BitmapFieldGranularityBits, 1, 0},
		{"name size", qcow2.BitmapFieldNameSize, 2, 0}, {"size of extra data", qcow2.BitmapFieldExtraDataSize, 4, 0},
		{"first byte of the name", qcow2.BitmapHeadSize + uint64(b.ExtraDataSize), 1, 0},
	}
	f := fields[v.rnd.IntN(len(fields))]
	f.name = fmt.Sprintf("the %s of bitmap %q", f.name, b.Name)
	f.at += uint64(b.EntryOffset)
	return f, v.inside(f)
}

// structure gives the offset of some structure.
func (v *view) structure() (name string, at uint64) {
	type place struct {
		name string
		at   uint64
	}
	places := []place{
		{"the header", 0}, {"the L1 table", uint64(v.h.L1TableOffset)}, {"the refcount table", uint64(v.h.RefcountTableOffset)},
		{"the snapshot table", uint64(v.h.SnapshotsOffset)}, {"the end of the file", v.size},
	}
	for _, s := range v.snapshots {
		places = append(places, place{fmt.Sprintf("the L1 table of snapshot %q", s.ID), uint64(s.L1TableOffset)})
	}
	for _, b := range v.bitmaps {
		places = append(places, place{fmt.Sprintf("the table of bitmap %q", b.Name), uint64(b.TableOffset)})
	}
	if v.ext != nil && len(v.ext.Data) >= qcow2.BitmapsExtensionSize {
		places = append(places, place{"the bitmap directory", uint64(qcow2.DecodeBitmapsExtension(v.ext.Data).DirectoryOffset)})
	}
	for range 3 {
		if t, ok := v.anyTable(); ok {
			if _, f, ok := v.entry(t); ok {
				places = append(places, place{"what " + f.name + " names", v.number(f) & t.mask & offsetMask})
			}
		}
	}
	p := places[v.rnd.IntN(len(places))]
	return p.name, p.at
}
