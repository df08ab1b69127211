package check

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

func TestHeaderSound(t *testing.T) {
	order := func(n uint32) *uint32 { return &n }
	with := func(f func(*qcow2.Header)) func(*qcow2.Header) { return f }
	for name, x := range map[string]minimalImage{
		"v3":                     {},
		"v2":                     {version: 2},
		"clusters of 512 bytes":  {clusterBits: 9},
		"clusters of 2 MiB":      {clusterBits: 21},
		"1-bit refcounts":        {order: order(0)},
		"64-bit refcounts":       {order: order(6)},
		"odd size":               {size: 12345},
		"extended L2":            {header: with(func(h *qcow2.Header) { h.IncompatibleFeatures |= qcow2.IncompatExtendedL2 })},
		"lazy refcounts":         {header: with(func(h *qcow2.Header) { h.CompatibleFeatures |= qcow2.CompatLazyRefcounts })},
		"unknown compatible bit": {header: with(func(h *qcow2.Header) { h.CompatibleFeatures |= 1 << 63 })},
		"zstd": {header: with(func(h *qcow2.Header) {
			h.IncompatibleFeatures |= qcow2.IncompatCompression
			h.CompressionType = qcow2.CompressionZstd
		})},
		"shortest v3 header": {header: with(func(h *qcow2.Header) { h.HeaderLength = qcow2.HeaderLengthV3 })},
		"fields of a later version": {header: with(func(h *qcow2.Header) {
			h.HeaderLength = 128
			h.Tail = append(make([]byte, 7), bytes.Repeat([]byte{0xee}, 16)...)
		})},
		"L1 larger than needed": {header: with(func(h *qcow2.Header) { h.L1Size = 100 })},
		"no disk":               {header: with(func(h *qcow2.Header) { h.Size, h.L1Size, h.L1TableOffset = 0, 0, 0 })},
		"backing file":          {backing: "base.qcow2", exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("qcow2"))}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Empty(t, foundIn(runTest(t, x.bytes(t), Options{}), "HDR"))
		})
	}
}

