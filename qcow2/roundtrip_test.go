package qcow2_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// roundTrips is how many random values each property is tried with.
const roundTrips = 500

// generator makes random values for properties, the same in each run.
type generator struct{ *rand.Rand }

func newGenerator() generator { return generator{rand.New(rand.NewPCG(20, 24))} }

// bytes gives 0 to max bytes, nil for none.
func (g generator) bytes(max int) []byte {
	var b []byte
	for range g.IntN(max + 1) {
		b = append(b, byte(g.Uint32()))
	}
	return b
}

// bits gives a word in which few or many bits are set.
func (g generator) bits() uint64 {
	w := g.Uint64()
	for range g.IntN(4) {
		w &= g.Uint64()
	}
	return w
}

func (g generator) geometry() qcow2.Geometry {
	return qcow2.Geometry{ClusterBits: uint(qcow2.MinClusterBits + g.IntN(qcow2.MaxClusterBits-qcow2.MinClusterBits+1))}
}

func (g generator) header() qcow2.Header {
	h := qcow2.Header{
		Version:               2,
		BackingFileOffset:     qcow2.HostOffset(g.Uint64()),
		BackingFileSize:       g.Uint32(),
		ClusterBits:           g.Uint32(),
		Size:                  g.Uint64(),
		CryptMethod:           qcow2.CryptMethod(g.Uint32()),
		L1Size:                g.Uint32(),
		L1TableOffset:         qcow2.HostOffset(g.Uint64()),
		RefcountTableOffset:   qcow2.HostOffset(g.Uint64()),
		RefcountTableClusters: g.Uint32(),
		NbSnapshots:           g.Uint32(),
		SnapshotsOffset:       qcow2.HostOffset(g.Uint64()),
		RefcountOrder:         4,
		HeaderLength:          qcow2.HeaderLengthV2,
	}
	if g.IntN(3) == 0 {
		return h
	}
	h.Version = 3 + g.Uint32N(3)
	h.IncompatibleFeatures = qcow2.Features(g.Uint64())
	h.CompatibleFeatures = qcow2.Features(g.Uint64())
	h.AutoclearFeatures = qcow2.Features(g.Uint64())
	h.RefcountOrder = g.Uint32()
	h.HeaderLength = qcow2.HeaderLengthV3
	if extra := g.IntN(5); extra > 0 {
		h.HeaderLength += uint32(8 * extra)
		h.CompressionType = qcow2.CompressionType(g.Uint32())
		h.Tail = make([]byte, h.HeaderLength-qcow2.FieldCompressionType-1)
		for i := range h.Tail {
			h.Tail[i] = byte(g.Uint32())
		}
	}
	return h
}

func (g generator) snapshot() qcow2.Snapshot {
	s := qcow2.Snapshot{
		L1TableOffset: qcow2.HostOffset(g.Uint64()),
		L1Size:        g.Uint32(),
		ID:            g.bytes(20),
		Name:          g.bytes(300),
		DateSec:       g.Uint32(),
		DateNsec:      g.Uint32(),
		VMClockNsec:   g.Uint64(),
		VMStateSize32: g.Uint32(),
		ExtraData:     g.bytes(40),
	}
	s.ExtraDataSize, s.IDSize, s.NmSize = uint32(len(s.ExtraData)), uint16(len(s.ID)), uint16(len(s.Name))
	return s
}

func (g generator) bitmap() qcow2.BitmapEntry {
	e := qcow2.BitmapEntry{
		TableOffset:     qcow2.HostOffset(g.Uint64()),
		TableSize:       g.Uint32(),
		Flags:           qcow2.BitmapFlags(g.Uint32()),
		Type:            uint8(g.Uint32()),
		GranularityBits: uint8(g.Uint32()),
		ExtraData:       g.bytes(20),
		Name:            g.bytes(100),
	}
	e.ExtraDataSize, e.NameSize = uint32(len(e.ExtraData)), uint16(len(e.Name))
	return e
}

