package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Verdict sums a result up in one word.
type Verdict string

// The verdicts.
const (
	VerdictClean    Verdict = "clean"
	VerdictWarnings Verdict = "warnings"
	VerdictLeaks    Verdict = "leaks"
	// VerdictInDoubt: nothing is known to be wrong, but clusters without an owner
	// may belong to something that was lost, so that they cannot be called leaks.
	VerdictInDoubt     Verdict = "in-doubt"
	VerdictCorrupt     Verdict = "corrupt"
	VerdictIncomplete  Verdict = "incomplete"
	VerdictUnsupported Verdict = "unsupported"
)

// Result is all that a check has learned of an image.
type Result struct {
	Verdict  Verdict
	Totals   problem.Totals
	Findings []problem.Finding

	// The figures of `qemu-img check --output=json`, with its meaning.
	ImageEndOffset     uint64 // bytes: the end of the last cluster in use
	TotalClusters      uint64 // clusters of the virtual disk
	AllocatedClusters  uint64 // of the active disk
	FragmentedClusters uint64
	CompressedClusters uint64

	Snapshots []SnapshotInfo
	Bitmaps   []BitmapInfo
	QEMUOpen  QEMUOpen
	// Unmet lists the requirements that the image does not meet.
	Unmet []string
	// Provisional tells that a writer had the image open meanwhile, so that
	// findings may come from reading it in the middle of a change.
	Provisional bool
	// Truncation tells what is missing of a file that was cut (FIL001); nil where it was not.
	Truncation *Truncation
	// MemoryPeak is what the reference counts took at most, in bytes.
	MemoryPeak int64
}

// Truncation tells what is missing of a file whose end is missing, and what is left.
type Truncation struct {
	Size   uint64 // of the file, in bytes
	Former uint64 // how long it was at least, in bytes
	// Readable is how much data of the active disk lies before the end, in bytes: whole
	// clusters as they are mapped.
	Readable uint64
	// Gone are the parts of the active disk whose data lay behind the end, Unmapped those
	// that were mapped by tables there: how much of these was in use is not known any more.
	// Both are in order; of very many only the first are kept.
	Gone, Unmapped []GuestRange
}

// GuestRange is a part of a disk, in bytes.
type GuestRange struct{ Offset, Length uint64 }

// SnapshotInfo describes an internal snapshot.
type SnapshotInfo struct {
	ID, Name      string // as in the image, not escaped
	Offset        qcow2.HostOffset
	L1TableOffset qcow2.HostOffset
	L1Size        uint32 // entries
	DiskSize      uint64 // bytes
	VMStateSize   uint64 // bytes
	DateSec       uint32 // seconds since the Epoch
	DateNsec      uint32
	VMClockNsec   uint64
}

// BitmapState is what QEMU does with a bitmap when it opens the image.
type BitmapState string

// The states of a bitmap.
const (
	BitmapEnabled      BitmapState = "enabled"      // records writes
	BitmapDisabled     BitmapState = "disabled"     // kept as it is
	BitmapInconsistent BitmapState = "inconsistent" // in_use: can only be removed
	BitmapUnusable     BitmapState = "unusable"
)

// BitmapInfo describes a persistent bitmap.
type BitmapInfo struct {
	Name            string // as in the image, not escaped
	GranularityBits uint8
	Type            uint8
	Flags           qcow2.BitmapFlags
	State           BitmapState
	Why             string // why it is unusable
	EntryOffset     qcow2.HostOffset
	TableOffset     qcow2.HostOffset
	TableSize       uint32 // entries
}

// Entry gives the directory entry as far as the content depends on it.
func (b *BitmapInfo) Entry() qcow2.BitmapEntry {
	return qcow2.BitmapEntry{
		TableOffset: b.TableOffset, TableSize: b.TableSize, Flags: b.Flags, Type: b.Type,
		GranularityBits: b.GranularityBits, Name: []byte(b.Name), EntryOffset: b.EntryOffset,
	}
}

// OpenOutcome is what becomes of an attempt of QEMU's to open the image.
type OpenOutcome string

// The outcomes.
const (
	OpenOK           OpenOutcome = "ok"
	OpenRefused      OpenOutcome = "refused"
	OpenCrash        OpenOutcome = "crash"
	OpenDropsBitmaps OpenOutcome = "drops-bitmaps" // opens, and loses every bitmap
)

// QEMUOpen predicts what QEMU (10.x) does with the image.
type QEMUOpen struct {
	ReadOnly  OpenOutcome
	ReadWrite OpenOutcome
	Reasons   []string
}

// settle computes the totals and the verdict from the findings. It is the only
// place that does.
func (r *Result) settle() {
	r.Totals = problem.Count(r.Findings)
	unknown, reserved, doubt := false, false, false
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Fixed {
			continue
		}
		unknown = unknown || f.Code.Is(problem.UnknownFormat)
		reserved = reserved || f.Code.Is(problem.ReservedFormat) && r.QEMUOpen.ReadOnly != OpenOK
		doubt = doubt || f.Severity == problem.InDoubt
	}
	switch t := r.Totals; {
	case unknown:
		r.Verdict = VerdictUnsupported
	case t.Errors > 0:
		r.Verdict = VerdictIncomplete
	case t.Corruptions > 0:
		r.Verdict = VerdictCorrupt
	case reserved:
		r.Verdict = VerdictUnsupported
	case doubt:
		r.Verdict = VerdictInDoubt
	case t.Leaks > 0:
		r.Verdict = VerdictLeaks
	case t.Warnings > 0:
		r.Verdict = VerdictWarnings
	default:
		r.Verdict = VerdictClean
	}
}

// The exit codes of a check, those of `qemu-img check` and one more.
const (
	ExitSound   = 0
	ExitTrouble = 1 // it could not be completed, or the image needs what is not known
	ExitCorrupt = 2
	ExitLeaks   = 3 // leaks, or clusters whose owner is in doubt
	ExitUnmet   = 4 // sound, but a requirement is not met
)

// ExitCode is what a program that only checks the image ends with. ExitSound means that
// QEMU opens the image for reading and writing as it is, that `qemu-img check` ends with
// 0, and that nothing is in doubt; see docs/exit-codes.md for what only the user of the
// image can know.
func (r *Result) ExitCode() int {
	switch r.Verdict {
	case VerdictIncomplete, VerdictUnsupported:
		return ExitTrouble
	case VerdictCorrupt:
		if r.Provisional {
			// Something writes to the image: what looks like corruption may be the
			// middle of a change, and nobody must act on it as if it were proved.
			return ExitTrouble
		}
		return ExitCorrupt
	case VerdictLeaks, VerdictInDoubt:
		return ExitLeaks
	}
	if len(r.Unmet) > 0 {
		return ExitUnmet
	}
	return ExitSound
}

// Has tells whether there is a finding of a code.
func (r *Result) Has(code problem.Code) bool {
	for i := range r.Findings {
		if r.Findings[i].Code == code {
			return true
		}
	}
	return false
}
