package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

func TestGolden(t *testing.T) {
	clean := result(check.VerdictClean)
	empty := &check.Result{Verdict: check.VerdictClean, QEMUOpen: clean.QEMUOpen}
	inUse := result(check.VerdictClean, problem.Finding{Code: problem.BitmapInUse, Bitmap: "b0",
		Message: problem.Say("bitmap b0 is in use: it was not closed cleanly"), Extent: extent(0x6000c, 4)})
	leaks := result(check.VerdictLeaks, problem.Finding{Code: problem.RefcountTooHigh, Message: problem.Say("clusters 18–19 have refcount 1, but nothing refers to them"),
		Extent: extent(0x20024, 4), Count: 2})
	warnings := result(check.VerdictWarnings, problem.Finding{Code: problem.HeaderPaddingSet, Message: problem.Say("the header's padding is not zero"), Extent: extent(105, 7)})
	warnings.QEMUOpen = check.QEMUOpen{ReadOnly: check.OpenOK, ReadWrite: check.OpenDropsBitmaps, Reasons: []string{"first", "second"}}
	writing := result(check.VerdictClean)
	writing.QEMUOpen = check.QEMUOpen{ReadOnly: check.OpenOK, ReadWrite: check.OpenRefused, Reasons: []string{"read-write: the corrupt bit is set"}}
	opens := result(check.VerdictClean)
	opens.QEMUOpen.Reasons = []string{"read-write: unknown autoclear features 0x100 are cleared"}
	live := result(check.VerdictLeaks, problem.Finding{Code: problem.RefcountTooHigh, Message: problem.Say("cluster 18 has refcount 1, but nothing refers to it")})
	live.Provisional = true
	unmet := result(check.VerdictClean)
	unmet.Unmet = []string{"there is no bitmap backup-8"}
	unsupported := result(check.VerdictUnsupported, problem.Finding{Code: problem.FeatureUnknown, Message: problem.Say("incompatible feature bit 17 is not known"), Extent: extent(72, 8)})
	incomplete := result(check.VerdictIncomplete, problem.Finding{Code: problem.Unreadable, Message: problem.Say("512 bytes cannot be read"), Extent: extent(0x200, 512)})
	mended := result(check.VerdictCorrupt, problem.Finding{Code: problem.RefcountTooHigh, Message: problem.Say("2 clusters have refcount 1, but nothing refers to them"),
		Extent: extent(0x20024, 4), Count: 2, Fixed: true}, problem.Finding{Code: problem.L2PastEnd, Message: problem.Say("l2[5] points past the end of the file"),
		Extent: extent(0x40028, 8), Value: problem.Words("0x8000000000ff0000")})
	sound := result(check.VerdictClean, problem.Finding{Code: problem.BitmapInUse, Bitmap: "b0", Message: problem.Say("bitmap b0 is in use: it was not closed cleanly"),
		Extent: extent(0x6000c, 4), Fixed: true})
	repair := func(change func(*Repair)) *Repair {
		r := &Repair{OldSize: 0x150000, NewSize: 0x150000, Undo: "disk.qcow2.qcheck-undo", Count: 2, Bytes: 48, Edits: slices.Values([]Edit{
			{Stage: "mend in place", Offset: 0x40020, Old: make([]byte, 40), New: append(make([]byte, 32), 1, 2, 3, 4, 5, 6, 7, 8), Reason: "a reason", Codes: []problem.Code{problem.L2ReservedBits, problem.L2PastEnd}},
			{Stage: "release", Offset: 0x20020, Old: []byte{0, 1, 0, 0, 0, 0, 0, 0}, New: make([]byte, 8), Reason: "set refcounts to 0", Codes: []problem.Code{problem.RefcountTooHigh}}})}
		change(r)
		return r
	}
	nothing := &Repair{OldSize: 0x150000, NewSize: 0x150000, Flags: []string{"--repair=bitmaps"}, Left: []Advice{{problem.RefcountTooHigh, "--repair=all"}}}
	cases := []struct {
		name   string
		opts   Options
		images []Image
	}{
		{"plan", Options{}, []Image{{Name: "my disk.qcow2", Result: leaks, ClusterSize: 65536, Repair: repair(func(r *Repair) {
			r.DryRun, r.NewSize, r.Flags = true, 0x170000, []string{"--repair=leaks", "--allow-data-loss"}
			r.Lost, r.Undo, r.UndoNamed = []string{"guest range 0x0 to 0x10000\x1b"}, "a b", true
		})}}},
		{"repaired", Options{}, []Image{{Name: "disk.qcow2", Result: mended, ClusterSize: 65536, Repair: repair(func(r *Repair) {
			r.Recovered, r.Left, r.Lost = "rolled-back", []Advice{{problem.L2PastEnd, "--allow-data-loss"}}, slices.Repeat([]string{"something"}, 25)
		})}}},
		{"repaired-verbose", Options{Verbose: true}, []Image{{Name: "disk.qcow2", Result: sound, Repair: repair(func(r *Repair) { r.UndoNamed, r.Undo = true, "u" })}}},
		{"repaired-quiet", Options{Quiet: true}, []Image{{Name: "disk.qcow2", Result: sound, Repair: repair(func(r *Repair) { r.Undo = "" })},
			{Name: "b.qcow2", Result: clean, Repair: nothing}}},
		{"repaired-in-doubt", Options{}, []Image{{Name: "disk.qcow2", Repair: repair(func(*Repair) {}), Result: result(check.VerdictWarnings,
			problem.Finding{Code: problem.OwnerUnknown, Severity: problem.InDoubt, Message: problem.Say("clusters 8-10: no known owner"), Fixed: true},
			problem.Finding{Code: problem.HeaderPaddingSet, Message: problem.Say("the header's padding is not zero"), Extent: extent(105, 7)})}, {Name: "other.qcow2", Repair: nothing,
			Result: result(check.VerdictInDoubt, problem.Finding{Code: problem.OwnerUnknown, Severity: problem.InDoubt, Message: problem.Say("clusters 8-10: no known owner")})}}},
		{"repaired-nothing", Options{}, []Image{{Name: "disk.qcow2", Result: leaks, Repair: nothing}}},
		{"clean", Options{}, []Image{{Name: "disk.qcow2", Result: clean}}},
		{"empty", Options{}, []Image{{Name: "disk.qcow2", Result: empty}}},
		{"clean-quiet", Options{Quiet: true}, []Image{{Name: "disk.qcow2", Result: clean}, {Name: "other.qcow2", Result: inUse}}},
		{"in-use", Options{}, []Image{{Name: "disk.qcow2", Result: inUse}}},
		{"leaks", Options{}, []Image{{Name: "disk.qcow2", Result: leaks, ClusterSize: 65536}}},
		{"warnings", Options{}, []Image{{Name: "disk.qcow2", Result: warnings}}},
		{"writing", Options{}, []Image{{Name: "disk.qcow2", Result: writing}}},
		{"opens-verbose", Options{Verbose: true}, []Image{{Name: "disk.qcow2", Result: opens}}},
		{"live", Options{}, []Image{{Name: "my disk.qcow2", Result: live}}},
		{"unmet", Options{}, []Image{{Name: "disk.qcow2", Result: unmet}}},
		{"unsupported", Options{}, []Image{{Name: "it's.qcow2", Result: unsupported}}},
		{"incomplete", Options{}, []Image{{Name: "disk.qcow2", Result: incomplete, Err: errors.New("interrupted")}}},
		{"unreadable", Options{}, []Image{{Name: "disk.qcow2", Err: errors.New("permission denied")}}},
		{"corrupt", Options{}, []Image{{Name: "disk.qcow2", Result: corrupt(), ClusterSize: 65536}}},
		{"corrupt-verbose", Options{Verbose: true}, []Image{{Name: "disk.qcow2", Result: corrupt(), ClusterSize: 65536}}},
		{"corrupt-quiet", Options{Quiet: true}, []Image{{Name: "disk.qcow2", Result: corrupt()}}},
		{"corrupt-color", Options{Color: true, Width: 60}, []Image{{Name: "disk.qcow2", Result: corrupt()}}},
		{"flood", Options{}, []Image{{Name: "disk.qcow2", Result: flood()}}},
		{"in-doubt", Options{}, []Image{{Name: "disk.qcow2", Result: result(check.VerdictInDoubt, problem.Finding{
			Code: problem.OwnerUnknown, Severity: problem.InDoubt, Count: 3, Extent: extent(0x20010, 6), Path: problem.ToRefcount(0, 8),
			Message: problem.Say("clusters 8-10: refcount 1, but no references each; not called a leak, since the L2 table at l1[0] may own them: it could not be read"),
		})}}},
		{"hostile", Options{Verbose: true}, []Image{{Name: "\x1b[31mdisk\xff", Result: hostile()}}},
		{"several", Options{}, []Image{{Name: "a.qcow2", Result: clean}, {Name: "b.qcow2", Result: leaks},
			{Name: "c.qcow2", Err: errors.New("no such file")}, {Name: "d.qcow2", Result: warnings}, {Name: "e.qcow2", Result: unmet}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			golden(t, "human-"+c.name, write(t, FormatHuman, c.opts, c.images...))
			if !strings.Contains(c.name, "-") || c.name == "in-use" {
				golden(t, "json-"+c.name, write(t, FormatJSON, Options{}, c.images...))
			}
		})
	}
	golden(t, "jsonl", write(t, FormatJSONLines, Options{}, Image{Name: "a.qcow2", Result: inUse}, Image{Name: "b.qcow2", Err: errors.New("no such file")}))
}

