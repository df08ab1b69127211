package check

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape makes a string from an image safe for a terminal or a log: whatever is
// not printable, and the backslash, becomes a Go escape. An ordinary name stays
// as it is.
func Escape[T ~string | ~[]byte](s T) string {
	str := string(s)
	if utf8.ValidString(str) && !strings.ContainsFunc(str, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }) {
		return str
	}
	q := strconv.Quote(str)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
