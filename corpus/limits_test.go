package corpus_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// What a check concludes does not depend on how many findings it lists, nor on how
// many goroutines read: the verdict, the totals and the unmet requirements, which make
// the exit code, are the same, and so are the counts and the worst severity of each
// code.
func TestConclusionsDependOnNoLimit(t *testing.T) {
	t.Parallel()
	for i, c := range append(corpus.Cases(), corpus.Samples()...) {
		if testing.Short() && i%4 != 0 || c.NotQcow2() {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := c.Build()
			require.NoError(t, err)
			r, err := c.Reader(img)
			require.NoError(t, err)
			opened, err := qcow2.Open(r, img.Size())
			require.NoError(t, err)
			run := func(jobs, findings, places int) *check.Result {
				opts := c.Options(img)
				opts.Jobs, opts.MaxFindings, opts.Keep = jobs, findings, places
				opts.Strict, opts.Untrusted = true, true
				res, err := check.Run(t.Context(), opened, opts)
				require.NoError(t, err)
				return res
			}
			want := run(1, 0, 0)
			limits := [][3]int{{1, 1, 0}, {4, 2, 0}, {2, 2, 1 << 17}}
			if strings.HasPrefix(c.Name, "hostile/") || strings.Contains(c.Name, "-clusters-") {
				limits = limits[:1] // each takes a second or more, or there is one like it
			}
			for _, l := range limits {
				got := run(l[0], l[1], l[2])
				assert.Equal(t, want.Verdict, got.Verdict, "%v", l)
				assert.Equal(t, want.Totals, got.Totals, "%v", l)
				assert.Equal(t, want.Unmet, got.Unmet, "%v", l)
				assert.Equal(t, want.QEMUOpen, got.QEMUOpen, "%v", l)
				assert.Equal(t, byCode(want.Findings), byCode(got.Findings), "%v", l)
			}
		})
	}
}

// sum is what all findings of a code come to.
type sum struct {
	count uint64
	worst problem.Severity
}

func byCode(findings []problem.Finding) map[problem.Code]sum {
	all := make(map[problem.Code]sum)
	for i := range findings {
		f := &findings[i]
		s := all[f.Code]
		all[f.Code] = sum{s.count + f.Count, max(s.worst, f.Severity)}
	}
	return all
}