func TestNoImages(t *testing.T) {
	assert.Empty(t, write(t, FormatHuman, Options{}))
	assert.Empty(t, write(t, FormatJSONLines, Options{}))
	assert.Equal(t, "[]\n", string(write(t, FormatJSON, Options{})))
	_, err := New("xml", nil, Options{})
	assert.Error(t, err)
}

// counted is what a reader of the JSON adds up.
type counted struct {
	Corruptions, Leaks, Warnings, Notes uint64
	CheckErrors                         uint64 `json:"check-errors"`
	CorruptionsFixed                    uint64 `json:"corruptions-fixed"`
	LeaksFixed                          uint64 `json:"leaks-fixed"`
	InDoubt                             uint64 `json:"in-doubt"`
	Findings                            []struct {
		Severity string
		Count    uint64
		Fixed    bool
	}
}

// randomResult has findings of every kind, in any order.
func randomResult(r *rand.Rand) *check.Result {
	rows := problem.Catalog()
	var fs []problem.Finding
	for range r.IntN(200) {
		code, severity := rows[r.IntN(len(rows))].Code, problem.Severity(r.IntN(7))
		if severity == problem.InDoubt {
			code = problem.OwnerUnknown // whose units are clusters
		}
		fs = append(fs, problem.Finding{
			Code: code, Severity: severity, Count: r.Uint64N(100),
			Fixed: r.IntN(8) == 0, Unlisted: r.IntN(20) == 0, Message: problem.Say("x"), Extent: extent(r.Uint64N(1<<40), r.Uint64N(9)),
		})
	}
	return result(check.VerdictCorrupt, fs...)
}

