package fuzz_test

import (
	"bufio"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

var (
	flipsKinds  = flag.String("flips.kinds", "*", "the images whose bits are flipped: names with wildcards, with commas between them")
	flipsEvery  = flag.Uint64("flips.every", 192, "flip one of so many bits, chosen by their place (1: all)")
	flipsOne    = flag.String("flips.one", "", "flip one bit and tell everything of it: KIND:OFFSET:BIT")
	flipsQEMU   = flag.Bool("flips.qemu", false, "ask qemu-img check too, where it is installed, and flip bits of images that QEMU makes")
	flipsAsk    = flag.Uint64("flips.ask", 4, "with -flips.qemu: ask about one of so many flips")
	flipsTheirs = flag.Uint64("flips.theirs", 16, "with -flips.qemu: try QEMU's own repair on one of so many copies (0: none)")
	flipsOut    = flag.String("flips.out", "", "write a line for each bad flip to this file")
	flipsDocs   = flag.Bool("flips.docs", false, "write the table to docs/flips.md")
	flipsUpdate = flag.Bool("flips.update", false, "write the faults that are found to testdata/flips-known.txt")
)

const (
	flipsKnownFile = "testdata/flips-known.txt"
	flipsDocsFile  = "../docs/flips.md"
)

// chosen tells whether one of so many of a kind's flips is tried: always the same.
func chosen(kind string, f flip, every uint64, salt string) bool {
	if every <= 1 {
		return every == 1
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %s %d %d", salt, kind, f.at, f.bit)
	return (h.Sum64()*0x9e3779b97f4a7c15>>24)%every == 0 // its low bits are no better than those of the place
}

func chosenKind(name string) bool {
	for _, pattern := range strings.Split(*flipsKinds, ",") {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// siblingsOf opens the other files of an image, for checks and repairs.
func siblingsOf(img *corpus.Image) func(check.SiblingKind, string, string) (check.Sibling, error) {
	c := corpus.Case{}
	return c.Options(img).OpenSibling
}

// newFlipBase builds an image and reads it.
func newFlipBase(t testing.TB, k flipKind) *flipBase {
	t.Helper()
	b := &flipBase{kind: k, img: k.image(t)}
	b.opts = check.Options{Jobs: 1, OpenSibling: siblingsOf(b.img)}
	res, err := checkStore(t.Context(), b.img.Store, b.opts)
	require.NoError(t, err)
	require.Zero(t, exitOf(res, nil), "%s: %v", k.name, res.Findings)
	b.res = res
	b.was = readImage(b.img.Store, b.img.Siblings, nil, res)
	require.Empty(t, b.was.differs(b.read(b.img.Store, res)))
	if k.made == nil && k.spec.Crypt == qcow2.CryptNone {
		// The reader is right where the builder says the same.
		require.Equal(t, pieces(b.img.Guest(), b.was.disks[0].size), b.was.disks[0].pieces, k.name)
		for i, sn := range res.Snapshots {
			d := b.was.disks[i+1]
			require.Equal(t, pieces(b.img.SnapshotGuest(sn.ID), d.size), d.pieces, k.name)
		}
	}
	some := 0
	for _, sum := range b.was.disks[0].pieces {
		require.NotEqual(t, uint64(pieceFails), sum, "%s cannot be read", k.name)
		if sum != 0 {
			some++
		}
	}
	require.Positive(t, some, "%s holds no data", k.name)
	return b
}

// Every bit of the metadata of images of many kinds is flipped, the image repaired,
// and what it then tells its users held against what it told them before. No fault
// may come up that is not known.
func TestFlips(t *testing.T) {
	if *flipsOne != "" {
		flipOne(t)
		return
	}
	every := *flipsEvery
	if testing.Short() {
		every *= 50
	}
	if _, ok := qemutest.Find(qemutest.QemuImg); *flipsQEMU && !ok {
		t.Logf("%s is missing: it is not asked", qemutest.QemuImg)
		*flipsQEMU = false
	}
	var all []*flipCount
	for _, k := range flipKinds(*flipsQEMU) {
		if chosenKind(k.name) {
			all = append(all, flipAll(t, k, every))
		}
	}
	require.NotEmpty(t, all, "no image is called %q", *flipsKinds)
	t.Logf("one of %d bits:\n%s", every, flipTable(all))
	if *flipsOut != "" {
		f, err := os.Create(*flipsOut)
		require.NoError(t, err)
		for _, c := range all {
			for _, x := range c.bad {
				fmt.Fprintln(f, x)
			}
		}
		fmt.Fprint(f, "\n", flipGroups(all))
		require.NoError(t, f.Close())
	}
	found := make(map[string]bool)
	for _, c := range all {
		for _, x := range c.bad {
			for _, fault := range x.faults {
				found[fault+" "+x.kind+" "+x.what] = true
			}
		}
	}
	if *flipsUpdate {
		text := "# The faults of repairs of single flipped bits that are known, to be mended; written by -flips.update.\n" +
			strings.Join(slices.Sorted(maps.Keys(found)), "\n") + "\n"
		require.NoError(t, os.WriteFile(flipsKnownFile, []byte(text), 0o644))
	}
	known := knownFlips(t)
	for _, c := range all {
		for _, x := range c.bad {
			for _, fault := range x.faults {
				assert.Contains(t, known, fault+" "+x.kind+" "+x.what, "a new fault: %v\ngo test ./fuzz -run TestFlips$ -flips.one=%s:%#x:%d -v", x, x.kind, x.at, x.bit)
			}
		}
	}
	if *flipsDocs {
		writeFlipDocs(t, all, every)
	}
}

// knownFlips gives the faults that are known.
func knownFlips(t testing.TB) map[string]bool {
	t.Helper()
	f, err := os.Open(flipsKnownFile)
	require.NoError(t, err)
	defer f.Close()
	known := make(map[string]bool)
	for s := bufio.NewScanner(f); s.Scan(); {
		known[s.Text()] = true
	}
	return known
}

// flipAll flips the bits of an image.
func flipAll(t *testing.T, k flipKind, every uint64) *flipCount {
	t.Helper()
	b := newFlipBase(t, k)
	c := &flipCount{kind: k, outcomes: make(map[string]int), faults: make(map[string]int), theirs: make(map[string]int), ours: make(map[string]int)}
	var flips []flip
	for _, f := range flipsOf(t, b.img.Store) {
		c.all++
		if chosen(k.name, f, every, "") {
			flips = append(flips, f)
		}
	}
	var q *flipQEMU
	if *flipsQEMU {
		q = newFlipQEMU(t, b)
	}
	results := make([]tried, len(flips))
	var next atomic.Int64
	var group sync.WaitGroup
	for w := range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(flips)); i = next.Add(1) - 1 {
				trial := b.try(flips[i])
				if q != nil {
					name := strconv.Itoa(w)
					if chosen(k.name, flips[i], *flipsAsk, "ask") {
						q.ask(trial, name)
					}
					if chosen(k.name, flips[i], *flipsTheirs, "theirs") {
						q.repair(b, trial, name)
					}
				}
				results[i] = trial.x
			}
		})
	}
	group.Wait()
	for i := range results {
		c.add(&results[i])
	}
	t.Logf("%s: %d of %d bits %v %v", k.name, len(flips), c.all, c.outcomes, c.faults)
	return c
}

