package check

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/qcow2"
)

func TestUntrusted(t *testing.T) {
	t.Parallel()
	format := qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw"))
	dataName := qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("/etc/shadow"))
	const cs = 1 << 16
	luksAt := minExtra * cs
	luks := minimalImage{
		exts:   [][]byte{qcow2.EncodeExtension(qcow2.ExtCrypto, qcow2.CryptoExtension{Offset: qcow2.HostOffset(luksAt), Length: luksPayload * 512}.Encode())},
		header: func(h *qcow2.Header) { h.CryptMethod = qcow2.CryptLUKS },
		extra:  (luksPayload*512 + cs - 1) / cs,
	}
	luksBytes := poke(luks.bytes(t), luksAt, luksHeader()...)
	bits := func(h *qcow2.Header) { h.CompatibleFeatures |= 1 << 50 }
	for name, tt := range map[string]struct {
		image []byte
		want  int
	}{
		"sound":                         {minimalImage{}.bytes(t), 0},
		"v2":                            {minimalImage{version: 2}.bytes(t), 0},
		"unknown compatible feature":    {minimalImage{header: bits}.bytes(t), 0},
		"leak":                          {minimalImage{extra: 1}.bytes(t), 0},
		"encrypted":                     {luksBytes, 0},
		"backing file":                  {minimalImage{backing: "/etc/shadow", exts: [][]byte{format}}.bytes(t), 1},
		"backing file without name":     {minimalImage{header: func(h *qcow2.Header) { h.BackingFileOffset = 512 }}.bytes(t), 1},
		"data file":                     {minimalImage{exts: [][]byte{dataName}, header: func(h *qcow2.Header) { h.IncompatibleFeatures |= qcow2.IncompatDataFile }}.bytes(t), 1},
		"data file named, not used":     {minimalImage{exts: [][]byte{dataName}}.bytes(t), 1},
		"both":                          {minimalImage{backing: "b", exts: [][]byte{format, dataName}}.bytes(t), 2},
		"unknown autoclear feature":     {minimalImage{header: func(h *qcow2.Header) { h.AutoclearFeatures |= 1 << 5 }}.bytes(t), 1},
		"unknown incompatible feature":  {minimalImage{header: func(h *qcow2.Header) { h.IncompatibleFeatures |= 1 << 5 }}.bytes(t), 3}, // besides QEMU's refusal and the finding
		"version 4":                     {poke(minimalImage{}.bytes(t), 4, be(4, 4)...), 3},
		"corruption that QEMU opens":    {poke(minimalImage{}.bytes(t), 40, be(0, 8)...), 1},
		"absurd size":                   {poke(minimalImage{clusterBits: 21}.bytes(t), 24, be(1<<57, 8)...), 3},
		"LUKS iterations":               {poke(luksBytes, luksAt+208+4, be(1<<32-1, 4)...), 1},
		"LUKS digest iterations":        {poke(luksBytes, luksAt+164, be(1<<31, 4)...), 1},
		"iterations of a disabled slot": {poke(luksBytes, luksAt+208+48+4, be(1<<32-1, 4)...), 0},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Len(t, runTest(t, tt.image, Options{Untrusted: true}).Unmet, tt.want)
			assert.Empty(t, runTest(t, tt.image, Options{}).Unmet)
		})
	}
}
