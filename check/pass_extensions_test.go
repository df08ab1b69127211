package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

func TestExtensions(t *testing.T) {
	enc := qcow2.EncodeExtension
	format := enc(qcow2.ExtBackingFormat, []byte("qcow2"))
	names := func(ns ...qcow2.FeatureName) []byte {
		return enc(qcow2.ExtFeatureNames, qcow2.EncodeFeatureNames(ns))
	}
	withData := func(h *qcow2.Header) { h.IncompatibleFeatures |= qcow2.IncompatDataFile }
	// length gives an extension another length than its data has.
	length := func(ext []byte, n uint64) []byte { return poke(ext, 4, be(n, 4)...) }
	const first = 112 // where the first extension starts

	for name, tt := range map[string]struct {
		image  minimalImage
		want   []found
		doubts []problem.Structure
	}{
		"backing file with format": {image: minimalImage{backing: "base", exts: [][]byte{format}}},
		"v2":                       {image: minimalImage{version: 2, backing: "base", exts: [][]byte{format}}},
		"feature names": {image: minimalImage{exts: [][]byte{names(
			qcow2.FeatureName{Type: qcow2.FeatureIncompatible, Bit: 0, Name: "dirty"},
			qcow2.FeatureName{Type: qcow2.FeatureAutoclear, Bit: 63, Name: "the last"})}}},
		"chain ends with the area": {image: minimalImage{
			exts: [][]byte{format},
			header: func(h *qcow2.Header) {
				h.BackingFileOffset, h.BackingFileSize = first+16, 4
			}}},

		"overruns the cluster": {image: minimalImage{exts: [][]byte{length(enc(0x1234, nil), 1<<16)}},
			want: []found{{problem.ExtensionOverrun, first + 4, 4}}, doubts: []problem.Structure{problem.StructExtension}},
		"length 2^32-1": {image: minimalImage{exts: [][]byte{length(enc(qcow2.ExtBitmaps, nil), 1<<32-1)}},
			want: []found{{problem.ExtensionOverrun, first + 4, 4}}, doubts: []problem.Structure{problem.StructExtension}},
		"overruns into the backing file name": {image: minimalImage{backing: "base", exts: [][]byte{length(format, 17)}},
			want: []found{{problem.ExtensionOverrun, first + 4, 4}}, doubts: []problem.Structure{problem.StructExtension}},
		"second overruns": {image: minimalImage{version: 2, exts: [][]byte{enc(qcow2.ExtFeatureNames, nil), length(enc(qcow2.ExtDataFile, nil), 70000)}},
			want: []found{{problem.ExtensionOverrun, 72 + 8 + 4, 4}}, doubts: []problem.Structure{problem.StructExtension}},
		"end marker overruns": {image: minimalImage{exts: [][]byte{length(enc(qcow2.ExtEnd, nil), 1<<16)}},
			want: []found{{problem.ExtensionOverrun, first + 4, 4}}, doubts: []problem.Structure{problem.StructExtension}},
		"end marker that claims data": {image: minimalImage{exts: [][]byte{length(enc(qcow2.ExtEnd, nil), 100)}}},
		"no room for an end marker": {image: minimalImage{
			exts:   [][]byte{format, names()},
			header: func(h *qcow2.Header) { h.BackingFileOffset, h.BackingFileSize = first+16+12, 4 }},
			want: []found{{problem.ExtensionOverrun, first + 24, 4}}},
		"overrun behind a header length that cannot be": {image: minimalImage{exts: [][]byte{length(enc(0x1234, nil), 1<<16)}, header: func(h *qcow2.Header) { h.HeaderLength = 113 }},
			want: []found{}, doubts: []problem.Structure{problem.StructExtension, problem.StructExtension}},

		"twice": {image: minimalImage{backing: "base", exts: [][]byte{format, format, format}},
			want: []found{{problem.ExtensionDuplicate, first + 16, 13}, {problem.ExtensionDuplicate, first + 32, 13}}},
		"unknown twice": {image: minimalImage{exts: [][]byte{enc(0x1234, []byte("x")), enc(0x1234, []byte("y"))}},
			want: []found{{problem.ExtensionUnknown, first, 9}, {problem.ExtensionDuplicate, first + 16, 9}, {problem.ExtensionUnknown, first + 16, 9}}},

		"bitmaps of 32 bytes": {image: minimalImage{exts: [][]byte{enc(qcow2.ExtBitmaps, make([]byte, 32))}},
			want: []found{{problem.ExtensionLength, first + 4, 4}}, doubts: []problem.Structure{problem.StructBitmapExtension}},
		"bitmaps of 23 bytes": {image: minimalImage{exts: [][]byte{enc(qcow2.ExtBitmaps, make([]byte, 23))}},
			want: []found{{problem.ExtensionLength, first + 4, 4}}, doubts: []problem.Structure{problem.StructBitmapExtension}},
		"feature names of 47 bytes": {image: minimalImage{exts: [][]byte{enc(qcow2.ExtFeatureNames, make([]byte, 47))}},
			want: []found{{problem.ExtensionLength, first + 4, 4}}},
		"backing format of 16 bytes": {image: minimalImage{backing: "base", exts: [][]byte{enc(qcow2.ExtBackingFormat, make([]byte, 16))}},
			want: []found{{problem.ExtensionLength, first + 4, 4}}},

		"data file without the bit":   {image: minimalImage{exts: [][]byte{enc(qcow2.ExtDataFile, []byte("disk.raw"))}}, want: []found{{problem.ExtensionUnused, first, 16}}},
		"data file with the bit":      {image: minimalImage{exts: [][]byte{enc(qcow2.ExtDataFile, []byte("disk.raw"))}, header: withData}},
		"format without backing file": {image: minimalImage{exts: [][]byte{format}}, want: []found{{problem.ExtensionUnused, first, 13}}},

		"feature type 3": {image: minimalImage{exts: [][]byte{names(qcow2.FeatureName{}, qcow2.FeatureName{Type: 3})}},
			want: []found{{problem.FeatureNameImpossible, first + 8 + 48, 1}}},
		"feature bit 64": {image: minimalImage{exts: [][]byte{names(qcow2.FeatureName{Bit: 64})}},
			want: []found{{problem.FeatureNameImpossible, first + 8 + 1, 1}}},

		"no backing format":           {image: minimalImage{backing: "base"}, want: []found{{problem.BackingFormatMissing, 8, 12}}},
		"empty backing format":        {image: minimalImage{backing: "base", exts: [][]byte{enc(qcow2.ExtBackingFormat, nil)}}, want: []found{{problem.BackingFormatMissing, 8, 12}}},
		"driver named in JSON":        {image: minimalImage{backing: `json:{"driver":"qcow2","file.filename":"base"}`}},
		"no driver named in JSON":     {image: minimalImage{backing: `json:{"file.filename":"base"}`}, want: []found{{problem.BackingFormatMissing, 8, 12}}},
		"backing file without a name": {image: minimalImage{header: func(h *qcow2.Header) { h.BackingFileOffset = 512 }}},
		"extensions hidden":           {image: minimalImage{backing: "base", header: func(h *qcow2.Header) { h.BackingFileOffset = 72 }}, doubts: []problem.Structure{problem.StructExtension}},
	} {
		t.Run(name, func(t *testing.T) {
			b := tt.image.bytes(t)
			if tt.want == nil {
				tt.want = []found{}
			}
			c := newRun(t.Context(), openTest(t, b), Options{})
			require.NoError(t, c.checkHeader())
			require.NoError(t, c.checkExtensions())
			var doubts []problem.Structure
			for _, d := range c.doubts {
				doubts = append(doubts, d.Owner.Structure)
			}
			assert.Equal(t, tt.doubts, doubts)
			assert.Equal(t, tt.want, foundIn(&Result{Findings: c.Collector.Findings()}, "EXT", "CHN"))
		})
	}
}

// Each extension that comes twice is one finding, whatever the number of types.
func TestExtensionsMany(t *testing.T) {
	x := minimalImage{clusterBits: 21}
	ext := qcow2.EncodeExtension(0x7fffffff, nil)
	for range 200_000 {
		x.exts = append(x.exts, ext)
	}
	res := runTest(t, x.bytes(t), Options{})
	assert.EqualValues(t, 199_999, res.Totals.Warnings)
	assert.EqualValues(t, 200_000, res.Totals.Notes)
	assert.LessOrEqual(t, len(res.Findings), 2*(problem.DefaultMaxFindings+1))
}