// flipOne tells all of one flip.
func flipOne(t *testing.T) {
	name, place, _ := strings.Cut(*flipsOne, ":")
	var at uint64
	var bit uint
	_, err := fmt.Sscanf(strings.ReplaceAll(place, ":", " "), "%v %d", &at, &bit)
	require.NoError(t, err, "-flips.one takes KIND:OFFSET:BIT")
	for _, k := range flipKinds(true) {
		if k.name != name {
			continue
		}
		if k.made != nil {
			qemutest.Require(t)
		}
		b := newFlipBase(t, k)
		f := flip{at: at, bit: bit, what: "no metadata"}
		for _, g := range flipsOf(t, b.img.Store) {
			if g.at == at && g.bit == bit {
				f = g
			}
		}
		trial := b.try(f)
		if *flipsQEMU {
			q := newFlipQEMU(t, b)
			q.ask(trial, "0")
			q.repair(b, trial, "0")
			defer func() { t.Logf("QEMU: %+v", trial.x.theirs) }()
		}
		t.Log(&trial.x)
		show := func(when string, res *check.Result) {
			if res == nil {
				return
			}
			t.Logf("%s: %s", when, res.Verdict)
			for _, f := range res.Findings {
				t.Logf("  %s %v %s: %s (repair: %v, at %v)", f.Code, f.Severity, f.Path, f.Text(), f.Repair, f.Extent.Offset)
			}
		}
		show("before", trial.before)
		if trial.plan != nil {
			for e := range trial.plan.Edits.All() {
				t.Logf("  edit %s at %v: %s %v (% x → % x)", e.Stage, e.Offset, e.Reason, e.Codes, e.Old[:min(16, len(e.Old))], e.New[:min(16, len(e.New))])
			}
			t.Logf("left: %v", trial.plan.Left)
		}
		show("after", trial.after)
		return
	}
	t.Fatalf("no image is called %q", name)
}
