package corpus

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/qcheck/qcheck/check"
)

// QEMU is what QEMU does with an image. The zero value says nothing.
type QEMU struct {
	// Checked tells that the other fields say something.
	Checked bool
	// Check is the exit code of `qemu-img check`: 0 sound, 1 not checked, 2
	// corruption, 3 leaks only, 134 a crash.
	Check int
	// ReadOnly and ReadWrite tell what becomes of an attempt to open the image.
	ReadOnly, ReadWrite check.OpenOutcome
}

// String gives the line of qemu.txt, less the name.
func (q QEMU) String() string { return fmt.Sprintf("%d %s %s", q.Check, q.ReadOnly, q.ReadWrite) }

//go:embed qemu.txt
var qemuText string

// qemuVerdicts gives what QEMU does with each case, as recorded in qemu.txt by a
// test that asks it.
var qemuVerdicts = sync.OnceValue(func() map[string]QEMU {
	verdicts := make(map[string]QEMU)
	for line := range strings.Lines(qemuText) {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "#") || len(f) != 4 {
			continue
		}
		rc, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		verdicts[f[0]] = QEMU{Checked: true, Check: rc, ReadOnly: check.OpenOutcome(f[2]), ReadWrite: check.OpenOutcome(f[3])}
	}
	return verdicts
})
