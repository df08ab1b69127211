package report

import (
	"cmp"
	"errors"
	"io"
	"net/url"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// SARIF writes one log in the Static Analysis Results Interchange Format, version 2.1.0, for
// all images: a result for each finding, placed by its bytes in the file. What kept a check from
// its end is a notification of the tool.
type SARIF struct {
	w       io.Writer
	version string // of the tool
	begun   bool
	results int
	rules   []sarifRule
	index   map[problem.Code]int // in rules
	files   []sarifArtifact
	notices []sarifNotice
	err     error
}

// NewSARIF gives a reporter that writes to w; version is that of the tool.
func NewSARIF(w io.Writer, version string) *SARIF {
	return &SARIF{w: w, version: cmp.Or(version, "unknown"), index: make(map[problem.Code]int), rules: []sarifRule{}, files: []sarifArtifact{}, notices: []sarifNotice{}}
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifRule struct {
	ID      string    `json:"id"`
	Short   sarifText `json:"shortDescription"`
	Full    sarifText `json:"fullDescription"`
	Help    sarifText `json:"help"`
	Default struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

type sarifURI struct {
	URI   string `json:"uri"`
	Index *int   `json:"index,omitempty"`
}

type sarifArtifact struct {
	Location sarifURI `json:"location"`
}

type sarifLocation struct {
	Physical struct {
		Artifact sarifURI     `json:"artifactLocation"`
		Region   *sarifRegion `json:"region,omitempty"`
	} `json:"physicalLocation"`
	Logical []sarifLogical `json:"logicalLocations,omitempty"`
}

type sarifRegion struct {
	Offset uint64 `json:"byteOffset"`
	Length uint64 `json:"byteLength"`
}

type sarifLogical struct {
	Name string `json:"fullyQualifiedName"`
	Kind string `json:"kind"`
}

type sarifResult struct {
	RuleID     string          `json:"ruleId"`
	RuleIndex  int             `json:"ruleIndex"`
	Level      string          `json:"level"`
	Message    sarifText       `json:"message"`
	Locations  []sarifLocation `json:"locations"`
	Properties jsonFinding     `json:"properties"`
}

type sarifNotice struct {
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

// sarifLevel gives the level of a severity.
func sarifLevel(s problem.Severity) string {
	switch s {
	case problem.Corruption, problem.Trouble:
		return "error"
	case problem.Note:
		return "note"
	}
	return "warning"
}

// fileURI gives the name of a file as a URI, relative where the name is.
func fileURI(name string) string {
	u := url.URL{Path: name}
	if strings.HasPrefix(name, "/") {
		u.Scheme = "file"
	}
	return u.String()
}

// Image writes the results of one image.
func (s *SARIF) Image(img Image) error {
	index := len(s.files)
	uri := sarifURI{URI: fileURI(img.Name), Index: &index}
	s.files = append(s.files, sarifArtifact{Location: sarifURI{URI: uri.URI}})
	var whole sarifLocation
	whole.Physical.Artifact = uri
	if img.Err != nil {
		level := "error"
		if errors.Is(img.Err, qcow2.ErrNotQcow2) {
			level = "warning"
		}
		s.notices = append(s.notices, sarifNotice{level, sarifText{printable(img.Err.Error())}, []sarifLocation{whole}})
	}
	if img.Result == nil {
		return s.err
	}
	listed := problem.Bounded(img.Result.Findings, img.MaxFindings)
	for i := range listed {
		f := &listed[i]
		if f.Fixed {
			continue
		}
		place := whole
		if f.Extent.Length > 0 && uint64(f.Extent.Offset) <= 1<<63-1 {
			place.Physical.Region = &sarifRegion{uint64(f.Extent.Offset), f.Extent.Length}
		}
		if !f.Path.IsZero() {
			place.Logical = []sarifLogical{{printable(f.Path.String()), string(f.Structure)}}
		}
		s.result(sarifResult{RuleID: string(f.Code), RuleIndex: s.rule(f.Code), Level: sarifLevel(f.Severity),
			Message: sarifText{printable(f.Text())}, Locations: []sarifLocation{place}, Properties: toFinding(f)})
	}
	for _, u := range firstTexts(img.Result.Unmet, maxReasons) {
		s.notices = append(s.notices, sarifNotice{"warning", sarifText{"requirement not met: " + printable(u)}, []sarifLocation{whole}})
	}
	return s.err
}

// rule gives the number of a code's rule.
func (s *SARIF) rule(code problem.Code) int {
	if i, ok := s.index[code]; ok {
		return i
	}
	r, _ := problem.Lookup(code)
	rule := sarifRule{ID: string(code), Short: sarifText{r.Title}, Full: sarifText{r.Why}, Help: sarifText{r.Do}}
	rule.Default.Level = sarifLevel(r.Severity)
	s.rules = append(s.rules, rule)
	s.index[code] = len(s.rules) - 1
	return len(s.rules) - 1
}

// sarifHead begins a log; the results come as the images are checked, and what they refer to
// stands behind them.
const sarifHead = `{
    "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
    "version": "2.1.0",
    "runs": [{"results": [`

func (s *SARIF) result(r sarifResult) {
	before := ",\n"
	if s.results == 0 {
		before = s.head() + "\n"
	}
	s.results++
	b, err := marshal(r, "", "")
	if s.err = errors.Join(s.err, err); s.err == nil {
		_, s.err = s.w.Write(append([]byte(before), b...))
	}
}

func (s *SARIF) head() string {
	if s.begun {
		return ""
	}
	s.begun = true
	return sarifHead
}

// Close ends the log.
func (s *SARIF) Close() error {
	if s.err != nil {
		return s.err
	}
	ok := true
	for _, n := range s.notices {
		ok = ok && n.Level != "error"
	}
	tail, err := marshal(map[string]any{
		"tool":        map[string]any{"driver": map[string]any{"name": "qcheck", "version": s.version, "rules": s.rules}},
		"artifacts":   s.files,
		"columnKind":  "unicodeCodePoints",
		"invocations": []any{map[string]any{"executionSuccessful": ok, "toolExecutionNotifications": s.notices}},
	}, "", "")
	if err == nil {
		_, err = io.WriteString(s.w, s.head()+"],\n"+string(tail[1:])+"]}\n")
	}
	return err
}

var _ Reporter = (*SARIF)(nil)

// verdictList lists all verdicts, the best first.
var verdictList = []check.Verdict{check.VerdictClean, check.VerdictWarnings, check.VerdictLeaks, check.VerdictInDoubt,
	check.VerdictCorrupt, check.VerdictUnsupported, check.VerdictIncomplete, verdictNotQcow2}
