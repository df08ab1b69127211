package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
)

// one makes the case of an image in which a damage gives one finding, at a
// place.
func one(name, story string, spec Spec, code problem.Code, at Place, damage ...Damage) Case {
	return Case{Name: name, Story: story, Spec: spec, Damage: damage, Want: []Want{{Code: code, At: at}}}
}

// and adds a finding that must come too.
func (c Case) and(code problem.Code, at Place) Case {
	c.Want = append(c.Want, Want{Code: code, At: at})
	return c
}

// finds adds findings that must come, wherever they are.
func (c Case) finds(codes ...problem.Code) Case {
	for _, code := range codes {
		c = c.and(code, Place{})
	}
	return c
}

// any is finds, and there may be others.
func (c Case) any(codes ...problem.Code) Case {
	c.Any = true
	return c.finds(codes...)
}

// mild gives the first finding a severity other than the catalogue's.
func (c Case) mild(s problem.Severity) Case {
	c.Want[0].Severity = s
	return c
}

// slow says that QEMU takes minutes.
func (c Case) slow() Case {
	c.QEMUSlow = true
	return c
}

// count tells how much the first finding counts.
func (c Case) count(n uint64) Case {
	c.Want[0].Count = n
	return c
}

// inAllSizes marks a case that [inSizes] makes in clusters of other sizes too: what
// is wrong there has to do with where clusters begin and end, with how much a table
// maps, or with how many bits a field has in clusters of a size.
func (c Case) inAllSizes() Case {
	c.anySize = true
	return c
}

// inSizes makes the cases of a section in clusters of 1<<usual bytes, and those that
// are marked also in clusters of the other sizes, with the size in their names.
func inSizes(section func(bits uint32) []Case, usual uint32, others ...uint32) []Case {
	cases := section(usual)
	for _, bits := range others {
		for _, c := range section(bits) {
			if c.anySize {
				c.Name += fmt.Sprintf("-clusters-%d", 1<<bits)
				cases = append(cases, c)
			}
		}
	}
	return cases
}

// sizedName is a file name that no case of a section in clusters of another size has.
func sizedName(name string, bits uint32) string {
	if bits == 16 {
		return name
	}
	return fmt.Sprintf("%d-%s", 1<<bits, name)
}

// base is a small image with some data: guest clusters 0 and 1 have data, 5 and 6,
// and 32; others are not mapped. The disk takes four L2 tables, of which all but the
// first are not there.
func base(bits uint32) Spec {
	s := Spec{ClusterBits: bits, Size: 4 * coverage(bits)}
	s.Ops = append(touches(bits), Reserve{Name: "room", Clusters: 4})
	return s
}

// touches writes a sector each to a few clusters.
func touches(bits uint32) (ops []Op) {
	for i, at := range []uint64{0, 1, 5, 6, 32} {
		ops = append(ops, Write{Offset: at << bits, Length: 512, Pattern: byte(i + 1), Stamp: true})
	}
	return ops
}

// coverage is how many bytes of the disk an L2 table maps.
func coverage(bits uint32) uint64 { return 1 << (2*bits - 3) }

// used is a guest offset of [base] that is written, unused one that is not, but is
// mapped by a table.
const used = 0

func unused(bits uint32) uint64 { return 2 << bits }

// empty is a disk that nothing was written to.
func empty(bits uint32) Spec { return Spec{ClusterBits: bits, Size: 128 << bits} }

// history is a disk of one L2 table with two snapshots that share some of its data.
func history(bits uint32) Spec {
	c := uint64(1) << bits
	s := base(bits)
	s.Size = coverage(bits)
	s.Ops = append(s.Ops, Snapshot{ID: "1", Name: "first"}, Write{Offset: c, Length: 512, Pattern: 0x44}, Discard{Offset: 5 * c, Length: c},
		Snapshot{ID: "2", Name: "second"}, Write{Offset: 8 * c, Length: 512, Pattern: 0x55})
	return s
}

const copied = 1 << 63
