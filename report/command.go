package report

import (
	"fmt"
	"strings"
)

// Typed gives the name of a file as it can be typed in a shell, so that a command stays
// one: it is no flag, no command's name and no scope of a repair's. What cannot be
// printed is quoted as bash, zsh and others take it.
func Typed(name string) string {
	if name != "" && (name[0] == '-' || !strings.ContainsAny(name, "./")) {
		name = "./" + name
	}
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_./:@%+,-", r)
	}
	switch {
	case name == "":
		return "''"
	case printable(name) != name || strings.Contains(name, "`"):
		var b strings.Builder
		b.WriteString("$'")
		for _, c := range []byte(name) {
			switch {
			case c < 0x20 || c >= 0x7f || c == '`':
				fmt.Fprintf(&b, "\\x%02x", c)
			case c == '\'' || c == '\\':
				b.WriteString("\\" + string(rune(c)))
			default:
				b.WriteByte(c)
			}
		}
		return b.String() + "'"
	case strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }):
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

// command gives the command line that repairs an image, or with "-n" shows what that
// does, with a further flag. A flag of the same name makes way for that, and so does what
// to repair: with a further flag all of it is meant.
func (r *Repair) command(verb, image, more string) string {
	words := []string{"qcheck", verb}
	name := func(flag string) string { name, _, _ := strings.Cut(flag, "="); return name }
	for _, f := range r.Flags {
		switch scope := name(f) == "--repair"; {
		case more != "" && (scope || name(f) == name(more)):
		case scope && verb == "-r":
			words[1] = f
		default:
			words = append(words, f)
		}
	}
	if more != "" && more != "--repair=all" { // which goes without saying
		words = append(words, more)
	}
	return "`" + strings.Join(append(words, Typed(image)), " ") + "`"
}
