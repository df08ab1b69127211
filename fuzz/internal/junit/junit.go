// Package junit writes results as the XML of JUnit, which CI systems show.
package junit

import (
	"encoding/xml"
	"io"
	"strings"
	"unicode/utf8"
)

// Suite is a list of tests that were run.
type Suite struct {
	Name  string
	Cases []Case
}

// Case is a test. It has failed with a Failure, and was not judged with Skipped.
type Case struct {
	Class, Name      string
	Failure, Skipped *Message
}

// Message says why.
type Message struct{ Type, Text string }

type message struct {
	Type string `xml:"type,attr,omitempty"`
	Text string `xml:"message,attr"`
}

type testcase struct {
	XMLName xml.Name `xml:"testcase"`
	Class   string   `xml:"classname,attr"`
	Name    string   `xml:"name,attr"`
	Failure *message `xml:"failure"`
	Skipped *message `xml:"skipped"`
}

// Write writes the suite. Characters that XML has no way to write are left out.
func (s *Suite) Write(w io.Writer) error {
	suite := struct {
		XMLName  xml.Name `xml:"testsuite"`
		Name     string   `xml:"name,attr"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Skipped  int      `xml:"skipped,attr"`
		Cases    []testcase
	}{Name: s.Name, Tests: len(s.Cases)}
	for i := range s.Cases {
		c := &s.Cases[i]
		suite.Cases = append(suite.Cases, testcase{Class: c.Class, Name: plain(c.Name), Failure: c.Failure.plain(), Skipped: c.Skipped.plain()})
		if c.Failure != nil {
			suite.Failures++
		}
		if c.Skipped != nil {
			suite.Skipped++
		}
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (m *Message) plain() *message {
	if m == nil {
		return nil
	}
	return &message{Type: m.Type, Text: plain(m.Text)}
}

// plain leaves out what is not text.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}
