package qemutest

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the matrix promises of itself; the tests of the check rest on it.
func TestMatrix(t *testing.T) {
	Require(t)
	seen := map[string]bool{}
	for _, c := range Matrix() {
		assert.NotContains(t, seen, c.Name)
		seen[c.Name] = true
		assert.Regexp(t, `^[A-Za-z0-9.+-]+$`, c.Name)
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			path := c.Build(t, t.TempDir())
			check := c.Check(t, path)
			assert.Equal(t, 0, check.RC, "%+v", check)
			assert.Empty(t, check.Stderr)

			var inUse []string
			if c.Secret == "" {
				for _, b := range Info(t, path).FormatSpecific.Data.Bitmaps {
					if slices.Contains(b.Flags, "in-use") {
						inUse = append(inUse, b.Name)
					}
				}
			}
			assert.ElementsMatch(t, c.InUse, inUse)
		})
	}
}

func TestCrashed(t *testing.T) {
	Require(t)
	for _, c := range Crashed() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			path := c.Build(t, t.TempDir())
			check := c.Check(t, path)
			require.True(t, check.Ran)
			if Info(t, path).DirtyFlag {
				assert.Positive(t, check.Corruptions)
			} else {
				assert.Positive(t, check.Leaks)
				assert.Zero(t, check.Corruptions)
			}
		})
	}
}
