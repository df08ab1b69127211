package fuzz

import (
	"io"

	"github.com/qcheck/qcheck/fuzz/internal/junit"
)

// WriteJUnit writes a summary as JUnit does: a test that failed for each failure, and
// one that did not where there is none.
func WriteJUnit(w io.Writer, s *Summary) error {
	suite := junit.Suite{Name: "qcheck fuzz"}
	for _, f := range s.Failures {
		text := f.Detail + "\n" + f.Mutant.String()
		if f.Dir != "" {
			text += "\nkept in " + f.Dir
		}
		suite.Cases = append(suite.Cases, junit.Case{Class: f.Kind, Name: f.Kind + ": " + f.Detail + " (" + f.Where + ")", Failure: &junit.Message{Type: f.Kind, Text: text}})
	}
	if len(suite.Cases) == 0 {
		suite.Cases = []junit.Case{{Class: "fuzz", Name: "no failures"}}
	}
	return suite.Write(w)
}
