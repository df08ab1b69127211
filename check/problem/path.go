package problem

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// Path leads to a thing through the structures: tables with the numbers of entries. The
// zero value leads nowhere. Two that are equal lead to the same place of one disk.
type Path struct {
	kind pathKind
	a, b uint64
}

type pathKind uint8

const (
	noPath pathKind = iota
	toL1
	toL2
	toRefTable
	toRefcount
	toSnapshot
	toBitmap
	toBitmapTable
	toCluster
	toClusterAt
	pathKinds
)

var pathFormats = [pathKinds]string{
	toL1: "l1[%d]", toL2: "l1[%d] → l2[%d]", toRefTable: "refcount table[%d]", toRefcount: "refcount table[%d] → block[%d]",
	toSnapshot: "snapshot table[%d]", toBitmap: "bitmap directory[%d]", toBitmapTable: "bitmap table[%d]", toCluster: "cluster %d",
}

// ToL1Entry leads to an entry of an L1 table.
func ToL1Entry(i uint64) Path { return Path{toL1, i, 0} }

// ToL2Entry leads to an entry of an L2 table.
func ToL2Entry(l1, i uint64) Path { return Path{toL2, l1, i} }

// ToRefTableEntry leads to an entry of the refcount table.
func ToRefTableEntry(i uint64) Path { return Path{toRefTable, i, 0} }

// ToRefcount leads to an entry of a refcount block.
func ToRefcount(block, i uint64) Path { return Path{toRefcount, block, i} }

// ToSnapshot leads to an entry of the snapshot table.
func ToSnapshot(i int) Path { return Path{toSnapshot, uint64(i), 0} }

// ToBitmap leads to an entry of the bitmap directory.
func ToBitmap(i int) Path { return Path{toBitmap, uint64(i), 0} }

// ToBitmapTableEntry leads to an entry of a bitmap's table.
func ToBitmapTableEntry(i uint64) Path { return Path{toBitmapTable, i, 0} }

// ToCluster names a host cluster that nothing leads to.
func ToCluster(cl qcow2.HostCluster) Path { return Path{toCluster, uint64(cl), 0} }

// ToClusterAt names a host cluster with its offset.
func ToClusterAt(cl qcow2.HostCluster, offset qcow2.HostOffset) Path {
	return Path{toClusterAt, uint64(cl), uint64(offset)}
}

// IsZero tells that the path leads nowhere.
func (p Path) IsZero() bool { return p.kind == noPath }

// Entry gives the number of the first table's entry.
func (p Path) Entry() uint64 { return p.a }

func (p Path) String() string {
	switch p.kind {
	case noPath:
		return ""
	case toL2, toRefcount:
		return fmt.Sprintf(pathFormats[p.kind], p.a, p.b)
	case toClusterAt:
		return Clusters{First: qcow2.HostCluster(p.a), N: 1, Offset: qcow2.HostOffset(p.b)}.String()
	}
	return fmt.Sprintf(pathFormats[p.kind], p.a)
}

// Clusters is a range of host clusters, for a text.
type Clusters struct {
	First  qcow2.HostCluster
	N      uint64
	Offset qcow2.HostOffset // of the first
}

func (c Clusters) String() string {
	if c.N == 1 {
		return fmt.Sprintf("cluster %d at %v", c.First, c.Offset)
	}
	return fmt.Sprintf("clusters %d to %d at %v", c.First, uint64(c.First)+c.N-1, c.Offset)
}
