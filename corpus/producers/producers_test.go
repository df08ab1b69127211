package producers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// A check says of the images of real producers what the README tells.
func TestProducers(t *testing.T) {
	for folder, x := range map[string]struct {
		images  int
		verdict check.Verdict
		codes   []problem.Code
	}{
		"qemu-7.2":      {images: 21, verdict: check.VerdictClean},
		"qemu-10.0":     {images: 21, verdict: check.VerdictClean},
		"xen-orchestra": {images: 8, verdict: check.VerdictClean},
		"e2image":       {images: 2, verdict: check.VerdictLeaks, codes: []problem.Code{problem.RefcountTooHigh}},
	} {
		paths, err := filepath.Glob(filepath.Join(folder, "*.qcow2"))
		require.NoError(t, err)
		assert.Len(t, paths, x.images, folder)
		for _, path := range paths {
			t.Run(path, func(t *testing.T) {
				f, err := os.Open(path)
				require.NoError(t, err)
				defer f.Close()
				info, err := f.Stat()
				require.NoError(t, err)
				img, err := qcow2.Open(f, info.Size())
				require.NoError(t, err)
				res, err := check.Run(t.Context(), img, check.Options{BitmapData: true})
				require.NoError(t, err)
				assert.Equal(t, x.verdict, res.Verdict)
				assert.Equal(t, "ok", string(res.QEMUOpen.ReadOnly), res.QEMUOpen.Reasons)
				for _, f := range res.Findings {
					assert.Contains(t, x.codes, f.Code, f.Text())
				}
			})
		}
	}
}