func TestHeaderRoundTrip(t *testing.T) {
	g := newGenerator()
	for range roundTrips {
		h := g.header()
		b := h.Encode()
		require.Len(t, b, int(h.HeaderLength))
		got, err := qcow2.DecodeHeader(b)
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
}

func TestExtensionRoundTrip(t *testing.T) {
	g := newGenerator()
	for range roundTrips {
		const base = 112
		var area []byte
		var want []qcow2.Extension
		for range g.IntN(6) {
			data := g.bytes(60)
			if data == nil {
				data = []byte{}
			}
			e := qcow2.Extension{
				Type: qcow2.ExtensionType(1 + g.Uint32N(1<<32-1)), Offset: qcow2.HostOffset(base + len(area)),
				Length: uint32(len(data)), Data: data,
			}
			want = append(want, e)
			area = append(area, qcow2.EncodeExtension(e.Type, e.Data)...)
			require.EqualValues(t, base+len(area), e.End())
		}
		area = append(area, qcow2.EncodeExtension(qcow2.ExtEnd, nil)...)
		got, complete := qcow2.DecodeExtensions(append(area, g.bytes(20)...), base)
		require.True(t, complete)
		require.Equal(t, want, got)

		bitmaps := qcow2.BitmapsExtension{
			NbBitmaps: g.Uint32(), Reserved: g.Uint32(), DirectorySize: g.Uint64(), DirectoryOffset: qcow2.HostOffset(g.Uint64()),
		}
		require.Equal(t, bitmaps, qcow2.DecodeBitmapsExtension(bitmaps.Encode()))
		crypto := qcow2.CryptoExtension{Offset: qcow2.HostOffset(g.Uint64()), Length: g.Uint64()}
		require.Equal(t, crypto, qcow2.DecodeCryptoExtension(crypto.Encode()))
		var names []qcow2.FeatureName
		for i := range g.IntN(5) {
			name := "feature name without NUL, of at most 46 bytes"[:g.IntN(46)]
			names = append(names, qcow2.FeatureName{Type: qcow2.FeatureType(i), Bit: uint8(g.Uint32()), Name: name})
		}
		require.Equal(t, names, qcow2.DecodeFeatureNames(qcow2.EncodeFeatureNames(names)))
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	g := newGenerator()
	for range roundTrips {
		s := g.snapshot()
		s.EntryOffset = qcow2.HostOffset(g.Uint64())
		b := s.Encode()
		s.EntrySize = uint64(len(b))
		got, err := qcow2.DecodeSnapshot(append(b, g.bytes(10)...), s.EntryOffset)
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
}

func TestSnapshotTableRoundTrip(t *testing.T) {
	g := newGenerator()
	for range 50 {
		const at = 0x20000
		var want []qcow2.Snapshot
		var table []byte
		for range g.IntN(20) {
			s := g.snapshot()
			b := s.Encode()
			s.EntryOffset, s.EntrySize = qcow2.HostOffset(at+len(table)), uint64(len(b))
			want = append(want, s)
			table = append(table, b...)
		}
		f := newFile(qcow2.Header{SnapshotsOffset: at, NbSnapshots: uint32(len(want))}, at+int64(len(table)))
		f.parts[at] = table
		got := qcow2.ReadSnapshotTable(f.open(t))
		require.Equal(t, qcow2.TableStop{Index: len(want)}, got.Stop)
		require.Equal(t, want, got.Snapshots)
	}
}

func TestSnapshotExtraData(t *testing.T) {
	var s qcow2.Snapshot
	s.VMStateSize32 = 7
	_, ok := s.DiskSize()
	assert.False(t, ok)
	assert.EqualValues(t, 7, s.VMState())
	s.ExtraData = []byte{0, 0, 0, 1, 0, 0, 0, 2, 9}
	_, ok = s.DiskSize()
	assert.False(t, ok)
	assert.EqualValues(t, 1<<32+2, s.VMState())
	s.ExtraData = append(s.ExtraData, make([]byte, 11)...)
	s.ExtraData[19] = 0xee
	s.SetExtra(3, 4)
	size, ok := s.DiskSize()
	assert.True(t, ok)
	assert.EqualValues(t, 4, size)
	assert.EqualValues(t, 3, s.VMState())
	assert.Len(t, s.ExtraData, 20)
	assert.EqualValues(t, 0xee, s.ExtraData[19], "what follows is kept")
}

func TestBitmapEntryRoundTrip(t *testing.T) {
	g := newGenerator()
	for range roundTrips {
		e := g.bitmap()
		e.EntryOffset = qcow2.HostOffset(g.Uint64())
		b := e.Encode()
		require.EqualValues(t, len(b), e.EntrySize())
		got, err := qcow2.DecodeBitmapEntry(append(b, g.bytes(10)...), e.EntryOffset)
		require.NoError(t, err)
		require.Len(t, got.Padding, len(b)-qcow2.BitmapHeadSize-len(e.ExtraData)-len(e.Name))
		require.Equal(t, make([]byte, len(got.Padding)), got.Padding)
		got.Padding = nil
		require.Equal(t, string(e.Name), string(got.Name))
		require.Equal(t, string(e.ExtraData), string(got.ExtraData))
		e.Name, e.ExtraData, got.Name, got.ExtraData = nil, nil, nil, nil
		require.Equal(t, e, got)
	}
}

// TestBitmapDirectoryRoundTrip encodes what was decoded, which must give the
// same directory again.
func TestBitmapDirectoryRoundTrip(t *testing.T) {
	g := newGenerator()
	for range 50 {
		const at = 0x20000
		var dir []byte
		n := g.IntN(30)
		for range n {
			e := g.bitmap()
			dir = append(dir, e.Encode()...)
		}
		f := newFile(qcow2.Header{}, at+0x10000)
		f.parts[at] = dir
		got := qcow2.ReadBitmapDirectory(f.open(t), qcow2.BitmapsExtension{
			NbBitmaps: uint32(n), DirectorySize: uint64(len(dir)), DirectoryOffset: at,
		})
		require.Equal(t, qcow2.TableStop{Index: n}, got.Stop)
		var again []byte
		for _, e := range got.Entries {
			again = append(again, e.Encode()...)
		}
		require.Equal(t, dir, again)
	}
}

// TestTableEntryRoundTrip takes words apart and puts them together again: the
// accessors of an entry must cover each bit once.
func TestTableEntryRoundTrip(t *testing.T) {
	g := newGenerator()
	bit := func(set bool, b uint64) uint64 {
		if set {
			return b
		}
		return 0
	}
	for range roundTrips {
		w := g.bits()

		l1 := qcow2.L1Entry(w)
		require.Equal(t, w, uint64(qcow2.NewL1Entry(l1.Offset(), l1.Copied()))|l1.Reserved())
		require.Equal(t, l1, qcow2.L1Entry(uint64(l1.Offset())+l1.Reserved()+bit(l1.Copied(), 1<<63)))

		l2 := qcow2.L2Entry(w)
		flags := bit(l2.Compressed(), 1<<62)
		require.Equal(t, w, uint64(qcow2.NewL2Entry(l2.Offset(), l2.Copied(), l2.Zero()))+l2.Reserved(true)+flags)
		require.Equal(t, w, uint64(qcow2.NewL2Entry(l2.Offset(), l2.Copied(), false))+l2.Reserved(false)+flags)

		table := qcow2.RefTableEntry(w)
		require.Equal(t, w, uint64(table.Offset())+table.Reserved())

		bm := qcow2.BitmapTableEntry(w)
		require.Equal(t, w, uint64(qcow2.NewBitmapTableEntry(bm.Offset()))+bm.ReservedLow()+bm.ReservedHigh()+
			bit(bm.AllOnes(), uint64(qcow2.AllOnesEntry)))

		sub := qcow2.SubclusterBitmap(w)
		require.Equal(t, sub, qcow2.NewSubclusterBitmap(sub.Allocated(), sub.Zeros()))
		n := 0
		for i := range 32 {
			if sub.Allocated()>>i&1 == 1 && sub.Zeros()>>i&1 == 1 {
				n++
			}
		}
		require.Equal(t, n, sub.ConflictCount())
	}
}

func TestCompressedEntryRoundTrip(t *testing.T) {
	g := newGenerator()
	for range roundTrips {
		geo := g.geometry()
		// The first 55 bits are what the specification lets an offset have,
		// as far as the width of the sector count leaves them.
		offset := qcow2.HostOffset(g.bits() & (1<<min(56, 62-(geo.ClusterBits-8)) - 1))
		length := 1 + g.Uint64N(geo.ClusterSize())
		e := geo.NewCompressedEntry(offset, length)
		require.True(t, e.Compressed())
		require.False(t, e.Copied())
		d := geo.Compressed(e)
		require.Equal(t, offset, d.Offset)
		require.GreaterOrEqual(t, d.Length(), length, "the data fits")
		require.Less(t, d.Length()-length, uint64(qcow2.SectorSize), "and not a sector more")
		require.Zero(t, (uint64(d.Offset)+d.Length())%qcow2.SectorSize)

		// Any word at all: what was decoded encodes to itself.
		e = qcow2.L2Entry(g.bits()&^(1<<63) | 1<<62)
		d = geo.Compressed(e)
		require.Equal(t, e, geo.NewCompressedEntry(d.Offset, d.Length()))
	}
}
