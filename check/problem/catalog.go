package problem

//go:generate go run ../internal/gendocs ../../docs/findings.md

import (
	"iter"
	"slices"
	"sync"
)

// Rule is a row of the catalogue: all that there is to say about a kind of
// finding, whatever the image. `qcheck explain`, docs/findings.md and the
// reports are made from it, and whoever decides something by the kind of a finding
// asks its row. No other list of codes exists.
type Rule struct {
	Code Code
	// Severity is the worst that a finding of this code can have; a finding may
	// be milder where the image explains what is odd.
	Severity  Severity
	Structure Structure
	Repair    Repair // what a repair does about it, at best
	About     Subject
	Facts     Facts
	Title     string // one line, without a full stop
	Spec      string // the section of the specification, or QEMU's function
	Why       string // how an image comes to it, and what it leads to
	Do        string // what the user can do
}

// Subject is what a finding is about: the thing whose bytes would have to be different.
type Subject uint8

// The subjects.
const (
	AboutFile Subject = iota + 1
	AboutHeader
	AboutExtension
	AboutCrypto
	AboutSibling // the external data file, the backing file
	AboutL1Entry
	AboutL2Entry
	AboutTable // a whole L2 table or refcount block
	AboutCluster
	AboutRefcountEntry // of the refcount table
	AboutRefcount
	AboutSnapshot
	AboutBitmapExtension
	AboutBitmap // an entry of the bitmap directory
	AboutBitmapTable
	AboutBitmapEntry // of a bitmap's table
	AboutBitmapData
)

// Facts say how findings of a code are dealt with.
type Facts uint16

// The facts.
const (
	// Joins: neighbours are one finding with a count.
	Joins Facts = 1 << iota
	// LeadsPastEnd: an entry leads past the end of the file. Neighbours are one piece
	// of news whatever they hold: each leads somewhere else.
	LeadsPastEnd
	// Overlap: two structures lie in one place.
	Overlap
	// UnknownFormat: the version or a feature is not known, so that nothing else that
	// is found can be relied on.
	UnknownFormat
	// ReservedFormat: the format keeps this for later versions. QEMU refuses it, and
	// it may be sound for software that knows it.
	ReservedFormat
	// HidesBitmap: what a bitmap holds is not known while this stands.
	HidesBitmap
	// WhileStale: as bad as it says even when nobody relies on the bitmaps.
	WhileStale
	// ThroughL1: an entry of an L1 table, or what only such an entry leads to.
	ThroughL1
	// LeadsToL1: what leads to an L1 table.
	LeadsToL1
	// Recounted: counting the references anew settles it.
	Recounted
	// NoEntry: a table that is full of these holds something other than entries.
	NoEntry
)

// Is tells whether a fact holds of a code.
func (c Code) Is(fact Facts) bool {
	r := row(c)
	return r != nil && r.Facts&fact != 0
}

// About is what findings of a code are about; 0 for one that is not in the catalogue.
func (c Code) About() Subject {
	if r := row(c); r != nil {
		return r.About
	}
	return 0
}

// Unsupported tells of the codes of what the image may hold in good order for later
// software.
func (c Code) Unsupported() bool { return c.Is(UnknownFormat | ReservedFormat) }

// AboutBitmaps tells of the codes of bitmaps: extension, directory, tables and data.
func (c Code) AboutBitmaps() bool { return c.About() >= AboutBitmapExtension }

// With gives the codes of which a fact holds, in the catalogue's order.
func With(fact Facts) iter.Seq[Code] {
	return func(yield func(Code) bool) {
		for i := range catalog().rules {
			if r := &catalog().rules[i]; r.Facts&fact != 0 && !yield(r.Code) {
				return
			}
		}
	}
}

type rows struct {
	rules  []Rule
	number map[Code]int // where in rules a code is
}

// catalog is every row: a file a group of structures, sorted by code within each
// group of letters. Its order is that of docs/findings.md. It is put together when it is
// first asked for, since most programs start without needing it.
var catalog = sync.OnceValue(func() rows {
	all := slices.Concat(
		fileRules, headerRules, extensionRules, mappingRules, refcountRules, snapshotRules,
		bitmapDirectoryRules, bitmapDataRules, siblingRules, troubleRules)
	m := make(map[Code]int, len(all))
	for i := range all {
		m[all[i].Code] = i
	}
	return rows{all, m}
})

// isEntry tells of the codes whose findings are entries of a table: where such an entry
// is says all that a repair needs to know.
func (r *Rule) isEntry() bool {
	switch r.About {
	case AboutL1Entry, AboutL2Entry, AboutRefcountEntry, AboutBitmapEntry:
		return true
	}
	return false
}

// row gives the catalogue's row of a code, nil where there is none.
func row(code Code) *Rule {
	all := catalog()
	i, ok := all.number[code]
	if !ok {
		return nil
	}
	return &all.rules[i]
}

// Lookup gives the catalogue's row of a code.
func Lookup(code Code) (Rule, bool) {
	if r := row(code); r != nil {
		return *r, true
	}
	return Rule{}, false
}

// Catalog gives all rows in the catalogue's order.
func Catalog() []Rule { return slices.Clone(catalog().rules) }
