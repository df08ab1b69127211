package report

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// Fleet sums up what checks of many images have said, in JSON Lines. Memory does not grow
// with what is said of an image, only by some tens of bytes for each.
type Fleet struct {
	counts map[check.Verdict]uint64
	unmet  uint64
	codes  map[problem.Code]uint64 // images that have it
	worst  []fleetImage            // worst first, at most [named]
	seen   map[[16]byte]uint32     // by name: how often it was checked
	// What is wrong with the input.
	cut, foreign uint64
	twice        []string
	twiceMore    uint64
	// What was to be checked.
	expected    bool
	missing     []string
	missingMore uint64
}

type fleetImage struct {
	rank int
	name string
	text string
	v    check.Verdict
	code problem.Code
}

// NewFleet gives an empty summary.
func NewFleet() *Fleet {
	return &Fleet{counts: make(map[check.Verdict]uint64), codes: make(map[problem.Code]uint64), seen: make(map[[16]byte]uint32)}
}

// longestLine bounds a line, in bytes: no report of an image is as long.
const longestLine = 64 << 20

// Read takes lines. One that was cut, since the program that wrote it was killed, is counted
// and passed over; so is what is none of ours.
func (f *Fleet) Read(r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		var line []byte
		for {
			more, err := in.ReadSlice('\n')
			line = append(line, more...)
			if errors.Is(err, bufio.ErrBufferFull) && len(line) <= longestLine {
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if len(line) > longestLine {
				return fmt.Errorf("a line of more than %d bytes: is this JSON Lines of qcheck?", longestLine)
			}
			f.line(bytes.TrimSpace(line))
			if err != nil {
				return nil
			}
			break
		}
	}
}

// fleetLine is what a summary takes of the JSON of an image.
type fleetLine struct {
	Filename string        `json:"filename"`
	Verdict  check.Verdict `json:"verdict"`
	Unmet    []string      `json:"unmet"`
	Findings []struct {
		Code     problem.Code `json:"code"`
		Severity string       `json:"severity"`
		Fixed    bool         `json:"fixed"`
	} `json:"findings"`
}

// firstKey begins the JSON of an image.
const firstKey = `{"filename":`

func (f *Fleet) line(text []byte) {
	if len(text) == 0 {
		return
	}
	var l fleetLine
	if json.Unmarshal(text, &l) != nil {
		// What was cut may have been carried on in the same line by the next run.
		f.cut++
		i := bytes.LastIndex(text, []byte(firstKey))
		if i <= 0 || json.Unmarshal(text[i:], &l) != nil {
			return
		}
	}
	if l.Filename == "" || l.Verdict == "" {
		f.foreign++
		return
	}
	f.image(&l)
}

func (f *Fleet) image(l *fleetLine) {
	key := keyOf(l.Filename)
	f.seen[key]++
	if f.seen[key] > 1 {
		if f.seen[key] == 2 {
			f.twice, f.twiceMore = keep(f.twice, f.twiceMore, l.Filename)
		}
		return
	}
	f.counts[l.Verdict]++
	var first problem.Code
	codes := make(map[problem.Code]bool)
	for _, x := range l.Findings {
		if x.Fixed || x.Severity == problem.Note.String() {
			continue
		}
		if first == "" {
			first = x.Code
		}
		codes[x.Code] = true
	}
	for code := range codes {
		f.codes[code]++
	}
	sound := l.Verdict == check.VerdictClean || l.Verdict == check.VerdictWarnings
	if len(l.Unmet) > 0 {
		f.unmet++
	}
	if sound && len(l.Unmet) == 0 {
		return
	}
	text := string(l.Verdict)
	if first != "" {
		text += " (" + string(first) + ")"
	}
	if len(l.Unmet) > 0 {
		text += "; requirement not met: " + l.Unmet[0]
	}
	rank := 0
	if slices.Contains(severest, l.Verdict) {
		rank = rankOf(l.Verdict)
	}
	x := fleetImage{rank: rank, name: l.Filename, text: text, v: l.Verdict, code: first}
	i, _ := slices.BinarySearchFunc(f.worst, x, func(a, b fleetImage) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.name, b.name))
	})
	if f.worst = slices.Insert(f.worst, i, x); len(f.worst) > maxEntries {
		f.worst = f.worst[:maxEntries]
	}
}

func keyOf(name string) (key [16]byte) {
	sum := sha256.Sum256([]byte(name))
	copy(key[:], sum[:])
	return key
}

// keep keeps the first names and counts the others.
func keep(names []string, more uint64, name string) ([]string, uint64) {
	if len(names) < maxEntries {
		return append(names, name), more
	}
	return names, more + 1
}

// Expect says that an image was to be checked. All lines must have been read before.
func (f *Fleet) Expect(name string) {
	f.expected = true
	shown, _ := raw(name)
	if f.seen[keyOf(shown)] == 0 {
		f.missing, f.missingMore = keep(f.missing, f.missingMore, shown)
	}
}

// Images is how many images there are.
func (f *Fleet) Images() uint64 { return uint64(len(f.seen)) }

