package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/report"
)

// ExplainCmd is `qcheck explain CODE...`.
type ExplainCmd struct {
	Codes  []string `arg:"" name:"code" help:"Codes of findings, like MAP003; a pattern ('REF*'), or 'all'."`
	Output string   `short:"o" enum:"human,json" default:"human" placeholder:"FORMAT" help:"How to show: human (the default) or json (an object for each code)."`
}

// Examples is shown below the command's help.
func (c *ExplainCmd) Examples() string {
	return "  qcheck explain REF005\n  qcheck explain 'REF*' MAP003\n  qcheck explain all"
}

// Run explains each code.
func (c *ExplainCmd) Run(g *Globals, s *streams) error {
	var rules []problem.Rule
	for _, code := range c.Codes {
		if code == "all" {
			rules = append(rules, problem.Catalog()...)
			continue
		}
		if strings.ContainsAny(code, "*?[") {
			before := len(rules)
			for _, r := range problem.Catalog() {
				if ok, err := path.Match(strings.ToUpper(code), string(r.Code)); err == nil && ok {
					rules = append(rules, r)
				}
			}
			if len(rules) == before {
				return &usageError{text: fmt.Sprintf("no finding has a code like %q", code), hint: "`qcheck explain all` shows every one"}
			}
			continue
		}
		r, ok := problem.Lookup(problem.Code(strings.ToUpper(code)))
		if !ok {
			return &usageError{text: fmt.Sprintf("there is no finding with the code %q", code), hint: "`qcheck explain all` shows every one"}
		}
		rules = append(rules, r)
	}
	for i, r := range rules {
		if c.Output == "json" {
			if err := report.ExplainJSON(s.out, r); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(s.out)
		}
		if err := report.Explain(s.out, r, g.reportOptions(s.out)); err != nil {
			return err
		}
	}
	return nil
}
