package report

import (
	"strings"

	"github.com/qcheck/qcheck/check"
)

// advice is what the last line of a human report begins with for each verdict. Only
// what can be typed today may stand here.
var advice = map[check.Verdict]string{
	check.VerdictClean:       "`qcheck explain {code}` says what that means",
	check.VerdictWarnings:    "`qcheck explain {code}` says what that means; no guest data is at risk",
	check.VerdictLeaks:       "`qcheck explain {code}` says what that means; leaks cost space and nothing else",
	check.VerdictCorrupt:     "`qcheck explain {code}` says what that means; start no VM from this image as it is",
	check.VerdictIncomplete:  "`qcheck explain {code}` says what that means; what was not looked at may be bad as well",
	check.VerdictUnsupported: "`qcheck info {image}` shows what the image asks for; a later version of qcheck may know it",
}

// liveAdvice comes instead, whatever the findings, when the image was being
// written to.
const liveAdvice = "`qcheck {image}` again, once nothing writes to it any more"

// unmetAdvice comes instead when all that there is to say is that a requirement
// is not met.
const unmetAdvice = "`qcheck info {image}` shows what the image has"

// The ways to settle findings, as a command line's end.
const (
	adviceSafe     = "`qcheck -r {image}` repairs it without losing data, `qcheck -n {image}` shows before what that does"
	advicePart     = "`qcheck -r {image}` repairs what can be repaired without losing data, `qcheck -n {image}` shows before what that does"
	adviceLossy    = "`qcheck -n --allow-data-loss {image}` shows what a repair would do, and what would be lost"
	adviceReattach = "`qcheck -n --reattach {image}` shows where the lost table belongs"
	adviceBackup   = "no repair can settle it: restore the image from a backup, or save what can be read with `qemu-img convert`"
	adviceAllDirty = "`qcheck -r --bitmap-policy=all-dirty {image}` makes the bitmap usable again, as one that calls everything changed"
)

// next gives the last line for an image, or "" where there is nothing to be
// done. code is that of the worst finding shown that is not settled, "" for none.
func next(img *Image, code check.Code) string {
	text := advice[img.verdict()]
	switch {
	case img.Repair != nil && img.Err == nil && img.Result != nil:
		text = nextAfter(img, code)
	case code != "" && img.Result.Provisional:
		text = liveAdvice
	case code == "" && len(img.Result.Unmet) > 0:
		text = unmetAdvice
	case code == "":
	default:
		if way := way(img.Result, code); way != "" {
			text += "; " + way
		}
	}
	if code == "" && strings.Contains(text, "{code}") {
		return ""
	}
	return strings.NewReplacer("{code}", string(code), "{image}", typed(img.Name)).Replace(text)
}

// way says how findings can be settled, as far as the catalogue tells.
func way(r *check.Result, code check.Code) string {
	if v := r.Verdict; v == check.VerdictIncomplete || v == check.VerdictUnsupported {
		return ""
	}
	var safe, none, lossy, reattach bool
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Fixed || f.Severity <= check.Note {
			continue
		}
		switch f.Repair {
		case check.RepairSafe, check.RepairPolicy:
			// The marks are what is left of something else, or go with it.
			safe = safe || f.Code != check.HDR007
		case check.RepairLossy:
			lossy = true
		case check.RepairReattach:
			reattach = true
		default:
			none = true
		}
	}
	switch {
	case safe && !lossy && !reattach && !none:
		return adviceSafe
	case reattach: // before anything else is concluded
		return adviceReattach
	case safe:
		return advicePart
	case lossy:
		return adviceLossy
	case code == check.BMD012:
		return adviceAllDirty
	case r.Verdict == check.VerdictCorrupt:
		return adviceBackup
	}
	return ""
}

// nextAfter is the last line after a repair, or after its plan.
func nextAfter(img *Image, code check.Code) string {
	r := img.Repair
	switch {
	case r.DryRun && r.changes():
		return r.command("-r", img.Name, "") + " does it"
	case code == check.BMD012 && img.Result.Verdict == check.VerdictClean:
		return adviceAllDirty
	case len(r.Left) > 0:
		return r.command("-n", img.Name, r.Left[0].Option) + " shows what that would do"
	case img.Result.Verdict == check.VerdictCorrupt:
		return "`qcheck explain {code}` says what that means; " + adviceBackup
	case img.Result.Verdict == check.VerdictClean:
		return ""
	}
	return advice[img.verdict()]
}

// typed gives a file name as it can be typed in a shell, or IMAGE where no
// simple quoting does.
func typed(name string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_./:@%+,=-", r)
	}
	special := func(r rune) bool { return !plain(r) }
	switch {
	case name == "" || name[0] == '-' || printable(name) != name || strings.ContainsAny(name, `'\`):
		return "IMAGE"
	case strings.ContainsFunc(name, special):
		return "'" + name + "'"
	}
	return name
}
