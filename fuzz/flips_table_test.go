package fuzz_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// flipCount counts what became of the flips of an image.
type flipCount struct {
	kind             flipKind
	all, tried       int
	outcomes, faults map[string]int
	// asked is how many QEMU was asked to repair; theirs counts what came of it, and
	// ours what came of qcheck's repair of the same.
	asked        int
	theirs, ours map[string]int
	// bad are those with faults, open the others that are not healed.
	bad, open []*tried
}

func (c *flipCount) add(x *tried) {
	c.tried++
	c.outcomes[x.outcome]++
	for _, f := range x.faults {
		c.faults[f]++
	}
	switch {
	case len(x.faults) > 0:
		c.bad = append(c.bad, x)
	case x.outcome != flipHealed && x.outcome != flipHarmless:
		c.open = append(c.open, x)
	}
	if x.repaired != "" {
		c.asked++
		c.theirs[x.repaired]++
		c.ours[x.outcome]++
	}
}

func share(n, of int) string {
	if of == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(n)/float64(of))
}

// flipTable is the table of all counts, in Markdown.
func flipTable(all []*flipCount) string {
	var b strings.Builder
	columns := append(slices.Clone(flipOutcomes), flipFaults...)
	fmt.Fprintf(&b, "| image | flips | %s | healed of those that matter | QEMU heals | QEMU ends with 0, reads otherwise |\n|---|---:|%s---:|---:|---:|\n",
		strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)))
	sum := &flipCount{kind: flipKind{name: "all"}, outcomes: make(map[string]int), faults: make(map[string]int), theirs: make(map[string]int), ours: make(map[string]int)}
	row := func(c *flipCount) {
		fmt.Fprintf(&b, "| %s | %d ", c.kind.name, c.tried)
		for _, name := range flipOutcomes {
			fmt.Fprintf(&b, "| %d ", c.outcomes[name])
		}
		for _, name := range flipFaults {
			fmt.Fprintf(&b, "| %d ", c.faults[name])
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", share(c.outcomes[flipHealed], c.tried-c.outcomes[flipHarmless]),
			share(c.theirs[flipHealed], c.asked), share(c.theirs[flipLied], c.asked))
	}
	for _, c := range all {
		row(c)
		sum.tried += c.tried
		sum.asked += c.asked
		for _, m := range []struct{ to, from map[string]int }{{sum.outcomes, c.outcomes}, {sum.faults, c.faults}, {sum.theirs, c.theirs}, {sum.ours, c.ours}} {
			for k, n := range m.from {
				m.to[k] += n
			}
		}
	}
	row(sum)
	if sum.asked > 0 {
		fmt.Fprintf(&b, "\nOf %d flips that qcheck notices both were asked to repair a copy: qcheck heals %d and lies of %d, `qemu-img check -r all` heals %d, lies of %d, and makes %d worse without hiding it.\n",
			sum.asked, sum.ours[flipHealed], sum.ours[flipFaulty], sum.theirs[flipHealed], sum.theirs[flipLied], sum.theirs[flipWorse])
	}
	return b.String()
}

// flipGroups lists the faults, those that are alike together, and after them what
// else is not healed.
func flipGroups(all []*flipCount) string {
	type group struct {
		kinds  map[string]int
		codes  map[string]int
		did    map[string]int
		exits  map[string]int
		sample *tried
		n      int
	}
	groups := make(map[string]map[string]*group)
	for _, c := range all {
		for _, x := range slices.Concat(c.bad, c.open) {
			names := x.faults
			if len(names) == 0 {
				names = []string{x.outcome}
			}
			for _, fault := range names {
				if groups[fault] == nil {
					groups[fault] = make(map[string]*group)
				}
				g := groups[fault][x.what]
				if g == nil {
					g = &group{kinds: make(map[string]int), codes: make(map[string]int), did: make(map[string]int), exits: make(map[string]int), sample: x}
					groups[fault][x.what] = g
				}
				g.n++
				g.kinds[x.kind]++
				g.codes[fmt.Sprint(x.codes)]++
				g.exits[fmt.Sprintf("%d→%d", x.exits[0], x.exits[1])]++
				for _, d := range x.did {
					g.did[d]++
				}
			}
		}
	}
	var b strings.Builder
	most := func(m map[string]int, n int) string {
		keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
			if m[a] != m[b] {
				return m[b] - m[a]
			}
			return strings.Compare(a, b)
		})
		var parts []string
		for i, k := range keys {
			if i == n {
				parts = append(parts, fmt.Sprintf("and %d more", len(keys)-n))
				break
			}
			parts = append(parts, fmt.Sprintf("%s ×%d", k, m[k]))
		}
		return strings.Join(parts, "; ")
	}
	for _, fault := range append(slices.Clone(flipFaults), flipGaveUp, flipUnseen, flipKept) {
		if len(groups[fault]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "## %s\n\n", fault)
		names := slices.SortedFunc(maps.Keys(groups[fault]), func(x, y string) int {
			if d := groups[fault][y].n - groups[fault][x].n; d != 0 {
				return d
			}
			return strings.Compare(x, y)
		})
		for _, name := range names {
			g := groups[fault][name]
			fmt.Fprintf(&b, "- **%s** ×%d (exit codes %s)\n  - images: %s\n  - found: %s\n", name, g.n, most(g.exits, 4), most(g.kinds, 20), most(g.codes, 5))
			if len(g.did) > 0 {
				fmt.Fprintf(&b, "  - the repair: %s\n", most(g.did, 6))
			}
			fmt.Fprintf(&b, "  - such as `%s:%#x:%d`: %s\n", g.sample.kind, g.sample.at, g.sample.bit, strings.Join(g.sample.why, "; "))
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// The marks between which docs/flips.md has what is generated.
const (
	flipDocsBegin = "<!-- generated by make flips-docs -->\n"
	flipDocsEnd   = "<!-- end of what is generated -->\n"
)

// writeFlipDocs puts the table in the documentation.
func writeFlipDocs(t *testing.T, all []*flipCount, every uint64) {
	t.Helper()
	text, err := os.ReadFile(flipsDocsFile)
	require.NoError(t, err)
	head, rest, ok := bytes.Cut(text, []byte(flipDocsBegin))
	require.True(t, ok)
	_, tail, ok := bytes.Cut(rest, []byte(flipDocsEnd))
	require.True(t, ok)
	var b bytes.Buffer
	b.Write(head)
	b.WriteString(flipDocsBegin)
	if every > 1 {
		fmt.Fprintf(&b, "One of %d bits was flipped.\n\n", every)
	}
	if *flipsQEMU {
		major, minor := qemutest.Version(t)
		fmt.Fprintf(&b, "QEMU %d.%d was asked.\n\n", major, minor)
	}
	b.WriteString(flipTable(all))
	b.WriteString("\n| image | what it is |\n|---|---|\n")
	for _, c := range all {
		fmt.Fprintf(&b, "| %s | %s |\n", c.kind.name, c.kind.what)
	}
	b.WriteString(flipDocsEnd)
	b.Write(tail)
	require.NoError(t, os.WriteFile(flipsDocsFile, b.Bytes(), 0o644))
}
