package qcow2_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func TestExtensionArea(t *testing.T) {
	g := qcow2.Geometry{ClusterBits: 16}
	for name, tt := range map[string]struct {
		h    qcow2.Header
		want qcow2.Extent
	}{
		"v2":                          {qcow2.Header{Version: 2, HeaderLength: 72}, qcow2.Extent{Offset: 72, Length: 65536 - 72}},
		"v3":                          {qcow2.Header{Version: 3, HeaderLength: 104}, qcow2.Extent{Offset: 104, Length: 65536 - 104}},
		"longer header":               {qcow2.Header{Version: 3, HeaderLength: 4096}, qcow2.Extent{Offset: 4096, Length: 65536 - 4096}},
		"up to the backing file name": {qcow2.Header{Version: 3, HeaderLength: 112, BackingFileOffset: 552}, qcow2.Extent{Offset: 112, Length: 440}},
		"name outside the cluster":    {qcow2.Header{Version: 3, HeaderLength: 112, BackingFileOffset: 1 << 40}, qcow2.Extent{Offset: 112, Length: 65536 - 112}},
		"name within the header":      {qcow2.Header{Version: 3, HeaderLength: 112, BackingFileOffset: 100}, qcow2.Extent{Offset: 100}},
		"header fills the cluster":    {qcow2.Header{Version: 3, HeaderLength: 65536}, qcow2.Extent{Offset: 65536}},
		"length too small":            {qcow2.Header{Version: 3, HeaderLength: 96}, qcow2.Extent{Offset: 112, Length: 65536 - 112}},
		"length not a multiple of 8":  {qcow2.Header{Version: 3, HeaderLength: 113}, qcow2.Extent{Offset: 112, Length: 65536 - 112}},
		"length beyond the cluster":   {qcow2.Header{Version: 3, HeaderLength: 1 << 31}, qcow2.Extent{Offset: 112, Length: 65536 - 112}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tt.want, tt.h.ExtensionArea(g))
		})
	}
}

func TestDecodeExtensions(t *testing.T) {
	const base = 112
	head := func(typ qcow2.ExtensionType, length uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(typ)), length)
	}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	raw := qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw"))
	for name, tt := range map[string]struct {
		area     []byte
		types    []qcow2.ExtensionType
		complete bool
	}{
		"none":                          {nil, nil, true},
		"end marker":                    {join(raw, head(qcow2.ExtEnd, 0), []byte("whatever")), []qcow2.ExtensionType{qcow2.ExtBackingFormat}, true},
		"no end marker":                 {raw, []qcow2.ExtensionType{qcow2.ExtBackingFormat}, true},
		"padding missing at the end":    {raw[:11], []qcow2.ExtensionType{qcow2.ExtBackingFormat}, true},
		"no room for another head":      {join(raw, []byte{0, 0, 0, 0}), []qcow2.ExtensionType{qcow2.ExtBackingFormat}, false},
		"overruns":                      {join(head(qcow2.ExtDataFile, 4), []byte{1, 2, 3}), []qcow2.ExtensionType{qcow2.ExtDataFile}, false},
		"overruns by far":               {join(raw, head(qcow2.ExtDataFile, 1<<32-1)), []qcow2.ExtensionType{qcow2.ExtBackingFormat, qcow2.ExtDataFile}, false},
		"end marker that claims length": {head(qcow2.ExtEnd, 9), []qcow2.ExtensionType{qcow2.ExtEnd}, false},
	} {
		t.Run(name, func(t *testing.T) {
			exts, complete := qcow2.DecodeExtensions(tt.area, base)
			assert.Equal(t, tt.complete, complete)
			require.Len(t, exts, len(tt.types))
			at := qcow2.HostOffset(base)
			for i, e := range exts {
				assert.Equal(t, tt.types[i], e.Type)
				assert.Equal(t, at, e.Offset)
				assert.Equal(t, e.Overruns(), !complete && i == len(exts)-1 && name != "no room for another head")
				at = e.End()
			}
		})
	}
}