func TestTotalsAgreeWithTheList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		res := randomResult(r)
		var c counted
		require.NoError(t, json.Unmarshal(write(t, FormatJSON, Options{}, Image{Name: "x", Result: res}), &c))
		want := c
		want.Corruptions, want.Leaks, want.Warnings, want.Notes, want.CheckErrors = 0, 0, 0, 0, 0
		want.CorruptionsFixed, want.LeaksFixed, want.InDoubt = 0, 0, 0
		for _, f := range c.Findings {
			at := map[string]*uint64{"corruption": &want.Corruptions, "leak": &want.Leaks, "in-doubt": &want.Leaks, "warning": &want.Warnings,
				"note": &want.Notes, "error": &want.CheckErrors}[f.Severity]
			switch {
			case f.Fixed:
				at = map[string]*uint64{"corruption": &want.CorruptionsFixed, "leak": &want.LeaksFixed, "in-doubt": &want.LeaksFixed}[f.Severity]
			case f.Severity == "in-doubt":
				want.InDoubt += f.Count
			}
			if at != nil {
				*at += f.Count
			}
		}
		assert.Equal(t, want, c)
	}
}

var (
	findingLine = regexp.MustCompile(`^  [A-Z]{3}\d{3} ([\w-]+):( (\d+) (more|of these), not listed:)?`)
	countsAs    = regexp.MustCompile(`counts as (\d+)`)
	headCount   = regexp.MustCompile(`(\d+) (parts? could not|corruptions?|leaked clusters?|warnings?|clusters? without)`)
)

// What a person reads adds up as well, with and without the bound on how many
// findings are written.
func TestHumanTotalsAgreeWithTheList(t *testing.T) {
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		return n
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		res := randomResult(r)
		for i := range res.Findings {
			res.Findings[i].Fixed = false
		}
		res.Totals = problem.Count(res.Findings)
		for _, opts := range []Options{{}, {Verbose: true}} {
			listed, said := map[string]uint64{}, map[string]uint64{}
			var last string
			for n, line := range strings.Split(string(write(t, FormatHuman, opts, Image{Name: "x", Result: res})), "\n") {
				if n == 0 {
					for _, m := range headCount.FindAllStringSubmatch(line, -1) {
						word := map[string]string{"par": "error", "cor": "corruption", "lea": "leak", "war": "warning", "clu": "in-doubt"}[m[2][:3]]
						said[word] = number(m[1])
					}
				} else if m := findingLine.FindStringSubmatch(line); m != nil {
					last = m[1]
					if m[3] != "" {
						listed[last] += number(m[3])
					} else {
						listed[last]++
					}
				} else if m := countsAs.FindStringSubmatch(line); m != nil {
					listed[last] += number(m[1]) - 1
				}
			}
			delete(listed, "note")
			assert.Equal(t, listed, said)
		}
	}
}

