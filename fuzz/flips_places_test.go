package fuzz_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// flipPlace is a field of the metadata.
type flipPlace struct {
	at, n     uint64 // bytes of the file
	structure string
	field     string
	// part names the bits of the field apart, by number; nil where they are alike.
	part func(bit uint) string
}

// flip is one bit.
type flip struct {
	at   uint64 // the byte's offset in the file
	bit  uint   // of that byte
	what string // "structure: field"
}

// flipPlaces finds the metadata of an image that is in order.
type flipPlaces struct {
	img    *qcow2.Image
	s      *corpus.Store
	g      qcow2.Geometry
	list   []flipPlace
	tables map[uint64]bool // those found already, by offset
}

// placesOf gives the metadata of an image, in the order of the file.
func placesOf(s *corpus.Store) ([]flipPlace, error) {
	img, err := qcow2.Open(s, s.Size())
	if err != nil || !img.GeometryOK {
		return nil, err
	}
	p := &flipPlaces{img: img, s: s, g: img.Geometry, tables: make(map[uint64]bool)}
	p.header()
	p.refcounts()
	h := &img.Header
	p.l1("L1 table", uint64(h.L1TableOffset), uint64(h.L1Size))
	for _, sn := range qcow2.ReadSnapshotTable(img).Snapshots {
		p.snapshot(&sn)
	}
	p.bitmaps()
	p.luks()
	size := uint64(s.Size())
	p.list = slices.DeleteFunc(p.list, func(x flipPlace) bool { return !qcow2.RangeFits(x.at, x.n, size) })
	slices.SortStableFunc(p.list, func(a, b flipPlace) int { return cmp.Compare(a.at, b.at) })
	return p.list, nil
}

// flipsOf gives every bit of the metadata of an image.
func flipsOf(t testing.TB, s *corpus.Store) (flips []flip) {
	t.Helper()
	places, err := placesOf(s)
	require.NoError(t, err)
	require.NotEmpty(t, places)
	next := uint64(0)
	for _, p := range places {
		for k := range p.n {
			if p.at+k < next {
				continue // of a place that another one holds
			}
			for bit := range uint(8) {
				flips = append(flips, flip{p.at + k, bit, p.name(k, bit)})
			}
		}
		next = max(next, p.at+p.n)
	}
	return flips
}

// name tells what the bit of a byte of the place is.
func (p *flipPlace) name(k uint64, bit uint) string {
	name := p.structure + ": " + p.field
	if p.part != nil {
		name += ", " + p.part(uint(p.n-1-k)*8+bit)
	}
	return name
}

func (p *flipPlaces) add(structure, field string, at, n uint64) {
	p.list = append(p.list, flipPlace{at: at, n: n, structure: structure, field: field})
}

// bitNames names bits by number.
func bitNames(bit uint) string { return fmt.Sprintf("bit %d", bit) }