func TestHeaderFaults(t *testing.T) {
	type doubts = []problem.Structure
	const cs = 1 << 16
	for _, tt := range []struct {
		name   string
		image  minimalImage
		off    int
		with   []byte
		want   []found
		doubts doubts
	}{
		{name: "version 4", off: 4, with: be(4, 4), want: []found{{problem.VersionUnknown, 4, 4}}, doubts: doubts{problem.StructFile}},
		{name: "version 1", off: 4, with: be(1, 4), want: []found{{problem.VersionUnknown, 4, 4}}, doubts: doubts{problem.StructFile}},
		{name: "cluster_bits 8", off: 20, with: be(8, 4), want: []found{{problem.ClusterSizeInvalid, 20, 4}}},
		{name: "cluster_bits 22", off: 20, with: be(22, 4), want: []found{{problem.ClusterSizeInvalid, 20, 4}}},
		{name: "cluster_bits 2^32-1", off: 20, with: be(1<<32-1, 4), want: []found{{problem.ClusterSizeInvalid, 20, 4}}},
		{name: "extended L2 in 8 KiB clusters", image: minimalImage{clusterBits: 13}, off: 79, with: []byte{1 << 4},
			want: []found{{problem.ClusterSizeInvalid, 20, 4}}, doubts: doubts{problem.StructL2Table}},
		{name: "header_length 103", off: 100, with: be(103, 4), want: []found{{problem.HeaderLengthInvalid, 100, 4}}, doubts: doubts{problem.StructExtension}},
		{name: "header_length 0", off: 100, with: be(0, 4), want: []found{{problem.HeaderLengthInvalid, 100, 4}}, doubts: doubts{problem.StructExtension}},
		{name: "header_length 108", off: 100, with: be(108, 4), want: []found{{problem.HeaderLengthInvalid, 100, 4}}, doubts: doubts{problem.StructExtension}},
		{name: "header_length beyond the cluster", off: 100, with: be(cs+8, 4), want: []found{{problem.HeaderLengthInvalid, 100, 4}}, doubts: doubts{problem.StructExtension}},
		{name: "header_length 2^32-8", off: 100, with: be(1<<32-8, 4), want: []found{{problem.HeaderLengthInvalid, 100, 4}}, doubts: doubts{problem.StructExtension}},
		{name: "unknown incompatible bits", off: 72, with: be(1<<63|1<<5, 8), want: []found{{problem.FeatureUnknown, 72, 8}, {problem.FeatureUnknown, 72, 8}}, doubts: doubts{problem.StructFile}},
		{name: "dirty", off: 79, with: []byte{1}, want: []found{{problem.MarkedDirty, 72, 8}}},
		{name: "corrupt", off: 79, with: []byte{2}, want: []found{{problem.MarkedCorrupt, 72, 8}}},
		{name: "unknown autoclear bits", off: 88, with: be(1<<40|1<<2, 8), want: []found{{problem.AutoclearUnknown, 88, 8}}, doubts: doubts{problem.StructFile}},
		{name: "refcount_order 7", off: 96, with: be(7, 4), want: []found{{problem.RefcountWidthInvalid, 96, 4}}},
		{name: "crypt_method 3", off: 32, with: be(3, 4), want: []found{{problem.CryptMethodUnknown, 32, 4}}},
		{name: "l1_size 0", off: 36, with: be(0, 4), want: []found{{problem.L1TooSmall, 36, 4}}, doubts: doubts{problem.StructL1Table}},
		{name: "virtual size grown", off: 24, with: be(1<<40, 8), want: []found{{problem.L1TooSmall, 36, 4}}, doubts: doubts{problem.StructL1Table}},
		{name: "virtual size absurd", off: 24, with: be(1<<64-1, 8), want: []found{{problem.L1TooSmall, 36, 4}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 misaligned", off: 40, with: be(minL1*cs+512, 8), want: []found{{problem.L1Misplaced, 40, 8}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 misaligned, no disk", image: minimalImage{header: func(h *qcow2.Header) { h.Size, h.L1Size = 0, 0 }},
			off: 40, with: be(512, 8), want: []found{{problem.L1Misplaced, 40, 8}}},
		{name: "L1 at the end of the file", off: 40, with: be(minExtra*cs, 8), want: []found{{problem.L1Misplaced, 36, 12}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 far out", off: 40, with: be(1<<63, 8), want: []found{{problem.L1Misplaced, 36, 12}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 past 2^64", off: 40, with: be(1<<64-cs, 8), want: []found{{problem.L1Misplaced, 36, 12}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 in the header", off: 40, with: be(0, 8), want: []found{{problem.L1Misplaced, 40, 8}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 runs past the end", off: 36, with: be(1<<20, 4), want: []found{{problem.L1Misplaced, 36, 12}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 over 32 MiB", off: 36, with: be(1<<22+1, 4), want: []found{{problem.L1Misplaced, 36, 4}}, doubts: doubts{problem.StructL1Table}},
		{name: "L1 over 32 MiB and misaligned", off: 36, with: append(be(1<<32-1, 4), be(1, 8)...),
			want: []found{{problem.L1Misplaced, 36, 4}, {problem.L1Misplaced, 40, 8}}, doubts: doubts{problem.StructL1Table}},
		{name: "no refcount table", off: 56, with: be(0, 4), want: []found{{problem.RefcountTableMisplaced, 56, 4}}},
		{name: "refcount table misaligned", off: 48, with: be(cs+8, 8), want: []found{{problem.RefcountTableMisplaced, 48, 8}}, doubts: doubts{problem.StructRefcountTable}},
		{name: "refcount table in the header", off: 48, with: be(0, 8), want: []found{{problem.RefcountTableMisplaced, 48, 8}}, doubts: doubts{problem.StructRefcountTable}},
		{name: "refcount table past the end", off: 48, with: be(1<<40, 8), want: []found{{problem.RefcountTableMisplaced, 48, 12}}, doubts: doubts{problem.StructRefcountTable}},
		{name: "refcount table runs past the end", off: 56, with: be(4, 4), want: []found{{problem.RefcountTableMisplaced, 48, 12}}, doubts: doubts{problem.StructRefcountTable}},
		{name: "refcount table over 8 MiB", off: 56, with: be(129, 4), want: []found{{problem.RefcountTableMisplaced, 56, 4}}, doubts: doubts{problem.StructRefcountTable}},
		{name: "snapshot table misaligned", off: 60, with: append(be(1, 4), be(8, 8)...), want: []found{{problem.SnapshotTableMisplaced, 64, 8}}, doubts: doubts{problem.StructSnapshotTable}},
		{name: "snapshot table misaligned, no snapshots", off: 64, with: be(8, 8), want: []found{{problem.SnapshotTableMisplaced, 64, 8}}},
		{name: "snapshot table in the header", off: 60, with: be(1, 4), want: []found{{problem.SnapshotTableMisplaced, 64, 8}}, doubts: doubts{problem.StructSnapshotTable}},
		{name: "snapshot table past the end", off: 60, with: append(be(1, 4), be(minExtra*cs, 8)...),
			want: []found{{problem.SnapshotTableMisplaced, 60, 12}}, doubts: doubts{problem.StructSnapshotTable}},
		{name: "too many snapshots", off: 60, with: append(be(65537, 4), be(minL1*cs, 8)...),
			want: []found{{problem.SnapshotTableMisplaced, 60, 4}}, doubts: doubts{problem.StructSnapshotTable}},
		{name: "backing name outside the cluster", off: 8, with: append(be(cs+1, 8), be(4, 4)...), want: []found{{problem.BackingNameMisplaced, 8, 8}}},
		{name: "backing name of 1024 bytes", off: 8, with: append(be(1024, 8), be(1024, 4)...), want: []found{{problem.BackingNameMisplaced, 16, 4}}},
		{name: "backing name runs out of the cluster", off: 8, with: append(be(cs-3, 8), be(4, 4)...), want: []found{{problem.BackingNameMisplaced, 8, 12}}},
		{name: "backing name runs out of a small cluster", image: minimalImage{clusterBits: 9}, off: 8, with: append(be(256, 8), be(257, 4)...), want: []found{{problem.BackingNameMisplaced, 8, 12}}},
		{name: "zstd without its bit", off: 104, with: []byte{1}, want: []found{{problem.CompressionTypeContradiction, 104, 1}}},
		{name: "zlib with the bit", off: 79, with: []byte{1 << 3}, want: []found{{problem.CompressionTypeContradiction, 72, 8}}},
		{name: "unknown compression type", off: 104, with: []byte{2}, want: []found{{problem.CompressionTypeContradiction, 104, 1}}},
		{name: "bit without the field", image: minimalImage{header: func(h *qcow2.Header) { h.HeaderLength = 104 }}, off: 79, with: []byte{1 << 3},
			want: []found{{problem.CompressionTypeContradiction, 72, 8}}},
		{name: "padding", off: 106, with: []byte{1, 0, 1}, want: []found{{problem.HeaderPaddingSet, 106, 3}}},
		{name: "padding's last byte", off: 111, with: []byte{0x80}, want: []found{{problem.HeaderPaddingSet, 111, 1}}},
		{name: "raw bit without a data file", off: 95, with: []byte{2}, want: []found{{problem.RawExternalMisused, 88, 8}}},
		{name: "raw bit with a backing file",
			image: minimalImage{backing: "b", header: func(h *qcow2.Header) { h.IncompatibleFeatures |= qcow2.IncompatDataFile }},
			off:   95, with: []byte{2}, want: []found{{problem.RawExternalMisused, 88, 8}}},
		{name: "backing name in the header", image: minimalImage{backing: "base"}, off: 8, with: be(111, 8), want: []found{{problem.ExtensionsIgnored, 8, 8}}, doubts: doubts{problem.StructExtension}},
		{name: "backing name in a v2 header", image: minimalImage{version: 2, backing: "base"}, off: 8, with: be(64, 8), want: []found{{problem.ExtensionsIgnored, 8, 8}}, doubts: doubts{problem.StructExtension}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := poke(tt.image.bytes(t), tt.off, tt.with...)
			assert.Equal(t, tt.want, foundIn(runTest(t, b, Options{}), "HDR"))

			c := newRun(t.Context(), openTest(t, b), Options{})
			require.NoError(t, c.checkHeader())
			var got doubts
			for _, d := range c.doubts {
				got = append(got, d.Owner.Structure)
			}
			assert.Equal(t, tt.doubts, got)
			for _, d := range c.doubts {
				switch d.Owner.Structure {
				case problem.StructL1Table:
					// One that is too short is read as far as it goes.
					assert.Equal(t, tt.want[0].Code == problem.L1TooSmall && c.h.L1Size > 0, c.l1Usable())
				case problem.StructRefcountTable:
					assert.False(t, c.refTableUsable())
				case problem.StructSnapshotTable:
					assert.False(t, c.snapshotTableUsable())
				}
			}
		})
	}
}

// A virtual size that QEMU cannot map, with an L1 table that is large enough
// for it, is one fault and not two.
func TestHeaderSizeBeyondQEMU(t *testing.T) {
	x := minimalImage{clusterBits: 9}
	b := x.bytes(t)
	entries := uint64(1)<<22 + 1
	b = poke(b, qcow2.FieldSize, be(entries*512*64, 8)...)
	b = poke(b, qcow2.FieldL1Size, be(entries, 4)...)
	assert.Equal(t, []found{{problem.HeaderCombination, 24, 8}}, foundIn(runTest(t, b, Options{}), "HDR"))
}

func TestHeaderFeatureName(t *testing.T) {
	names := qcow2.EncodeFeatureNames([]qcow2.FeatureName{
		{Type: qcow2.FeatureCompatible, Bit: 17, Name: "not this"}, {Type: qcow2.FeatureIncompatible, Bit: 17, Name: "time\x1b travel"}})
	x := minimalImage{exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtFeatureNames, names)}}
	x.header = func(h *qcow2.Header) { h.IncompatibleFeatures |= 1 << 17 }
	res := runTest(t, x.bytes(t), Options{})
	require.Equal(t, []found{{problem.FeatureUnknown, 72, 8}}, foundIn(res, "HDR"))
	assert.Equal(t, VerdictUnsupported, res.Verdict)
	assert.Contains(t, res.Findings[0].Text(), "travel", "the image's own name of the feature is told")
	assert.NotContains(t, res.Findings[0].Text(), "\x1b", "and escaped")
}

// A file that ends early is reported for that, and for fields that it does hold.
func TestHeaderTruncated(t *testing.T) {
	for name, x := range map[string]minimalImage{
		"v2": {version: 2}, "v3": {}, "512 B": {clusterBits: 9}, "2 MiB": {clusterBits: 21},
		"luks": {header: func(h *qcow2.Header) {
			h.CryptMethod = qcow2.CryptLUKS
			h.IncompatibleFeatures |= qcow2.IncompatDataFile
		}},
		"backing": {backing: "base", exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw"))}},
	} {
		t.Run(name, func(t *testing.T) {
			whole := x.bytes(t)
			for n := range 1025 {
				b := whole[:min(n, len(whole))]
				if n < 4 {
					_, err := qcow2.Open(bytes.NewReader(b), int64(n))
					require.ErrorIs(t, err, qcow2.ErrNotQcow2, "%d bytes", n)
					continue
				}
				res := runTest(t, b, Options{})
				length := 112
				if x.version == 2 && n >= 8 {
					length = 72
				}
				short := n < length
				if n < 104 && length > 104 {
					length = 104 // header_length itself is not there to be read
				}
				assert.Equal(t, short, res.Has(problem.HeaderCut), "%d bytes", n)
				if short {
					assert.Empty(t, foundIn(res, "EXT", "CRY", "DAT", "CHN"), "%d bytes", n)
				}
				for _, f := range foundIn(res, "HDR") {
					if f.Code == problem.HeaderCut {
						assert.Equal(t, found{problem.HeaderCut, qcow2.HostOffset(n), uint64(length - n)}, f)
					} else {
						assert.LessOrEqual(t, uint64(f.Offset)+f.Length, uint64(n), "%d bytes: %v", n, f.Code)
					}
				}
			}
		})
	}
}

// FuzzRunHeader changes the header of a sound image and checks it.
func FuzzRunHeader(f *testing.F) {
	for _, x := range []minimalImage{{}, {version: 2}, {clusterBits: 9}, {clusterBits: 21}, {
		backing: "base", exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw")), qcow2.EncodeExtension(0x12345678, []byte("x"))},
	}} {
		f.Add(x.clusterBits, x.bytes(f)[:256])
	}
	f.Fuzz(func(t *testing.T, clusterBits uint32, head []byte) {
		x := minimalImage{}
		if clusterBits >= qcow2.MinClusterBits && clusterBits <= qcow2.MaxClusterBits {
			x.clusterBits = clusterBits
		}
		b := x.bytes(t)
		copy(b, head)
		binary.BigEndian.PutUint32(b, qcow2.Magic)
		for _, n := range []int{len(b), len(head), 600} {
			b := b[:max(4, min(n, len(b)))]
			before := bytes.Clone(b)
			res := runTest(t, b, Options{Untrusted: true})
			require.True(t, bytes.Equal(before, b), "a check must not write")
			for _, f := range res.Findings {
				require.NotEmpty(t, f.Text(), fmt.Sprint(f.Code))
				require.NotContains(t, f.Text(), "\n")
			}
		}
	})
}
