package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// L1Table is the active L1 table.
func L1Table() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.l1 }), "the L1 table")
}

// L1Entry is an entry of the active L1 table.
func L1Entry(i uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) { return entryOf(img.l1, i, 8) }, "L1 entry %d", i)
}

// L2Table is the L2 table of the active disk that maps a guest offset.
func L2Table(guest uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) { return img.l2Table(img.l2, guest) },
		"the L2 table of guest offset %#x", guest)
}

// L2Entry is the L2 entry of the active disk for a guest offset: 8 bytes, or 16
// with extended L2 entries.
func L2Entry(guest uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) { return img.l2Entry(img.l2, guest) },
		"the L2 entry of guest offset %#x", guest)
}

// L2Descriptor is the first 8 bytes of an L2 entry.
func L2Descriptor(guest uint64) Place {
	p := L2Entry(guest).At(0, 8)
	p.name = fmt.Sprintf("the L2 descriptor of guest offset %#x", guest)
	return p
}

// L2Bitmap is the subcluster bitmap of an extended L2 entry.
func L2Bitmap(guest uint64) Place {
	p := L2Entry(guest).At(8, 8)
	p.name = fmt.Sprintf("the subcluster bitmap of guest offset %#x", guest)
	return p
}

// Data is the clusters that hold the data of the active disk at a guest offset:
// one, or those that its compressed data touches.
func Data(guest uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		return img.dataOf(img.l2, guest)
	}, "the data of guest offset %#x", guest)
}

// SnapshotData is [Data] of a snapshot.
func SnapshotData(id string, guest uint64) Place {
	return ofSnapshot(id, func(img *Image, s *snapshot) (qcow2.Extent, error) {
		return img.dataOf(s.l1, guest)
	}, "the data of guest offset %#x of snapshot %s", guest, id)
}

// SnapshotTable is the snapshot table.
func SnapshotTable() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.snapTable }), "the snapshot table")
}

// SnapshotEntry is a snapshot's entry in the snapshot table, padding included.
func SnapshotEntry(id string) Place {
	return ofSnapshot(id, func(_ *Image, s *snapshot) (qcow2.Extent, error) { return s.at, nil },
		"the entry of snapshot %s", id)
}

// SnapshotField is bytes of a snapshot's entry.
func SnapshotField(id string, off, length uint64) Place { return SnapshotEntry(id).At(off, length) }

// SnapshotL1 is a snapshot's L1 table.
func SnapshotL1(id string) Place {
	return ofSnapshot(id, func(_ *Image, s *snapshot) (qcow2.Extent, error) { return s.l1At, nil },
		"the L1 table of snapshot %s", id)
}

// SnapshotL1Entry is an entry of a snapshot's L1 table.
func SnapshotL1Entry(id string, i uint64) Place {
	return ofSnapshot(id, func(_ *Image, s *snapshot) (qcow2.Extent, error) { return entryOf(s.l1At, i, 8) },
		"L1 entry %d of snapshot %s", i, id)
}

// SnapshotL2Entry is a snapshot's L2 entry for a guest offset.
func SnapshotL2Entry(id string, guest uint64) Place {
	return ofSnapshot(id, func(img *Image, s *snapshot) (qcow2.Extent, error) { return img.l2Entry(s.l1, guest) },
		"the L2 entry of guest offset %#x of snapshot %s", guest, id)
}

// SnapshotL2Table is a snapshot's L2 table that maps a guest offset.
func SnapshotL2Table(id string, guest uint64) Place {
	return ofSnapshot(id, func(img *Image, s *snapshot) (qcow2.Extent, error) { return img.l2Table(s.l1, guest) },
		"the L2 table of guest offset %#x of snapshot %s", guest, id)
}

func ofSnapshot(id string, f func(*Image, *snapshot) (qcow2.Extent, error), format string, args ...any) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		for _, s := range img.snaps {
			if s.id == id {
				return f(img, s)
			}
		}
		return qcow2.Extent{}, fmt.Errorf("no such snapshot")
	}, format, args...)
}

// RefcountTable is the refcount table.
func RefcountTable() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.refTable }), "the refcount table")
}

// RefcountTableEntry is an entry of the refcount table.
func RefcountTableEntry(i uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) { return entryOf(img.refTable, i, 8) },
		"refcount table entry %d", i)
}

// RefcountBlock is a refcount block, by its index in the table.
func RefcountBlock(i uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		if i >= uint64(len(img.blocks)) || img.blocks[i] == 0 {
			return qcow2.Extent{}, fmt.Errorf("there is none")
		}
		return img.clusterExtent(img.blocks[i]), nil
	}, "refcount block %d", i)
}

// RefcountOf is the refcounts of the clusters of a place: whole bytes, also
// where a refcount is less than one.
func RefcountOf(p Place) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		x, err := img.Find(p)
		if err != nil {
			return x, err
		}
		first, n := img.g.ClusterSpan(x.Offset, x.Length)
		lo, err := img.refcountAt(first)
		if err != nil {
			return lo, err
		}
		hi, err := img.refcountAt(first + qcow2.HostCluster(n-1))
		return qcow2.Extent{Offset: lo.Offset, Length: uint64(hi.Offset-lo.Offset) + hi.Length}, err
	}, "the refcount of %s", p.name)
}