func (p *flipPlaces) header() {
	h := &p.img.Header
	for _, f := range []struct {
		name  string
		at, n uint64
		bits  bool
	}{
		{"magic", qcow2.FieldMagic, 4, false}, {"version", qcow2.FieldVersion, 4, false},
		{"backing_file_offset", qcow2.FieldBackingFileOffset, 8, false}, {"backing_file_size", qcow2.FieldBackingFileSize, 4, false},
		{"cluster_bits", qcow2.FieldClusterBits, 4, false}, {"size", qcow2.FieldSize, 8, false}, {"crypt_method", qcow2.FieldCryptMethod, 4, false},
		{"l1_size", qcow2.FieldL1Size, 4, false}, {"l1_table_offset", qcow2.FieldL1TableOffset, 8, false},
		{"refcount_table_offset", qcow2.FieldRefcountTableOffset, 8, false}, {"refcount_table_clusters", qcow2.FieldRefcountTableClusters, 4, false},
		{"nb_snapshots", qcow2.FieldNbSnapshots, 4, false}, {"snapshots_offset", qcow2.FieldSnapshotsOffset, 8, false},
		{"incompatible_features", qcow2.FieldIncompatibleFeatures, 8, true}, {"compatible_features", qcow2.FieldCompatibleFeatures, 8, true},
		{"autoclear_features", qcow2.FieldAutoclearFeatures, 8, true}, {"refcount_order", qcow2.FieldRefcountOrder, 4, false},
		{"header_length", qcow2.FieldHeaderLength, 4, false}, {"compression_type", qcow2.FieldCompressionType, 1, false}, {"padding", 105, 7, false},
	} {
		if f.at+f.n > uint64(h.HeaderLength) {
			break
		}
		x := flipPlace{at: f.at, n: f.n, structure: "header", field: f.name}
		if f.bits {
			x.part = func(bit uint) string {
				if bit > 5 {
					return "unknown bits"
				}
				return bitNames(bit)
			}
		}
		p.list = append(p.list, x)
	}
	end := uint64(h.HeaderLength)
	for _, e := range p.img.Extensions {
		name := map[qcow2.ExtensionType]string{qcow2.ExtBackingFormat: "backing format", qcow2.ExtFeatureNames: "feature names",
			qcow2.ExtBitmaps: "bitmaps", qcow2.ExtCrypto: "crypto", qcow2.ExtDataFile: "data file"}[e.Type]
		name = "extension " + name
		p.add(name, "type", uint64(e.Offset), 4)
		p.add(name, "length", uint64(e.Offset)+4, 4)
		at, n := uint64(e.DataOffset()), uint64(len(e.Data))
		switch {
		case e.Type == qcow2.ExtBitmaps && n == qcow2.BitmapsExtensionSize:
			p.add(name, "nb_bitmaps", at, 4)
			p.add(name, "reserved", at+qcow2.BitmapsExtReserved, 4)
			p.add(name, "bitmap_directory_size", at+qcow2.BitmapsExtDirectorySize, 8)
			p.add(name, "bitmap_directory_offset", at+qcow2.BitmapsExtDirectoryOffset, 8)
		case e.Type == qcow2.ExtCrypto && n == qcow2.CryptoExtensionSize:
			p.add(name, "offset", at, 8)
			p.add(name, "size", at+8, 8)
		default:
			p.add(name, "data", at, n)
		}
		end = uint64(e.End())
		p.add(name, "padding", at+n, end-at-n)
	}
	p.add("extension end", "type and length", end, 8)
	if h.HasBackingFile() {
		p.add("backing file name", "name", uint64(h.BackingFileOffset), uint64(h.BackingFileSize))
	}
}

// some gives the entries of a table that are flipped: all of a small table; of a
// large one those in use with their neighbours, the last one, and a few.
func (p *flipPlaces) some(at, entries, step uint64, used func(i uint64) bool) (list []uint64) {
	const small, few = 64, 8
	for i := range entries {
		if entries <= small || i+1 == entries || i%(entries/few) == 0 || used(i) || i > 0 && used(i-1) || i+1 < entries && used(i+1) {
			list = append(list, i)
		}
	}
	return list
}

func (p *flipPlaces) word(at uint64) uint64 {
	var b [8]byte
	p.s.ReadAt(b[:], int64(at))
	return binary.BigEndian.Uint64(b[:])
}

// words adds the entries of a table of words.
func (p *flipPlaces) words(structure string, at, entries, step uint64, part func(e uint64) (string, func(uint) string)) {
	entries = min(entries, (uint64(p.s.Size())-min(at, uint64(p.s.Size())))/step)
	used := func(i uint64) bool { return p.word(at+i*step) != 0 || step == 16 && p.word(at+i*step+8) != 0 }
	for _, i := range p.some(at, entries, step, used) {
		e := p.word(at + i*step)
		field, bits := part(e)
		p.list = append(p.list, flipPlace{at: at + i*step, n: 8, structure: structure, field: field, part: bits})
		if step == 16 {
			p.list = append(p.list, flipPlace{at: at + i*step + 8, n: 8, structure: structure, field: "subcluster bitmap of " + field, part: func(bit uint) string {
				if bit < 32 {
					return "allocated"
				}
				return "zero"
			}})
		}
	}
}

