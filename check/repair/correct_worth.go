package repair

import (
	"bytes"
	"slices"

	"github.com/qcheck/qcheck/qcow2"
)

// Most values of most fields are seen to be wrong without any other look at the image.
// Only the others are worth a trial.

// headerField is a field of the header that something depends on.
type headerField struct {
	at, length int
	name       string
	v3         bool
	reach      reach
	worth      func(c *corrector, v uint64) bool
}

// headerFields are those fields. The magic is not among them, for without it the image is
// not opened; nor are the compatible features.
var headerFields = []headerField{
	{qcow2.FieldVersion, 4, "version", false, reachFormat, func(c *corrector, v uint64) bool { return v == 2 || v == 3 }},
	{qcow2.FieldClusterBits, 4, "cluster_bits", false, reachFormat, func(c *corrector, v uint64) bool {
		return v >= qcow2.MinClusterBits && v <= qcow2.MaxClusterBits
	}},
	{qcow2.FieldSize, 8, "size", false, reachSize, (*corrector).worthSize},
	{qcow2.FieldCryptMethod, 4, "crypt_method", false, reachFormat, func(c *corrector, v uint64) bool { return v <= uint64(qcow2.CryptLUKS) }},
	{qcow2.FieldL1Size, 4, "l1_size", false, reachL1, func(c *corrector, v uint64) bool {
		return v <= qcow2.MaxL1Entries && (!c.img.GeometryOK || v >= c.h.L1Needed(c.g)) && c.holds(uint64(c.h.L1TableOffset), v*8)
	}},
	{qcow2.FieldL1TableOffset, 8, "l1_table_offset", false, reachL1, (*corrector).worthTable},
	{qcow2.FieldRefcountTableOffset, 8, "refcount_table_offset", false, reachRefTable, (*corrector).worthTable},
	{qcow2.FieldRefcountTableClusters, 4, "refcount_table_clusters", false, reachRefTable, func(c *corrector, v uint64) bool {
		return v > 0 && (!c.img.GeometryOK || c.holds(uint64(c.h.RefcountTableOffset), v*c.g.ClusterSize()))
	}},
	{qcow2.FieldNbSnapshots, 4, "nb_snapshots", false, reachSnapshots, func(c *corrector, v uint64) bool { return v <= qcow2.MaxSnapshots }},
	{qcow2.FieldSnapshotsOffset, 8, "snapshots_offset", false, reachSnapshots, func(c *corrector, v uint64) bool {
		return v == 0 && c.h.NbSnapshots == 0 || c.worthTable(v)
	}},
	{qcow2.FieldBackingFileOffset, 8, "backing_file_offset", false, reachBacking, func(c *corrector, v uint64) bool {
		return v < 1<<qcow2.MaxClusterBits && (!c.img.GeometryOK || v < c.g.ClusterSize())
	}},
	{qcow2.FieldBackingFileSize, 4, "backing_file_size", false, reachBacking, func(c *corrector, v uint64) bool { return v <= qcow2.MaxBackingFileName }},
	{qcow2.FieldIncompatibleFeatures, 8, "incompatible_features", true, reachFormat, func(c *corrector, v uint64) bool {
		return qcow2.Features(v)&^qcow2.IncompatKnown == 0
	}},
	{qcow2.FieldAutoclearFeatures, 8, "autoclear_features", true, reachExtensions, func(c *corrector, v uint64) bool {
		return qcow2.Features(v)&^qcow2.AutoclearKnown == 0
	}},
	{qcow2.FieldRefcountOrder, 4, "refcount_order", true, reachFormat, func(c *corrector, v uint64) bool { return v <= qcow2.MaxRefcountOrder }},
	{qcow2.FieldHeaderLength, 4, "header_length", true, reachFormat | reachExtensions, func(c *corrector, v uint64) bool {
		return v%8 == 0 && v >= qcow2.HeaderLengthV3 && (!c.img.GeometryOK || v <= c.g.ClusterSize())
	}},
	// With the padding behind it.
	{qcow2.FieldCompressionType, 8, "compression_type", true, reachFormat, func(c *corrector, v uint64) bool {
		return v&(1<<56-1) == 0 && v>>56 <= uint64(qcow2.CompressionZstd)
	}},
}

// worthTable tells whether a table can be at an offset.
func (c *corrector) worthTable(v uint64) bool {
	return v != 0 && v < uint64(c.o.size) && (!c.img.GeometryOK || c.g.Aligned(qcow2.HostOffset(v)))
}

// worthSize tells whether the L1 table is as long as a disk needs. Nothing else tells of a
// disk that is too small.
func (c *corrector) worthSize(v uint64) bool {
	if !c.img.GeometryOK {
		return true
	}
	needed := c.g.L1EntriesFor(v)
	return v > 0 && (needed == uint64(c.h.L1Size) || needed < uint64(c.h.L1Size) && c.keepsState())
}

// keepsState tells of a snapshot with the state of a machine, for which QEMU makes the L1
// table longer.
func (c *corrector) keepsState() bool {
	return slices.ContainsFunc(c.ev.Snapshots, func(s qcow2.Snapshot) bool { return s.VMState() > 0 })
}

