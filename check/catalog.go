package check

//go:generate go run ./internal/gendocs ../docs/findings.md

import "slices"

// Rule is a row of the catalogue: all that there is to say about a kind of
// finding, whatever the image. `qcheck explain`, docs/findings.md and the
// reports are made from it.
type Rule struct {
	Code Code
	// Severity is the worst that a finding of this code can have; a finding may
	// be milder where the image explains what is odd.
	Severity  Severity
	Structure Structure
	Title     string // one line, without a full stop
	Repair    Repair // what a repair does about it, at best
	Spec      string // the section of the specification, or QEMU's function
	Why       string // how an image comes to it, and what it leads to
	Do        string // what the user can do
}

// catalog is every row: a file a group of structures, sorted by code within each
// group of letters. Its order is that of docs/findings.md.
var catalog = slices.Concat(
	fileRules,
	headerRules,
	extensionRules,
	mappingRules,
	refcountRules,
	snapshotRules,
	bitmapDirectoryRules,
	bitmapDataRules,
	siblingRules,
	troubleRules,
)

// numberOf is where in the catalogue a code is.
var numberOf = func() map[Code]int {
	m := make(map[Code]int, len(catalog))
	for i := range catalog {
		m[catalog[i].Code] = i
	}
	return m
}()

// Lookup gives the catalogue's row of a code.
func Lookup(code Code) (Rule, bool) {
	i, ok := numberOf[code]
	if !ok {
		return Rule{}, false
	}
	return catalog[i], true
}

// Catalog gives all rows in the catalogue's order.
func Catalog() []Rule { return append([]Rule(nil), catalog...) }
