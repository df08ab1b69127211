package problem

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// spaced makes all white space alike.
func spaced(s string) string { return strings.Join(strings.Fields(s), " ") }

// What docs/adding-a-finding.md quotes stands in the files that it names.
func TestAddingAFinding(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/adding-a-finding.md")
	require.NoError(t, err)
	quotes := regexp.MustCompile("(?s)```go (\\S+)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.Len(t, quotes, 5)
	for _, q := range quotes {
		code, err := os.ReadFile(filepath.Join("../..", q[1]))
		require.NoError(t, err)
		assert.Contains(t, spaced(string(code)), spaced(q[2]), q[1])
	}
}

// Every code is one that something can report: its name stands in a pass, in the check of a
// chain, or in what reports say of files that are no images.
func TestEveryCodeIsReported(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, pattern := range []string{"../*.go", "../chain/*.go", "../../report/json.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			code.Write(b)
		}
	}
	names := declaredNames(t)
	require.Len(t, names, len(Catalog()))
	for _, name := range names {
		assert.Regexp(t, `\bproblem\.`+name+`\b`, code.String(), "nothing reports it")
	}
}