func (p *flipPlaces) refcounts() {
	h := &p.img.Header
	n := uint64(h.RefcountTableClusters) * p.g.ClusterSize() / 8
	at := uint64(h.RefcountTableOffset)
	p.words("refcount table", at, n, 8, func(e uint64) (string, func(uint) string) {
		return map[bool]string{true: "empty entry", false: "entry"}[e == 0], func(bit uint) string {
			if bit < 9 {
				return "reserved"
			}
			return "offset"
		}
	})
	clusters := p.g.Clusters(uint64(p.s.Size()))
	const beyond = 8
	per := p.g.RefcountBlockEntries()
	width := uint64(p.g.RefcountBits())
	for i := range min(n, (clusters+beyond+per-1)/per) {
		block := uint64(qcow2.RefTableEntry(p.word(at + i*8)).Offset())
		if block == 0 {
			continue
		}
		in := min(per, clusters-min(clusters, i*per))
		p.add("refcount block", "of clusters of the file", block, (in*width+7)/8)
		if more := min(per, in+beyond); more > in {
			from := (in*width + 7) / 8
			p.add("refcount block", "beyond the file", block+from, max(1, (more*width+7)/8-from))
		}
	}
}

func (p *flipPlaces) l1(name string, at, entries uint64) {
	if p.tables[at] {
		return
	}
	p.tables[at] = true
	p.words(name, at, entries, 8, func(e uint64) (string, func(uint) string) {
		return map[bool]string{true: "empty entry", false: "entry"}[e == 0], entryBits
	})
	of := "L2 table"
	if name != "L1 table" {
		of = "L2 table of a snapshot"
	}
	for i := range entries {
		l2 := uint64(qcow2.L1Entry(p.word(at + i*8)).Offset())
		if l2 == 0 || p.tables[l2] {
			continue
		}
		p.tables[l2] = true
		p.words(of, l2, p.g.L2Entries(), p.g.L2EntrySize(), func(e uint64) (string, func(uint) string) {
			switch d := qcow2.L2Entry(e); {
			case e == 0:
				return "empty entry", entryBits
			case d.Compressed():
				return "compressed entry", func(bit uint) string {
					shift := 62 - (uint(p.g.ClusterBits) - 8)
					switch {
					case bit >= 62:
						return entryBits(bit)
					case bit >= shift:
						return "sectors"
					}
					return "offset"
				}
			case p.img.Header.ZeroFlag() && d.Zero() && d.Offset() != 0:
				return "allocated zero entry", entryBits
			case p.img.Header.ZeroFlag() && d.Zero():
				return "zero entry", entryBits
			}
			return "entry", entryBits
		})
	}
}

// entryBits names the bits of an L1 or L2 entry.
func entryBits(bit uint) string {
	switch {
	case bit == 63:
		return "COPIED"
	case bit == 62:
		return "compressed"
	case bit == 0:
		return "zero"
	case bit < 9 || bit > 55:
		return "reserved"
	}
	return "offset"
}

func (p *flipPlaces) snapshot(s *qcow2.Snapshot) {
	at := uint64(s.EntryOffset)
	const name = "snapshot table"
	for _, f := range []struct {
		name  string
		at, n uint64
	}{
		{"l1_table_offset", 0, 8}, {"l1_size", 8, 4}, {"id_str_size", 12, 2}, {"name_size", 14, 2}, {"date", 16, 8}, {"vm_clock", 24, 8},
		{"vm_state_size", 32, 4}, {"extra_data_size", 36, 4},
	} {
		p.add(name, f.name, at+f.at, f.n)
	}
	extra := uint64(len(s.ExtraData))
	for i, f := range []string{"extra: vm_state_size", "extra: disk_size", "extra: icount"} {
		if uint64(i)*8+8 <= extra {
			p.add(name, f, at+40+uint64(i)*8, 8)
		}
	}
	p.add(name, "id", at+40+extra, uint64(s.IDSize))
	p.add(name, "name", at+40+extra+uint64(s.IDSize), uint64(s.NmSize))
	used := 40 + extra + uint64(s.IDSize) + uint64(s.NmSize)
	p.add(name, "padding", at+used, s.EntrySize-used)
	p.l1("L1 table of a snapshot", uint64(s.L1TableOffset), uint64(s.L1Size))
}

