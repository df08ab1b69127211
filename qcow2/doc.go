// Package qcow2 decodes and encodes the structures of qcow2 disk images, and
// reads what they hold: the guest's data and persistent dirty bitmaps. It
// judges nothing: which value is wrong, and how badly, is for others to say.
//
// # The format
//
// An image file is a row of clusters of 512 bytes to 2 MiB. All numbers are
// big-endian; all pointers are byte offsets in the file, and structures start at
// a cluster.
//
//	cluster 0   header                                    Header
//	            header extensions                         Extension, BitmapsExtension, CryptoExtension, …
//	            backing file name
//
//	anywhere    what the guest sees
//	            L1 table ─▶ L2 table ─▶ data cluster      L1Entry, L2Entry, SubclusterBitmap
//	            how often each cluster is used
//	            refcount table ─▶ refcount block          RefTableEntry, RefcountBlock
//
//	            older states of the disk
//	            snapshot table ─▶ L1 table ─▶ …           Snapshot
//
//	            what has changed since a backup
//	            bitmap directory ─▶ bitmap table ─▶ bits  BitmapEntry, BitmapTableEntry
//
//	            the keys of an encrypted image            LUKSHeader
//
// The active disk has one L1 table, which the header names, and each snapshot
// has one of its own. Their L2 tables and data clusters may be shared, which is
// what refcounts are for. With an external data file the data clusters lie in
// another file, at their guest offsets.
//
// # How the types relate
//
//	Open(reader, size) ─▶ Image
//	   ActiveDisk, SnapshotDisk ─▶ Disk      ReadAt, Map, VMState
//	   ReadSnapshotTable ─▶ SnapshotTable    of Snapshot
//	   ReadBitmapDirectory ─▶ BitmapDirectory of BitmapEntry
//	   BitmapByName(name) ─▶ Bitmap          Dirty, DirtyBytes, Digest
//	   ReadL1, ScanTable ─▶ TableScan        any table of 64-bit entries
//
// An [Image] holds the header and nothing else; each structure is read when it
// is asked for. [Geometry] has what follows from the header for the whole image,
// and is the only way between offsets and clusters. Guest and host addresses are
// different types.
//
// Decoding takes any value that fits its field, so that decode and encode are
// inverse. Walks of tables do not fail: they say how far they came and why no
// further ([TableStop], [TableScan.Unreadable]). Reading content does fail,
// with what is wrong and where ([GuestError], [BitmapError]); as a rule it fails
// where QEMU does.
//
// # Threat model
//
// The file may come from an enemy. Whatever it holds, there is no panic, no
// endless loop, and no memory out of proportion:
//
//   - nothing is allocated because the file claims it, only because the file
//     has it, and within the limits that QEMU sets (limits.go);
//   - ranges are compared in one way that cannot wrap: [RangeFits] and
//     [Geometry.PastEnd];
//   - tables are read in pieces, what is a hole of the file is not read, and a
//     table that is referenced a thousand times is not held a thousand times;
//   - a compressed cluster gives one cluster of data at most;
//   - a chain of backing files ends: at a loop, or at its greatest length
//     ([Files]).
//
// Time is another matter: an image can be large by right. Whatever can take long
// is given piece by piece ([Disk.Map], [Bitmap.Dirty], [TableScan.All]), and ends
// when the caller does not want more.
//
// Strings from an image (names of bitmaps, snapshots and files) are given as
// they are; they must be escaped before a terminal sees them. This package
// opens no file: backing and data files come from functions that the caller
// gives.
package qcow2
