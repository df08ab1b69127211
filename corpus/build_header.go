package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// qemuFeatureNames is the feature name table that QEMU writes.
var qemuFeatureNames = []qcow2.FeatureName{
	{Type: qcow2.FeatureIncompatible, Bit: 0, Name: "dirty bit"},
	{Type: qcow2.FeatureIncompatible, Bit: 1, Name: "corrupt bit"},
	{Type: qcow2.FeatureIncompatible, Bit: 2, Name: "external data file"},
	{Type: qcow2.FeatureIncompatible, Bit: 3, Name: "compression type"},
	{Type: qcow2.FeatureIncompatible, Bit: 4, Name: "extended L2 entries"},
	{Type: qcow2.FeatureCompatible, Bit: 0, Name: "lazy refcounts"},
	{Type: qcow2.FeatureAutoclear, Bit: 0, Name: "bitmaps"},
	{Type: qcow2.FeatureAutoclear, Bit: 1, Name: "raw external data"},
}

// setFeatures sets the header's version-dependent fields.
func (b *builder) setFeatures() error {
	s := b.spec
	if b.h.Version == 2 {
		if s.ExtendedL2 || s.Compression != 0 || s.Lazy || s.Dirty || s.Corrupt || s.DataFile != nil ||
			s.HeaderLength != 0 || s.MoreCompatible|s.MoreAutoclear != 0 || b.h.RefcountOrder != 4 {
			return fmt.Errorf("version 2 has no features")
		}
		b.h.HeaderLength = qcow2.HeaderLengthV2
		return nil
	}
	if b.h.HeaderLength == 0 {
		b.h.HeaderLength = qcow2.HeaderLengthCompression
	}
	b.h.CompressionType = s.Compression
	b.h.CompatibleFeatures, b.h.AutoclearFeatures = s.MoreCompatible, s.MoreAutoclear
	for f, set := range map[qcow2.Features]bool{
		qcow2.IncompatDirty: s.Dirty, qcow2.IncompatCorrupt: s.Corrupt, qcow2.IncompatDataFile: s.DataFile != nil,
		qcow2.IncompatCompression: s.Compression != 0, qcow2.IncompatExtendedL2: s.ExtendedL2,
	} {
		if set {
			b.h.IncompatibleFeatures |= f
		}
	}
	if s.Lazy {
		b.h.CompatibleFeatures |= qcow2.CompatLazyRefcounts
	}
	if len(s.Bitmaps) > 0 && !s.StaleBitmaps {
		b.h.AutoclearFeatures |= qcow2.AutoclearBitmaps
	}
	if s.DataFile != nil && s.DataFile.Raw {
		b.h.AutoclearFeatures |= qcow2.AutoclearRawData
	}
	return nil
}

// writeHeader writes the first cluster: header, extensions in QEMU's order, and
// the backing file's name.
func (b *builder) writeHeader() error {
	s, img := b.spec, b.img
	h := &b.h
	h.Size = img.size
	h.CryptMethod = s.Crypt
	h.L1Size, h.L1TableOffset = uint32(len(b.l1)), b.l1At.Offset
	h.RefcountTableOffset, h.RefcountTableClusters = img.refTable.Offset, b.refTableClusters
	h.NbSnapshots, h.SnapshotsOffset = uint32(len(img.snaps)), img.snapTable.Offset

	var exts []RawExtension
	add := func(t qcow2.ExtensionType, data []byte) { exts = append(exts, RawExtension{t, data}) }
	if s.Backing != nil && s.Backing.Format != "" {
		add(qcow2.ExtBackingFormat, []byte(s.Backing.Format))
	}
	if s.DataFile != nil && s.DataFile.Name != "" {
		add(qcow2.ExtDataFile, []byte(s.DataFile.Name))
	}
	if img.crypto.Length != 0 {
		add(qcow2.ExtCrypto, qcow2.CryptoExtension{Offset: img.crypto.Offset, Length: img.crypto.Length}.Encode())
	}
	names := s.FeatureNames
	if names == nil && !s.NoFeatureNames && h.Version != 2 {
		names = qemuFeatureNames
	}
	table := len(exts)
	if names != nil {
		add(qcow2.ExtFeatureNames, qcow2.EncodeFeatureNames(names))
	}
	if len(img.bitmaps) > 0 {
		add(qcow2.ExtBitmaps, b.bitmapsExtension())
	}
	exts = append(exts, s.Extensions...)

	room := b.g.ClusterSize() - uint64(h.HeaderLength)
	if s.Backing != nil {
		room -= min(room, uint64(len(s.Backing.Name)))
	}
	if s.FeatureNames == nil && names != nil && extensionsSize(exts) > room {
		exts = append(exts[:table:table], exts[table+1:]...)
	}
	if extensionsSize(exts) > room {
		return fmt.Errorf("the header extensions do not fit into the first cluster")
	}

	at := qcow2.HostOffset(h.HeaderLength)
	for _, e := range exts {
		p := qcow2.EncodeExtension(e.Type, e.Data)
		img.write(p, at)
		img.exts = append(img.exts, extension{e.Type, qcow2.Extent{Offset: at, Length: uint64(len(p))}, uint64(len(e.Data))})
		at += qcow2.HostOffset(len(p))
	}
	img.extEnd = qcow2.Extent{Offset: at, Length: 8}
	if s.Backing != nil {
		at += 8 // the end of the extensions
		img.backingName = qcow2.Extent{Offset: at, Length: uint64(len(s.Backing.Name))}
		img.write([]byte(s.Backing.Name), at)
		h.BackingFileOffset, h.BackingFileSize = at, uint32(len(s.Backing.Name))
	}
	img.write(h.Encode(), 0)
	img.header = *h
	return nil
}

// extensionsSize is the size of the extensions with their end, in bytes.
func extensionsSize(exts []RawExtension) uint64 {
	n := uint64(8)
	for _, e := range exts {
		n += uint64(len(qcow2.EncodeExtension(e.Type, e.Data)))
	}
	return n
}
