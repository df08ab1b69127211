package fuzz_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// What a flip can come to. A flip has one of the outcomes, and any number of faults.
const (
	// Outcomes.
	flipHealed   = "healed"   // noticed; after `-r`, which ended with 0, everything reads as before the flip
	flipHarmless = "harmless" // not noticed, and nothing reads differently
	flipUnseen   = "unseen"   // not noticed, and something reads differently
	flipGaveUp   = "gave-up"  // noticed; exit code 0, the disks read as before; a bitmap cannot be used any more
	flipKept     = "kept"     // not healed; the exit code is not 0
	flipFaulty   = "faulty"   // noticed, exit code 0, and something else than that: a fault tells what

	// Faults.
	flipLied   = "lied"   // noticed, exit code 0 after `-r`, but a disk does not read as before the flip
	flipWorse  = "worse"  // something could be read rightly before the repair, and not after it
	flipSpoilt = "spoilt" // with the bit put back after the repair it still reads wrongly
	flipBitmap = "bitmap" // noticed; a bitmap can be used after `-r`, and misses dirty bits
	flipSilent = "silent" // exit code 0 before or after `-r`, and `qemu-img check` says otherwise
	flipNoUndo = "noundo" // undoing does not give back every byte
	flipBroken = "broken" // the repair fails in a way that is a fault of the program
)

var (
	flipOutcomes = []string{flipHealed, flipHarmless, flipUnseen, flipGaveUp, flipKept}
	flipFaults   = []string{flipLied, flipWorse, flipSpoilt, flipBitmap, flipSilent, flipNoUndo, flipBroken}
)

// tried is what became of a flip.
type tried struct {
	flip
	kind    string
	outcome string
	faults  []string
	// exits are the exit codes of a check, and of a repair.
	exits [2]int
	codes []problem.Code // of the findings, of the check
	did   []string       // what the repair did, without numbers
	why   []string       // what the faults are
	theirs
}

// theirs is what QEMU makes of a flip.
type theirs struct {
	asked bool
	said  [2]int // by qemu-img check: of the flipped, of the repaired image; -1: not asked
	// repaired tells what `qemu-img check -r all` on a copy comes to: one of
	// "healed", "lied", "kept"; empty: not asked.
	repaired string
}

func (x *tried) String() string {
	s := fmt.Sprintf("%s:%#x:%d %s: %s", x.kind, x.at, x.bit, x.what, x.outcome)
	if len(x.faults) > 0 {
		s += " " + strings.Join(x.faults, "+")
	}
	s += fmt.Sprintf(", %v, exit codes %d and %d", x.codes, x.exits[0], x.exits[1])
	if len(x.why) > 0 {
		s += ": " + strings.Join(x.why, "; ")
	}
	return s
}

// exitOf is the exit code of the command for a check, as cmd/qcheck has it.
func exitOf(res *check.Result, err error) int {
	if errors.Is(err, qcow2.ErrNotQcow2) {
		return 63
	}
	if err != nil {
		return 1
	}
	return res.ExitCode()
}

// flipBase is an image before any flip.
type flipBase struct {
	kind flipKind
	img  *corpus.Image
	opts check.Options
	res  *check.Result
	was  *reading
}

func (b *flipBase) check(s *corpus.Store) (*check.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), mostTime)
	defer cancel()
	return checkStore(ctx, s, b.opts)
}

// read reads what became of the image.
func (b *flipBase) read(s *corpus.Store, res *check.Result) *reading {
	return readImage(s, b.img.Siblings, b.was, res)
}

// flipBit flips a bit of an image in memory.
func flipBit(s *corpus.Store, f flip) {
	var p [1]byte
	s.ReadAt(p[:], int64(f.at))
	p[0] ^= 1 << f.bit
	s.WriteAt(p[:], int64(f.at))
}

// flipTrial is the work on one flip, with what is needed to show it.
type flipTrial struct {
	x               tried
	flipped, mended *corpus.Store
	before, after   *check.Result
	plan            *repair.Plan
}

