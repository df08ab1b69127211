package check

import (
	"fmt"
	"math"
	"slices"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// write predicts what is different when QEMU may write.
func (p *opener) write() (OpenOutcome, string) {
	if p.markedCorrupt() {
		return OpenRefused, "read-write: the image is marked corrupt"
	}
	unknown := p.h.AutoclearFeatures &^ qcow2.AutoclearKnown
	valid := slices.ContainsFunc(p.list, func(e qcow2.BitmapEntry) bool { return !e.Flags.Has(qcow2.BitmapInUse) })
	if (p.stale || unknown != 0 || valid) && !p.headerFits() {
		return OpenRefused, "read-write: the header, which must be written, would not fit into its cluster"
	}
	if valid {
		if why := p.directoryUpdate(); why != "" {
			return OpenDropsBitmaps, why
		}
	}
	if unknown != 0 {
		p.note("read-write: unknown autoclear features 0x%x are cleared", uint64(unknown))
	}
	if p.trapped() {
		p.note("read-write: the bitmaps' autoclear bit is set without bitmaps; the first change of metadata fails, and QEMU marks the image corrupt")
	}
	if p.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) {
		if why := p.repairFails(); why != "" {
			return OpenRefused, why
		}
		p.note("read-write: the dirty bit makes QEMU repair the image, as qemu-img check -r all does, before anything else")
	}
	if unknown != 0 && p.trapped() && p.c.extensionsHidden() {
		return OpenDropsBitmaps, "read-write: the header is written to clear unknown autoclear features, without the bitmaps extension that it may have"
	}
	if p.stale {
		return OpenDropsBitmaps, "read-write: the bitmaps extension is removed, since its autoclear bit is clear"
	}
	return OpenOK, ""
}

// directoryUpdate is update_ext_header_and_dir_in_place. QEMU clears the
// autoclear bit, writes the directory with all bitmaps marked in use over the
// old one, and sets the bit again. When the second of these fails, the bit stays
// clear.
func (p *opener) directoryUpdate() string {
	size := uint64(0)
	for _, e := range p.list {
		e.NameSize = uint16(len(e.Name))
		size += e.EntrySize()
	}
	if size != p.bitmaps.DirectorySize {
		return fmt.Sprintf("read-write: the bitmap directory of %d bytes would be written with %d, since a name holds a NUL; QEMU gives up in the middle and all bitmaps are lost",
			p.bitmaps.DirectorySize, size)
	}
	if what, ok := p.overwrites(at(p.bitmaps.DirectoryOffset, size)); ok {
		return fmt.Sprintf("read-write: the bitmap directory lies where %s is; QEMU gives up in the middle, marks the image corrupt, and all bitmaps are lost", what)
	}
	return ""
}

// overwrites is qcow2_check_metadata_overlap with the tests that QEMU makes unless
// told otherwise: it names a structure that QEMU will not have written over. It
// goes by what header and tables claim, however wrong that is.
func (p *opener) overwrites(x qcow2.Extent) (string, bool) {
	cs := p.g.ClusterSize()
	first, n := p.g.ClusterSpan(x.Offset, x.Length)
	x = at(p.g.HostOffset(first), n*cs)
	overlaps := func(offset qcow2.HostOffset, length uint64) bool {
		return length > 0 && offset < x.Offset+qcow2.HostOffset(x.Length) && x.Offset < offset+qcow2.HostOffset(length)
	}
	refTable := uint64(p.h.RefcountTableClusters) * cs
	switch {
	case overlaps(0, cs):
		return "the header", true
	case overlaps(p.h.L1TableOffset, uint64(p.h.L1Size)*8):
		return "the L1 table", true
	case overlaps(p.h.RefcountTableOffset, refTable):
		return "the refcount table", true
	case overlaps(p.h.SnapshotsOffset, p.snapshotsSize):
		return "the snapshot table", true
	}
	for _, l1 := range p.snapshotL1s {
		if overlaps(l1.Offset, l1.Length) {
			return "the L1 table of a snapshot", true
		}
	}
	for _, e := range qcow2.ReadL1(p.img, p.h.L1TableOffset, uint64(p.h.L1Size)).All() {
		if e.Offset() != 0 && overlaps(e.Offset(), cs) {
			return "an L2 table", true
		}
	}
	for _, e := range qcow2.ScanTable[qcow2.RefTableEntry](p.img, p.h.RefcountTableOffset, refTable/8).All() {
		if e.Offset() != 0 && overlaps(e.Offset(), cs) {
			return "a refcount block", true
		}
	}
	return "", false
}

