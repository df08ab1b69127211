package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// Options says what to check and how. The zero value checks everything that can
// be checked from the image file alone.
type Options struct {
	// Jobs is how many goroutines read at once. The default is GOMAXPROCS.
	Jobs int
	// MemoryLimit bounds the reference counts, in bytes; beyond it the check
	// ends as incomplete. The default is no limit but what the file justifies.
	MemoryLimit int64
	// MaxFindings is how many findings of one code are listed one by one; the
	// rest is counted. The default is DefaultMaxFindings.
	MaxFindings int
	// Keep is how many findings of one code the evidence has beyond those, for a repair that
	// goes by them ([Evidence.Findings]). Neighbouring entries of a table are one finding
	// among them whatever they hold. Wrong refcounts are not among them. The default is 0.
	Keep int
	// Require lists bitmaps that must be there. The default is none.
	Require []BitmapRequirement
	// RequireAll requires that every bitmap of the image can be used, and that there is one.
	// The default is false.
	RequireAll bool
	// Strict takes warnings for an unmet requirement. The default is false.
	Strict bool
	// BitmapData reads every stored cluster of bitmap data, and so finds
	// clusters that could be table entries (BMX002) and such that cannot be
	// read (BMX003). The default is false: only the end of the last cluster of
	// each bitmap is read.
	BitmapData bool
	// Data decompresses every compressed cluster (CMP001), finds allocated clusters that the
	// file system does not store (MAP023), and tests that LUKS key material can be some. The
	// default is false: of guest data nothing is read.
	Data bool
	// Untrusted refuses, as unmet requirements, what an image from a stranger
	// must not have: backing and data files, unknown features, damage, and what
	// makes a reader fail or work without end. OpenSibling is then never
	// called: a stranger's image must not make anybody open files. The default is false.
	Untrusted bool
	// MaxVirtualSize and MaxFileSize are the largest disk and the longest file that are
	// accepted, in bytes; more is an unmet requirement. The disks of snapshots count as
	// well. The default is 0: any.
	MaxVirtualSize, MaxFileSize uint64
	// OpenSibling opens another file that the image names. The default is nil:
	// no other file is looked at, and nothing is said about it.
	OpenSibling func(kind SiblingKind, name, format string) (Sibling, error)
	// NoBacking judges the image without its backing file: nothing is said of that,
	// and what QEMU does is predicted as if it were there. The default is false.
	NoBacking bool
	// Chain reports a backing file that is not named by the path of a local file, so that
	// nobody takes a chain for checked that was not followed to its end. The default is
	// false: nothing is said of such names. Package chain follows a whole chain.
	Chain bool
	// Live tells that another process has the image open for writing, so that
	// findings are provisional. The default is false.
	Live bool
	// LiveBitmaps are the bitmaps in the memory of the QEMU that has the image open. Where it
	// is not nil, bitmaps are required of it, and not of the image. The default is nil.
	LiveBitmaps []LiveBitmap
	// Progress is told how far the check has come, from one goroutine at a
	// time. The default is nil.
	Progress func(Progress)
	// Reject is asked about each finding, from one goroutine at a time; the check
	// ends early, with [ErrRejected], when it is true of one. The default is nil:
	// the check goes to its end.
	Reject func(*problem.Finding) bool
}

// SiblingKind tells what the image uses another file for.
type SiblingKind string

// The kinds of other files.
const (
	SiblingDataFile    SiblingKind = "data-file"
	SiblingBackingFile SiblingKind = "backing-file"
)

// Sibling is another file that belongs to the image.
type Sibling interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// MisplacedSibling is a [Sibling] that may not be found where QEMU looks for it.
type MisplacedSibling interface {
	Sibling
	// Misplaced says why, in a clause; empty where QEMU finds it.
	Misplaced() string
}

// LiveSibling is a [Sibling] that another program may be writing to.
type LiveSibling interface {
	Sibling
	Live() bool
}

// Progress tells how far a check has come.
type Progress struct {
	Pass  string
	Done  uint64 // bytes of metadata read in this pass
	Total uint64 // bytes of metadata to read in this pass, as far as known
}

