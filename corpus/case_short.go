package corpus

import "github.com/qcheck/qcheck/check"

// one makes the case of an image in which a damage gives one finding, at a
// place.
func one(name, story string, spec Spec, code check.Code, at Place, damage ...Damage) Case {
	return Case{Name: name, Story: story, Spec: spec, Damage: damage, Want: []Want{{Code: code, At: at}}}
}

// and adds a finding that must come too.
func (c Case) and(code check.Code, at Place) Case {
	c.Want = append(c.Want, Want{Code: code, At: at})
	return c
}

// mild gives the first finding a severity other than the catalogue's.
func (c Case) mild(s check.Severity) Case {
	c.Want[0].Severity = s
	return c
}

// count tells how much the first finding counts.
func (c Case) count(n uint64) Case {
	c.Want[0].Count = n
	return c
}

// base is a small image with some data, 64 KiB clusters: guest clusters 0 and 1
// are written, 5 and 6 partly, and one in the middle of the disk; others are
// not. The disk's second half gigabyte and all that follows has no L2 table.
func base() Spec {
	s := Spec{Size: 2 * gib}
	s.Ops = append(writes(Spec{Size: 8 * mib}), Reserve{Name: "room", Clusters: 4})
	return s
}

// Guest offsets of [base].
const (
	used    = 0         // written
	unused  = 2 << 16   // not written, but mapped by a table
	nowhere = 512 << 20 // where no table is
)

// empty is a disk that nothing was written to.
func empty() Spec { return Spec{Size: 8 * mib} }

const copied = 1 << 63
