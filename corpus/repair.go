package corpus

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"

	"github.com/qcheck/qcheck/check"
)

// Repair is what repairs of an image achieve: the verdict of a check after it.
type Repair struct {
	// Safe is after `qcheck -r`.
	Safe check.Verdict
	// Lossy is after a repair that may do everything: `qcheck -r
	// --allow-data-loss --reattach --bitmap-policy=all-dirty`.
	Lossy check.Verdict
}

// String gives the line of repair.txt, less the name.
func (r Repair) String() string { return fmt.Sprintf("%s %s", r.Safe, r.Lossy) }

//go:embed repair.txt
var repairText string

// repairVerdicts gives what repairs of each case achieve, as recorded in repair.txt
// by a test that repairs them.
var repairVerdicts = sync.OnceValue(func() map[string]Repair {
	verdicts := make(map[string]Repair)
	for line := range strings.Lines(repairText) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "#") && len(f) == 3 {
			verdicts[f[0]] = Repair{check.Verdict(f[1]), check.Verdict(f[2])}
		}
	}
	return verdicts
})
