package readers

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/fuzz/internal/junit"
)

// Row counts outcomes of the images that have something in common.
type Row struct {
	Name   string          `json:"name"`
	Images int             `json:"images"`
	Counts map[Outcome]int `json:"counts"`
}

// Rows gives the table: sound images without features that are told apart, then those
// with each feature, then those that are not sound.
func (r *Report) Rows() []Row {
	var names []string
	rows := make(map[string]*Row)
	add := func(name string, o Outcome) {
		if rows[name] == nil {
			rows[name] = &Row{Name: name, Counts: make(map[Outcome]int)}
			names = append(names, name)
		}
		rows[name].Images++
		rows[name].Counts[o]++
	}
	for i := range r.Results {
		x := &r.Results[i]
		switch {
		case x.Group != "sound":
			add(x.Group, x.Outcome)
		case len(x.Features) == 0:
			add("sound, plain", x.Outcome)
		}
		if x.Group == "sound" {
			for _, f := range x.Features {
				add("sound, "+f, x.Outcome)
			}
		}
	}
	place := func(name string) int {
		switch {
		case name == "sound, plain":
			return 0
		case strings.HasPrefix(name, "sound"):
			return 1
		case name == "damaged":
			return 2
		}
		return 3
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := place(a) - place(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	out := make([]Row, len(names))
	for i, n := range names {
		out[i] = *rows[n]
	}
	return out
}

// WriteText writes the faults and the table. With all it also names the images that
// were refused.
func (r *Report) WriteText(w io.Writer, all bool) error {
	for i := range r.Results {
		x := &r.Results[i]
		if x.Outcome.Fault() || all && (x.Outcome == Refused || x.Outcome == Unsupported) {
			if _, err := fmt.Fprintf(w, "%s: %s: %s\n", x.Outcome, x.Name, check.Escape(x.Detail)); err != nil {
				return err
			}
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := "images"
	for _, o := range Outcomes {
		head += "\t" + string(o)
	}
	fmt.Fprintf(t, "%s\t  \n", head)
	line := func(name string, images int, count func(Outcome) int) {
		fmt.Fprint(t, images)
		for _, o := range Outcomes {
			if n := count(o); n > 0 {
				fmt.Fprintf(t, "\t%d", n)
			} else {
				fmt.Fprint(t, "\t-")
			}
		}
		fmt.Fprintf(t, "\t  %s\n", name)
	}
	for _, row := range r.Rows() {
		line(row.Name, row.Images, func(o Outcome) int { return row.Counts[o] })
	}
	line("all", len(r.Results), r.Count)
	if err := t.Flush(); err != nil {
		return err
	}
	if r.LeftOut > 0 {
		_, err := fmt.Fprintf(w, "%d images were left out, whose disks are too large to be read whole\n", r.LeftOut)
		return err
	}
	return nil
}

// WriteJSON writes the report and its rows as one object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		*Report
		Rows []Row `json:"rows"`
	}{r, r.Rows()})
}

// WriteJUnit writes the report as JUnit does: a test for each image, failed where the
// reader is at fault, skipped where it refused the image.
func (r *Report) WriteJUnit(w io.Writer) error {
	suite := junit.Suite{Name: "qcheck corpus run"}
	for i := range r.Results {
		x := &r.Results[i]
		t := junit.Case{Class: x.Group, Name: x.Name}
		switch {
		case x.Outcome.Fault():
			t.Failure = &junit.Message{Type: string(x.Outcome), Text: x.Detail}
		case x.Outcome == Refused || x.Outcome == Unsupported || x.Outcome == Accepted:
			t.Skipped = &junit.Message{Text: strings.TrimSpace(string(x.Outcome) + " " + x.Detail)}
		}
		suite.Cases = append(suite.Cases, t)
	}
	return suite.Write(w)
}
