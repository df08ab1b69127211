package check

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// Bitmaps that QEMU stores are sound, whatever the granularity, the cluster
// size and the size of the disk, and are in the state that QEMU says. All data
// is read, too.
func TestBitmapsOfQEMU(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	for _, c := range qemutest.Matrix() {
		if !strings.Contains(c.Name, "bitmap") && !strings.Contains(c.Name, "killed") {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			path := c.Build(t, t.TempDir())
			r := inspectFile(t, path, Options{BitmapData: true})
			for _, f := range r.res.Findings {
				assert.LessOrEqual(t, f.Severity, Note, "%s: %s", f.Code, f.Message)
			}
			assert.Empty(t, r.doubts)
			assert.Empty(t, r.reserved)
			if c.Secret != "" {
				return
			}
			var said []qemutest.InfoBitmap
			for _, b := range r.res.Bitmaps {
				flags := []string{}
				if b.Flags.Has(qcow2.BitmapInUse) {
					flags = append(flags, "in-use")
				}
				if b.Flags.Has(qcow2.BitmapAuto) {
					flags = append(flags, "auto")
				}
				said = append(said, qemutest.InfoBitmap{Name: b.Name, Granularity: 1 << b.GranularityBits, Flags: flags})
				assert.Equal(t, slices.Contains(c.InUse, b.Name), b.State == BitmapInconsistent)
				assert.Empty(t, b.Why)
			}
			assert.ElementsMatch(t, qemutest.Info(t, path).FormatSpecific.Data.Bitmaps, said)
		})
	}
}