// BitmapDirectory is the bitmap directory.
func BitmapDirectory() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.dir }), "the bitmap directory")
}

// BitmapEntry is a bitmap's entry in the directory, padding included.
func BitmapEntry(name string) Place {
	return ofBitmap(name, func(b *bitmap) (qcow2.Extent, error) { return b.at, nil },
		"the directory entry of bitmap %s", name)
}

// BitmapField is bytes of a bitmap's entry in the directory.
func BitmapField(name string, off, length uint64) Place { return BitmapEntry(name).At(off, length) }

// BitmapTable is a bitmap's table.
func BitmapTable(name string) Place {
	return ofBitmap(name, func(b *bitmap) (qcow2.Extent, error) { return b.table, nil }, "the table of bitmap %s", name)
}

// BitmapTableEntry is an entry of a bitmap's table.
func BitmapTableEntry(name string, i uint64) Place {
	return ofBitmap(name, func(b *bitmap) (qcow2.Extent, error) { return entryOf(b.table, i, 8) },
		"table entry %d of bitmap %s", i, name)
}

// BitmapData is a data cluster of a bitmap, by its index in the table.
func BitmapData(name string, i uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		for _, b := range img.bitmaps {
			if string(b.entry.Name) == name && i < uint64(len(b.data)) && b.data[i] != 0 {
				return qcow2.Extent{Offset: b.data[i], Length: img.g.ClusterSize()}, nil
			}
		}
		return qcow2.Extent{}, fmt.Errorf("it is not stored")
	}, "data cluster %d of bitmap %s", i, name)
}

func ofBitmap(name string, f func(*bitmap) (qcow2.Extent, error), format string, args ...any) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		for _, b := range img.bitmaps {
			if string(b.entry.Name) == name {
				return f(b)
			}
		}
		return qcow2.Extent{}, fmt.Errorf("no such bitmap")
	}, format, args...)
}

// entryOf gives entry i of a table.
func entryOf(table qcow2.Extent, i, size uint64) (qcow2.Extent, error) {
	if i >= table.Length/size {
		return qcow2.Extent{}, fmt.Errorf("the table has %d entries", table.Length/size)
	}
	return qcow2.Extent{Offset: table.Offset + qcow2.HostOffset(i*size), Length: size}, nil
}

func (img *Image) clusterExtent(c qcow2.HostCluster) qcow2.Extent {
	return qcow2.Extent{Offset: img.g.HostOffset(c), Length: img.g.ClusterSize()}
}

func (img *Image) tableFor(l1 []*l2table, guest uint64) (*l2table, error) {
	i := guest / img.g.L2Coverage()
	if i >= uint64(len(l1)) || l1[i] == nil {
		return nil, fmt.Errorf("there is no L2 table")
	}
	return l1[i], nil
}

func (img *Image) l2Table(l1 []*l2table, guest uint64) (qcow2.Extent, error) {
	t, err := img.tableFor(l1, guest)
	if err != nil {
		return qcow2.Extent{}, err
	}
	return img.clusterExtent(t.cluster), nil
}

func (img *Image) l2Entry(l1 []*l2table, guest uint64) (qcow2.Extent, error) {
	x, err := img.l2Table(l1, guest)
	if err != nil {
		return x, err
	}
	return entryOf(x, guest>>img.g.ClusterBits%img.g.L2Entries(), img.g.L2EntrySize())
}

func (img *Image) dataOf(l1 []*l2table, guest uint64) (qcow2.Extent, error) {
	t, err := img.tableFor(l1, guest)
	if err != nil {
		return qcow2.Extent{}, err
	}
	e := t.e[guest>>img.g.ClusterBits%img.g.L2Entries()]
	switch {
	case e.Compressed():
		d := img.g.Compressed(e)
		return qcow2.Extent{Offset: d.Offset, Length: d.Length()}, nil
	case e.Offset() == 0:
		return qcow2.Extent{}, fmt.Errorf("nothing is allocated")
	}
	return qcow2.Extent{Offset: e.Offset(), Length: img.g.ClusterSize()}, nil
}

// refcountAt gives the byte or bytes that hold a cluster's refcount.
func (img *Image) refcountAt(c qcow2.HostCluster) (qcow2.Extent, error) {
	per := img.g.RefcountBlockEntries()
	i := uint64(c) / per
	if i >= uint64(len(img.blocks)) || img.blocks[i] == 0 {
		return qcow2.Extent{}, fmt.Errorf("no refcount block covers cluster %d", c)
	}
	bits := uint64(img.g.RefcountBits())
	at := uint64(c) % per * bits / 8
	return qcow2.Extent{Offset: img.g.HostOffset(img.blocks[i]) + qcow2.HostOffset(at), Length: max(bits/8, 1)}, nil
}
