package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
)

func TestGroupsHaveTitles(t *testing.T) {
	for _, r := range problem.Catalog() {
		assert.NotEmpty(t, groups[string(r.Code[:3])], r.Code)
	}
}

func TestDocsAreUpToDate(t *testing.T) {
	have, err := os.ReadFile("../../../docs/findings.md")
	require.NoError(t, err)
	assert.Equal(t, string(findings(problem.Catalog())), string(have), "run go generate ./...")
}
