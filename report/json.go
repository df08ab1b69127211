package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The JSON of a check. docs/json.md describes it. The order of the fields is the
// order in the output; the first ones are those of `qemu-img check
// --output=json`, always there where QEMU leaves zeros out.
type jsonImage struct {
	Filename           string        `json:"filename"`
	Format             string        `json:"format"`
	Verdict            check.Verdict `json:"verdict"`
	Error              string        `json:"error,omitempty"`
	CheckErrors        uint64        `json:"check-errors"`
	Corruptions        uint64        `json:"corruptions"`
	Leaks              uint64        `json:"leaks"`
	InDoubt            uint64        `json:"in-doubt"`
	CorruptionsFixed   uint64        `json:"corruptions-fixed"`
	LeaksFixed         uint64        `json:"leaks-fixed"`
	Warnings           uint64        `json:"warnings"`
	Notes              uint64        `json:"notes"`
	ImageEndOffset     uint64        `json:"image-end-offset"`
	TotalClusters      uint64        `json:"total-clusters"`
	AllocatedClusters  uint64        `json:"allocated-clusters"`
	FragmentedClusters uint64        `json:"fragmented-clusters"`
	CompressedClusters uint64        `json:"compressed-clusters"`
	Provisional        bool          `json:"provisional"`

	Unmet            []string       `json:"unmet"`
	Repair           *jsonRepair    `json:"repair,omitempty"`
	QEMUOpen         *jsonOpen      `json:"qemu-open,omitempty"`
	Snapshots        []jsonSnapshot `json:"snapshots"`
	SnapshotsOmitted int            `json:"snapshots-omitted,omitempty"`
	Bitmaps          []jsonBitmap   `json:"bitmaps"`
	BitmapsOmitted   int            `json:"bitmaps-omitted,omitempty"`
	Findings         []jsonFinding  `json:"findings"`

	Live         *jsonLive         `json:"live,omitempty"`
	Chain        []jsonLayer       `json:"chain,omitzero"`
	ChainBitmaps []jsonChainBitmap `json:"chain-bitmaps,omitzero"`
}

// jsonFailed is an image that could not be opened: there is nothing else to say
// of it.
type jsonFailed struct {
	Filename    string        `json:"filename"`
	Verdict     check.Verdict `json:"verdict"`
	Error       string        `json:"error"`
	Code        problem.Code  `json:"code,omitempty"`       // HDR001 where that is the reason
	LooksLike   string        `json:"looks-like,omitempty"` // a format, where it seems to be that
	CheckErrors uint64        `json:"check-errors"`
}

type jsonOpen struct {
	ReadOnly  check.OpenOutcome `json:"read-only"`
	ReadWrite check.OpenOutcome `json:"read-write"`
	Reasons   []string          `json:"reasons"`
}

type jsonFinding struct {
	Code        problem.Code      `json:"code"`
	Severity    string            `json:"severity"`
	Structure   problem.Structure `json:"structure"`
	Message     string            `json:"message"`
	Path        string            `json:"path,omitempty"`
	Offset      *uint64           `json:"offset,omitempty"`
	Length      *uint64           `json:"length,omitempty"`
	Cluster     *uint64           `json:"cluster,omitempty"`
	Snapshot    string            `json:"snapshot,omitempty"`
	Bitmap      string            `json:"bitmap,omitempty"`
	GuestOffset *uint64           `json:"guest-offset,omitempty"`
	Value       string            `json:"value,omitempty"`
	Expected    string            `json:"expected,omitempty"`
	Count       uint64            `json:"count"`
	Repair      string            `json:"repair"`
	Fixed       bool              `json:"fixed"`
	Rest        bool              `json:"rest,omitempty"`
}

func u64[T ~uint64](p *T) *uint64 {
	if p == nil {
		return nil
	}
	v := uint64(*p)
	return &v
}

func toFinding(f *problem.Finding) jsonFinding {
	j := jsonFinding{
		Code: f.Code, Severity: f.Severity.String(), Structure: f.Structure, Message: f.Text(), Path: f.Path.String(),
		Cluster: u64(f.Cluster), Snapshot: check.Shorten(f.Snapshot), Bitmap: check.Shorten(f.Bitmap), GuestOffset: u64(f.GuestOffset),
		Value: f.Value.String(), Expected: f.Expected.String(), Count: f.Count, Repair: f.Repair.String(), Fixed: f.Fixed, Rest: f.Unlisted,
	}
	if f.Extent.Length > 0 {
		j.Offset, j.Length = u64(&f.Extent.Offset), u64(&f.Extent.Length)
	}
	return j
}

