package manual

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Words are what can be completed besides the grammar.
type Words struct {
	// Codes gives the codes of findings.
	Codes func() []string
	// Bitmaps gives the names of the bitmaps of an image; none where it cannot be read.
	Bitmaps func(image string) []string
	// Default is the command that need not be named.
	Default string
}

// Complete gives what the last of the words of a command line, which may be empty, can be. The
// program's name is not among the words. None means that it is the name of a file.
func Complete(root *kong.Node, words []string, w Words) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last, before := words[len(words)-1], words[:len(words)-1]
	n, rest := root, before
	for len(rest) > 0 {
		i := slices.IndexFunc(n.Children, func(c *kong.Node) bool { return c.Name == rest[0] })
		if i < 0 {
			break
		}
		n, rest = n.Children[i], rest[1:]
	}
	flags := slices.Clone(root.Flags)
	cmd := n
	if n == root {
		for _, c := range root.Children {
			if c.Name == w.Default {
				cmd = c
			}
		}
	}
	flags = append(flags, cmd.Flags...)
	if name, value, ok := strings.Cut(last, "="); ok && strings.HasPrefix(name, "--") {
		return prefixed(w.values(flags, strings.TrimPrefix(name, "--"), rest), value, name+"=")
	}
	if len(rest) > 0 {
		if prev := rest[len(rest)-1]; strings.HasPrefix(prev, "-") {
			if f := find(flags, prev); f != nil && !f.IsBool() {
				return prefixed(w.values(flags, f.Name, rest), last, "")
			}
		}
	}
	if strings.HasPrefix(last, "-") {
		var names []string
		for _, f := range flags {
			switch {
			case f.Hidden:
			case f.IsBool():
				names = append(names, "--"+f.Name)
			default:
				names = append(names, "--"+f.Name+"=")
			}
		}
		return prefixed(names, last, "")
	}
	var names []string
	switch {
	case len(n.Children) > 0 && len(rest) == 0:
		for _, c := range n.Children {
			if !c.Hidden {
				names = append(names, c.Name)
			}
		}
	case n.Name == "explain":
		names = w.Codes()
	case n.Name == "bitmaps":
		if images := plain(rest); len(images) == 1 {
			names = w.Bitmaps(images[0])
		}
	case n.Name == "completion":
		names = []string{"bash", "fish", "zsh"}
	}
	return prefixed(names, last, "")
}

// find gives the flag of a name as it is typed.
func find(flags []*kong.Flag, typed string) *kong.Flag {
	for _, f := range flags {
		if typed == "--"+f.Name || f.Short != 0 && typed == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

// values gives what a flag takes.
func (w Words) values(flags []*kong.Flag, name string, rest []string) []string {
	f := find(flags, "--"+name)
	switch {
	case f == nil:
		return nil
	case f.Enum != "":
		return slices.DeleteFunc(strings.Split(f.Enum, ","), func(s string) bool { return s == "" })
	case name == "require-bitmap":
		var names []string
		for _, image := range plain(rest) {
			names = append(names, w.Bitmaps(image)...)
		}
		return names
	case name == "bitmap-policy":
		return []string{"all-dirty", "mark", "remove"}
	case name == "repair":
		return []string{"all", "bitmaps", "leaks", "refcounts"}
	}
	return nil
}

// plain gives the words that are no flags.
func plain(words []string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(s string) bool { return strings.HasPrefix(s, "-") })
}

// prefixed gives the words that begin as what was typed, behind a prefix.
func prefixed(words []string, typed, before string) (out []string) {
	for _, s := range words {
		if strings.HasPrefix(s, typed) {
			out = append(out, before+s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Script gives the completion script for a shell; ok is false for one that is not known.
func Script(shell string) (string, bool) {
	s, ok := scripts[shell]
	return s, ok
}

// scripts ask the program itself, so that they know what it knows.
var scripts = map[string]string{
	"bash": `# bash completion for qcheck
_qcheck() {
    local IFS=$'\n' cur=${COMP_WORDS[COMP_CWORD]} words
    # bash takes "--flag=value" for three words
    words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    if [[ $COMP_CWORD -gt 1 && ${COMP_WORDS[COMP_CWORD-1]} == "=" ]]; then
        words=("${COMP_WORDS[@]:1:COMP_CWORD-3}" "${COMP_WORDS[COMP_CWORD-2]}=$cur")
    elif [[ $cur == "=" ]]; then
        words=("${COMP_WORDS[@]:1:COMP_CWORD-2}" "${COMP_WORDS[COMP_CWORD-1]}=")
    fi
    COMPREPLY=($(qcheck completion --words -- "${words[@]}" 2>/dev/null))
    if [[ ${words[-1]} == --*=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        COMPREPLY=($(compgen -f -- "${cur#=}"))
        compopt -o filenames
    elif [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -F _qcheck qcheck
`,
	"zsh": `#compdef qcheck
_qcheck() {
    local -a found
    found=("${(@f)$(qcheck completion --words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    if (( ${#found} )); then
        compadd -S '' -- ${(M)found:#*=}
        compadd -- ${found:#*=}
    else
        _files
    fi
}
if [ "$funcstack[1]" = _qcheck ]; then
    _qcheck "$@"
else
    compdef _qcheck qcheck
fi
`,
	"fish": `# fish completion for qcheck
function __qcheck_words
    set -l words (commandline -opc) (commandline -ct)
    qcheck completion --words -- $words[2..-1] 2>/dev/null
end
complete -c qcheck -a '(__qcheck_words)'
`,
}
