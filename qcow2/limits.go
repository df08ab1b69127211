package qcow2

// The bounds that QEMU sets where the specification sets none or a wider one.
// They bound what is read from an image; what lies beyond them is a finding.
const (
	MinClusterBits = 9
	MaxClusterBits = 21
	// MinClusterBitsExtL2: 32 subclusters of at least a sector each.
	MinClusterBitsExtL2 = 14
	MaxRefcountOrder    = 6

	MaxL1Size            = 32 << 20 // bytes (QCOW_MAX_L1_SIZE)
	MaxRefcountTableSize = 8 << 20  // bytes (QCOW_MAX_REFTABLE_SIZE)
	MaxBackingFileName   = 1023     // bytes

	MaxSnapshots          = 65536    // QCOW_MAX_SNAPSHOTS
	MaxSnapshotExtraData  = 1024     // bytes (QCOW_MAX_SNAPSHOT_EXTRA_DATA)
	MaxSnapshotsTableSize = 64 << 20 // bytes, QCOW_MAX_SNAPSHOTS_SIZE

	MaxBitmaps             = 65535             // QCOW2_MAX_BITMAPS
	MaxBitmapDirectorySize = MaxBitmaps * 1024 // bytes
	MaxBitmapTableEntries  = 0x8000000         // BME_MAX_TABLE_SIZE, 2^27
	MaxBitmapPhysicalSize  = 0x20000000        // bytes of bitmap data, BME_MAX_PHYS_SIZE
	MinBitmapGranularity   = 9                 // bits
	MaxBitmapGranularity   = 31                // bits
	MaxBitmapName          = 1023              // bytes
	MaxHBitmapBits         = uint64(1) << 41   // above it QEMU's hbitmap_alloc asserts
	SectorSize             = 512               // bytes
	MaxImageLength         = (1 << 63) - 1<<30 // bytes, BDRV_MAX_LENGTH
)
