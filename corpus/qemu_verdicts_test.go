package corpus_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

var update = flag.Bool("update", false, "record what the installed QEMU does with the images, in qemu.txt")

const qemuTextHead = `# What QEMU 10.0 does with the images of the corpus, one a line: the exit code of
# qemu-img check, and what becomes of opening it read-only and read-write. Made
# by: go test ./corpus -run TestQEMUVerdicts -update
`

// judged tells whether QEMU can be asked about a case.
func judged(c *corpus.Case) bool { return !c.Huge && !c.QEMUSlow && len(c.Unreadable) == 0 }

// TestQEMUVerdicts asks a real QEMU what it does with each image, and compares it
// with what is recorded.
func TestQEMUVerdicts(t *testing.T) {
	if testing.Short() {
		t.Skip("asks QEMU about every image")
	}
	qemutest.Require(t)
	text := new(strings.Builder)
	text.WriteString(qemuTextHead)
	t.Run("all", func(t *testing.T) {
		for i, c := range append(corpus.Cases(), corpus.Samples()...) {
			if !judged(&c) {
				continue
			}
			if !*update && i%3 != 0 && (strings.Contains(c.Name, "-clusters-") || strings.HasPrefix(c.Name, "combined/")) {
				continue // there are many like it
			}
			if *update {
				fmt.Fprintf(text, "%s %s\n", c.Name, askQEMU(t, &c))
				continue
			}
			if c.Healthy() {
				continue // TestQEMUAcceptsHealthyImages looks at it more closely
			}
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				got := askQEMU(t, &c)
				if major, _ := qemutest.Version(t); major < 10 && got.String() != c.QEMU.String() {
					t.Skipf("this older QEMU does %q, not %q", got, c.QEMU)
				}
				assert.Equal(t, c.QEMU.String(), got.String())
			})
		}
	})
	if *update {
		require.NoError(t, os.WriteFile("qemu.txt", []byte(text.String()), 0o666))
	}
}

// askQEMU has QEMU check the image and open it both ways.
func askQEMU(t *testing.T, c *corpus.Case) corpus.QEMU {
	t.Helper()
	img, err := c.Build()
	require.NoError(t, err)
	path := writeImage(t, c, img)
	defer os.RemoveAll(filepath.Dir(path))
	access := accessArgs(c, path)
	q := corpus.QEMU{Checked: true, Check: qemutest.Check(t, "", access...).RC}
	open := func(args ...string) check.OpenOutcome {
		run := qemutest.Run(t, qemutest.QemuIO, append(append(args, access...), "-c", "info")...)
		switch {
		case run.RC >= 128:
			return check.OpenCrash
		case run.RC != 0:
			return check.OpenRefused
		}
		return check.OpenOK
	}
	q.ReadOnly = open("-r")
	before := bitmapState(t, path)
	q.ReadWrite = open()
	if after := bitmapState(t, path); before != "" && after != before {
		q.ReadWrite = check.OpenDropsBitmaps
	}
	return q
}

// bitmapState tells whether the image has a bitmaps extension, and whether the
// autoclear bit vouches for it.
func bitmapState(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	img, err := qcow2.Open(f, st.Size())
	if err != nil || img.Extension(qcow2.ExtBitmaps) == nil {
		return ""
	}
	return fmt.Sprint("bitmaps, autoclear ", img.Header.AutoclearFeatures.Has(qcow2.AutoclearBitmaps))
}

// TestPredictionIsWhatQEMUDoes compares what a check predicts of QEMU with what is
// recorded.
func TestPredictionIsWhatQEMUDoes(t *testing.T) {
	t.Parallel()
	for _, c := range append(corpus.Cases(), corpus.Samples()...) {
		if !judged(&c) || c.NotQcow2() {
			continue
		}
		if !assert.True(t, c.QEMU.Checked, "what QEMU does with %s is not recorded", c.Name) || c.Spec.DataFile != nil && c.Spec.DataFile.Name == "" {
			continue // it opens with an option that names the data file
		}
		if c.Data && c.Spec.Crypt == qcow2.CryptLUKS {
			continue // that it needs the key is all that is predicted; here no key opens it
		}
		img, err := c.Build()
		require.NoError(t, err)
		res := runCheck(t, &c, img, 1)
		assert.Equal(t, c.QEMU.ReadOnly, res.QEMUOpen.ReadOnly, "%s: read-only: %v", c.Name, res.QEMUOpen.Reasons)
		assert.Equal(t, c.QEMU.ReadWrite, res.QEMUOpen.ReadWrite, "%s: read-write: %v", c.Name, res.QEMUOpen.Reasons)
	}
}
