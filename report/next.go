package report

import (
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// The last line of a human report says what can be typed next, and what to keep in
// mind until then. Only what can be typed today may stand here.
const (
	explainAdvice = "`qcheck explain {code}` says what that means"
	// No version of the format is below 2: the field is wrong.
	versionAdvice     = "`qcheck info {image}` shows what the header says; the version in it is damaged: no qcow2 image has one below 2"
	unsupportedAdvice = "`qcheck info {image}` shows what the image asks for; a later version of qcheck may know it"
)

// cautions are what to keep in mind, by verdict.
var cautions = map[check.Verdict]string{
	check.VerdictWarnings:   "no guest data is at risk",
	check.VerdictLeaks:      "leaks cost space and nothing else",
	check.VerdictInDoubt:    "part of the disk may have been lost: copy the image before anything writes to it",
	check.VerdictCorrupt:    "start no VM from this image as it is",
	check.VerdictIncomplete: "what was not looked at may be bad as well",
}

// liveAdvice comes instead, whatever the findings, when the image was being
// written to.
const liveAdvice = "`qcheck {image}` again, once nothing writes to it any more"

// lazyCaution comes in place of the verdict's where QEMU keeps refcounts lazily.
const lazyCaution = "QEMU does that by itself as well when a VM is started from this image, since its dirty bit is set"

// caution is what to keep in mind about an image.
func caution(r *check.Result) string {
	if r.Verdict == check.VerdictCorrupt && repairsItself(r) {
		return lazyCaution
	}
	return cautions[r.Verdict]
}

// remoteAdvice comes for an image that was read over a network.
const remoteAdvice = "download the image; `qcheck -n` on the copy shows what can be repaired"

// unmetAdvice comes instead when all that there is to say is that a requirement
// is not met.
const unmetAdvice = "`qcheck info {image}` shows what the image has"

// The ways to settle findings, as a command line's end.
const (
	adviceSafe     = "`qcheck -r {image}` repairs it without losing guest data (`qcheck -n {image}` only shows how)"
	advicePart     = "`qcheck -r {image}` repairs what can be repaired without losing guest data (`qcheck -n {image}` only shows how)"
	adviceLossy    = "`qcheck -n --allow-data-loss {image}` shows what a repair would do, and what would be lost"
	adviceKept     = "an earlier repair has kept what may be all that is left of lost data; `qcheck -n --free-unowned {image}` shows it"
	adviceReattach = "`qcheck -n --reattach {image}` shows where the lost table belongs"
	adviceTry      = "`qcheck -n {image}` shows what can be repaired"
	adviceBackup   = "qcheck cannot repair this: restore the image from a backup, or save what can be read with `qemu-img convert`"
	// QEMU does not open it, so that nothing else can be done with its tools.
	adviceOnlyBackup = "qcheck cannot repair this: restore the image from a backup"
	adviceAllDirty   = "`qcheck -r --bitmap-policy=all-dirty {image}` makes the bitmap usable again, as one that calls everything changed"
)

// next gives the last line for an image, or "" where there is nothing to be
// done. code is that of the worst finding shown that is not settled, "" for none.
func next(img *Image, code problem.Code) string {
	var parts []string
	switch {
	case img.verdict() == check.VerdictUnsupported && slices.ContainsFunc(img.Result.Findings, func(f problem.Finding) bool {
		version, ok := f.Value.Num()
		return f.Code == problem.VersionUnknown && ok && version < 2
	}):
		parts = []string{versionAdvice}
	case img.verdict() == check.VerdictUnsupported:
		parts = []string{unsupportedAdvice}
	case img.Repair != nil && img.Err == nil && img.Result != nil:
		parts = nextAfter(img, code)
	case code != "" && img.Result.Provisional:
		parts = []string{liveAdvice}
	case code != "" && img.Remote:
		parts = []string{remoteAdvice, caution(img.Result), explainAdvice}
	case code == problem.BackingUnsound && img.Chain != nil:
		parts = []string{belowAdvice(img), caution(img.Result)}
	case code != "":
		parts = []string{way(img, code), caution(img.Result), explainAdvice}
	case len(img.Result.Unmet) > 0:
		parts = []string{unmetAdvice}
	}
	text := strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
	if img.Repair == nil && img.Result != nil && img.Result.Has(problem.CompressedUnreadable) {
		// A check without it does not find what is to be repaired.
		text = strings.NewReplacer("`qcheck -n ", "`qcheck -n --data ", "`qcheck -r ", "`qcheck -r --data ").Replace(text)
	}
	return strings.NewReplacer("{code}", string(code), "{image}", Typed(img.Name)).Replace(text)
}

// belowAdvice says what can be done about what is below an image: the lowest file first,
// since all others stand on it.
func belowAdvice(img *Image) string {
	for _, l := range slices.Backward(img.Chain.Layers[1:]) {
		if r := l.Result; r != nil && r.ExitCode() != check.ExitSound {
			return "`qcheck " + Typed(l.Name) + "` checks the file below by itself and says what can be done"
		}
	}
	return ""
}

// nextAfter is the last line after a repair, or after its plan.
func nextAfter(img *Image, code problem.Code) []string {
	r, v := img.Repair, img.verdict()
	switch {
	case r.DryRun && r.changes():
		return []string{r.command("-r", img.Name, "") + " does it"}
	case code == problem.BitmapInUse && v == check.VerdictClean:
		return []string{adviceAllDirty}
	case len(r.Left) > 0 && code != "":
		return []string{r.command("-n", img.Name, r.Left[0].Option) + " shows what that would do", caution(img.Result)}
	case v == check.VerdictCorrupt && missingDataFile(img.Result) != "":
		return []string{way(img, code), caution(img.Result), explainAdvice}
	case v == check.VerdictCorrupt:
		return []string{lastResort(img.Result), caution(img.Result), explainAdvice}
	case code != "":
		return []string{caution(img.Result), explainAdvice}
	}
	return nil
}
