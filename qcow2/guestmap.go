package qcow2

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// GuestKind is how a range of a virtual disk is stored.
type GuestKind uint8

// The kinds of guest extents.
const (
	// GuestUnallocated: not in this image. It reads from the backing file, or
	// as zeros where there is none.
	GuestUnallocated GuestKind = iota
	// GuestZero: reads as zeros, whatever the backing file holds.
	GuestZero
	// GuestData: stored as it is (or encrypted) in the image file or the
	// external data file.
	GuestData
	// GuestCompressed: stored compressed in the image file.
	GuestCompressed
)

var guestKindNames = [...]string{"unallocated", "zero", "data", "compressed"}

func (k GuestKind) String() string { return guestKindNames[k&3] }

// GuestExtent is a range of a virtual disk that is stored in one way.
type GuestExtent struct {
	Start  GuestOffset
	Length uint64 // bytes
	Kind   GuestKind
	// HasHost tells that there are host clusters: always with data and
	// compressed clusters, else where they are allocated for later.
	HasHost bool
	// Host is where the extent's bytes are in the image file, or in the
	// external data file where there is one. For compressed clusters it is
	// where their compressed data starts, and HostLength how many bytes it
	// may have.
	Host       HostOffset
	HostLength uint64

	entry L2Entry // of a compressed cluster
}

// fail makes the error that the extent cannot be read.
func (x GuestExtent) fail(p GuestProblem, err error) error {
	return &GuestError{Problem: p, Start: x.Start, Length: x.Length, Host: x.Host, Err: err}
}

// follows tells whether y continues x in guest, kind and host.
func (x *GuestExtent) follows(y GuestExtent) bool {
	return x.Kind == y.Kind && x.Kind != GuestCompressed && x.HasHost == y.HasHost &&
		x.Start+GuestOffset(x.Length) == y.Start &&
		(!x.HasHost || x.Host+HostOffset(x.Length) == y.Host)
}

// mapFlush is after how many lookups an extent is given even if it could grow:
// who reads a map is to hear from it, and be able to stop it, however
// uniform a table a hostile image repeats.
const mapFlush = 1024

// Map gives how the guest bytes from and up to (not including) to are stored,
// in order and without gaps, as `qemu-img map` does for one image. Adjacent
// ranges are one extent as far as kind and host offset allow, except that each
// compressed cluster is an extent of its own and that a very long extent may
// be given in several parts.
//
// Tables are read as the walk comes to them. A range that cannot be told comes
// with a [*GuestError], as an extent without kind, and the walk goes on behind
// it. The range may go beyond the disk's size, where VM state is.
func (d *Disk) Map(from, to GuestOffset) iter.Seq2[GuestExtent, error] {
	return func(yield func(GuestExtent, error) bool) {
		var pending GuestExtent
		lookups := 0
		flush := func() bool {
			x := pending
			pending, lookups = GuestExtent{}, 0
			return x.Length == 0 || yield(x, nil)
		}
		for at := from; at < to; {
			x, err := d.lookup(at, uint64(to-at))
			at = x.Start + GuestOffset(x.Length)
			switch {
			case err != nil:
				if !flush() || !yield(x, err) {
					return
				}
			case pending.Length != 0 && lookups < mapFlush && pending.follows(x):
				pending.Length += x.Length
				lookups++
			default:
				if !flush() {
					return
				}
				pending = x
			}
		}
		flush()
	}
}

// lookup gives how the bytes at guest offset off are stored: the longest
// extent from off on within one L2 table, or within a run of L1 entries
// without one, at most limit bytes (which must not be 0). With an error comes
// the extent that shares it.
func (d *Disk) lookup(off GuestOffset, limit uint64) (GuestExtent, error) {
	g := d.img.Geometry
	x := GuestExtent{Start: off, Length: limit}
	index := uint64(off) / g.L2Coverage()
	if index >= d.l1Size {
		return x, nil
	}
	l1, run, err := d.l1Entry(index)
	end := (index + run) * g.L2Coverage() // below 2^22 * 2^39
	x.Length = min(limit, end-uint64(off))
	switch {
	case err != nil:
		x.Host = d.l1 + HostOffset(index*tableEntrySize)
		return x, x.problem(err, ProblemL1Table)
	case l1.Offset() == 0:
		return x, nil
	case !g.Aligned(l1.Offset()):
		x.Host = d.l1 + HostOffset(index*tableEntrySize)
		return x, x.fail(ProblemL1Entry, nil)
	}
	table, err := d.table(l1.Offset(), g.ClusterSize())
	if err != nil {
		x.Host = l1.Offset()
		return x, x.problem(err, ProblemUnreadable)
	}
	if table == nil {
		return x, nil
	}
	return d.lookupL2(table, l1.Offset(), x)
}

// problem makes a GuestError of an error on a table: an I/O error is that, and
// anything else is p.
func (x GuestExtent) problem(err error, p GuestProblem) error {
	if _, ok := err.(*ReadError); ok {
		p = ProblemUnreadable
	} else {
		err = nil
	}
	return x.fail(p, err)
}

