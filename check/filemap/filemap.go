// Package filemap draws up what a picture of an image shows: who owns the clusters of the
// file, and how the disk is stored, with its snapshots and bitmaps. Both are told by cells,
// as many as a picture has room for, each the sum of what lies there; so a map of a large
// image is as small as that of a small one.
package filemap

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// Kind is what a cluster of the file is used for.
type Kind uint8

// The kinds, in the order in which a picture lists them.
const (
	Header Kind = iota
	L1
	L2
	Refcounts
	Snapshots
	Bitmaps
	Crypto
	Data
	Compressed
	Free
	Leaked
	InDoubt
	Overlapping
	Kinds // how many there are
)

var kindNames = [Kinds]string{"header", "L1 tables", "L2 tables", "refcounts", "snapshots", "bitmaps", "encryption header",
	"data", "compressed", "free", "leaked", "in doubt", "overlapping"}

func (k Kind) String() string { return kindNames[k] }

// kindOf gives the kind of a structure.
func kindOf(s problem.Structure) Kind {
	switch s {
	case problem.StructL1Table:
		return L1
	case problem.StructL2Table:
		return L2
	case problem.StructRefcountTable, problem.StructRefcountBlock:
		return Refcounts
	case problem.StructSnapshotTable:
		return Snapshots
	case problem.StructBitmapDirectory, problem.StructBitmapTable, problem.StructBitmapData:
		return Bitmaps
	case problem.StructCryptoHeader:
		return Crypto
	}
	return Header
}

// Cell counts the clusters of a part of the file by what they are used for. Overlapping
// ones are counted besides what else they are.
type Cell [Kinds]uint64

// Map is the picture of an image.
type Map struct {
	FileSize    uint64 // bytes
	ClusterSize uint64 // bytes
	PerCell     uint64 // clusters of the file in a cell
	Cells       []Cell
	Totals      [Kinds]uint64 // clusters

	DiskSize   uint64 // bytes
	GuestBytes uint64 // of the disk in a guest cell
	Active     Disk
	Snapshots  []Disk // the first ones
	Bitmaps    []Bitmap
	// SnapshotsOmitted and BitmapsOmitted are how many are not shown.
	SnapshotsOmitted, BitmapsOmitted int

	// Extents is in how many pieces the data of the active disk lies in the file, Longest
	// the bytes of the longest.
	Extents, Longest uint64
	Result           *check.Result

	until time.Time
}

// GuestKinds is how many ways there are to store a part of a disk.
const GuestKinds = 4

// Disk tells how a disk is stored: for each cell how much, of 255, is stored in each way.
type Disk struct {
	ID, Name string // of a snapshot, as in the image
	Cells    [][GuestKinds]uint8
	Bytes    [GuestKinds]uint64
	Partly   bool // not all of it could be read
}

// Bitmap tells what a bitmap calls dirty: for each cell how much, of 255.
type Bitmap struct {
	Info  check.BitmapInfo
	Dirty []uint8
	Bytes uint64
	Why   string // why it has no content; empty where it has
}

// Options says how fine a map is. The zero value is right for a page.
type Options struct {
	// Cells is how many the file has at most; the default is 16384.
	Cells int
	// GuestCells is how many a disk has at most; the default is 2048.
	GuestCells int
	// Disks is of how many snapshots, and of how many bitmaps, there is a row at most; the default is 24.
	Disks int
	// Time bounds how long the disks and bitmaps are read, so that a hostile image that has one
	// table in a million places does not keep us: what is left is said to be read in part. The
	// default is 10 seconds.
	Time time.Duration
}

// Make draws up the map of an image that was checked.
func Make(ctx context.Context, img *qcow2.Image, res *check.Result, ev *check.Evidence, opts Options) (*Map, error) {
	for _, o := range []struct {
		v    *int
		what int
	}{{&opts.Cells, 16384}, {&opts.GuestCells, 2048}, {&opts.Disks, 24}} {
		if *o.v <= 0 {
			*o.v = o.what
		}
	}
	m := &Map{FileSize: uint64(img.Size()), Result: res, DiskSize: img.Header.Size}
	if !img.GeometryOK {
		return m, nil
	}
	if opts.Time <= 0 {
		opts.Time = 10 * time.Second
	}
	m.ClusterSize = img.Geometry.ClusterSize()
	m.file(img.Geometry, ev, opts.Cells)
	return m, m.guest(ctx, img, res, ev, &opts)
}

