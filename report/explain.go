package report

import (
	"io"

	"github.com/qcheck/qcheck/check/problem"
)

// Words that say what a repair can do, in full.
var repairSentences = map[problem.Repair]string{
	problem.RepairNone:     "none",
	problem.RepairSafe:     "safe, by `qcheck -r`: no guest data and no trustworthy bitmap is lost",
	problem.RepairPolicy:   "by `qcheck -r`, which does with a bitmap that cannot be trusted what --bitmap-policy says: mark it as inconsistent, call all of the disk dirty, or remove it",
	problem.RepairLossy:    "lossy, by `qcheck -r --allow-data-loss` alone: guest data may be lost. `qcheck -n --allow-data-loss` shows what",
	problem.RepairReattach: "by `qcheck -r --reattach`, which puts the table back where the evidence allows one place only",
}

// Explain writes a row of the catalogue for people. Its paragraphs are broken at
// the terminal's width, or at 80 columns where that is not known, and never
// above 100.
func Explain(w io.Writer, r problem.Rule, opts Options) error {
	width := min(opts.Width, 100)
	if width <= 0 {
		width = 80
	}
	p := &printer{w: w, width: width, style: newStyle(opts.Color)}
	code := string(r.Code)
	p.wrapped(p.severity(r.Severity).Sprint(code+":")+" ", len(code)+2, r.Title, len(code)+2)
	p.line("")
	f := &fields{printer: p, width: 15}
	f.add("severity", r.Severity.String())
	f.add("structure", structureTitle(r.Structure))
	f.add("repair", repairSentences[r.Repair])
	f.add("specification", r.Spec)
	for _, part := range []struct{ name, text string }{{"What it means", r.Why}, {"What to do", r.Do}} {
		p.line("")
		p.line(p.bold.Sprint(part.name))
		p.wrapped("", 0, part.text, 0)
	}
	return p.err
}

// ExplainJSON writes a row of the catalogue as one object.
func ExplainJSON(w io.Writer, r problem.Rule) error {
	return writeJSON(w, struct {
		Code      problem.Code      `json:"code"`
		Severity  string            `json:"severity"`
		Structure problem.Structure `json:"structure"`
		Title     string            `json:"title"`
		Repair    string            `json:"repair"`
		Spec      string            `json:"specification"`
		Why       string            `json:"why"`
		Do        string            `json:"do"`
	}{r.Code, r.Severity.String(), r.Structure, r.Title, r.Repair.String(), r.Spec, r.Why, r.Do})
}