// lookupL2 gives the longest extent at the start of x, which one L2 table
// covers.
func (d *Disk) lookupL2(table []byte, tableOffset HostOffset, x GuestExtent) (GuestExtent, error) {
	g := d.img.Geometry
	size := GuestOffset(g.ClusterSize())
	i := uint64(x.Start) % g.L2Coverage() >> g.ClusterBits
	cluster := x.Start &^ (size - 1)
	entry, sub := g.l2At(table, i)
	all, problem := d.describe(entry, sub, cluster, x.Start)
	if problem != 0 {
		all.Length = min(all.Length, x.Length)
		all.Host = tableOffset + HostOffset(i*g.L2EntrySize())
		return all, all.fail(problem, nil)
	}
	for all.Length < x.Length && all.Start+GuestOffset(all.Length) == cluster+size && i+1 < g.L2Entries() {
		i, cluster = i+1, cluster+size
		before := entry
		if entry, sub = g.l2At(table, i); !g.ExtendedL2 && all.continuesWith(before, entry, g) {
			all.Length += uint64(size)
			continue
		}
		one, problem := d.describe(entry, sub, cluster, cluster)
		if problem != 0 || !all.follows(one) {
			break
		}
		all.Length += one.Length
	}
	all.Length = min(all.Length, x.Length)
	return all, nil
}

// l2At takes the entry at index i from an L2 table.
func (g Geometry) l2At(table []byte, i uint64) (L2Entry, SubclusterBitmap) {
	b := table[i*g.L2EntrySize():]
	if !g.ExtendedL2 {
		return L2Entry(binary.BigEndian.Uint64(b)), 0
	}
	return L2Entry(binary.BigEndian.Uint64(b)), SubclusterBitmap(binary.BigEndian.Uint64(b[8:]))
}

// continuesWith tells, for standard entries, whether next plainly continues the
// extent that ends with the entry last: the same in all but the host offset,
// which is the next one. It saves describing each of millions of entries.
func (x *GuestExtent) continuesWith(last, next L2Entry, g Geometry) bool {
	if !x.HasHost {
		return last == next
	}
	return !next.Compressed() && next.Offset() == last.Offset()+HostOffset(g.ClusterSize()) &&
		uint64(next)&^offsetMask == uint64(last)&^offsetMask
}

// describe tells how the bytes at from are stored, according to the L2 entry of
// the guest cluster at cluster: an extent that ends within the cluster. It
// follows qcow2_get_host_offset and the functions that it calls. With a problem
// comes the extent that shares it, the rest of the cluster.
func (d *Disk) describe(e L2Entry, sub SubclusterBitmap, cluster, from GuestOffset) (GuestExtent, GuestProblem) {
	g, h := d.img.Geometry, &d.img.Header
	inCluster := uint64(from - cluster)
	rest := GuestExtent{Start: from, Length: g.ClusterSize() - inCluster}
	x := rest
	if e.Compressed() {
		if h.HasDataFile() {
			return rest, ProblemCompressedDataFile
		}
		c := g.Compressed(e)
		x.Kind, x.HasHost, x.Host, x.HostLength, x.entry = GuestCompressed, true, c.Offset, c.Length(), e
		return x, 0
	}
	zero := e.Zero() && !g.ExtendedL2
	host := e.Offset()
	// In a data file guest offset 0 is host offset 0, which COPIED tells from
	// unallocated.
	x.HasHost = host != 0 || h.HasDataFile() && e.Copied() && !zero
	switch {
	case g.ExtendedL2:
		var ok bool
		if x.Kind, x.Length, ok = g.subclusters(sub, inCluster, x.HasHost); !ok {
			return rest, ProblemSubclusters
		}
	case zero && h.Version < 3:
		return rest, ProblemZeroFlag
	case zero:
		x.Kind = GuestZero
	case x.HasHost:
		x.Kind = GuestData
	}
	if !x.HasHost {
		return x, 0
	}
	if !g.Aligned(host) {
		return rest, ProblemL2Entry
	}
	if h.HasDataFile() && uint64(host) != uint64(cluster) {
		return rest, ProblemDataFileOffset
	}
	x.Host = host + HostOffset(inCluster)
	return x, 0
}

// subclusters gives the kind of the subcluster that holds the byte inCluster of
// its cluster, and how many bytes from there on are of that kind. ok is false
// when the bitmap is invalid as a whole.
func (g Geometry) subclusters(b SubclusterBitmap, inCluster uint64, allocated bool) (kind GuestKind, length uint64, ok bool) {
	if b.Conflicts() != 0 || !allocated && b.Allocated() != 0 {
		return 0, 0, false
	}
	size := g.SubclusterSize()
	n := uint(inCluster / size)
	var same uint32 // the subclusters of the same kind
	switch {
	case b.Zeros()>>n&1 != 0:
		kind, same = GuestZero, b.Zeros()
	case b.Allocated()>>n&1 != 0:
		kind, same = GuestData, b.Allocated()
	default:
		kind, same = GuestUnallocated, ^(b.Zeros() | b.Allocated())
	}
	run := uint64(bits.TrailingZeros32(^(same >> n)))
	run = min(run, uint64(SubclustersPerCluster-n))
	return kind, run*size - inCluster%size, true
}
