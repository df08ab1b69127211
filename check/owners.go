package check

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Owner names a structure that clusters of the file belong to.
type Owner struct {
	Structure problem.Structure
	Path      problem.Path // may be zero
	Snapshot  string       // ID, escaped, for a reader; empty for the active disk
	Of        problem.SnapshotRef
	Bitmap    string // name, escaped
	// Ref is the bytes of the file that say where the structure is: a header
	// field, a table entry. Empty where nothing does.
	Ref qcow2.Extent
}

// String names the owner as messages do: "the header", "the L2 table at l1[3]
// of snapshot 1", "the bitmap table of bitmap b0".
func (o Owner) String() string {
	s := "the " + ownerNames[o.Structure]
	if !o.Path.IsZero() {
		s += " at " + o.Path.String()
	}
	if o.Snapshot != "" {
		s += fmt.Sprintf(" of snapshot %s", Shorten(o.Snapshot))
	}
	if o.Bitmap != "" {
		s += fmt.Sprintf(" of bitmap %s", Shorten(o.Bitmap))
	}
	return s
}

var ownerNames = map[problem.Structure]string{
	problem.StructFile: "file", problem.StructHeader: "header", problem.StructExtension: "header extension",
	problem.StructCryptoHeader: "encryption header", problem.StructDataFile: "data file", problem.StructBackingFile: "backing file",
	problem.StructSnapshotTable: "snapshot table", problem.StructL1Table: "L1 table", problem.StructL2Table: "L2 table",
	problem.StructDataCluster: "data cluster", problem.StructRefcountTable: "refcount table", problem.StructRefcountBlock: "refcount block",
	problem.StructBitmapExtension: "bitmaps extension", problem.StructBitmapDirectory: "bitmap directory",
	problem.StructBitmapTable: "bitmap table", problem.StructBitmapData: "bitmap data",
}

// metaClaim is a run of clusters that a metadata structure takes. All of them
// are remembered, so that an overlap can be told with both owners.
type metaClaim struct {
	first qcow2.HostCluster
	n     uint64
	owner uint32 // index into run.owners
}

// claim notes that a metadata structure takes the clusters that x touches, and
// counts a reference to each. It returns false, and claims nothing, when x
// reaches past the end of the file by a cluster or more; to say so is the
// caller's work.
func (c *run) claim(o Owner, x qcow2.Extent) bool {
	if x.Length == 0 {
		return true
	}
	if c.g.PastEnd(x.Offset, x.Length, c.img.Size()) {
		return false
	}
	first, n := c.g.ClusterSpan(x.Offset, x.Length)
	c.claimClusters(c.addOwner(o), first, n)
	return true
}

// addOwner gives an owner its number.
func (c *run) addOwner(o Owner) uint32 {
	c.owners = append(c.owners, o)
	return uint32(len(c.owners) - 1)
}

// claimClusters is claim for clusters that are known to be in the file.
func (c *run) claimClusters(owner uint32, first qcow2.HostCluster, n uint64) {
	c.meta = append(c.meta, metaClaim{first: first, n: n, owner: owner})
	c.count(first, n, 1)
}

// Doubt names a structure that may own clusters and could not be read whole and
// sound. While there is one, no unreferenced cluster is called a leak.
type Doubt struct {
	Owner Owner
	Why   string
}

// maxDoubts and maxBlank bound what is remembered for messages and for the
// search for lost tables.
const (
	maxDoubts = 64
	maxBlank  = 64
)

// doubt notes that a structure may own clusters that nobody could find.
func (c *run) doubt(o Owner, why string) {
	c.hopeless()
	if len(c.doubts) < maxDoubts {
		c.doubts = append(c.doubts, Doubt{Owner: o, Why: why})
	}
}
