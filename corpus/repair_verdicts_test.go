package corpus_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/corpus"
)

const repairTextHead = `# What repairs of the corpus's images achieve, one a line: the verdict of a check after
# qcheck -r, and after qcheck -r --allow-data-loss --reattach --bitmap-policy=all-dirty.
# Made by: go test ./corpus -run TestRepairVerdicts -update
`

// repaired tells whether repairs of a case are recorded: those of images that are made
// to take long, and of such that cannot be read, are not.
func repaired(c *corpus.Case) bool {
	return !c.Huge && !c.QEMUSlow && len(c.Unreadable) == 0 && c.MemoryLimit == 0 &&
		!strings.HasPrefix(c.Name, "hostile/") && !c.NotQcow2()
}

// TestRepairVerdicts compares what repairs achieve with what is recorded.
func TestRepairVerdicts(t *testing.T) {
	var text strings.Builder
	text.WriteString(repairTextHead)
	for i, c := range corpus.Cases() {
		if !repaired(&c) {
			continue
		}
		if !*update && i%4 != 0 { // the others are like them
			assert.NotNil(t, c.Entry().Repair, "%s is not recorded: run go test ./corpus -run TestRepairVerdicts -update", c.Name)
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			img, err := c.Build()
			require.NoError(t, err)
			verdict := func(o repair.Options) check.Verdict {
				plan, err := repair.Make(t.Context(), img, img.Size(), o)
				require.NoError(t, err)
				return plan.After.Verdict
			}
			got := corpus.Repair{
				Safe:  verdict(repair.Options{Data: c.Data}),
				Lossy: verdict(repair.Options{Data: c.Data, AllowDataLoss: true, Reattach: true, BitmapPolicy: repair.PolicyAllDirty}),
			}
			if *update {
				text.WriteString(c.Name + " " + got.String() + "\n")
				return
			}
			e := c.Entry()
			if assert.NotNil(t, e.Repair, "not recorded: run go test ./corpus -run TestRepairVerdicts -update") {
				assert.Equal(t, corpus.RepairEntry(got), *e.Repair)
			}
		})
	}
	if *update {
		require.NoError(t, os.WriteFile("repair.txt", []byte(text.String()), 0o666))
	}
}