// file fills in the cells of the file.
func (m *Map) file(g qcow2.Geometry, ev *check.Evidence, most int) {
	clusters := g.Clusters(m.FileSize)
	m.PerCell = max(1, (clusters+uint64(most)-1)/uint64(most))
	m.Cells = make([]Cell, (clusters+m.PerCell-1)/m.PerCell)
	for r := range ev.Counts.Runs(1) {
		m.add(Data, r.First, r.N)
	}
	for first, n := range ev.Counts.Compressed() {
		m.move(Data, Compressed, first, n)
	}
	var next qcow2.HostCluster // metadata that overlaps is shown once
	for o := range ev.Metadata() {
		first, n := g.ClusterSpan(o.Extent.Offset, o.Extent.Length)
		end := first + qcow2.HostCluster(n)
		if first = max(first, next); first < end {
			m.move(Data, kindOf(o.Owner.Structure), first, uint64(end-first))
			next = end
		}
	}
	kind := Leaked
	runs, doubt := ev.Unreferenced()
	if doubt {
		kind = InDoubt
	}
	for _, r := range runs {
		m.add(kind, r.First, r.N)
	}
	for _, r := range merged(ev.Overlaps()) {
		m.add(Overlapping, r.First, r.N)
	}
	for i := range m.Cells {
		c := &m.Cells[i]
		used := uint64(0)
		for k := range Overlapping {
			used += c[k]
		}
		c[Free] = max(m.clustersOf(i, clusters), used) - used
		for k, n := range c {
			m.Totals[k] += n
		}
	}
}

// clustersOf is how many of the file's clusters a cell is for.
func (m *Map) clustersOf(cell int, clusters uint64) uint64 {
	return min(m.PerCell, clusters-uint64(cell)*m.PerCell)
}

// each gives the cells that a run of clusters is in, with how many of it. What lies past the
// end of the file has none.
func (m *Map) each(first qcow2.HostCluster, n uint64, yield func(c *Cell, n uint64)) {
	for n > 0 {
		i := uint64(first) / m.PerCell
		if i >= uint64(len(m.Cells)) {
			return
		}
		k := min(n, (i+1)*m.PerCell-uint64(first))
		yield(&m.Cells[i], k)
		first, n = first+qcow2.HostCluster(k), n-k
	}
}

func (m *Map) add(kind Kind, first qcow2.HostCluster, n uint64) {
	m.each(first, n, func(c *Cell, n uint64) { c[kind] += n })
}

// move counts clusters as another kind than what they were counted as.
func (m *Map) move(from, to Kind, first qcow2.HostCluster, n uint64) {
	m.each(first, n, func(c *Cell, n uint64) {
		c[to] += n
		if c[from] >= n {
			c[from] -= n
			return
		}
		// What it takes beyond was compressed data, or was not counted.
		rest := n - c[from]
		c[from] = 0
		c[Compressed] -= min(rest, c[Compressed])
	})
}

// guest fills in the cells of the disks and of the bitmaps.
func (m *Map) guest(ctx context.Context, img *qcow2.Image, res *check.Result, ev *check.Evidence, opts *Options) error {
	if m.DiskSize == 0 || img.Geometry.L1EntriesFor(m.DiskSize) > qcow2.MaxL1Entries {
		return nil
	}
	m.until = time.Now().Add(opts.Time)
	unit := max(qcow2.SectorSize, m.ClusterSize)
	cells := min(uint64(opts.GuestCells), (m.DiskSize+unit-1)/unit)
	m.GuestBytes = (m.DiskSize + cells - 1) / cells
	disk, err := img.ActiveDisk(qcow2.DiskOptions{})
	if err == nil {
		err = m.disk(ctx, disk, &m.Active, true)
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	m.SnapshotsOmitted = max(0, len(ev.Snapshots)-opts.Disks)
	for i := range ev.Snapshots[:len(ev.Snapshots)-m.SnapshotsOmitted] {
		s := &ev.Snapshots[i]
		d := Disk{ID: string(s.ID), Name: string(s.Name), Partly: true}
		if disk, err := img.SnapshotDisk(s, qcow2.DiskOptions{}); err == nil {
			if err := m.disk(ctx, disk, &d, false); err != nil {
				return err
			}
		}
		m.Snapshots = append(m.Snapshots, d)
	}
	m.BitmapsOmitted = max(0, len(res.Bitmaps)-opts.Disks)
	for i := range res.Bitmaps[:len(res.Bitmaps)-m.BitmapsOmitted] {
		m.Bitmaps = append(m.Bitmaps, m.bitmap(ctx, img, &res.Bitmaps[i]))
	}
	return ctx.Err()
}

// disk fills in a disk.
func (m *Map) disk(ctx context.Context, disk *qcow2.Disk, out *Disk, active bool) error {
	defer disk.Close()
	sums := make([][GuestKinds]uint64, (m.DiskSize+m.GuestBytes-1)/m.GuestBytes)
	out.Partly = false
	var end qcow2.HostOffset // where the last piece ended
	piece, n := uint64(0), 0
	for x, err := range disk.Map(0, qcow2.GuestOffset(min(uint64(disk.Size()), m.DiskSize))) {
		if n++; n%1024 == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Now().After(m.until) {
				out.Partly = true
				break
			}
		}
		if err != nil {
			out.Partly = true
			continue
		}
		out.Bytes[x.Kind] += x.Length
		spread(uint64(x.Start), x.Length, m.GuestBytes, func(i, n uint64) { sums[i][x.Kind] += n })
		if !active || x.Kind != qcow2.GuestData {
			continue
		}
		if x.Host != end || piece == 0 {
			m.Extents++
			piece = 0
		}
		piece += x.Length
		m.Longest = max(m.Longest, piece)
		end = x.Host + qcow2.HostOffset(x.Length)
	}
	out.Cells = make([][GuestKinds]uint8, len(sums))
	for i := range sums {
		for k, n := range sums[i] {
			out.Cells[i][k] = share(n, m.cellBytes(uint64(i)))
		}
	}
	return nil
}

