package corpus_test

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/report"
)

// schemas are the schemas of what programs read: that of the JSON, made of its types, and that
// of SARIF 2.1.0 (with errata 01), as OASIS has published it.
var schemas = sync.OnceValues(func() (compiled [2]*jsonschema.Schema, err error) {
	for i, path := range []string{"../docs/report.schema.json", "../report/testdata/sarif-2.1.0.schema.json"} {
		f, err := os.Open(path)
		if err != nil {
			return compiled, err
		}
		defer f.Close()
		doc, err := jsonschema.UnmarshalJSON(f)
		if err != nil {
			return compiled, err
		}
		c := jsonschema.NewCompiler()
		c.AssertFormat()
		if err := c.AddResource(path, doc); err != nil {
			return compiled, err
		}
		if compiled[i], err = c.Compile(path); err != nil {
			return compiled, err
		}
	}
	return compiled, nil
})

// written gives the report of one image in a format.
func written(t *testing.T, format report.Format, img report.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	r, err := report.New(format, &b, report.Options{Version: "1.2.3"})
	require.NoError(t, err)
	require.NoError(t, r.Image(img))
	require.NoError(t, r.Close())
	return b.Bytes()
}

// checkReports holds that what programs read of an image keeps to its format.
func checkReports(t *testing.T, c *corpus.Case, res *check.Result) {
	t.Helper()
	all, err := schemas()
	require.NoError(t, err)
	img := report.Image{Name: c.Filename() + ` "\`, Result: res, Took: 1500 * time.Millisecond}
	for i, format := range []report.Format{report.FormatJSON, report.FormatSARIF} {
		text := written(t, format, img)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		require.NoError(t, err)
		assert.NoError(t, all[i].Validate(doc), "%s", format)
		if format == report.FormatSARIF {
			listed := len(problem.Bounded(res.Findings, 0))
			assert.Equal(t, listed, bytes.Count(text, []byte(`"ruleIndex"`)), "a result for each finding")
		}
	}
	checkMetrics(t, written(t, report.FormatPrometheus, img), img.Name, res)
}

// checkMetrics reads metrics as promtool does.
func checkMetrics(t *testing.T, text []byte, name string, res *check.Result) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	require.NoError(t, err, string(text))
	sum := 0.0
	for _, m := range families["qcheck_image_verdict"].GetMetric() {
		labels := make(map[string]string)
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		assert.Equal(t, name, labels["image"])
		if labels["verdict"] == string(res.Verdict) {
			assert.Equal(t, 1.0, m.GetGauge().GetValue())
		}
		sum += m.GetGauge().GetValue()
	}
	assert.Equal(t, 1.0, sum, "one verdict of all")
	for _, m := range families["qcheck_image_findings"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetValue() == "corruption" {
				assert.Equal(t, float64(res.Totals.Corruptions), m.GetGauge().GetValue())
			}
		}
	}
	assert.Equal(t, 1.5, families["qcheck_check_seconds"].GetMetric()[0].GetGauge().GetValue())
	for name, f := range families {
		assert.True(t, strings.HasPrefix(name, "qcheck_"))
		assert.NotEmpty(t, f.GetHelp(), name)
	}
}
