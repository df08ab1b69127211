// Package report writes what a check has found: for people ([FormatHuman]), as
// JSON and as JSON Lines.
//
//	r, err := report.New(report.FormatHuman, os.Stdout, report.Options{})
//	for … { err = r.Image(report.Image{Name: path, Result: res}) }
//	err = r.Close()
//
// It also writes what `qcheck info`, `qcheck bitmaps` and `qcheck explain` show.
//
// The package knows no files, no terminal and no command line: it writes to an
// io.Writer what it is told. All that comes from an image is made safe for a
// terminal, in JSON too, where whatever is not printable becomes an escape of
// JSON's.
//
// Counts are never kept here: every total is the result's, and a result's totals
// are counted from its findings (see [problem.Count]).
package report

import (
	"fmt"
	"io"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/chain"
)

// Format names a way to write a report.
type Format string

// The formats of the report of a check.
const (
	FormatHuman     Format = "human"
	FormatJSON      Format = "json"  // one object; an array when there are several images
	FormatJSONLines Format = "jsonl" // one object a line for each image, as each ends
	// FormatSARIF is one log for all images, see [SARIF], and FormatPrometheus metrics of
	// all of them, see [Prometheus].
	FormatSARIF      Format = "sarif"
	FormatPrometheus Format = "prometheus"
)

// Formats lists the formats that [New] knows.
func Formats() []Format {
	return []Format{FormatHuman, FormatJSON, FormatJSONLines, FormatSARIF, FormatPrometheus}
}

// Options says how to write. The zero value is right for a file or a pipe. But
// for Version only the human format looks at it.
type Options struct {
	// Color uses the colours of a terminal. The default is false.
	Color bool
	// Verbose shows notes and figures, and lists every finding that the result
	// has. The default is false: at most 20 findings of one code.
	Verbose bool
	// Quiet writes one line about each image that is not sound, does not meet the
	// requirements or has been repaired, and nothing else. The default is false.
	Quiet bool
	// Width is the width of the terminal in columns; longer lines are broken
	// between words. The default is 0: lines are never broken.
	Width int
	// Version is that of the tool, for a format that says it. The default is "unknown".
	Version string
}

// Image is one image with the outcome of its check.
type Image struct {
	Name string // as the user gave it
	// ClusterSize is the image's cluster size in bytes, 0 where it is not known.
	ClusterSize uint64
	// Result is nil when the image could not even be opened.
	Result *check.Result
	// Err is what kept the check from its end, nil for a complete check.
	Err error
	// MaxFindings is how many findings of one code were asked for; 0 means
	// [problem.DefaultMaxFindings]. See [problem.Bounded].
	MaxFindings int
	// Try finds out what repairs would make of the image, so that no advice is given that
	// does not hold; it may give nil. It takes as long as a repair's plan, and is called
	// at most once, and only for an image whose advice is written. The default, nil,
	// leaves it open.
	Try func() *Trial
	// Keeps tells that an earlier repair has kept clusters that nothing refers to, so that a
	// repair frees none that hold data. The default is false.
	Keeps bool
	// Chain is the image with all files below it, where the whole chain was checked. The
	// default is nil.
	Chain *chain.Chain
	// Took is how long the check took. The default is 0.
	Took time.Duration
	// Live is what the QEMU that has the image open says of it, where it was asked. The
	// default is nil.
	Live *Live
	// Remote tells that the image was read over a network, and cannot be repaired there. The
	// default is false.
	Remote bool
	// Repair is what a repair does or has done, nil where none was asked for.
	Repair *Repair
}

// verdict is the result's, or incomplete for an image without one.
func (i *Image) verdict() check.Verdict {
	if i.Result == nil {
		return check.VerdictIncomplete
	}
	return i.Result.Verdict
}

// NotQcow2Error is the error of a file that is no qcow2 image, and that looks like something
// else.
type NotQcow2Error struct {
	Err   error // wraps [qcow2.ErrNotQcow2]
	Looks check.Lookalike
}

func (e *NotQcow2Error) Error() string { return e.Err.Error() + "; it looks like " + e.Looks.Say }
func (e *NotQcow2Error) Unwrap() error { return e.Err }

// Hint says what to do with such a file.
func (e *NotQcow2Error) Hint() string { return e.Looks.Advice }

// verdictNotQcow2 is the verdict, in JSON and metrics, on a file that is no qcow2 image: no
// check ends with it.
const verdictNotQcow2 check.Verdict = "not-qcow2"

// Reporter writes the outcome of checking images, one after the other.
type Reporter interface {
	// Image writes about one image, once its check has ended. The error is the
	// writer's.
	Image(Image) error
	// Close writes what comes after the last image. It must be called once; it
	// does not close the writer.
	Close() error
}

// New gives the reporter of a format that writes to w.
func New(format Format, w io.Writer, opts Options) (Reporter, error) {
	switch format {
	case FormatHuman:
		return NewHuman(w, opts), nil
	case FormatJSON:
		return NewJSON(w), nil
	case FormatJSONLines:
		return NewJSONLines(w), nil
	case FormatSARIF:
		return NewSARIF(w, opts.Version), nil
	case FormatPrometheus:
		return NewPrometheus(w), nil
	}
	return nil, fmt.Errorf("unknown output format %q", format)
}