// run is the state of one check.
type run struct {
	ctx  context.Context
	img  *qcow2.Image
	h    *qcow2.Header
	g    qcow2.Geometry
	opts Options
	res  *Result
	kept []problem.Finding // all that the result has, and more of them, see Options.Keep
	*problem.Collector

	counts     *refcount.Counts
	hasMisread bool // some L1 table is none, see misread
	uncounted  bool // some references could not be counted
	// overcounted tells that the file counts more than one reference of a cluster that
	// has one.
	overcounted bool
	meta        []metaClaim // metadata structures but L2 tables and refcount blocks, in the order of claiming
	owners      []Owner
	places      []place      // all metadata, in the order of the file
	reserved    []clusterRun // clusters that are no leaks even though nobody refers to them
	doubts      []Doubt

	contests       []contest           // clusters in which two structures lie
	contestsSorted bool                // see contestants
	contestEnds    []qcow2.HostCluster // by number of contest: the highest end so far

	l1s           []l1table           // number 0 is the active one
	tables        []l2table           // in the order of the file
	blank         []uint32            // some of the tables without a single entry
	blocks        []refBlock          // in the order of the refcount table
	badBlocks     []uint64            // entries of the refcount table that name no block that could be read
	refTableHoles []span              // entries of the refcount table that could not be read
	badSlots      []l1slot            // some of the L1 entries that lead to no table
	blankL1s      []uint32            // some of the L1 tables without a single entry
	unallocated   []qcow2.HostCluster // some of the referenced clusters that have refcount 0
	lostTables    []LostTable         // tables that no L1 entry names
	explained     []clusterRun        // clusters that these own, or that are copies of a table
	// guestHasLostAny: one of them can only be a part of the active disk.
	guestHasLostAny bool

	traces         bitmapTraces
	sniffer        *sniff.Sniffer // nil where nothing was looked for
	mends          []Mend         // that lead to bitmaps
	lostBitmapRuns []sniff.Run    // clusters of bitmaps that were found
	unowned        []unowned      // runs of clusters with references missing

	probe       *scanner // see prober
	lostRead    uint64   // see readLost
	sniffFormat *sniff.Format
	blocksTried int // see fitsBlock

	table       *refcount.Table     // what the file says; nil where it cannot be told
	lookup      *refcount.Lookup    // see onDisk
	sharedData  []qcow2.HostCluster // some of the clusters that are the data of two guest clusters
	compressed  uint64              // compressed clusters, those of snapshots included
	dataFileEnd uint64              // bytes of the external data file that are mapped
	data        dataFile
	backing     string // why QEMU cannot open the backing file; empty where it can

	staleBitmaps  *problem.Finding // see noteStale
	resizedInUse  bool             // the disk was resized while a bitmap was in use
	staleClusters uint64           // that only stale bitmaps name

	snapshots     []qcow2.Snapshot    // the entries that could be read
	snapshotTable qcow2.Extent        // from the first entry's start to the last one's end
	snapshotStop  bool                // the table could not be walked to its end, or makes no sense
	lostSnapshots *LostSnapshots      // see findLostSnapshots
	bitmaps       []qcow2.BitmapEntry // the entries that could be read
	spoilt        map[string]struct{} // see spoilBitmap

	past      pastClaims // what leads past the end of the file
	pastRefs  pastRefs   // refcounts past the end of the file
	cutTables []CutTable // some of the tables that the end of the file cuts
	truncated bool       // the end of the file is missing, see checkTruncated
	readable  uint64     // clusters of the active disk that have data in the file
	limitOnce sync.Once  // see formerLimit
	limit     uint64
}

// A pass looks at one kind of structure. Each opens its file with what it tests,
// what it relies on and what it leaves behind.
type pass struct {
	name string
	run  func(*run) error
	// geometry tells that the pass needs to know the cluster size.
	geometry bool
}

