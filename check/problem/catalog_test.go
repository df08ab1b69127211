package problem

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// declaredCodes reads the codes of codes.go in the order of the file.
func declaredCodes(t *testing.T) (codes []Code) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		require.Len(t, v.Values, 1)
		s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		assert.NotEqual(t, v.Names[0].Name, s, "a name says what is wrong")
		codes = append(codes, Code(s))
		return true
	})
	return codes
}

// declaredNames reads the names of the codes.
func declaredNames(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			names = append(names, v.Names[0].Name)
		}
		return true
	})
	return names
}

func TestCatalogHasEveryCodeOnce(t *testing.T) {
	var rows []Code
	for _, r := range Catalog() {
		rows = append(rows, r.Code)
	}
	assert.Equal(t, declaredCodes(t), rows, "codes.go and the catalogue go in the same order")
	seen := make(map[Code]bool)
	for _, c := range rows {
		assert.False(t, seen[c], c)
		seen[c] = true
		r, ok := Lookup(c)
		assert.True(t, ok)
		assert.Equal(t, c, r.Code)
	}
	_, ok := Lookup("HDR999")
	assert.False(t, ok)
}

// Codes of a group stand together, in the order of their numbers.
func TestCatalogIsSorted(t *testing.T) {
	var groups []string
	last := Code("")
	for _, r := range Catalog() {
		group := string(r.Code[:3])
		if last == "" || string(last[:3]) != group {
			assert.NotContains(t, groups, group, "%s stands away from its group", r.Code)
			groups = append(groups, group)
		} else {
			assert.Less(t, last, r.Code)
		}
		last = r.Code
	}
}

func TestCatalogIsComplete(t *testing.T) {
	titles := make(map[string]Code)
	for _, r := range Catalog() {
		t.Run(string(r.Code), func(t *testing.T) {
			assert.Regexp(t, `^[A-Z]{3}\d{3}$`, r.Code)
			assert.NotEmpty(t, r.Severity.String())
			assert.NotEmpty(t, r.Repair.String())
			assert.NotZero(t, r.About)
			assert.Equal(t, r.About, r.Code.About())
			if r.isEntry() {
				assert.NotZero(t, r.Facts&Joins, "neighbouring entries are one piece of news")
			}
			assert.Equal(t, strings.HasPrefix(string(r.Code), "BM"), r.Code.AboutBitmaps())
			assert.True(t, slices.Contains(Structures(), r.Structure), r.Structure)
			assert.Empty(t, titles[r.Title], "the title is another's")
			assert.LessOrEqual(t, len(r.Title), 90)
			for name, text := range map[string]string{"title": r.Title, "spec": r.Spec, "why": r.Why, "do": r.Do} {
				assert.NotEmpty(t, text, name)
				assert.Equal(t, text, strings.Join(strings.Fields(text), " "), "%s: blanks", name)
				assert.Zero(t, strings.Count(text, "`")%2, "%s: quotes", name)
			}
			assert.NotRegexp(t, `\.$`, r.Title)
			for name, text := range map[string]string{"why": r.Why, "do": r.Do} {
				assert.Regexp(t, `\.$`, text, name)
				assert.LessOrEqual(t, len(text), 700, "%s is to be read in half a minute", name)
			}
		})
		titles[r.Title] = r.Code
	}
}

// QEMU's own repair can destroy what it should save, so no text may recommend
// it: wherever it is named, it is to say that it must not be used.
func TestCatalogNeverRecommendsQEMUsRepair(t *testing.T) {
	for _, r := range Catalog() {
		for _, sentence := range strings.SplitAfter(r.Why+" "+r.Do, ". ") {
			if strings.Contains(sentence, "qemu-img check -r") {
				assert.Regexp(t, `Do not|Never`, sentence, r.Code)
			}
		}
	}
}
