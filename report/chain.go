package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/chain"
	"github.com/qcheck/qcheck/check/problem"
)

// jsonLayer is a file below the image.
type jsonLayer struct {
	Filename    string        `json:"filename"`
	Name        string        `json:"name"`
	Format      string        `json:"format"`
	VirtualSize uint64        `json:"virtual-size"`
	Checked     bool          `json:"checked"`
	Verdict     check.Verdict `json:"verdict,omitempty"`
	Error       string        `json:"error,omitempty"`
	CheckErrors uint64        `json:"check-errors"`
	Corruptions uint64        `json:"corruptions"`
	Leaks       uint64        `json:"leaks"`
	InDoubt     uint64        `json:"in-doubt"`
	Warnings    uint64        `json:"warnings"`
	Notes       uint64        `json:"notes"`
	Provisional bool          `json:"provisional"`

	QEMUOpen       *jsonOpen     `json:"qemu-open,omitempty"`
	Bitmaps        []jsonBitmap  `json:"bitmaps"`
	BitmapsOmitted int           `json:"bitmaps-omitted,omitempty"`
	Findings       []jsonFinding `json:"findings"`
}

// jsonChainBitmap is what a chain has of the bitmaps of one name.
type jsonChainBitmap struct {
	Name          string              `json:"name"`
	NameEscaped   bool                `json:"name-escaped,omitempty"`
	Layers        []int               `json:"layers"`
	Granularities []uint64            `json:"granularities"`
	States        []check.BitmapState `json:"states"`
	SameGran      bool                `json:"granularities-agree"`
	Usable        bool                `json:"usable"`
	Why           string              `json:"why,omitempty"`
}

// toChain gives the files below the image, and the bitmaps through the chain.
func toChain(c *chain.Chain, maxFindings int) (layers []jsonLayer, bitmaps []jsonChainBitmap) {
	if c == nil {
		return nil, nil
	}
	layers, bitmaps = []jsonLayer{}, []jsonChainBitmap{}
	for i := range c.Layers[1:] {
		layers = append(layers, toLayer(&c.Layers[i+1], maxFindings))
	}
	left := newRoom()
	for i := range c.Bitmaps {
		b := &c.Bitmaps[i]
		if !left.take(b.Name) {
			break
		}
		name, escaped := raw(b.Name)
		j := jsonChainBitmap{Name: name, NameEscaped: escaped, Layers: b.Layers, SameGran: b.GranularitiesAgree(), Usable: b.Usable(), Why: b.Why}
		for k := range b.In {
			j.Granularities = append(j.Granularities, granularity(b.In[k].GranularityBits))
			j.States = append(j.States, b.In[k].State)
		}
		bitmaps = append(bitmaps, j)
	}
	return layers, bitmaps
}

func toLayer(l *chain.Layer, maxFindings int) jsonLayer {
	file, _ := raw(l.Name)
	name, _ := raw(l.Given)
	j := jsonLayer{Filename: file, Name: name, Format: check.Excerpt(l.Format), VirtualSize: l.Size, Bitmaps: []jsonBitmap{}, Findings: []jsonFinding{}}
	if l.Err != nil {
		j.Error = l.Err.Error()
	}
	r := l.Result
	if r == nil {
		return j
	}
	t := r.Totals
	j.Checked, j.Verdict, j.Provisional, j.QEMUOpen = true, r.Verdict, r.Provisional, toOpen(&r.QEMUOpen)
	j.CheckErrors, j.Corruptions, j.Leaks, j.InDoubt, j.Warnings, j.Notes = t.Errors, t.Corruptions, t.Leaks, t.InDoubt, t.Warnings, t.Notes
	j.Bitmaps, j.BitmapsOmitted = toBitmaps(r.Bitmaps, r.Provisional)
	listed := problem.Bounded(r.Findings, maxFindings)
	for i := range listed {
		j.Findings = append(j.Findings, toFinding(&listed[i]))
	}
	return j
}

// chain writes the files of a chain, what is wrong with each, and the bitmaps through it.
func (h *Human) chain(c *chain.Chain, maxFindings int) {
	if c == nil || len(c.Layers) == 1 && len(c.Bitmaps) == 0 {
		return
	}
	h.line("")
	rows := [][]string{{"CHAIN", "FILE", "FORMAT", "SIZE", "STATE"}}
	for i := range c.Layers {
		l := &c.Layers[i]
		rows = append(rows, []string{strconv.Itoa(i), printable(l.Name), check.Excerpt(l.Format), size(l.Size), layerState(l)})
	}
	h.table(rows)
	for i := range c.Layers[1:] {
		l := &c.Layers[i+1]
		if l.Result == nil {
			continue
		}
		shown := slices.DeleteFunc(slices.Clone(problem.Bounded(l.Result.Findings, maxFindings)), func(f problem.Finding) bool { return !h.shows(l.Result, &f) })
		if len(shown) > 0 {
			h.line("")
			h.linef("%s (%d below):", h.bold.Sprint(printable(l.Name)), i+1)
			h.findings(shown)
		}
	}
	h.chainBitmaps(c)
}

// layerState says in a word or some how a file of a chain is.
func layerState(l *chain.Layer) string {
	switch {
	case l.Err != nil:
		return printable(l.Err.Error())
	case l.Result == nil:
		return "nothing to check in this format"
	}
	return string(l.Result.Verdict)
}

// chainBitmaps writes a table of the bitmaps through the chain.
func (h *Human) chainBitmaps(c *chain.Chain) {
	if len(c.Bitmaps) == 0 {
		return
	}
	h.line("")
	rows := [][]string{{"BITMAP", "IN", "GRANULARITY", "FOR A CHECKPOINT OR INCREMENTAL BACKUP"}}
	for i := range c.Bitmaps[:min(len(c.Bitmaps), maxEntries)] {
		b := &c.Bitmaps[i]
		use := "usable"
		if !b.Usable() {
			use = "no: " + printable(b.Why)
		}
		rows = append(rows, []string{check.Excerpt(b.Name), numbers(b.Layers), granularities(b), use})
	}
	h.table(rows)
	h.leftOut(len(c.Bitmaps)-maxEntries, "bitmaps")
}

// numbers lists the numbers of layers, runs of them as from-to.
func numbers(layers []int) string {
	var parts []string
	for i := 0; i < len(layers); {
		n := i + 1
		for n < len(layers) && layers[n] == layers[n-1]+1 {
			n++
		}
		part := strconv.Itoa(layers[i])
		if n > i+1 {
			part = fmt.Sprintf("%d-%d", layers[i], layers[n-1])
		}
		parts = append(parts, part)
		i = n
	}
	return strings.Join(parts, ",")
}

// granularities lists those of a bitmap that has several, else the one.
func granularities(b *chain.Bitmap) string {
	if b.GranularitiesAgree() {
		return granularityText(b.In[0].GranularityBits)
	}
	var parts []string
	for k := range b.In {
		if text := granularityText(b.In[k].GranularityBits); !slices.Contains(parts, text) {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ", ")
}