// passes is the check, in order.
var passes = []pass{
	{"header", (*run).checkHeader, false},
	{"extensions", (*run).checkExtensions, true},
	{"encryption", (*run).checkCrypto, true},
	{"data file", (*run).checkDataFile, true},
	{"backing file", (*run).checkBacking, true},
	{"snapshots", (*run).checkSnapshots, true},
	{"bitmaps", (*run).checkBitmaps, true},
	{"refcount table", (*run).checkRefTable, true},
	{"mapping", (*run).checkMapping, true},
	{"plaintext", (*run).checkPlaintext, true},
	{"refcounts", (*run).checkRefcounts, true},
	{"copied", (*run).checkCopied, true},
	{"data", (*run).checkDataPass, true},
	{"qemu", (*run).predictOpen, false},
	{"requirements", (*run).checkRequirements, false},
}

// Run checks an image. It never writes. The result is never nil; the error tells
// what kept the check from going on to its end (the context's error, or a
// [*PassError] for a fault of our own), and the verdict is then
// [VerdictIncomplete].
func Run(ctx context.Context, img *qcow2.Image, opts Options) (*Result, error) {
	return newRun(ctx, img, opts).check()
}

// check runs all passes and sums up.
func (c *run) check() (*Result, error) {
	err := c.runPasses()
	c.kept = truncatedFirst(c.Collector.Findings())
	c.describeRuns(c.kept)
	c.settleRepairs(c.kept)
	c.res.Findings = c.kept
	if c.opts.Keep > 0 {
		c.res.Findings = problem.Listed(c.kept, c.Listed())
	}
	c.res.MemoryPeak = c.counts.Memory()
	c.res.settle()
	if err != nil {
		c.res.Verdict = VerdictIncomplete
	}
	return c.res, err
}

func newRun(ctx context.Context, img *qcow2.Image, opts Options) *run {
	if opts.Untrusted {
		opts.OpenSibling = nil
	}
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.GOMAXPROCS(0)
	}
	c := &run{
		ctx: ctx, img: img, h: &img.Header, g: img.Geometry, opts: opts,
		res: &Result{Provisional: opts.Live}, Collector: problem.NewCollector(opts.MaxFindings, opts.Keep, img.Geometry),
		counts: refcount.New(refcount.Options{MaxMemory: opts.MemoryLimit}),
	}
	if opts.Reject != nil {
		c.Watch(func(f *problem.Finding) {
			if opts.Reject(f) {
				c.hopeless()
			}
		})
	}
	return c
}

func (c *run) runPasses() error {
	for _, p := range passes {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if p.geometry && !c.img.GeometryOK {
			continue
		}
		c.progress(p.name, 0, 0)
		if err := c.runPass(p); err != nil {
			return err
		}
	}
	return nil
}

// report takes a finding of a pass.
func (c *run) report(f problem.Finding) { c.Add(f) }

func (c *run) progress(pass string, done, total uint64) {
	if c.opts.Progress != nil {
		c.opts.Progress(Progress{Pass: pass, Done: done, Total: total})
	}
}

// PassError is a fault of the checker itself: a pass that panicked.
type PassError struct {
	Pass  string
	Cause any
	Stack []byte
}

func (e *PassError) Error() string {
	return fmt.Sprintf("the %s pass failed by a fault of the checker itself: %v", e.Pass, e.Cause)
}

func (c *run) runPass(p pass) (err error) {
	defer func() {
		if r := recover(); r == ErrRejected {
			err = ErrRejected
		} else if r != nil {
			err = &PassError{Pass: p.name, Cause: r, Stack: debug.Stack()}
		}
	}()
	return p.run(c)
}

// trouble reports that bytes could not be read. Whatever the structure could own
// is in doubt from then on.
func (c *run) trouble(o Owner, x qcow2.Extent, err error) {
	c.report(troubleFinding(o, x, err))
	c.doubt(o, "it could not be read")
}

func troubleFinding(o Owner, x qcow2.Extent, err error) problem.Finding {
	if re, ok := errors.AsType[*qcow2.ReadError](err); ok {
		x = qcow2.Extent{Offset: re.Offset, Length: re.Length}
		err = re.Err
	}
	return problem.Finding{
		Code: problem.Unreadable, Structure: o.Structure, Extent: x, Snapshot: o.Snapshot, Of: o.Of, Bitmap: o.Bitmap, Path: o.Path,
		Message: problem.Say("%d bytes of %s at offset %v cannot be read: %v", x.Length, o, x.Offset, err),
	}
}
