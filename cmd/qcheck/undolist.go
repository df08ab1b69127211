package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
)

// phaseTexts say how far the repair came that a journal tells of.
var phaseTexts = map[repair.Phase]string{
	repair.PhaseIncomplete: "never begun", repair.PhaseOpen: "interrupted", repair.PhaseVerified: "interrupted",
	repair.PhaseFinished: "finished", repair.PhaseUndoing: "undo interrupted", repair.PhaseUndone: "taken back",
}

// list shows the journals of an image, those of the latest repairs first.
func (c *UndoCmd) list(s *streams, r repairable) error {
	u, places, err := c.journals(r)
	if err != nil {
		return err
	}
	places = append(places, u.keep.Unfinished()...)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	rows, later := 0, ""
	for _, p := range places {
		p.ReadOnly = true
		state, err := repair.StateOf(p)
		mine := u.isOwn(p) || u.mentioned(p) || state.Phase == repair.PhaseIncomplete
		if err == nil && state.Undoable() {
			mine, err = u.concerns(r, p, state)
			if errors.Is(err, errCopy) {
				mine = true
			}
		}
		if state.Phase == repair.PhaseNone && err == nil || !mine {
			continue
		}
		if rows++; rows == 1 {
			fmt.Fprintln(w, "FILE\tREPAIR OF\tSTATE\tSIZE\tCAN BE TAKEN BACK")
		}
		if err != nil {
			fmt.Fprintf(w, "%s\t-\tnot followed\t-\tno: %v\n", check.Escape(p.Path), err)
			continue
		}
		verdict := c.undoable(r, p, state, later)
		if later == "" && state.Undoable() && verdict != outOf {
			later = verdict
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", check.Escape(p.Path), timeText(state.Time), phaseTexts[state.Phase], sizeOf(p), verdict)
	}
	if rows == 0 {
		_, err := fmt.Fprintf(s.out, "%s: no undo journals\n", check.Escape(r.path))
		return err
	}
	return w.Flush()
}

// What is said of whether a repair can be taken back.
const (
	canUndo = "yes"
	outOf   = "no: the image is as before the repair"
	changed = "no: the image has changed since"
)

// undoable says whether the repair of a journal can be taken back; later is what was said
// of the one after it. Only once that has been taken back can the image be compared with
// this one, and if it cannot be, neither can this one.
func (c *UndoCmd) undoable(r repairable, p *undofile.Place, state repair.JournalState, later string) string {
	if !state.Undoable() {
		return "nothing was changed"
	}
	fit, err := repair.FitOf(r, p)
	switch {
	case r.Live():
		return "not while the image is in use"
	case err != nil:
		return "not known: " + check.Escape(err.Error())
	case later == canUndo:
		return "after the later ones"
	case later != "":
		return later
	case fit == repair.FitUndo:
		return canUndo
	case fit == repair.FitBefore:
		return outOf
	}
	return changed
}

// sizeOf is how much room a journal takes.
func sizeOf(p *undofile.Place) string {
	n, err := p.Size()
	if err != nil {
		return "-"
	}
	return bytesText(float64(n))
}
