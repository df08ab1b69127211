package corpus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/qcheck/qcheck/qcow2"
)

// Secret is the passphrase of every encrypted image.
const Secret = "qcheck"

// Layout of a LUKS header, in the terms of its own specification.
const (
	luksKeyBytes   = 32 // AES-128 in XTS mode takes two keys
	luksStripes    = 4000
	luksIterations = 1000 // few: nothing here is secret
	luksSlots      = 8
	luksSlotsAt    = 208 // of the first key slot's description
	luksSlotSize   = 48
	// Sectors: the header and each slot's key material start at multiples of 4 KiB.
	luksHeadSectors     = 8
	luksMaterialSectors = (luksKeyBytes*luksStripes/qcow2.SectorSize + 7) &^ 7
	luksPayloadSectors  = luksHeadSectors + luksSlots*luksMaterialSectors

	luksSlotActive   = 0x00ac71f3
	luksSlotInactive = 0x0000dead
)

// crypter encrypts guest data.
type crypter struct {
	data, tweak cipher.Block
	legacy      bool // AES-CBC, by guest offset; else AES-XTS, by host offset
}

// encrypt encrypts whole sectors in place.
func (c *crypter) encrypt(p []byte, guest, host uint64) {
	at := host
	if c.legacy {
		at = guest
	}
	for ; len(p) > 0; p, at = p[qcow2.SectorSize:], at+qcow2.SectorSize {
		var iv [aes.BlockSize]byte
		binary.LittleEndian.PutUint64(iv[:], at/qcow2.SectorSize)
		sector := p[:qcow2.SectorSize]
		if c.legacy {
			cipher.NewCBCEncrypter(c.data, iv[:]).CryptBlocks(sector, sector)
		} else {
			c.xts(sector, iv)
		}
	}
}

// xts encrypts a sector in XTS mode; tweak is its number.
func (c *crypter) xts(p []byte, tweak [aes.BlockSize]byte) {
	c.tweak.Encrypt(tweak[:], tweak[:])
	for ; len(p) > 0; p = p[aes.BlockSize:] {
		for i, t := range tweak {
			p[i] ^= t
		}
		c.data.Encrypt(p, p)
		carry := byte(0)
		for i, t := range tweak {
			p[i] ^= t
			tweak[i], carry = t<<1|carry, t>>7
		}
		if carry != 0 {
			tweak[0] ^= 0x87
		}
	}
}

func newXTS(key []byte) *crypter {
	half := len(key) / 2
	return &crypter{data: mustAES(key[:half]), tweak: mustAES(key[half:])}
}

func mustAES(key []byte) cipher.Block {
	c, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the keys here have the right length
	}
	return c
}

// initCrypt makes the encryption header, with [Secret] in its first key slot.
func (b *builder) initCrypt() error {
	switch b.spec.Crypt {
	case qcow2.CryptNone:
		return nil
	case qcow2.CryptAES:
		key := make([]byte, aes.BlockSize)
		copy(key, Secret)
		b.crypt = &crypter{data: mustAES(key), legacy: true}
	case qcow2.CryptLUKS:
		header, key, err := luksHeader()
		if err != nil {
			return err
		}
		b.img.crypto = b.place(uint64(len(header)))
		b.img.write(header, b.img.crypto.Offset)
		b.crypt = newXTS(key)
	default:
		return fmt.Errorf("no encryption method %d", b.spec.Crypt)
	}
	return nil
}

// luksHeader gives a LUKS version 1 header with its key material, and the key
// that the guest's data is encrypted with.
func luksHeader() (header, key []byte, err error) {
	random := rand.NewChaCha8([32]byte{'L', 'U', 'K', 'S'})
	bytes := func(n int) []byte {
		p := make([]byte, n)
		random.Read(p)
		return p
	}
	key = bytes(luksKeyBytes)
	salt := bytes(32)
	digest, err := pbkdf2.Key(sha256.New, string(key), salt, luksIterations, 20)
	if err != nil {
		return nil, nil, err
	}

	header = make([]byte, luksPayloadSectors*qcow2.SectorSize)
	copy(header, "LUKS\xba\xbe\x00\x01")
	copy(header[8:], "aes")
	copy(header[40:], "xts-plain64")
	copy(header[72:], "sha256")
	putUint32(header[104:], luksPayloadSectors)
	putUint32(header[108:], luksKeyBytes)
	copy(header[112:], digest)
	copy(header[132:], salt)
	putUint32(header[164:], luksIterations)
	copy(header[168:], "00000000-0000-4000-8000-000000000000")
	for i := range luksSlots {
		slot := header[luksSlotsAt+i*luksSlotSize:]
		putUint32(slot, luksSlotInactive)
		putUint32(slot[40:], uint32(luksHeadSectors+i*luksMaterialSectors))
		putUint32(slot[44:], luksStripes)
	}

	slot := header[luksSlotsAt:]
	slotSalt := bytes(32)
	slotKey, err := pbkdf2.Key(sha256.New, Secret, slotSalt, luksIterations, luksKeyBytes)
	if err != nil {
		return nil, nil, err
	}
	putUint32(slot, luksSlotActive)
	putUint32(slot[4:], luksIterations)
	copy(slot[8:], slotSalt)
	material := splitKey(key, bytes(luksKeyBytes*(luksStripes-1)))
	newXTS(slotKey).encrypt(material, 0, 0)
	copy(header[luksHeadSectors*qcow2.SectorSize:], material)
	return header, key, nil
}

// splitKey spreads a key over stripes so that all of them are needed to get it
// back (LUKS's anti-forensic splitter). random fills all stripes but the last.
func splitKey(key, random []byte) []byte {
	d := make([]byte, len(key))
	for at := 0; at < len(random); at += len(key) {
		for i := range d {
			d[i] ^= random[at+i]
		}
		diffuse(d)
	}
	for i := range d {
		d[i] ^= key[i]
	}
	return append(random, d...)
}

func diffuse(p []byte) {
	for i := 0; i < len(p); i += sha256.Size {
		block := p[i:min(i+sha256.Size, len(p))]
		var in [4 + sha256.Size]byte
		putUint32(in[:], uint32(i/sha256.Size))
		copy(in[4:], block)
		sum := sha256.Sum256(in[:4+len(block)])
		copy(block, sum[:])
	}
}
