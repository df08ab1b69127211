package report

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Prometheus writes metrics in the text format, for the textfile collector of the node
// exporter. A metric's lines have to stand together, so everything is written at the end; of
// each image a few numbers are kept. Of an image that is named twice the last check counts.
type Prometheus struct {
	w      io.Writer
	now    func() time.Time
	images map[string]promImage
}

type promImage struct {
	verdict check.Verdict
	result  check.Result // totals and figures only
	unmet   int
	seconds float64
}

// NewPrometheus gives a reporter that writes to w.
func NewPrometheus(w io.Writer) *Prometheus {
	return &Prometheus{w: w, now: time.Now, images: make(map[string]promImage)}
}

// Image takes the figures of one image.
func (p *Prometheus) Image(img Image) error {
	name := printable(img.Name)
	m := promImage{verdict: img.verdict(), seconds: img.Took.Seconds()}
	if errors.Is(img.Err, qcow2.ErrNotQcow2) {
		m.verdict = verdictNotQcow2
	}
	if r := img.Result; r != nil {
		m.unmet = len(r.Unmet)
		m.result = check.Result{Totals: r.Totals, ImageEndOffset: r.ImageEndOffset, TotalClusters: r.TotalClusters,
			AllocatedClusters: r.AllocatedClusters, FragmentedClusters: r.FragmentedClusters, CompressedClusters: r.CompressedClusters}
	}
	p.images[name] = m
	return nil
}

// Close writes the metrics.
func (p *Prometheus) Close() error {
	names := make([]string, 0, len(p.images))
	for name := range p.images {
		names = append(names, name)
	}
	slices.Sort(names)
	w := bufio.NewWriter(p.w)
	family := func(name, help string, each func(sample func(value float64, labels ...string))) {
		w.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " gauge\n")
		each(func(value float64, labels ...string) {
			w.WriteString(name)
			for i := 0; i < len(labels); i += 2 {
				w.WriteString([]string{",", "{"}[b2i(i == 0)] + labels[i] + `="` + promLabel.Replace(labels[i+1]) + `"`)
			}
			if len(labels) > 0 {
				w.WriteByte('}')
			}
			w.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
		})
	}
	perImage := func(name, help string, each func(m *promImage, sample func(value float64, labels ...string))) {
		family(name, help, func(sample func(float64, ...string)) {
			for _, image := range names {
				m := p.images[image]
				each(&m, func(value float64, labels ...string) { sample(value, append([]string{"image", image}, labels...)...) })
			}
		})
	}
	perImage("qcheck_image_verdict", "Verdict on the image: 1 for the one that it has, 0 for the others.", func(m *promImage, sample func(float64, ...string)) {
		for _, v := range verdictList {
			sample(float64(b2i(v == m.verdict)), "verdict", string(v))
		}
	})
	perImage("qcheck_image_findings", "What was found, in units (clusters, entries) by severity.", func(m *promImage, sample func(float64, ...string)) {
		t := &m.result.Totals
		for _, s := range []struct {
			name string
			n    uint64
		}{{"corruption", t.Corruptions}, {"error", t.Errors}, {"in-doubt", t.InDoubt}, {"leak", t.Leaks - min(t.Leaks, t.InDoubt)}, {"note", t.Notes}, {"warning", t.Warnings}} {
			sample(float64(s.n), "severity", s.name)
		}
	})
	perImage("qcheck_image_requirements_unmet", "Requirements of the command line that the image does not meet.", func(m *promImage, sample func(float64, ...string)) {
		sample(float64(m.unmet))
	})
	perImage("qcheck_image_clusters", "Clusters of the virtual disk, by state.", func(m *promImage, sample func(float64, ...string)) {
		sample(float64(m.result.AllocatedClusters), "state", "allocated")
		sample(float64(m.result.CompressedClusters), "state", "compressed")
		sample(float64(m.result.FragmentedClusters), "state", "fragmented")
		sample(float64(m.result.TotalClusters), "state", "total")
	})
	perImage("qcheck_image_end_bytes", "Where the last cluster in use ends in the image file.", func(m *promImage, sample func(float64, ...string)) {
		sample(float64(m.result.ImageEndOffset))
	})
	perImage("qcheck_check_seconds", "How long the check of the image took.", func(m *promImage, sample func(float64, ...string)) {
		sample(m.seconds)
	})
	family("qcheck_last_run_timestamp_seconds", "When these metrics were written, in seconds since the Epoch.", func(sample func(float64, ...string)) {
		sample(float64(p.now().Unix()))
	})
	return w.Flush()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// promLabel escapes the value of a label.
var promLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

var _ Reporter = (*Prometheus)(nil)
