package qcow2_test

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

func TestDecodeLUKSHeader(t *testing.T) {
	be := binary.BigEndian
	b := make([]byte, qcow2.LUKSHeaderSize)
	copy(b, qcow2.LUKSMagic)
	be.PutUint16(b[qcow2.LUKSFieldVersion:], 1)
	copy(b[qcow2.LUKSFieldCipherName:], "aes\x00junk")
	copy(b[qcow2.LUKSFieldCipherMode:], "xts-plain64")
	copy(b[qcow2.LUKSFieldHashSpec:], "0123456789abcdef0123456789abcdef") // without a NUL
	be.PutUint32(b[qcow2.LUKSFieldPayloadOffset:], 4040)
	be.PutUint32(b[qcow2.LUKSFieldKeyBytes:], 64)
	last := b[qcow2.LUKSFieldKeySlots+7*qcow2.LUKSKeySlotSize:]
	be.PutUint32(last[qcow2.LUKSSlotFieldActive:], qcow2.LUKSSlotEnabled)
	be.PutUint32(last[qcow2.LUKSSlotFieldMaterialOffset:], 1<<32-1)
	be.PutUint32(last[qcow2.LUKSSlotFieldStripes:], 1<<32-1)

	h := qcow2.DecodeLUKSHeader(b)
	assert.True(t, h.MagicOK())
	assert.EqualValues(t, 1, h.Version)
	assert.Equal(t, "aes", h.CipherName)
	assert.Equal(t, "xts-plain64", h.CipherMode)
	assert.Equal(t, "0123456789abcdef0123456789abcdef", h.HashSpec)
	assert.EqualValues(t, 4040, h.PayloadOffset)
	assert.EqualValues(t, 64, h.KeyBytes)
	assert.False(t, h.KeySlots[0].Enabled())
	assert.True(t, h.KeySlots[7].Enabled())
	off, length := h.KeySlots[7].Material(h.KeyBytes)
	assert.EqualValues(t, (1<<32-1)*512, off)
	assert.EqualValues(t, (1<<32-1)*64, length)

	short := qcow2.DecodeLUKSHeader(b[:100])
	assert.True(t, short.MagicOK())
	assert.Zero(t, short.KeyBytes)
	assert.False(t, func() bool { h := qcow2.DecodeLUKSHeader(nil); return h.MagicOK() }())
}

func TestLUKSHeaderOfQEMU(t *testing.T) {
	qemutest.Require(t)
	path := filepath.Join(t.TempDir(), "image.qcow2")
	qemutest.Img(t, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=geheim",
		"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "4M")
	img, _ := openImage(t, path)
	ext := qcow2.DecodeCryptoExtension(img.Extension(qcow2.ExtCrypto).Data)
	b, err := img.ReadExtent(qcow2.Extent(ext), qcow2.LUKSHeaderSize)
	require.NoError(t, err)
	h := qcow2.DecodeLUKSHeader(b)
	assert.True(t, h.MagicOK())
	assert.EqualValues(t, 1, h.Version)
	assert.Equal(t, "aes", h.CipherName)
	assert.Equal(t, "sha256", h.HashSpec)
	assert.EqualValues(t, 64, h.KeyBytes)
	assert.Len(t, h.UUID, 36)
	assert.LessOrEqual(t, uint64(h.PayloadOffset)*qcow2.SectorSize, ext.Length)
	for i, s := range h.KeySlots {
		assert.Equal(t, i == 0, s.Enabled())
		off, length := s.Material(h.KeyBytes)
		assert.True(t, qcow2.RangeFits(off, length, ext.Length))
		if i > 0 {
			assert.EqualValues(t, qcow2.LUKSSlotDisabled, s.State)
		}
	}
}
