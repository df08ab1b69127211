package repair

import (
	"cmp"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Scope says which findings a repair is for.
type Scope string

// The scopes, as the command line has them.
const (
	ScopeAll       Scope = "all"
	ScopeLeaks     Scope = "leaks"     // only refcounts that are too high
	ScopeBitmaps   Scope = "bitmaps"   // only what concerns the bitmaps
	ScopeRefcounts Scope = "refcounts" // refcounts, their blocks and table, and COPIED flags
)

// BitmapPolicy says what becomes of a bitmap whose content cannot be trusted.
type BitmapPolicy string

// The policies.
const (
	// PolicyMark keeps the bitmap and marks it in use, so that QEMU shows it as
	// inconsistent and lets it be removed.
	PolicyMark BitmapPolicy = "mark"
	// PolicyAllDirty makes every bit one: a superset of the truth, so that the
	// next incremental backup copies everything and the chain goes on.
	PolicyAllDirty BitmapPolicy = "all-dirty"
	// PolicyRemove removes the bitmap.
	PolicyRemove BitmapPolicy = "remove"
)

// Options says what a repair may do. The zero value does every safe repair.
type Options struct {
	// Scope is which findings to repair. The default is ScopeAll.
	Scope Scope
	// BitmapPolicy is what becomes of bitmaps that cannot be trusted. The
	// default is PolicyMark.
	BitmapPolicy BitmapPolicy
	// AllowDataLoss lets lossy repairs be done. The default is false.
	AllowDataLoss bool
	// Reattach hangs lost tables and snapshots back where the evidence is unambiguous. The
	// default is false.
	Reattach bool
	// FreeUnowned frees clusters that nothing refers to although a damaged structure may
	// own them. What they hold is lost. The default is false.
	FreeUnowned bool
	// KeepUnowned keeps clusters that nothing refers to and that hold something other than
	// zeros, whatever they are: what an earlier repair has kept of what it gave up is not told from
	// a leak any more. FreeUnowned takes precedence. The default is false.
	KeepUnowned bool
	// CompactBitmaps makes table entries of stored clusters of zeros or ones.
	// The default is false.
	CompactBitmaps bool
	// Data also gives up, with AllowDataLoss, compressed clusters that cannot be decompressed.
	// The default is false.
	Data bool
	// Device tells that the image is on a block device, which cannot grow. The
	// default is false.
	Device bool
	// Jobs is how many goroutines read at once. The default is GOMAXPROCS.
	Jobs int
	// MemoryLimit bounds the reference counts of the checks, in bytes. The default
	// is no limit but what the file justifies.
	MemoryLimit int64
	// MaxFindings is how many findings of one code the plan's results have one by
	// one at least, in words, where there are so many. The default is
	// [problem.DefaultMaxFindings].
	MaxFindings int
	// Progress is told how far each of the checks has come. The default is nil.
	Progress func(check.Progress)
	// OpenSibling is given to the checks. The default is nil.
	OpenSibling func(kind check.SiblingKind, name, format string) (check.Sibling, error)

	// NoBacking is given to the checks. The default is false.
	NoBacking bool

	perRound int // for tests: the default is findingsPerRound
	// settled tells that wrong bits have been looked for, and turned are those that were found.
	settled bool
	turned  []patch
	// sizeOpen tells that it may be the size of the disk that is wrong.
	sizeOpen bool
	// open are clusters with a reference too many, which may be the wrong one.
	open []qcow2.HostCluster
}

// checkOptions are those of the checks while a plan is made.
func (o *Options) checkOptions() check.Options {
	return check.Options{
		Jobs: o.Jobs, MemoryLimit: o.MemoryLimit, MaxFindings: o.MaxFindings, Keep: cmp.Or(o.perRound, findingsPerRound), Progress: o.Progress,
		OpenSibling: o.OpenSibling, BitmapData: o.CompactBitmaps, Data: o.Data, NoBacking: o.NoBacking,
	}
}

func (o *Options) scope() Scope {
	if o.Scope == "" {
		return ScopeAll
	}
	return o.Scope
}

// policy is the bitmap policy in force.
func (o *Options) policy() BitmapPolicy {
	if o.BitmapPolicy == "" {
		return PolicyMark
	}
	return o.BitmapPolicy
}

// leaks, errors, bitmaps and everything tell what the scope takes in.
func (o *Options) leaks() bool {
	return o.scope() == ScopeAll || o.scope() == ScopeLeaks || o.scope() == ScopeRefcounts
}
func (o *Options) errors() bool     { return o.scope() == ScopeAll || o.scope() == ScopeRefcounts }
func (o *Options) bitmaps() bool    { return o.scope() == ScopeAll || o.scope() == ScopeBitmaps }
func (o *Options) everything() bool { return o.scope() == ScopeAll }