// toJSON gives the object of an image.
func toJSON(img *Image) any {
	name, _ := raw(img.Name)
	r := img.Result
	failure := ""
	if img.Err != nil {
		failure = img.Err.Error()
	}
	if r == nil {
		j := jsonFailed{Filename: name, Verdict: img.verdict(), Error: failure, CheckErrors: 1}
		if errors.Is(img.Err, qcow2.ErrNotQcow2) {
			j.Verdict, j.Code = verdictNotQcow2, problem.NotQcow2
		}
		if e, ok := errors.AsType[*NotQcow2Error](img.Err); ok {
			j.LooksLike = e.Looks.Format
		}
		return j
	}
	j := jsonImage{
		Filename: name, Format: "qcow2", Verdict: r.Verdict, Error: failure,
		CheckErrors: r.Totals.Errors, Corruptions: r.Totals.Corruptions, Leaks: r.Totals.Leaks, InDoubt: r.Totals.InDoubt,
		Warnings: r.Totals.Warnings, Notes: r.Totals.Notes,
		ImageEndOffset: r.ImageEndOffset, TotalClusters: r.TotalClusters, AllocatedClusters: r.AllocatedClusters,
		FragmentedClusters: r.FragmentedClusters, CompressedClusters: r.CompressedClusters,
		Provisional: r.Provisional, Unmet: firstTexts(r.Unmet, maxReasons), Repair: toRepair(img.Repair), QEMUOpen: toOpen(&r.QEMUOpen),
		Findings: []jsonFinding{},
	}
	j.Snapshots, j.SnapshotsOmitted = toSnapshots(r.Snapshots)
	j.Bitmaps, j.BitmapsOmitted = toBitmaps(r.Bitmaps, r.Provisional)
	for i := range r.Findings {
		f := &r.Findings[i]
		switch {
		case f.Fixed && f.Severity == problem.Corruption:
			j.CorruptionsFixed += f.Count
		case f.Fixed && (f.Severity == problem.Leak || f.Severity == problem.InDoubt && f.Code == problem.OwnerUnknown):
			j.LeaksFixed += f.Count
		}
	}
	j.Live = toLive(img.Live)
	j.Chain, j.ChainBitmaps = toChain(img.Chain, img.MaxFindings)
	listed := problem.Bounded(r.Findings, img.MaxFindings)
	for i := range listed {
		j.Findings = append(j.Findings, toFinding(&listed[i]))
	}
	return j
}

func toOpen(q *check.QEMUOpen) *jsonOpen {
	if q.ReadOnly == "" {
		return nil
	}
	return &jsonOpen{ReadOnly: q.ReadOnly, ReadWrite: q.ReadWrite, Reasons: firstTexts(q.Reasons, maxReasons)}
}

// marshal gives the JSON of v without a newline at its end. An empty indent
// puts it on one line.
func marshal(v any, prefix, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if indent != "" {
		e.SetIndent(prefix, indent)
	}
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return jsonPrintable(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// indent is that of `qemu-img check --output=json`.
const indent = "    "

// writeJSON writes one value, indented, and a newline.
func writeJSON(w io.Writer, v any) error {
	b, err := marshal(v, "", indent)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// JSON writes one object for one image and an array of them for several. It
// writes each as soon as it is known that there are several.
type JSON struct {
	w     io.Writer
	first *Image // held back until it is known whether it is alone
	many  bool
}

// NewJSON gives a reporter that writes to w.
func NewJSON(w io.Writer) *JSON { return &JSON{w: w} }

// Image writes about one image.
func (j *JSON) Image(img Image) error {
	switch {
	case j.many:
		return j.element(",\n", &img)
	case j.first == nil:
		j.first = &img
		return nil
	}
	j.many = true
	if err := j.element("[\n", j.first); err != nil {
		return err
	}
	j.first = nil
	return j.element(",\n", &img)
}

func (j *JSON) element(before string, img *Image) error {
	b, err := marshal(toJSON(img), indent, indent)
	if err != nil {
		return err
	}
	_, err = j.w.Write(append([]byte(before+indent), b...))
	return err
}

// Close ends the array, or writes the only object there is. Without any image
// it writes an empty array.
func (j *JSON) Close() error {
	switch {
	case j.many:
		_, err := io.WriteString(j.w, "\n]\n")
		return err
	case j.first != nil:
		return writeJSON(j.w, toJSON(j.first))
	}
	_, err := io.WriteString(j.w, "[]\n")
	return err
}

// JSONLines writes one object a line.
type JSONLines struct{ w io.Writer }

// NewJSONLines gives a reporter that writes to w.
func NewJSONLines(w io.Writer) *JSONLines { return &JSONLines{w: w} }

// Image writes one line.
func (j *JSONLines) Image(img Image) error {
	b, err := marshal(toJSON(&img), "", "")
	if err != nil {
		return err
	}
	_, err = j.w.Write(append(b, '\n'))
	return err
}

// Close does nothing: every line is complete.
func (j *JSONLines) Close() error { return nil }
