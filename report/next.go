package report

import (
	"strings"

	"github.com/qcheck/qcheck/check"
)

// advice is what the last line of a human report says for each verdict. Only
// what can be typed today may stand here.
var advice = map[check.Verdict]string{
	check.VerdictClean:       "`qcheck explain {code}` says what that means",
	check.VerdictWarnings:    "`qcheck explain {code}` says what that means; no guest data is at risk, and this version of qcheck repairs nothing yet",
	check.VerdictLeaks:       "`qcheck explain {code}` says what that means; leaks cost space and nothing else, and this version of qcheck repairs nothing yet",
	check.VerdictCorrupt:     "`qcheck explain {code}` says what that means and what can be done; until then start no VM from this image; this version of qcheck repairs nothing yet",
	check.VerdictIncomplete:  "`qcheck explain {code}` says what that means; what was not looked at may be bad as well",
	check.VerdictUnsupported: "`qcheck info {image}` shows what the image asks for; a later version of qcheck may know it",
}

// liveAdvice comes instead, whatever the findings, when the image was being
// written to.
const liveAdvice = "`qcheck {image}` again, once nothing writes to it any more"

// unmetAdvice comes instead when all that there is to say is that a requirement
// is not met.
const unmetAdvice = "`qcheck info {image}` shows what the image has"

// next gives the last line for an image, or "" where there is nothing to be
// done. code is that of the worst finding shown, "" for none.
func next(img *Image, code check.Code) string {
	text := advice[img.verdict()]
	switch {
	case code != "" && img.Result.Provisional:
		text = liveAdvice
	case code == "" && len(img.Result.Unmet) > 0:
		text = unmetAdvice
	}
	if code == "" && strings.Contains(text, "{code}") {
		return ""
	}
	return strings.NewReplacer("{code}", string(code), "{image}", typed(img.Name)).Replace(text)
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