// Whatever an image holds, no control character reaches a terminal, and JSON
// still says exactly what stands in the image where that can be said.
func TestHostileStrings(t *testing.T) {
	img := Image{Name: "\x1b[31mdisk\u009b\u202e", Result: hostile(), Err: errors.New("\x1b]0;x\x07")}
	for _, format := range Formats() {
		for _, opts := range []Options{{}, {Verbose: true, Width: 40}} {
			harmless(t, write(t, format, opts, img))
		}
	}
	var out struct{ Filename string }
	require.NoError(t, json.Unmarshal(write(t, FormatJSON, Options{}, img), &out))
	assert.Equal(t, img.Name, out.Filename)
}

func harmless(t *testing.T, text []byte) {
	t.Helper()
	assert.True(t, utf8.Valid(text))
	assert.Equal(t, -1, bytes.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }), "%q", text)
}

func TestJSONPrintable(t *testing.T) {
	for _, s := range []string{"", "abc", "é", "\u009b", "\u007f", "\U000e0041", "\u2028", "a\u202eb", "\U0001f600"} {
		b, err := marshal(s, "", "")
		require.NoError(t, err)
		harmless(t, b)
		var back string
		require.NoError(t, json.Unmarshal(b, &back))
		assert.Equal(t, s, back)
	}
}

// Several images make an array, one makes an object, and JSON Lines an object a
// line, all of the same.
func TestShapes(t *testing.T) {
	images := []Image{{Name: "a", Result: corrupt()}, {Name: "b", Result: flood()}, {Name: "c", Err: errors.New("gone")}}
	var array []any
	require.NoError(t, json.Unmarshal(write(t, FormatJSON, Options{}, images...), &array))
	var lines []any
	for line := range bytes.Lines(write(t, FormatJSONLines, Options{}, images...)) {
		var v any
		require.NoError(t, json.Unmarshal(line, &v))
		lines = append(lines, v)
	}
	assert.Len(t, array, 3)
	assert.Equal(t, array, lines)
	for i, img := range images {
		var one any
		require.NoError(t, json.Unmarshal(write(t, FormatJSON, Options{}, img), &one))
		assert.Equal(t, array[i], one)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriterErrors(t *testing.T) {
	for _, format := range Formats() {
		r, err := New(format, brokenWriter{}, Options{})
		require.NoError(t, err)
		err = r.Image(Image{Name: "a", Result: corrupt()})
		err = errors.Join(err, r.Close())
		assert.ErrorContains(t, err, "disk full", format)
	}
}

func TestWidth(t *testing.T) {
	text := write(t, FormatHuman, Options{Width: 60, Verbose: true}, Image{Name: "disk.qcow2", Result: corrupt()})
	text = append(text, write(t, FormatHuman, Options{Width: 60}, Image{Name: "disk.qcow2", Result: result(check.VerdictClean)})...)
	assert.Contains(t, string(text), "disk.qcow2: clean (32/16384")
	for line := range strings.Lines(string(text)) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 60, line)
	}
}

// A file's name in a command is one word, and none that means something else.
func TestTyped(t *testing.T) {
	for name, want := range map[string]string{
		"disk.qcow2": "disk.qcow2", "/a/b c.qcow2": "'/a/b c.qcow2'", "it's": `'./it'\''s'`, "-r": "./-r", "info": "./info", "all": "./all",
		"a\nb": `$'./a\x0ab'`, "d\xff'.qcow2": `$'d\xff\'.qcow2'`, "": "''", "$(rm)": "'./$(rm)'", "a`b.qcow2": `$'a\x60b.qcow2'`,
	} {
		assert.Equal(t, want, Typed(name), name)
		if sh, err := exec.LookPath("bash"); err == nil && name != "" {
			out, err := exec.Command(sh, "-c", "printf %s "+Typed(name)).Output()
			require.NoError(t, err)
			assert.Equal(t, name, strings.TrimPrefix(string(out), "./"))
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 bytes", 1: "1 byte", 1023: "1023 bytes", 1024: "1 KiB", 1536: "1.5 KiB",
		1 << 40: "1 TiB", 1<<64 - 1: "16.0 EiB"} {
		assert.Equal(t, want, size(n))
	}
}
