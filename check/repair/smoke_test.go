package repair

import (
	"fmt"
	"strings"
	"testing"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
)

func codes(r *check.Result) string {
	m := map[check.Code]uint64{}
	var order []check.Code
	for _, f := range r.Findings {
		if m[f.Code] == 0 {
			order = append(order, f.Code)
		}
		m[f.Code] += f.Count
	}
	s := ""
	for _, c := range order {
		s += fmt.Sprintf(" %s×%d", c, m[c])
	}
	return s
}

func TestSmoke(t *testing.T) {
	for _, c := range corpus.Cases() {
		if c.Huge || c.Unreadable != nil || strings.HasPrefix(c.Name, "hostile/") {
			continue
		}
		img, err := c.Build()
		if err != nil {
			t.Fatal(err)
		}
		p, err := Make(t.Context(), img, img.Size(), Options{})
		if err != nil {
			t.Logf("%-40s %v", c.Name, err)
			continue
		}
		if len(p.Before.Findings) > 0 {
			t.Logf("%-40s %s → %s (%d edits, +%d)", c.Name, codes(p.Before), codes(p.After), len(p.Edits), p.NewSize-p.OldSize)
		}
	}
}