// trapped tells whether QEMU falls into a trap of its own: with the autoclear bit
// set it keeps metadata from being written over the bitmap directory, and where
// there is none, an empty directory at offset 0 seems to be everywhere
// (qcow2_check_metadata_overlap, ranges_overlap).
func (p *opener) trapped() bool {
	return p.bitmaps == nil && p.h.AutoclearFeatures.Has(qcow2.AutoclearBitmaps)
}

// refcountsDiffer tells whether a repair has refcounts or COPIED flags to change.
func (c *run) refcountsDiffer() bool {
	for code := range problem.With(problem.Recounted) {
		if c.Met(code) {
			return true
		}
	}
	return c.Met(problem.OwnerUnknown)
}

// badRefcountEntry finds an entry of the refcount table that QEMU's repair cannot
// look up the refcount of a cluster of the file with, which it counts as an
// error of its own even when it then makes a new table. Nor can it write that table
// where it takes the block of an entry for free, since it does not count those with
// reserved bits, and still guards it. Other faults of the table it can repair.
func (p *opener) badRefcountEntry(clusters uint64) (index uint64, ok bool) {
	perBlock := p.g.RefcountBlockEntries()
	used := (clusters + perBlock - 1) / perBlock
	entries := uint64(p.h.RefcountTableClusters) * p.g.ClusterSize() / 8
	for i, e := range qcow2.ScanTable[qcow2.RefTableEntry](p.img, p.h.RefcountTableOffset, min(used, entries)).All() {
		cl := p.g.HostCluster(e.Offset())
		unclaimed := e.Offset() != 0 && cl < qcow2.HostCluster(clusters) && p.c.counts.Get(cl) <= 1
		if e.Reserved() != 0 && unclaimed || !p.g.Aligned(e.Offset()) || !readable(e.Offset(), p.g.ClusterSize()) {
			return i, true
		}
	}
	return 0, false
}

// maxClustersChecked is the largest number of clusters that qemu-img check and
// the repair of a dirty image can deal with.
const maxClustersChecked = math.MaxInt32

// repairFails predicts whether the repair of a dirty image ends with an error.
// What cannot be told from here is taken to go well.
func (p *opener) repairFails() string {
	const what = "read-write: the dirty bit makes QEMU repair the image first, which fails: "
	clusters := p.g.Clusters(uint64(p.img.Size()))
	if clusters > maxClustersChecked {
		return what + "the file has more than 2^31 clusters"
	}
	if i, ok := p.badRefcountEntry(clusters); ok {
		return what + fmt.Sprintf("entry %d of the refcount table leads to no block", i)
	}
	if p.trapped() && p.c.refcountsDiffer() {
		return what + "the bitmaps' autoclear bit is set without bitmaps, so QEMU takes every change of metadata for one of the bitmap directory"
	}
	inUse := slices.DeleteFunc(slices.Clone(p.list), func(e qcow2.BitmapEntry) bool { return !e.Flags.Has(qcow2.BitmapInUse) })
	if why := p.badTable(inUse); why != "" {
		return what + why
	}
	return ""
}

// Sizes of what QEMU writes into a header.
const (
	extensionHeadSize = 8
	featureNamesQEMU  = 8 // entries of the feature name table of QEMU 10
)

// headerFits is qcow2_update_header as far as it can fail: whether all that is in
// the header finds room in the first cluster when QEMU writes it anew.
func (p *opener) headerFits() bool {
	size := uint64(qcow2.HeaderLengthV2)
	if p.h.Version == 3 {
		size = max(qcow2.HeaderLengthCompression, uint64(p.h.HeaderLength))
	}
	add := func(n int) { size += extensionHeadSize + uint64(n+7)&^7 }
	if ext := p.last(qcow2.ExtBackingFormat); ext != nil {
		add(len(cString(ext.Data)))
	}
	if ext := p.last(qcow2.ExtDataFile); ext != nil && p.h.HasDataFile() {
		add(len(cString(ext.Data)))
	}
	if p.last(qcow2.ExtCrypto) != nil {
		add(qcow2.CryptoExtensionSize)
	}
	if p.h.Version == 3 && p.g.ClusterSize() > 4096 {
		add(featureNamesQEMU * qcow2.FeatureNameSize)
	}
	if p.bitmaps != nil {
		add(qcow2.BitmapsExtensionSize)
	}
	for i := range p.exts {
		switch p.exts[i].Type {
		case qcow2.ExtBackingFormat, qcow2.ExtDataFile, qcow2.ExtCrypto, qcow2.ExtFeatureNames, qcow2.ExtBitmaps:
		default:
			add(len(p.exts[i].Data))
		}
	}
	add(0) // the end marker
	return size+uint64(len(cString(p.backingName))) <= p.g.ClusterSize()
}
