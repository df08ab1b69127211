package check

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

const (
	luksSlotSectors = 504  // sectors from one key slot's material to the next, as QEMU lays them out
	luksPayload     = 4040 // sectors
)

// luksHeader gives a sound LUKS header for a key of 64 bytes, the first slot
// enabled.
func luksHeader() []byte {
	b := make([]byte, qcow2.LUKSHeaderSize)
	b2 := binary.BigEndian
	copy(b, qcow2.LUKSMagic)
	b2.PutUint16(b[qcow2.LUKSFieldVersion:], 1)
	copy(b[qcow2.LUKSFieldCipherName:], "aes")
	copy(b[qcow2.LUKSFieldCipherMode:], "xts-plain64")
	copy(b[qcow2.LUKSFieldHashSpec:], "sha256")
	b2.PutUint32(b[qcow2.LUKSFieldPayloadOffset:], luksPayload)
	b2.PutUint32(b[qcow2.LUKSFieldKeyBytes:], 64)
	b2.PutUint32(b[luksIterations:], 1000)
	for i := range qcow2.LUKSKeySlots {
		slot := b[qcow2.LUKSFieldKeySlots+i*qcow2.LUKSKeySlotSize:]
		b2.PutUint32(slot[qcow2.LUKSSlotFieldActive:], qcow2.LUKSSlotDisabled)
		b2.PutUint32(slot[qcow2.LUKSSlotFieldMaterialOffset:], uint32(8+i*luksSlotSectors))
		b2.PutUint32(slot[qcow2.LUKSSlotFieldStripes:], luksStripes)
	}
	slot := b[qcow2.LUKSFieldKeySlots:]
	b2.PutUint32(slot[qcow2.LUKSSlotFieldActive:], qcow2.LUKSSlotEnabled)
	b2.PutUint32(slot[qcow2.LUKSSlotFieldIterations:], 1000)
	return b
}