// try flips a bit and sees what becomes of it.
func (b *flipBase) try(f flip) *flipTrial {
	t := &flipTrial{x: tried{flip: f, kind: b.kind.name, theirs: theirs{said: [2]int{-1, -1}}}}
	x := &t.x
	t.flipped = b.img.Clone().Store
	flipBit(t.flipped, f)
	res, err := b.check(t.flipped)
	t.before = res
	x.exits[0] = exitOf(res, err)
	x.exits[1] = x.exits[0]
	noticed := err != nil || !check.SameFindings(res, b.res)
	if res != nil {
		for i := range res.Findings {
			x.codes = append(x.codes, res.Findings[i].Code)
		}
		slices.Sort(x.codes)
		x.codes = slices.Compact(x.codes)
	}
	then := b.read(t.flipped, res)
	t.mended = t.flipped
	now := then
	if err == nil {
		t.after = res
		if undone := b.repair(t); undone {
			now = b.read(t.mended, t.after)
		}
	}

	disks, bitmaps := b.was.differs(now), b.was.otherBitmaps(now)
	lost := b.was.lostBits(now)
	fault := func(name string, why ...string) {
		x.faults = append(x.faults, name)
		x.why = append(x.why, why...)
	}
	switch {
	case !noticed && len(disks)+len(bitmaps) == 0:
		x.outcome = flipHarmless
	case !noticed:
		x.outcome = flipUnseen
		x.why = append(disks, bitmaps...)
	case x.exits[1] != 0:
		x.outcome = flipKept
	case len(disks)+len(bitmaps) == 0:
		x.outcome = flipHealed
	case len(disks)+len(lost) == 0:
		x.outcome = flipGaveUp
	default:
		x.outcome = flipFaulty
	}
	if noticed && x.exits[1] == 0 && len(disks) > 0 {
		fault(flipLied, disks...)
	}
	if what := b.was.worse(then, now); len(what) > 0 {
		fault(flipWorse, what...)
	}
	if noticed && len(lost) > 0 {
		fault(flipBitmap, lost...)
	}
	if what := b.spoilt(t, len(disks) > 0 || len(bitmaps) > 0); len(what) > 0 {
		fault(flipSpoilt, what...)
	}
	return t
}

// numbers are what words are told without, to be grouped.
var numbers = regexp.MustCompile(`0x[0-9a-f]+|\d+|"[^"]*"`)

// repair carries out a plain `-r` and takes it back on a copy; false where nothing
// was written.
func (b *flipBase) repair(t *flipTrial) bool {
	x := &t.x
	ctx, cancel := context.WithTimeout(context.Background(), 3*mostTime)
	defer cancel()
	broken := func(what string, err error) bool {
		x.faults = append(x.faults, flipBroken)
		x.why = append(x.why, fmt.Sprintf("%s: %v", what, err))
		x.exits[1] = 1
		return false
	}
	plan, err := repair.Make(ctx, t.flipped, t.flipped.Size(), repair.Options{OpenSibling: b.opts.OpenSibling, Jobs: 1})
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, repair.ErrNoProgress) {
			return broken("no plan", err)
		}
		x.did = []string{"no plan: " + numbers.ReplaceAllString(err.Error(), "N")}
		x.exits[1] = 1
		return false
	}
	t.plan = plan
	if plan.Empty() {
		return false
	}
	did := make(map[string]bool)
	for e := range plan.Edits.All() {
		did[fmt.Sprintf("%v %s", e.Codes, numbers.ReplaceAllString(e.Reason, "N"))] = true
	}
	x.did = slices.Sorted(maps.Keys(did))
	mended, js := (&corpus.Image{Store: t.flipped}).Clone().Store, &storeJournals{}
	if _, err := repair.Apply(ctx, storeFile{mended}, plan, js, repair.ApplyOptions{Time: time.Unix(1, 0)}); err != nil {
		return broken("the plan cannot be carried out", err)
	}
	t.mended = (&corpus.Image{Store: mended}).Clone().Store
	if _, err := repair.TakeBack(storeFile{mended}, js); err != nil || mended.Sum() != t.flipped.Sum() {
		x.faults = append(x.faults, flipNoUndo)
		x.why = append(x.why, fmt.Sprintf("undone: %v", err))
	}
	res, err := b.check(t.mended)
	t.after, x.exits[1] = res, exitOf(res, err)
	return true
}

// spoilt puts the bit back after a repair, where it is still the other one and its
// byte still means the same, and tells what reads wrongly even then.
func (b *flipBase) spoilt(t *flipTrial, wrong bool) []string {
	if !wrong || t.mended == t.flipped {
		return nil
	}
	at := func(s *corpus.Store) byte {
		var p [1]byte
		s.ReadAt(p[:], int64(t.x.at))
		return p[0] & (1 << t.x.bit)
	}
	if at(t.mended) == at(b.img.Store) {
		return nil
	}
	back := (&corpus.Image{Store: t.mended}).Clone().Store
	flipBit(back, t.x.flip)
	res, err := b.check(back)
	if err != nil {
		res = nil
	}
	is := b.read(back, res)
	what := append(b.was.differs(is), b.was.otherBitmaps(is)...)
	if len(what) == 0 || !b.sameMeaning(back, t.x.flip) {
		return nil
	}
	for i := range what {
		what[i] = "with the bit put back " + what[i]
	}
	return what
}

// sameMeaning tells whether a byte of a repaired image belongs to the structure that
// it belonged to.
func (b *flipBase) sameMeaning(s *corpus.Store, f flip) bool {
	structure, _, _ := strings.Cut(f.what, ":")
	places, err := placesOf(s)
	if err != nil {
		return f.at < qcow2.HeaderLengthCompression
	}
	for i := range places {
		if p := &places[i]; f.at >= p.at && f.at < p.at+p.n {
			return p.structure == structure
		}
	}
	// Of what is not found by walking any more it is said that it was lost.
	return strings.HasPrefix(structure, "header") || strings.HasPrefix(structure, "extension")
}
