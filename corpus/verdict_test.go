package corpus_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
)

// onlyTheUserKnows are the cases that are sound although QEMU needs something to open
// them that the image does not hold, with the reason. docs/exit-codes.md has the same.
var onlyTheUserKnows = map[string]string{
	"data-file/unnamed": "the format lets an image leave the name of its data file to its user",
}

// TestExitCodeIsNoMilderThanQEMU holds what is recorded of QEMU against the exit codes: 0
// only where QEMU opens the image both ways and qemu-img check ends with 0, and never
// leaks where that says corruption.
func TestExitCodeIsNoMilderThanQEMU(t *testing.T) {
	t.Parallel()
	for _, c := range append(corpus.Cases(), corpus.Samples()...) {
		if !judged(&c) || c.NotQcow2() {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		res := runCheck(t, &c, img, 1)
		code := res.ExitCode()
		what := fmt.Sprintf("%s: exit code %d, QEMU: %s\n%s", c.Name, code, c.QEMU, list(res.Findings))
		switch {
		case onlyTheUserKnows[c.Name] != "":
		case code == check.ExitSound:
			assert.Equal(t, 0, c.QEMU.Check, what)
			assert.Equal(t, check.OpenOK, c.QEMU.ReadOnly, what)
			assert.Equal(t, check.OpenOK, c.QEMU.ReadWrite, what)
			assert.Zero(t, res.Totals.InDoubt, what)
		case code == check.ExitLeaks:
			assert.Contains(t, []int{0, 3}, c.QEMU.Check, what)
		}
	}
}
