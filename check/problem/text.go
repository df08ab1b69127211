package problem

import "fmt"

// Text is what is wrong, as its parts: a sentence with gaps and what belongs into them.
// It is put into words when somebody is going to read it ([Finding.Text]); there can be
// millions of findings, and few are read. Nothing is decided by it.
type Text struct {
	format  string
	args    []any
	numbers [maxNumbers]uint64
	n       uint8 // of numbers
	entry   bool  // begins with the finding's path
	more    []Text
}

const maxNumbers = 3

// Say is a sentence without a full stop. The arguments are kept until it is read, so what
// they point to must stay as it is. Strings from the image are escaped by the caller.
func Say(format string, args ...any) Text { return Text{format: format, args: args} }

// SayOfEntry is a sentence about the table entry that a finding's path leads to, and begins
// with that path. At most three numbers fill its gaps; it costs next to nothing to make.
func SayOfEntry(format string, numbers ...uint64) Text {
	t := Text{format: format, entry: true, n: uint8(min(len(numbers), maxNumbers))}
	copy(t.numbers[:], numbers)
	return t
}

// And goes on with a further clause.
func (t *Text) And(format string, args ...any) { t.more = append(t.more, Say(format, args...)) }

// String puts a text into words that is not about an entry.
func (t Text) String() string { return t.words(Path{}) }

// IsZero tells that nothing is said.
func (t Text) IsZero() bool { return t.format == "" && len(t.more) == 0 }

func (t *Text) words(path Path) (s string) {
	switch {
	case t.n > 0:
		var args [maxNumbers]any
		for i := range t.numbers {
			args[i] = t.numbers[i]
		}
		s = fmt.Sprintf(t.format, args[:t.n]...)
	case len(t.args) > 0:
		s = fmt.Sprintf(t.format, t.args...)
	default:
		s = t.format
	}
	if t.entry {
		s = path.String() + " " + s
	}
	for i := range t.more {
		s += t.more[i].words(path)
	}
	return s
}

// Text says what is wrong, in one line without a full stop.
func (f *Finding) Text() string {
	if f.Unlisted {
		r, _ := Lookup(f.Code)
		return fmt.Sprintf("%d more of these are not listed: %s", f.Count, r.Title)
	}
	return f.Message.words(f.Path)
}