// cellBytes is how much of the disk a cell is for.
func (m *Map) cellBytes(i uint64) uint64 { return min(m.GuestBytes, m.DiskSize-i*m.GuestBytes) }

// spread gives the cells of so many bytes that a range is in.
func spread(start, length, per uint64, yield func(i, n uint64)) {
	for length > 0 {
		i := start / per
		n := min(length, (i+1)*per-start)
		yield(i, n)
		start, length = start+n, length-n
	}
}

// share is how much of 255 a part of the whole is: 0 only for nothing, 255 only for all.
func share(part, whole uint64) uint8 {
	switch {
	case part == 0:
		return 0
	case part >= whole:
		return 255
	}
	return uint8(max(1, min(254, uint64(float64(part)/float64(whole)*255))))
}

// bitmap fills in a bitmap.
func (m *Map) bitmap(ctx context.Context, img *qcow2.Image, info *check.BitmapInfo) Bitmap {
	out := Bitmap{Info: *info}
	fail := func(err error) Bitmap {
		out.Dirty, out.Bytes, out.Why = nil, 0, err.Error()
		return out
	}
	if info.State != check.BitmapEnabled && info.State != check.BitmapDisabled {
		return fail(errors.New(string(info.State)))
	}
	entry := info.Entry()
	b, err := img.BitmapUnchecked(&entry)
	if err != nil {
		return fail(err)
	}
	sums := make([]uint64, (m.DiskSize+m.GuestBytes-1)/m.GuestBytes)
	n := 0
	for x, err := range b.Dirty() {
		if n++; err == nil && n%4096 == 0 {
			if err = ctx.Err(); err == nil && time.Now().After(m.until) {
				err = errors.New("it would take too long to read")
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fail(err)
		}
		length := min(x.Length, m.DiskSize-min(uint64(x.Start), m.DiskSize))
		out.Bytes += length
		spread(uint64(x.Start), length, m.GuestBytes, func(i, n uint64) { sums[i] += n })
	}
	out.Dirty = make([]uint8, len(sums))
	for i, n := range sums {
		out.Dirty[i] = share(n, m.cellBytes(uint64(i)))
	}
	return out
}

// CellOf gives the cell of the file that has a byte; ok is false past its end.
func (m *Map) CellOf(off uint64) (cell int, ok bool) {
	if m.ClusterSize == 0 {
		return 0, false
	}
	i := off / m.ClusterSize / m.PerCell
	return int(i), i < uint64(len(m.Cells))
}

// merged sorts runs and joins those that overlap.
func merged(runs []sniff.Run) (out []sniff.Run) {
	slices.SortFunc(runs, func(a, b sniff.Run) int { return cmp.Compare(a.First, b.First) })
	for _, r := range runs {
		end := r.First + qcow2.HostCluster(r.N)
		if k := len(out) - 1; k >= 0 && r.First <= out[k].First+qcow2.HostCluster(out[k].N) {
			out[k].N = max(out[k].N, uint64(end-out[k].First))
			continue
		}
		out = append(out, r)
	}
	return out
}