func (p *flipPlaces) bitmaps() {
	ext := p.img.Extension(qcow2.ExtBitmaps)
	if ext == nil || len(ext.Data) < qcow2.BitmapsExtensionSize {
		return
	}
	for _, b := range qcow2.ReadBitmapDirectory(p.img, qcow2.DecodeBitmapsExtension(ext.Data)).Entries {
		at := uint64(b.EntryOffset)
		name := "bitmap directory"
		if b.Flags.Has(qcow2.BitmapInUse) {
			name = "bitmap directory, in use"
		}
		p.add(name, "table offset", at, 8)
		p.add(name, "table size", at+8, 4)
		p.list = append(p.list, flipPlace{at: at + 12, n: 4, structure: name, field: "flags", part: func(bit uint) string {
			return []string{"in_use", "auto", "extra_data_compatible", "unknown"}[min(bit, 3)]
		}})
		p.add(name, "type", at+16, 1)
		p.add(name, "granularity_bits", at+17, 1)
		p.add(name, "name_size", at+18, 2)
		p.add(name, "extra_data_size", at+20, 4)
		p.add(name, "extra data", at+24, uint64(b.ExtraDataSize))
		p.add(name, "name", at+24+uint64(b.ExtraDataSize), uint64(b.NameSize))
		end := 24 + uint64(b.ExtraDataSize) + uint64(b.NameSize)
		p.add(name, "padding", at+end, b.EntrySize()-end)

		table := uint64(b.TableOffset)
		p.words("bitmap table", table, uint64(b.TableSize), 8, func(e uint64) (string, func(uint) string) {
			return map[bool]string{true: "empty entry", false: "entry"}[e == 0], entryBits
		})
		for i := range uint64(b.TableSize) {
			e := qcow2.BitmapTableEntry(p.word(table + i*8))
			if data := uint64(e.Offset()); data != 0 {
				bits := qcow2.BitmapBits(p.img.Header.Size, uint(b.GranularityBits))
				in := (bits + 7) / 8
				in -= min(in, i<<p.g.ClusterBits)
				in = min(in, p.g.ClusterSize(), 64)
				p.add("bitmap data", "bits", data, in)
				p.add("bitmap data", "beyond the last bit", data+in, min(4, p.g.ClusterSize()-in))
			}
		}
	}
}

func (p *flipPlaces) luks() {
	ext := p.img.Extension(qcow2.ExtCrypto)
	if ext == nil || len(ext.Data) < qcow2.CryptoExtensionSize {
		return
	}
	at := binary.BigEndian.Uint64(ext.Data)
	const name = "LUKS header"
	for _, f := range []struct {
		name  string
		at, n uint64
	}{
		{"magic", 0, 6}, {"version", 6, 2}, {"cipher name", 8, 32}, {"cipher mode", 40, 32}, {"hash", 72, 32}, {"payload offset", 104, 4},
		{"key bytes", 108, 4}, {"digest", 112, 4}, {"salt", 132, 4}, {"iterations", 164, 4}, {"uuid", 168, 4},
	} {
		p.add(name, f.name, at+f.at, f.n)
	}
	for i := range uint64(qcow2.LUKSKeySlots) {
		slot := at + qcow2.LUKSFieldKeySlots + i*qcow2.LUKSKeySlotSize
		field := "inactive key slot"
		if i == 0 {
			field = "key slot"
		}
		p.add(name, field+": state", slot, 4)
		p.add(name, field+": iterations", slot+4, 4)
		p.add(name, field+": salt", slot+8, 2)
		p.add(name, field+": material offset", slot+40, 4)
		p.add(name, field+": stripes", slot+44, 4)
		if i == 0 {
			p.add(name, "key material", at+uint64(binary.BigEndian.Uint32(p.bytes(slot+40, 4)))*512, 4)
		}
	}
}

func (p *flipPlaces) bytes(at, n uint64) []byte {
	b := make([]byte, n)
	p.s.ReadAt(b, int64(at))
	return b
}
