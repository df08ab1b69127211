package report

import (
	"encoding/hex"
	"fmt"
	"iter"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Repair is what a repair of an image does, or has done. The findings that it has
// settled are among the result's, with Fixed set.
type Repair struct {
	// DryRun tells that nothing was written: the result is that of a check.
	DryRun bool
	// Count is the number of edits, and Bytes how many bytes they write. There can be
	// millions, so they are given one by one, in the order in which they are written.
	Count int
	Bytes uint64
	Edits iter.Seq[Edit]
	// MaxEdits is how many of them, and of the losses, are listed in JSON; 0 means
	// [problem.DefaultMaxFindings].
	MaxEdits int
	// OldSize and NewSize are the file's length in bytes.
	OldSize, NewSize int64
	// Lost says what is lost, in words.
	Lost []string
	// Left lists what could be settled if more was asked for.
	Left []Advice
	// Undo is the file with the undo journal, "" where there is none.
	Undo string
	// UndoNamed tells that this file has to be named to take the repair back.
	UndoNamed bool
	// Recovered is what had to be done first because an earlier repair was
	// interrupted: "rolled-back", "completed", or "" for nothing.
	Recovered string
	// Flags says how to repair, as on the command line, without -r itself.
	Flags []string
}

// Edit is a change of some bytes of the file.
type Edit struct {
	Stage    string // when it is written
	Offset   qcow2.HostOffset
	Old, New []byte // of the same length
	Reason   string
	// Codes are those of the findings that it settles; none for a step that other edits
	// bring with them.
	Codes []problem.Code
}

// Advice tells what option it takes to settle a code's findings.
type Advice struct {
	Code   problem.Code
	Option string
}

// changes tells that there is anything to do.
func (r *Repair) changes() bool { return r.Count > 0 || r.NewSize != r.OldSize }

// repaired tells that an image was changed.
func (i *Image) repaired() bool { return i.Repair != nil && !i.Repair.DryRun && i.Repair.changes() }

// undoCommand gives the command line that takes the repair back.
func (r *Repair) undoCommand(image string) string {
	s := "qcheck undo " + Typed(image)
	if r.UndoNamed {
		s += " --undo " + Typed(r.Undo)
	}
	return "`" + s + "`"
}

type jsonRepair struct {
	DryRun    bool         `json:"dry-run"`
	Edits     int          `json:"edits"`
	Grows     int64        `json:"grows"`
	Undo      string       `json:"undo"`
	Recovered string       `json:"recovered,omitempty"`
	Lost      []string     `json:"lost"`
	Left      []jsonAdvice `json:"left"`
	Plan      []jsonEdit   `json:"plan"`
}

type jsonAdvice struct {
	Code   problem.Code `json:"code"`
	Option string       `json:"option"`
}

type jsonEdit struct {
	Stage  string         `json:"stage"`
	Offset uint64         `json:"offset"`
	Length int            `json:"length"`
	Old    string         `json:"old"`
	New    string         `json:"new"`
	Reason string         `json:"reason"`
	Codes  []problem.Code `json:"codes"`
}

// jsonBytes is how many bytes of an edit are written in JSON.
const jsonBytes = 32

func toRepair(r *Repair) *jsonRepair {
	if r == nil {
		return nil
	}
	undo, _ := raw(r.Undo)
	j := &jsonRepair{
		DryRun: r.DryRun, Edits: r.Count, Grows: r.NewSize - r.OldSize, Undo: undo, Recovered: r.Recovered,
		Lost: firstTexts(r.Lost, r.mostEdits()), Left: []jsonAdvice{}, Plan: []jsonEdit{},
	}
	for _, a := range r.Left {
		j.Left = append(j.Left, jsonAdvice(a))
	}
	first := func(b []byte) string { return hex.EncodeToString(b[:min(len(b), jsonBytes)]) }
	for e := range firstOf(r.Edits, r.mostEdits()) {
		j.Plan = append(j.Plan, jsonEdit{
			Stage: e.Stage, Offset: uint64(e.Offset), Length: len(e.New), Old: first(e.Old), New: first(e.New),
			Reason: e.Reason, Codes: append([]problem.Code{}, e.Codes...),
		})
	}
	return j
}

// mostEdits is how many edits are listed in JSON, and how many losses.
func (r *Repair) mostEdits() int {
	if r.MaxEdits <= 0 {
		return problem.DefaultMaxFindings
	}
	return r.MaxEdits
}

// firstOf gives the first n edits; list can be nil.
func firstOf(list iter.Seq[Edit], n int) iter.Seq[Edit] {
	return func(yield func(Edit) bool) {
		if list == nil || n <= 0 {
			return
		}
		left := n
		for e := range list {
			if !yield(e) {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// repair writes what a repair does.
func (h *Human) repair(img *Image) {
	r := img.Repair
	if r == nil || !r.changes() && img.Result.Verdict == check.VerdictClean {
		return
	}
	h.line("")
	title := "repair"
	if r.DryRun {
		title = "repair (nothing has been written)"
	}
	h.line(h.bold.Sprint(title))
	h.lost(r) // before all else: nobody reads on below pages of edits
	if !r.changes() {
		h.wrapped("  ", 2, "nothing can be repaired with these options", 2)
	} else if r.DryRun || h.opts.Verbose {
		h.edits(r)
	}
	if r.changes() {
		h.wrapped("  ", 2, r.summary(), 2)
	}
	for _, a := range r.Left {
		h.wrapped("  ", 2, fmt.Sprintf("%s takes %s", a.Code, a.Option), 4)
	}
	if r.Undo != "" && r.changes() {
		text := fmt.Sprintf("undo: %s takes the repair back, as long as nothing else has written to the image; the undo journal is %s",
			r.undoCommand(img.Name), printable(r.Undo))
		if r.DryRun {
			text = "undo: the repair could be taken back; the undo journal would be " + printable(r.Undo)
		}
		h.wrapped("  ", 2, text, 4)
	}
}

// lost writes what a repair loses.
func (h *Human) lost(r *Repair) {
	most := listed
	if h.opts.Verbose {
		most = r.mostEdits()
	}
	word := "lost:"
	if r.DryRun {
		word = "would be lost:"
	}
	for _, text := range firstTexts(r.Lost, most) {
		h.wrapped("  "+h.bad.Sprint(word)+" ", len(word)+3, printable(text), 4)
	}
}

// summary says how much is written.
func (r *Repair) summary() string {
	s := plural(uint64(r.Count), "edit", "edits") + " of " + plural(r.Bytes, "byte", "bytes")
	if n := r.NewSize - r.OldSize; n > 0 {
		s += "; the file grows by " + size(uint64(n))
	}
	return s
}

// shownBytes is how many bytes of an edit are written for people.
const shownBytes = 8

func (h *Human) edits(r *Repair) {
	most, more := listed, "-v lists more"
	if h.opts.Verbose {
		most, more = r.mostEdits(), "--max-findings lists more"
	}
	stage, step := "", 0
	for e := range firstOf(r.Edits, most) {
		if e.Stage != stage {
			stage, step = e.Stage, step+1
			h.linef("  step %d: %s", step, stage)
		}
		codes := make([]string, len(e.Codes))
		for k, c := range e.Codes {
			codes[k] = string(c)
		}
		reason := printable(e.Reason)
		if len(codes) > 0 {
			reason += " (" + strings.Join(codes, ", ") + ")"
		}
		h.wrapped(fmt.Sprintf("  at %v, %s: ", e.Offset, plural(uint64(len(e.New)), "byte", "bytes")), 0, reason, 9)
		old, will := shortened(e.Old, e.New)
		h.wrapped("         ", 9, old+" → "+will, 9)
	}
	if most < r.Count {
		h.linef("  and %d more edits (%s)", r.Count-most, more)
	}
}

// shortened writes the bytes before and after from the first that differs on.
func shortened(old, will []byte) (string, string) {
	at := 0
	for at < len(will) && at < len(old) && old[at] == will[at] {
		at++
	}
	at = max(0, min(at&^7, len(will)-shownBytes))
	one := func(b []byte) string {
		s := hex.EncodeToString(b[at:min(len(b), at+shownBytes)])
		if at > 0 {
			s = "…" + s
		}
		if at+shownBytes < len(b) {
			s += "…"
		}
		return s
	}
	return one(old), one(will)
}
