package report

import (
	"fmt"
)

// What an image claims can be much more than anyone wants to read: 65,536 snapshots with
// names of 64 KiB each fit in a sparse file of two megabytes. A report has as much of it
// as these bounds allow, and says how much it leaves out.
const (
	maxEntries = 1000    // snapshots, bitmaps or extensions in a list
	maxNames   = 1 << 20 // bytes of JSON that the names in a list take
	maxReasons = 100     // lines of one kind
)

// room is what is left of a list in JSON.
type room struct{ entries, names int }

func newRoom() *room { return &room{maxEntries, maxNames} }

// take tells whether one more entry of these names has its place.
func (r *room) take(names ...string) bool {
	for _, s := range names {
		r.names -= jsonLength(s)
	}
	r.entries--
	return r.entries >= 0 && r.names >= 0
}

// jsonLength is the most that a string takes in JSON, about.
func jsonLength(s string) (n int) {
	for _, c := range []byte(s) {
		n++
		if c < 0x20 || c >= 0x7f {
			n += 5
		}
	}
	return n
}

// firstTexts gives the first lines of many, with a last one that counts the others.
func firstTexts(texts []string, most int) []string {
	if len(texts) <= most {
		return append([]string{}, texts...)
	}
	return append(append([]string{}, texts[:most]...), fmt.Sprintf("and %d more like that", len(texts)-most))
}