// ExitCode is that of a check of all the images: see [check.Result.ExitCode]. Images that
// were to be checked and were not make it 1.
func (f *Fleet) ExitCode() int {
	switch {
	case len(f.missing) > 0 || f.foreign > 0 || f.counts[check.VerdictIncomplete]+f.counts[check.VerdictUnsupported] > 0 || f.Images() == 0:
		return check.ExitTrouble
	case f.counts[check.VerdictCorrupt] > 0:
		return check.ExitCorrupt
	case f.counts[check.VerdictLeaks]+f.counts[check.VerdictInDoubt] > 0:
		return check.ExitLeaks
	case f.unmet > 0:
		return check.ExitUnmet
	case f.counts[verdictNotQcow2] == f.Images():
		return 63
	}
	return check.ExitSound
}

// verdicts gives the verdicts that there are, worst first.
func (f *Fleet) verdicts() (all []check.Verdict) {
	for v := range f.counts {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b check.Verdict) int { return cmp.Or(cmp.Compare(rankOf(b), rankOf(a)), cmp.Compare(a, b)) })
	return all
}

// JSON writes the summary as one object.
func (f *Fleet) JSON(w io.Writer) error {
	type worst struct {
		Filename string        `json:"filename"`
		Verdict  check.Verdict `json:"verdict"`
		Code     problem.Code  `json:"code,omitempty"`
	}
	out := struct {
		Images     uint64                  `json:"images"`
		Verdicts   map[string]uint64       `json:"verdicts"`
		Unmet      uint64                  `json:"requirements-unmet"`
		Codes      map[problem.Code]uint64 `json:"codes"`
		Worst      []worst                 `json:"worst"`
		NotChecked []string                `json:"not-checked"`
		Missing    uint64                  `json:"not-checked-count"`
		Twice      []string                `json:"checked-twice"`
		TwiceCount uint64                  `json:"checked-twice-count"`
		Cut        uint64                  `json:"lines-cut"`
		Foreign    uint64                  `json:"lines-not-understood"`
	}{Images: f.Images(), Verdicts: make(map[string]uint64), Unmet: f.unmet, Codes: f.codes, Worst: []worst{}, NotChecked: append([]string{}, f.missing...),
		Missing: uint64(len(f.missing)) + f.missingMore, Twice: append([]string{}, f.twice...), TwiceCount: uint64(len(f.twice)) + f.twiceMore, Cut: f.cut, Foreign: f.foreign}
	for v, n := range f.counts {
		out.Verdicts[string(v)] = n
	}
	for _, x := range f.worst {
		out.Worst = append(out.Worst, worst{x.name, x.v, x.code})
	}
	return writeJSON(w, out)
}

// Human writes the summary for people.
func (f *Fleet) Human(w io.Writer, opts Options) error {
	p := &printer{w: w, width: opts.Width, style: newStyle(opts.Color)}
	var parts []string
	for _, v := range f.verdicts() {
		parts = append(parts, fmt.Sprintf("%d %s", f.counts[v], cmp.Or(verdictWords[v], string(v))))
	}
	if f.unmet > 0 {
		parts = append(parts, fmt.Sprintf("%d not as required", f.unmet))
	}
	p.linef("%s: %s", plural(f.Images(), "image", "images"), strings.Join(parts, ", "))
	most := named
	if opts.Verbose {
		most = maxEntries
	}
	for _, x := range f.worst[:min(len(f.worst), most)] {
		p.line("  " + printable(x.name) + ": " + p.verdict(x.v).Sprint(printable(x.text)))
	}
	p.leftOut(len(f.worst)-most, "images like these (-v lists more)")
	names := func(what string, all []string, more uint64) {
		if len(all) == 0 {
			return
		}
		p.linef("%s: %d", what, uint64(len(all))+more)
		for _, name := range all[:min(len(all), most)] {
			p.line("  " + printable(name))
		}
	}
	names("not checked", f.missing, f.missingMore)
	names("checked more than once (the first counts)", f.twice, f.twiceMore)
	if f.expected && len(f.missing) == 0 && len(f.twice) == 0 {
		p.line("each image of the list was checked once")
	}
	if f.cut > 0 {
		p.linef("%s cut: a program was killed while it wrote", plural(f.cut, "line was", "lines were"))
	}
	if f.foreign > 0 {
		p.linef("%s not understood", plural(f.foreign, "line was", "lines were"))
	}
	return p.err
}

// Prometheus writes the summary as metrics in the text format.
func (f *Fleet) Prometheus(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# HELP qcheck_fleet_images Images by verdict.\n# TYPE qcheck_fleet_images gauge\n")
	for _, v := range append(slices.Clone(severest), verdictNotQcow2) {
		fmt.Fprintf(&b, "qcheck_fleet_images{verdict=\"%s\"} %d\n", v, f.counts[v])
	}
	b.WriteString("# HELP qcheck_fleet_findings_images Images that have a finding, by code.\n# TYPE qcheck_fleet_findings_images gauge\n")
	for _, r := range problem.Catalog() {
		if n := f.codes[r.Code]; n > 0 {
			fmt.Fprintf(&b, "qcheck_fleet_findings_images{code=\"%s\"} %d\n", r.Code, n)
		}
	}
	for _, m := range []struct {
		name, help string
		n          uint64
	}{
		{"qcheck_fleet_requirements_unmet_images", "Images that do not meet the requirements.", f.unmet},
		{"qcheck_fleet_not_checked_images", "Images of the list that were not checked.", uint64(len(f.missing)) + f.missingMore},
		{"qcheck_fleet_checked_twice_images", "Images that were checked more than once.", uint64(len(f.twice)) + f.twiceMore},
	} {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", m.name, m.help, m.name, m.name, m.n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
