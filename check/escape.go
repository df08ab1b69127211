package check

import (
	"fmt"
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

// maxNameText is how many characters of a name from the image a message has: such a name
// can fill a screen, or many.
const maxNameText = 64

// Excerpt gives a name from an image for a message: escaped, and of a long one the first
// 64 characters, with its length.
func Excerpt[T ~string | ~[]byte](s T) string {
	if len(s) <= maxNameText {
		return Shorten(Escape(s))
	}
	// A name can be long, and stand in many messages.
	text, whole := shortened(Escape(s[:min(len(s), 4*maxNameText)]))
	if whole && len(s) <= 4*maxNameText {
		return text
	}
	return fmt.Sprintf("%s… (%d characters)", text, utf8.RuneCountInString(string(s)))
}

// Shorten does what [Excerpt] does to a name that is escaped already.
func Shorten(escaped string) string {
	text, whole := shortened(escaped)
	if whole {
		return escaped
	}
	chars := 0
	for at := 0; at < len(escaped); chars++ {
		at += escapeLength(escaped[at:])
	}
	if strings.HasSuffix(escaped, "…") { // cut before, see ownerName
		return fmt.Sprintf("%s… (over %d characters)", text, chars-1)
	}
	return fmt.Sprintf("%s… (%d characters)", text, chars)
}

// shortened gives as much of an escaped text as a message has, and whether that is all.
func shortened(escaped string) (text string, whole bool) {
	written := 0
	for at := 0; at < len(escaped); {
		n := escapeLength(escaped[at:])
		if written += utf8.RuneCountInString(escaped[at : at+n]); written > maxNameText {
			return escaped[:at], false
		}
		at += n
	}
	return escaped, true
}

// escapeLength is the length of what stands for the first character of an escaped text.
func escapeLength(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	if s[0] != '\\' || len(s) < 2 {
		return n
	}
	n = 2
	switch s[1] {
	case 'x':
		n = 4
	case 'u':
		n = 6
	case 'U':
		n = 10
	}
	return min(n, len(s))
}

// maxOwnerName and maxFileName bound what a finding has of the name of its snapshot or
// bitmap, by which it is told from others, and what a message has of the name of a file,
// which somebody will have to type.
const (
	maxOwnerName = 1023
	maxFileName  = 1023
)

// ownerName gives the name of a snapshot or a bitmap for a finding, escaped.
func ownerName[T ~string | ~[]byte](s T) string { return start(s, maxOwnerName) }

// fileName gives the name of a file for a message, escaped.
func fileName[T ~string | ~[]byte](s T) string { return start(s, maxFileName) }

// start gives the first n bytes of a string from the image, escaped.
func start[T ~string | ~[]byte](s T, n int) string {
	if len(s) > n {
		return Escape(s[:n]) + "…"
	}
	return Escape(s)
}
