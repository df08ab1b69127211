package qemutest

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMatrixNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range slices.Concat(Matrix(), Crashed()) {
		assert.NotContains(t, seen, c.Name)
		seen[c.Name] = true
		assert.Regexp(t, `^[A-Za-z0-9.+-]+$`, c.Name)
	}
}

// What the matrix promises, on a part of it: the tests of the check build all of it and ask QEMU the same.
func TestMatrix(t *testing.T) {
	Require(t)
	for i, c := range Matrix() {
		if i%10 != 0 && c.InUse == nil {
			continue
		}
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
