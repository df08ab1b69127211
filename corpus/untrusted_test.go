package corpus_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// Every image of the section is refused when it comes from a stranger, with its data looked
// at or not, and without another file being opened; what is sound and stands by itself is not.
func TestUntrustedImagesAreRefused(t *testing.T) {
	t.Parallel()
	refused, accepted := 0, 0
	for i, c := range corpus.Cases() {
		bad := strings.HasPrefix(c.Name, "untrusted/")
		if !bad && (!strings.HasPrefix(c.Name, "healthy/") || i%3 != 0) {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		opened, err := qcow2.Open(img, img.Size())
		require.NoError(t, err)
		for _, data := range []bool{false, true} {
			res, err := check.Run(t.Context(), opened, check.Options{Untrusted: true, Data: data,
				OpenSibling: func(_ check.SiblingKind, name, _ string) (check.Sibling, error) {
					t.Errorf("%s: %s was opened", c.Name, name)
					return nil, qcow2.ErrNotGiven
				}})
			require.NoError(t, err)
			alone := c.Spec.Backing == nil && c.Spec.DataFile == nil && !opened.Header.HasBackingFile()
			switch {
			case bad:
				assert.NotEmpty(t, res.Unmet, c.Name)
				assert.NotEqual(t, check.ExitSound, res.ExitCode(), c.Name)
				refused++
			case alone && !res.Has("HDR008") && res.QEMUOpen.ReadOnly == check.OpenOK:
				assert.Empty(t, res.Unmet, c.Name)
				accepted++
			}
		}
	}
	assert.Greater(t, refused, 40)
	assert.Greater(t, accepted, 20)
}