func TestCrypto(t *testing.T) {
	const (
		cs       = 1 << 16
		clusters = (luksPayload*512 + cs - 1) / cs
		luks     = minExtra * cs // where the LUKS header stands
		ext      = 112           // where the extension stands
		data     = ext + 8       // and its data
		slot0    = luks + 208    // where the first key slot stands
		slot7    = slot0 + 7*48  // and the last one
	)
	pointer := qcow2.CryptoExtension{Offset: luks, Length: luksPayload * 512}
	sound := minimalImage{
		exts:   [][]byte{qcow2.EncodeExtension(qcow2.ExtCrypto, pointer.Encode())},
		header: func(h *qcow2.Header) { h.CryptMethod = qcow2.CryptLUKS },
		extra:  clusters,
	}
	type pokes = map[int][]byte
	for name, tt := range map[string]struct {
		pokes   pokes
		cut     int // the file's length, if not 0
		want    []found
		warning bool
		doubt   bool
		claimed uint64
	}{
		"sound":                        {claimed: clusters},
		"no encryption":                {pokes: pokes{32: be(0, 4), ext: be(0, 8)}},
		"AES":                          {pokes: pokes{32: be(1, 4), ext: be(0, 8)}},
		"LUKS without the extension":   {pokes: pokes{ext: be(0, 8)}, want: []found{{problem.CryptoPointerContradiction, 32, 4}}, doubt: true},
		"extension with AES":           {pokes: pokes{32: be(1, 4)}, want: []found{{problem.CryptoPointerContradiction, ext, 24}}, doubt: true},
		"extension without encryption": {pokes: pokes{32: be(0, 4)}, want: []found{{problem.CryptoPointerContradiction, ext, 24}}, doubt: true},
		"extension of another length":  {pokes: pokes{ext + 4: be(15, 4)}, doubt: true},
		"extension overruns":           {pokes: pokes{ext + 4: be(1<<31, 4)}, doubt: true},

		"misaligned":        {pokes: pokes{data: be(luks+512, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data, 8}}, doubt: true},
		"in the header":     {pokes: pokes{data: be(0, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data, 8}}, doubt: true},
		"past the end":      {pokes: pokes{data: be(1<<40, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data, 8}}, doubt: true},
		"past 2^64":         {pokes: pokes{data: be(1<<64-cs, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data, 8}}, doubt: true},
		"shorter than LUKS": {pokes: pokes{data + 8: be(591, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data + 8, 8}}, doubt: true},
		"runs past the end": {pokes: pokes{data + 8: be((clusters+1)*cs+1, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data + 8, 8}}, doubt: true},
		"length 2^64-1":     {pokes: pokes{data + 8: be(1<<64-1, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data + 8, 8}}, doubt: true},
		"file cut within":   {cut: luks + cs, want: []found{{problem.CryptoHeaderMisplaced, data + 8, 8}}, doubt: true},
		"cuts key material": {pokes: pokes{data + 8: be(4096, 8)}, want: []found{{problem.CryptoHeaderMisplaced, data + 8, 8}}, claimed: 1},
		"cuts unused slots": {pokes: pokes{data + 8: be(512*512, 8)}, want: []found{{problem.LUKSHeaderDamaged, luks + 104, 4}}, warning: true, claimed: 4},

		"magic":                     {pokes: pokes{luks: {'l'}}, want: []found{{problem.LUKSHeaderDamaged, luks, 6}}, claimed: clusters},
		"version":                   {pokes: pokes{luks + 7: {2}}, want: []found{{problem.LUKSHeaderDamaged, luks + 6, 2}}, claimed: clusters},
		"cipher name without end":   {pokes: pokes{luks + 8: []byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")}, want: []found{{problem.LUKSHeaderDamaged, luks + 8, 32}}, claimed: clusters},
		"payload in the header":     {pokes: pokes{luks + 104: be(7, 4)}, want: []found{{problem.LUKSHeaderDamaged, luks + 104, 4}}, claimed: clusters},
		"payload in key material":   {pokes: pokes{luks + 104: be(8, 4)}, want: []found{{problem.LUKSHeaderDamaged, luks + 104, 4}}, claimed: clusters},
		"payload cuts the last key": {pokes: pokes{luks + 104: be(luksPayload-8, 4)}, want: []found{{problem.LUKSHeaderDamaged, luks + 104, 4}}, claimed: clusters},
		"payload past the length":   {pokes: pokes{luks + 104: be(5000, 4)}, want: []found{{problem.LUKSHeaderDamaged, luks + 104, 4}}, warning: true, claimed: clusters},
		"digest iterations":         {pokes: pokes{luks + 164: be(0, 4)}, want: []found{{problem.LUKSHeaderDamaged, luks + 164, 4}}, claimed: clusters},
		"slot state":                {pokes: pokes{slot7: be(1, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot7, 4}}, claimed: clusters},
		"slot iterations":           {pokes: pokes{slot0 + 4: be(0, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot0 + 4, 4}}, claimed: clusters},
		"slot stripes":              {pokes: pokes{slot7 + 44: be(3999, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot7 + 44, 4}}, claimed: clusters},
		"slot in the header":        {pokes: pokes{slot0 + 40: be(7, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot0 + 40, 4}}, claimed: clusters},
		"slot in another":           {pokes: pokes{slot7 + 40: be(9, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot7 + 40, 4}}, claimed: clusters},
		"slot past the payload":     {pokes: pokes{slot7 + 40: be(4000, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot7 + 40, 4}}, claimed: clusters},
		"slot at 2^32-1":            {pokes: pokes{slot7 + 40: be(1<<32-1, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot7 + 40, 4}}, claimed: clusters},
		"no slot enabled":           {pokes: pokes{slot0: be(qcow2.LUKSSlotDisabled, 4)}, want: []found{{problem.LUKSHeaderDamaged, slot0, 8 * 48}}, claimed: clusters},
	} {
		t.Run(name, func(t *testing.T) {
			b := poke(sound.bytes(t), luks, luksHeader()...)
			for off, with := range tt.pokes {
				copy(b[off:], with)
			}
			if tt.cut != 0 {
				b = b[:tt.cut]
			}
			if tt.want == nil {
				tt.want = []found{}
			}
			c := newRun(t.Context(), openTest(t, b), Options{})
			require.NoError(t, c.checkCrypto())
			findings := c.Collector.Findings()
			assert.Equal(t, tt.want, foundIn(&Result{Findings: findings}))
			for _, f := range findings {
				assert.Equal(t, tt.warning, f.Severity == problem.Warning)
			}
			assert.Equal(t, tt.doubt, len(c.doubts) > 0)
			var claimed uint64
			for _, m := range c.meta {
				claimed += m.n
			}
			assert.Equal(t, tt.claimed, claimed)
		})
	}
}

// Whatever stands in the LUKS header, reading it ends.
func FuzzLUKS(f *testing.F) {
	f.Add(luksHeader(), uint64(luksPayload*512))
	f.Fuzz(func(t *testing.T, b []byte, length uint64) {
		whole := make([]byte, qcow2.LUKSHeaderSize)
		copy(whole, b)
		for _, x := range luksFaults(whole, length) {
			require.NotEmpty(t, x.message)
			if !x.pointer {
				require.LessOrEqual(t, x.field+x.length, uint64(qcow2.LUKSHeaderSize))
			}
		}
	})
}
