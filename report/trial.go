package report

import (
	"path"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// Trial is what repairs would make of an image, found out by planning them.
type Trial struct {
	// Changes tells that a repair without further options does anything.
	Changes bool
	// Sound tells that nothing is left to be repaired then.
	Sound bool
	// Left lists what could be settled with one more option.
	Left []Advice
}

// try gives the trial of an image, nil where none can be had.
func (i *Image) try() *Trial {
	if i.Try == nil {
		return nil
	}
	return i.Try()
}

// onlyRefcounts tells that nothing is wrong but refcounts, of which everything is known:
// a repair settles that for certain.
func onlyRefcounts(r *check.Result) bool {
	some := slices.ContainsFunc(r.Findings, func(f problem.Finding) bool { return !f.Fixed && f.Code.Is(problem.Recounted) })
	return some && !slices.ContainsFunc(r.Findings, func(f problem.Finding) bool {
		return !f.Fixed && f.Severity > problem.Note && f.Code != problem.MarkedDirty && f.Code != problem.BitmapInUse && !(f.Code.Is(problem.Recounted) && f.Repair == problem.RepairSafe)
	})
}

// repairsItself tells that QEMU mends all that is wrong when it opens the image for
// writing, as it does with one that has the dirty bit and lazy refcounts.
func repairsItself(r *check.Result) bool {
	dirty := slices.ContainsFunc(r.Findings, func(f problem.Finding) bool { return f.Code == problem.MarkedDirty && !f.Fixed })
	return dirty && r.QEMUOpen.ReadWrite == check.OpenOK && onlyRefcounts(r)
}

// way says how findings can be settled. What is said of a repair has been tried, or is
// certain.
func way(img *Image, code problem.Code) string {
	r := img.Result
	if v := r.Verdict; v == check.VerdictIncomplete || v == check.VerdictUnsupported {
		return ""
	}
	var bad, mendable bool
	for i := range r.Findings {
		if f := &r.Findings[i]; !f.Fixed && f.Severity > problem.Note {
			bad, mendable = true, mendable || f.Repair != problem.RepairNone
		}
	}
	if name := missingDataFile(r); name != "" {
		return "put the external data file back, which holds all guest data: " + dataFilePath(img.Name, name)
	}
	if name := missingBacking(r); name != "" {
		return "put the backing file back (" + name + "), or judge the image without it: `qcheck --no-backing {image}`"
	}
	var t *Trial
	switch {
	case bad && onlyRefcounts(r) && !img.Keeps:
		return adviceSafe
	case r.Verdict == check.VerdictCorrupt || mendable || r.Verdict == check.VerdictInDoubt:
		if t = img.try(); t == nil {
			return adviceTry
		}
	default:
		t = &Trial{} // there is nothing to be tried
	}
	switch {
	case t.Changes && t.Sound:
		return adviceSafe
	case len(t.Left) > 0 && t.Left[0].Option == "--reattach": // before anything else is concluded
		return adviceReattach
	case len(t.Left) > 0 && t.Left[0].Option == "--free-unowned":
		return adviceKept
	case t.Changes:
		return advicePart
	case len(t.Left) > 0 && t.Left[0].Option == "--allow-data-loss":
		return adviceLossy
	case code == problem.BitmapInUse:
		return adviceAllDirty
	case r.Verdict == check.VerdictCorrupt:
		return lastResort(r)
	}
	return ""
}

// lastResort is what is left where no repair settles anything. Only what QEMU opens can
// be converted.
func lastResort(r *check.Result) string {
	if r.QEMUOpen.ReadOnly == check.OpenOK {
		return adviceBackup
	}
	return adviceOnlyBackup
}

// missingDataFile gives the name of the external data file where it is missing, escaped.
func missingDataFile(r *check.Result) string {
	for i := range r.Findings {
		// One that is too short has an expected size.
		if f := &r.Findings[i]; f.Code == problem.DataFileMissing && f.Expected.IsZero() && !f.Fixed {
			return f.Value.String()
		}
	}
	return ""
}

// missingBacking gives the name of the backing file where it is missing, escaped, and
// nothing worse is wrong.
func missingBacking(r *check.Result) (name string) {
	for i := range r.Findings {
		switch f := &r.Findings[i]; {
		case f.Fixed || f.Severity <= problem.Warning:
		case f.Code == problem.BackingUnreadable:
			name = f.Value.String()
		default:
			return ""
		}
	}
	return name
}

// dataFilePath is where a data file belongs that an image names.
func dataFilePath(image, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(image), name)
}