// holds tells whether the file holds a table, the last part of its last cluster left aside.
func (c *corrector) holds(at, n uint64) bool {
	return !c.img.GeometryOK || !c.g.PastEnd(qcow2.HostOffset(at), n, c.o.size)
}

// flipField lists the bits of a field of up to 8 bytes that lead to a value that is worth
// a trial.
func (c *corrector) flipField(at qcow2.HostOffset, n int, what string, kind placeKind, worth func(v uint64) bool) {
	raw := c.word(at, n)
	if raw == nil {
		return
	}
	for i := range raw {
		for bit := range 8 {
			now := bytes.Clone(raw)
			now[i] ^= 1 << bit
			v := uint64(0)
			for _, b := range now {
				v = v<<8 | uint64(b)
			}
			if worth == nil || worth(v) {
				c.list = append(c.list, patch{at: at + qcow2.HostOffset(i), old: raw[i : i+1], new: now[i : i+1], what: what, kind: kind})
			}
		}
	}
}

// flipSnapshot lists the bits of an entry of the snapshot table, but for the times.
func (c *corrector) flipSnapshot(at qcow2.HostOffset) {
	const what = "entry of the snapshot table"
	c.flipField(at+qcow2.SnapshotFieldL1TableOffset, 8, what, placeOther, c.worthTable)
	c.flipField(at+qcow2.SnapshotFieldL1Size, 4, what, placeOther, func(v uint64) bool { return v <= qcow2.MaxL1Entries })
	c.flipField(at+qcow2.SnapshotFieldIDSize, 2, what, placeOther, nil)
	c.flipField(at+qcow2.SnapshotFieldNameSize, 2, what, placeOther, nil)
	c.flipField(at+qcow2.SnapshotFieldVMStateSize, 4, what, placeOther, nil)
	c.flipField(at+qcow2.SnapshotFieldExtraDataSize, 4, what, placeOther, func(v uint64) bool { return v <= 1024 })
	for i := range qcow2.HostOffset(qcow2.SnapshotExtraV3 / 8) {
		c.flipField(at+qcow2.SnapshotHeadSize+8*i, 8, what, placeOther, nil)
	}
}

// flipBitmap lists the bits of the head of an entry of the bitmap directory.
func (c *corrector) flipBitmap(at qcow2.HostOffset, what string) {
	c.flipField(at+qcow2.BitmapFieldTableOffset, 8, what, placeBitmaps, c.worthTable)
	c.flipField(at+qcow2.BitmapFieldTableSize, 4, what, placeBitmaps, func(v uint64) bool { return v > 0 && v <= qcow2.MaxBitmapTableEntries })
	c.flipField(at+qcow2.BitmapFieldFlags, 4, what, placeBitmaps, func(v uint64) bool { return v&^7 == 0 })
	c.flipField(at+qcow2.BitmapFieldType, 1, what, placeBitmaps, func(v uint64) bool { return v == 1 })
	c.flipField(at+qcow2.BitmapFieldGranularityBits, 1, what, placeBitmaps, func(v uint64) bool {
		return v >= qcow2.MinBitmapGranularity && v <= qcow2.MaxBitmapGranularity
	})
	c.flipField(at+qcow2.BitmapFieldNameSize, 2, what, placeBitmaps, nil)
	c.flipField(at+qcow2.BitmapFieldExtraDataSize, 4, what, placeBitmaps, nil)
}

// flipBitmapsExtension lists the bits of the bitmaps extension.
func (c *corrector) flipBitmapsExtension(at qcow2.HostOffset) {
	const what = "bitmaps extension"
	c.flipField(at+qcow2.BitmapsExtNbBitmaps, 4, what, placeBitmaps, func(v uint64) bool { return v > 0 && v <= qcow2.MaxBitmaps })
	c.flipField(at+qcow2.BitmapsExtReserved, 4, what, placeBitmaps, func(v uint64) bool { return v == 0 })
	c.flipField(at+qcow2.BitmapsExtDirectorySize, 8, what, placeBitmaps, func(v uint64) bool {
		return v > 0 && v <= qcow2.MaxBitmapDirectorySize && v < uint64(c.o.size)
	})
	c.flipField(at+qcow2.BitmapsExtDirectoryOffset, 8, what, placeBitmaps, c.worthTable)
}

// worthType tells whether a header extension is of a type that is known.
func worthType(t qcow2.ExtensionType) bool {
	switch t {
	case qcow2.ExtEnd, qcow2.ExtBackingFormat, qcow2.ExtFeatureNames, qcow2.ExtBitmaps, qcow2.ExtCrypto, qcow2.ExtDataFile:
		return true
	}
	return false
}

// worthLength tells whether a header extension can be so long.
func worthLength(t qcow2.ExtensionType, n uint64) bool {
	switch t {
	case qcow2.ExtEnd:
		return n == 0
	case qcow2.ExtBitmaps:
		return n == qcow2.BitmapsExtensionSize
	case qcow2.ExtCrypto:
		return n == 16
	case qcow2.ExtFeatureNames:
		return n%48 == 0
	}
	return n > 0
}
